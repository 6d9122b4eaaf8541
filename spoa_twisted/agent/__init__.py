"""One connection of an agent: when is what read, answered, written, closed?

:class:`~spoa_twisted.agent.protocol.SPOAProtocol` holds these parts together, each of which has a state of its own::

    answering    NOTIFY -> handlers -> ACK
    in_flight    the NOTIFYs whose handlers have not finished
    observation  one NOTIFY as an observer sees it
    engines      with the capability async: ACKs that take another connection of the same engine
    outbox       bytes that were written and the peer has not taken: backpressure
    pacing       how fast ACKs may go to a HAProxy >= 3.1; receipt says what it has read
    closing      how far the end of a connection is
    drain        how all connections are closed without losing a request
    peers        addresses as text, and TCP options
    refusal      a connection that is one too many
"""

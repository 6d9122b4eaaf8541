"""One connection of an agent: reading, answering, writing and closing.

:class:`~spoa_twisted.agent.protocol.SPOAProtocol` is the connection. It uses these modules, each for one kind of
state::

    answering    passes NOTIFYs to the handlers, and queues the ACKs
    in_flight    the NOTIFYs whose handlers have not finished
    next_turn    lets the ACKs of one turn of the reactor leave together
    awaited      tells when the NOTIFYs of replaced handlers are answered
    observation  reports the results and the duration of each NOTIFY to the application's observer
    engines      with the capability async: sends an ACK on another connection of the same engine
    outbox       writes bytes, and counts the bytes that the peer has not taken (backpressure)
    pacing       delays ACKs for a HAProxy >= 3.1
    receipt      asks the kernel what the peer has read, for pacing
    closing      the phases of closing a connection, their deadlines, and the reasons to close
    drain        closes all connections of an agent that stops, without losing a request
    peers        the address of a peer as text, and TCP options
    refusal      closes a connection that exceeds max_connections

The events that these modules report, for example ``PeerDropped``, are in :mod:`spoa_twisted.observer`.
"""

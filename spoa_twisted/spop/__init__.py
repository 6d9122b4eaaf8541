"""The codec of SPOP, HAProxy's Stream Processing Offload Protocol. It does no I/O and does not import Twisted.

Bytes received from the peer become an event::

    connection.receive_data -> frames.FrameBuffer -> Frame -> messages.decode_messages -> Notify

The answer becomes bytes to send::

    actions.encode_actions -> connection.send_ack -> frames.encode_frame -> connection.data_to_send

All section numbers in this package refer to ``doc/SPOE.txt`` of HAProxy. "The agent" is the side that this project
implements. "The engine" is HAProxy's side of a connection; the tests, the client and the benchmark implement it, too.
"HAProxy <= 3.0" and "HAProxy >= 3.1" stand for two implementations of SPOP: HAProxy 3.1 came with a new one, which
has no fragmentation and no ``async``.
"""

"""SPOP, the Stream Processing Offload Protocol, as bytes and values: no I/O, and nothing of Twisted.

The bytes' way in::

    connection.receive_data -> frames.FrameBuffer -> Frame -> messages.decode_messages -> Notify

and out::

    actions.encode_actions -> connection.send_ack -> frames.encode_frame -> connection.data_to_send

Section numbers in this package are those of HAProxy's ``doc/SPOE.txt``.
"""

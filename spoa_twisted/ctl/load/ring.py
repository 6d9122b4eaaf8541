"""The frames of the NOTIFYs. They are encoded once, and each connection sends them in turn, again and again."""

from __future__ import annotations

from typing import Final, final

from spoa_twisted.ctl.load.cache import Cache
from spoa_twisted.spop.connection import FRAGMENTATION, EngineConnection
from spoa_twisted.spop.messages import Message

# The number of slots of a ring. A ring has fewer slots if their frames would take more than _MAX_FRAME_BYTES. But it
# always has at least twice as many slots as there are NOTIFYs in flight.
_SLOTS: Final = 2048
_MAX_FRAME_BYTES: Final = 2**22


@final
class Ring:
    """The frames of NOTIFYs that have the same messages and different ids. Each NOTIFY has a slot.

    :param engine: an engine that has received the AGENT-HELLO. It encodes the frames.
    :param messages: the messages of each NOTIFY.
    :param in_flight: how many NOTIFYs may be in flight on a connection.
    """

    def __init__(self, engine: EngineConnection, messages: list[Message], in_flight: int) -> None:
        #: The frame of each slot. With fragmentation it may be several frames.
        self.frames: list[bytes] = []
        #: The slot of each NOTIFY, by its encoded stream-id and frame-id.
        self.slots: dict[bytes, int] = {}
        #: The slots of ACKs that were found good, by the whole frame of the ACK.
        self.good_acks: Cache[int] = Cache()
        size = 0
        while len(self.frames) < 2 * in_flight or (len(self.frames) < _SLOTS and size < _MAX_FRAME_BYTES):
            ids = engine.send_notify(messages, stream_id=len(self.frames) + 1)
            # LoadProtocol handles the ACKs itself, so the engine must not keep these ids.
            engine.forget(ids)
            self.slots[ids] = len(self.frames)
            self.frames.append(engine.data_to_send())
            size += len(self.frames[-1])


@final
class Rings:
    """The ring that all connections share, as long as the agent sends the same AGENT-HELLO on all of them.

    :param messages: the messages of each NOTIFY.
    :param in_flight: how many NOTIFYs may be in flight on a connection.
    """

    def __init__(self, messages: list[Message], in_flight: int) -> None:
        self._messages = messages
        self._in_flight = in_flight
        self._ring: Ring | None = None
        # The frame size of the present ring, and whether its NOTIFYs may be fragmented.
        self._made_for: tuple[int, bool] | None = None

    def ring_for(self, engine: EngineConnection) -> Ring:
        """Return the ring for a connection whose engine has received the AGENT-HELLO.

        It is a new ring if the AGENT-HELLO has another frame size than the last one, or differs in fragmentation: the
        frames are then different.
        """
        needed = engine.max_frame_size, FRAGMENTATION in engine.peer_capabilities
        if self._ring is None or needed != self._made_for:
            self._ring = Ring(engine, self._messages, self._in_flight)
            self._made_for = needed
        return self._ring

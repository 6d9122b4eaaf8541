"""The NOTIFYs of one connection: which of them wait for their ACK, and when each was sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from spoa_twisted.ctl.load.errors import REPEATED_IDS, UNKNOWN_IDS
from spoa_twisted.ctl.load.ring import Ring

#: Stands for a slot: the frame is not a good ACK.
NO_SLOT: Final = -1

#: These stand for the time at which a NOTIFY was sent: it was not sent yet, or it has its ACK. All times are above 0.
NEVER_SENT: Final = -1
ANSWERED: Final = 0


@final
class InFlight:
    """The state of one connection: for each slot of the ring, when its NOTIFY was sent, or that it is answered.

    ``sent`` and ``count`` are public, because ``LoadProtocol`` updates them on its hot path.
    """

    __slots__ = ("_next", "count", "ring", "sent")

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        #: For each slot, when its NOTIFY was sent, or was due with a rate, in nanoseconds of ``time.perf_counter_ns``.
        self.sent: list[int] = [NEVER_SENT] * len(ring.frames)
        #: The number of NOTIFYs whose ACK has not arrived.
        self.count = 0
        # The slot of the NOTIFY that is sent next.
        self._next = 0

    def send(self, times: Sequence[int]) -> bytes:
        """Return the frames of the next NOTIFYs: one for each of ``times``, which are stored as when they were sent."""
        frames, sent, slot = self.ring.frames, self.sent, self._next
        out = []
        for when in times:
            # Skip a NOTIFY whose ACK has still not arrived after a whole round of the ring. The loop ends, because the
            # ring has at least twice as many slots as NOTIFYs in flight.
            while sent[slot] > ANSWERED:
                slot = (slot + 1) % len(frames)
            sent[slot] = when
            out.append(frames[slot])
            slot = (slot + 1) % len(frames)
        self._next = slot
        self.count += len(times)
        return b"".join(out)

    def find(self, ids: bytes) -> tuple[int, str | None]:
        """Return the slot of the NOTIFY with these ids and ``None``, or :data:`NO_SLOT` and the kind of error."""
        slot = self.ring.slots.get(ids, NO_SLOT)
        if slot == NO_SLOT or self.sent[slot] == NEVER_SENT:
            return NO_SLOT, UNKNOWN_IDS
        if self.sent[slot] == ANSWERED:
            return NO_SLOT, REPEATED_IDS
        return slot, None

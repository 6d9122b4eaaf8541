"""Which NOTIFYs of a connection wait for their ACK, and when were they sent?"""

from __future__ import annotations

import time
from typing import Final, final

from spoa_twisted.ctl.load.errors import REPEATED_IDS, UNKNOWN_IDS
from spoa_twisted.ctl.load.ring import Ring

#: In place of a slot: the frame is not a good ACK.
NO_SLOT: Final = -1

#: In place of the time that a NOTIFY was sent: it was not sent yet, or it has its ACK. Every time is above these two.
NEVER_SENT: Final = -1
ANSWERED: Final = 0


@final
class InFlight:
    """The state of each slot of the ring on one connection.

    ``sent`` and ``count`` are public because the connection updates them for all ACKs of a read at once.
    """

    __slots__ = ("_next", "count", "ring", "sent")

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        #: For each slot, when its NOTIFY was sent, in nanoseconds of ``time.perf_counter_ns``.
        self.sent: list[int] = [NEVER_SENT] * len(ring.frames)
        #: How many NOTIFYs are without their ACK.
        self.count = 0
        self._next = 0

    def send(self, number: int) -> bytes:
        """Return the frames of the next ``number`` NOTIFYs, and note that they are sent now."""
        frames, sent, slot = self.ring.frames, self.sent, self._next
        now = time.perf_counter_ns()
        out = []
        for _ in range(number):
            # Skip a NOTIFY that has waited for its ACK for a whole round. The loop ends, because there are at least
            # twice as many slots as NOTIFYs in flight.
            while sent[slot] > ANSWERED:
                slot = (slot + 1) % len(frames)
            sent[slot] = now
            out.append(frames[slot])
            slot = (slot + 1) % len(frames)
        self._next = slot
        self.count += number
        return b"".join(out)

    def find(self, ids: bytes) -> tuple[int, str | None]:
        """Return the slot that an ACK with these ids answers, or :data:`NO_SLOT` and the kind of error."""
        slot = self.ring.slots.get(ids, NO_SLOT)
        if slot == NO_SLOT or self.sent[slot] == NEVER_SENT:
            return NO_SLOT, UNKNOWN_IDS
        if self.sent[slot] == ANSWERED:
            return NO_SLOT, REPEATED_IDS
        return slot, None

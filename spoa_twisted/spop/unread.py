"""How much may stand unread in front of HAProxy >= 3.1, which stops reading for ever when one read fills its buffer.

That buffer, ``tune.bufsize``, is four bytes longer than the max-frame-size that HAProxy offers, or more. Nothing tells
an agent what HAProxy has read. But HAProxy keeps no more than 20 NOTIFYs of a connection in flight: as many ACKs as
are missing from 20, and no more, can be unread. So nothing has to be counted as long as all ACKs are shorter than a
20th of the buffer; from the first longer one on, the sizes of the last ones are remembered.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

#: How many NOTIFYs of a connection HAProxy >= 3.1 keeps in flight.
HAPROXY_IN_FLIGHT: Final = 20

#: Seconds after which HAProxy is taken to have read what was written to it, twice that at most: a busy machine was
#: seen to keep HAProxy from reading for 40 ms.
READ_INTERVAL: Final = 0.025

# A frame's length is not part of the frame, and one byte has to stay free.
_SPARE: Final = 3


@final
class Unread:
    """What may be unread of the frames sent on one connection.

    :param max_frame_size: what was agreed on with HAProxy, in bytes.
    """

    __slots__ = ("_counting", "_limit", "_older", "_sent", "_sizes", "_small")

    def __init__(self, max_frame_size: int) -> None:
        self._limit = max_frame_size + _SPARE
        self._small = self._limit // HAPROXY_IN_FLIGHT
        self._counting = False
        # How many ACKs were sent before counting began: the AGENT-HELLO is none, and read before any NOTIFY comes.
        self._sent = -1
        self._sizes: deque[int] = deque()
        # How many of them were there already when the last interval ended.
        self._older = 0

    def __len__(self) -> int:
        """Return how many frames are remembered as unread."""
        return len(self._sizes)

    def admit(self, frames: list[bytes], in_flight: int) -> int:
        """Return how many of ``frames``, from the first on, may be sent now; they count as unread from now on.

        ``in_flight`` is how many NOTIFYs HAProxy has sent and not been sent an ACK for, those in ``frames`` included.
        """
        if not self._counting:
            if max(map(len, frames)) <= self._small:
                self._sent += len(frames)
                return len(frames)
            self._counting = True
            self._sizes.extend([self._small] * min(self._sent, HAPROXY_IN_FLIGHT))
        if in_flight <= HAPROXY_IN_FLIGHT:
            # Beyond that, HAProxy has given up streams, and which ACKs it has read is anybody's guess.
            self._forget(len(self._sizes) - (HAPROXY_IN_FLIGHT - in_flight))
        total = sum(self._sizes)
        admitted = 0
        for frame in frames:
            total += len(frame)
            if total > self._limit and self._sizes:
                break
            self._sizes.append(len(frame))
            admitted += 1
        return admitted

    def interval_ended(self) -> None:
        """Take what was sent before the interval that ends now for read."""
        self._forget(self._older)
        self._older = len(self._sizes)

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._sizes.popleft()
        if count > 0:
            self._older = max(0, self._older - count)

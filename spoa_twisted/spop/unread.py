"""How much may stand unread in front of HAProxy >= 3.1, which stops reading for ever when one read fills its buffer.

That buffer, ``tune.bufsize``, is four bytes longer than the max-frame-size that HAProxy offers, or more. What HAProxy
has read is known in three ways, none of which is always there:

- It keeps no more than 20 NOTIFYs of a connection in flight: as many ACKs as are missing from 20, and no more, can be
  unread. So nothing has to be counted as long as all ACKs are shorter than a 20th of the buffer; from the first longer
  one on, the sizes of the last ones are remembered. But when the agent falls behind, HAProxy gives up NOTIFYs and
  sends others: then there may be any number of ACKs.
- The kernel knows it, when HAProxy runs on the same machine: almost. When it has handed out all, the call that HAProxy
  reads with may not have returned, and takes what comes next as well: the two then fill the buffer together. So the
  call is given time to return, in which what it read still counts. Of a HAProxy on another machine the kernel knows
  what has arrived there.
- Time: what arrived long enough ago has been read.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final, final

#: How many NOTIFYs of a connection HAProxy >= 3.1 keeps in flight.
HAPROXY_IN_FLIGHT: Final = 20

#: Seconds between two looks at what has been read. It is the shortest pause, whatever the kernel says: what reads
#: may be a proxy on this machine, which then has to hand it on.
READ_INTERVAL: Final = 0.005


class Receipt(Enum):
    """What is known of all that was sent. The value: how many intervals must end so until it counts as read."""

    #: Some of it has not been read, or not even arrived.
    MISSING = 0
    #: All was handed out. The call that read the last of it may not have returned: on Linux 6.18, one of 100,000 calls
    #: on a Unix socket was held up for 0.1 ms just there.
    HANDED_OUT = 2
    #: All was handed out to a reader that deciphers it piece by piece, as with TLS.
    HANDED_OUT_CIPHERED = 10
    #: All has arrived, as far as is known. HAProxy may stand still for a while, and a proxy may have it.
    UNKNOWN = 40


# A frame's length is not part of the frame, and one byte has to stay free.
_SPARE: Final = 3

# The longest AGENT-DISCONNECT: it may follow the last ACKs.
_GOODBYE_SIZE: Final = 300


@final
class Unread:
    """What may be unread of the frames sent on one connection.

    :param max_frame_size: what was agreed on with HAProxy, in bytes.
    :param pipelining: whether HAProxy keeps more than one NOTIFY in flight.
    """

    __slots__ = (
        "_counting",
        "_ended",
        "_given_up",
        "_interval",
        "_limit",
        "_most",
        "_sent",
        "_small",
        "_unread",
        "size",
    )

    def __init__(self, max_frame_size: int, pipelining: bool = True) -> None:
        self._limit = max_frame_size + _SPARE
        self._most = HAPROXY_IN_FLIGHT if pipelining else 1
        self._small = (self._limit - _GOODBYE_SIZE) // self._most
        self._counting = False
        # How many ACKs were sent before counting began: the AGENT-HELLO is none, and read before any NOTIFY comes.
        self._sent = -1
        # Whether HAProxy has given up NOTIFYs: which ACKs it has read is then anybody's guess.
        self._given_up = False
        # The frames' sizes, each with the number of the interval that it was sent in.
        self._unread: deque[tuple[int, int]] = deque()
        #: How many bytes are remembered as unread.
        self.size = 0
        # How many intervals have ended that left nothing unread, as far as is known, and the number of this one.
        self._ended = self._interval = 0

    def __len__(self) -> int:
        """Return how many frames are remembered as unread."""
        return len(self._unread)

    def fell_behind(self) -> None:
        """Say that more has come than HAProxy waits for at a time, or may have: until all is read, count nothing."""
        self._given_up = True

    def admit(self, frames: list[bytes], in_flight: int, answered: int = 0) -> int:
        """Return how many of ``frames``, from the first on, may be sent now; they count as unread from now on.

        ``in_flight`` is how many NOTIFYs HAProxy has sent and not been sent an ACK for, those of ``frames`` included;
        ``answered`` is how many ACKs were sent since the last of those NOTIFYs arrived.
        """
        if in_flight + answered > self._most:
            # So many were in flight together.
            self._given_up = True
        if not self._counting:
            if max(map(len, frames)) <= self._small and not self._given_up:
                self._sent += len(frames)
                return len(frames)
            self._counting = True
            for _ in range(min(self._sent, self._most)):
                self._remember(self._small)
        if not self._given_up:
            self._forget(len(self._unread) - (self._most - in_flight))
        admitted = 0
        for frame in frames:
            if self.size + len(frame) > self._limit and self._unread:
                break
            self._remember(len(frame))
            admitted += 1
        return admitted

    def interval_ends(self) -> None:
        """Take note that what is sent from now on does not belong to the interval that is about to end."""
        self._interval = self._ended + 1

    def interval_ended(self, receipt: Receipt) -> None:
        """Take note that another interval has passed, and of what is known of all that was sent until it ended."""
        if receipt is not Receipt.MISSING:
            self._ended += 1
            self._interval = self._ended
            read = self._ended - int(receipt.value)
            while self._unread and self._unread[0][1] <= read:
                self._forget(1)
        if not self._unread:
            self._counting = self._given_up = False
            self._sent = 0

    def _remember(self, size: int) -> None:
        self._unread.append((size, self._interval))
        self.size += size

    def _forget(self, count: int) -> None:
        for _ in range(count):
            size, _ = self._unread.popleft()
            self.size -= size

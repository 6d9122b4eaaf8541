"""How many bytes the agent may send to a HAProxy >= 3.1 before HAProxy has read the bytes sent earlier.

The problem
-----------

A HAProxy >= 3.1 reads an agent's frames into a buffer of ``tune.bufsize`` bytes. If one read fills this buffer exactly,
HAProxy never reads from the connection again. It does not close the connection either: it goes on to send NOTIFYs, and
each of these streams waits for its timeout. So the unread bytes of a connection must always be fewer than
``tune.bufsize``. The agent does not know this size, but it knows the max-frame-size that HAProxy offers, which is
``tune.bufsize`` - 4 or less. The limit is therefore max-frame-size + 3 bytes: 16383 with HAProxy's default settings.

:class:`Unread` remembers the frames that HAProxy may not have read. :meth:`Unread.admit` lets a frame leave only if it
fits below the limit together with them. Later frames wait until :class:`Unread` learns that earlier ones were read.

Three sources tell what HAProxy has read
----------------------------------------

1. The number of NOTIFYs in flight. HAProxy keeps at most 20 NOTIFYs of a connection in flight, and a NOTIFY is in
   flight until HAProxy has read its ACK. If the agent has n NOTIFYs without a sent ACK, HAProxy waits for these n ACKs
   and for each sent ACK that it has not read, 20 in all at most. So at most 20 - n ACKs are unread, and these are the
   last ones. But if the agent is too slow, HAProxy gives up NOTIFYs and sends others in their place. From then on, the
   number of unread ACKs is unknown, and only the other two sources count.

2. The kernel, if HAProxy runs on the same machine. On Linux, it tells whether the reader has fetched all bytes. At that
   moment HAProxy's call of recv() may not have returned yet. If it has not, it also fetches bytes that are sent now,
   and the old and the new bytes fill the buffer together. So the agent waits for one more interval.

3. Time, if HAProxy runs on another machine: bytes that arrived there long enough ago have been read.

A short path for small ACKs
---------------------------

20 ACKs of 804 bytes and an AGENT-DISCONNECT are shorter than 16383 bytes. If all ACKs are that small, source 1 shows
that they fit: nothing is counted and no ACK waits. This is the usual case. Counting begins with the first longer ACK,
or when HAProxy gives up NOTIFYs. It ends when everything has been read.

An example
----------

The max-frame-size is 16380, so the limit is 16383 bytes. HAProxy has 20 NOTIFYs in flight, and the agent answers each
with an ACK of 1511 bytes:

- 20 ACKs are queued. All 20 NOTIFYs are without a sent ACK, so no ACK can be unread. Ten ACKs leave (15110 bytes); the
  eleventh would make 16621 bytes.
- Four new NOTIFYs arrive, so 10 + 4 = 14 are without a sent ACK. At most 20 - 14 = 6 ACKs are unread (9066 bytes): the
  four oldest ones have been read. Four more ACKs leave.
- No NOTIFY follows. After an interval of 5 ms, the kernel reports that all bytes were fetched. After another interval,
  it still does: the call has had 5 ms to return. Nothing is unread, and the last six of the 20 ACKs leave.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final, final

#: The largest number of NOTIFYs that a HAProxy >= 3.1 keeps in flight on one connection.
HAPROXY_IN_FLIGHT: Final = 20

#: The length of an interval, in seconds: the shortest time between two checks of what HAProxy has read. It does not get
#: shorter if the kernel can tell: the reader may be a proxy on this machine, which has to pass the bytes on to HAProxy.
READ_INTERVAL: Final = 0.005


class Receipt(Enum):
    """What is known about all bytes that were sent up to the end of an interval.

    The value is a number of intervals: a frame counts as read when so many intervals have ended with this receipt.
    """

    #: Some bytes have not arrived, or HAProxy has not fetched them. The interval does not count.
    MISSING = 0
    #: The reader has fetched all bytes from the kernel. The second interval lets its call return: on Linux 6.18, one of
    #: 100,000 calls on a Unix socket took 0.1 ms more at this point.
    HANDED_OUT = 2
    #: As HANDED_OUT, with TLS. The reader decrypts one record after the other, which takes longer than one call.
    HANDED_OUT_CIPHERED = 10
    #: The other machine has acknowledged all bytes, or the kernel does not answer the question. HAProxy may be stopped
    #: for a moment, or a proxy may still hold the bytes: 40 intervals of 5 ms are 200 ms.
    UNKNOWN = 40
    #: As UNKNOWN, while the connection is about to end because its answers are long: 60 ms. Up to 20 ACKs wait for each
    #: other. With 200 ms each, the last ones would come after HAProxy's timeout.
    UNKNOWN_IN_HASTE = 12


# The limit is max-frame-size + 3: the buffer holds 4 bytes more, the FRAME-LENGTH, and one byte must stay free.
_SPARE: Final = 3

# The size of the longest AGENT-DISCONNECT, in bytes, rounded up. It may leave together with the last ACKs.
_MAX_DISCONNECT_FRAME_SIZE: Final = 300


def max_short_ack(max_frame_size: int) -> int:
    """Return the size of a short ACK, in bytes, its length field included.

    As many ACKs of this size as HAProxy has in flight with pipelining fit below the limit, with an AGENT-DISCONNECT.

    :param max_frame_size: the max-frame-size that HAProxy and the agent agreed on, in bytes.
    """
    # With a max-frame-size below 297 bytes, there is no room beside an AGENT-DISCONNECT: then no ACK is short.
    return max(_short_ack(max_frame_size + _SPARE, HAPROXY_IN_FLIGHT), 0)


def _short_ack(max_unread: int, in_flight: int) -> int:
    return (max_unread - _MAX_DISCONNECT_FRAME_SIZE) // in_flight


@final
class Unread:
    """The frames of one connection that HAProxy may not have read.

    The caller asks :meth:`admit` before it sends. As long as :attr:`size` is not 0 or frames wait, it calls
    :meth:`interval_ends` and :meth:`interval_ended` every :data:`READ_INTERVAL`, and then :meth:`admit` again.

    :param max_frame_size: the max-frame-size that HAProxy and the agent agreed on, in bytes.
    :param pipelining: true if HAProxy keeps more than one NOTIFY in flight.
    """

    __slots__ = (
        "_counting",
        "_frames",
        "_in_flight_unknown",
        "_interval",
        "_intervals_ended",
        "_longest_uncounted",
        "_max_in_flight",
        "_max_small_frame",
        "_max_unread",
        "_uncounted",
        "long_acks",
        "size",
    )

    def __init__(self, max_frame_size: int, pipelining: bool = True) -> None:
        # The limit for the unread bytes.
        self._max_unread = max_frame_size + _SPARE
        self._max_in_flight = HAPROXY_IN_FLIGHT if pipelining else 1
        # As many ACKs of this size as HAProxy can have in flight fit below the limit, with an AGENT-DISCONNECT.
        self._max_small_frame = _short_ack(self._max_unread, self._max_in_flight)
        # True from the first long ACK on, until everything has been read.
        self._counting = False
        # The number of small ACKs that were sent without counting. It starts at -1 because admit counts the AGENT-HELLO
        # too. HAProxy has read the AGENT-HELLO before it sends a NOTIFY.
        self._uncounted = -1
        # The size of the longest of them, in bytes.
        self._longest_uncounted = 0
        # True after HAProxy has given up NOTIFYs: the number of NOTIFYs in flight no longer tells which ACKs are read.
        self._in_flight_unknown = False
        # The sizes of the frames that may be unread, the oldest first, each with the interval in which it was sent.
        self._frames: deque[tuple[int, int]] = deque()
        #: The sum of their sizes, in bytes.
        self.size = 0
        #: The number of frames so far that were longer than a short ACK.
        self.long_acks = 0
        # The number of intervals that ended with a receipt other than MISSING, and the number of the current interval.
        self._intervals_ended = self._interval = 0

    def __len__(self) -> int:
        """Return the number of frames that may be unread. Frames that were not counted are left out."""
        return len(self._frames)

    def fell_behind(self) -> None:
        """Report that HAProxy may have sent more NOTIFYs than it keeps in flight.

        Until everything has been read, the number of NOTIFYs in flight is not used.
        """
        self._in_flight_unknown = True

    def admit(self, frames: list[bytes], in_flight: int, answered: int = 0) -> int:
        """Return how many of ``frames``, counted from the first one, may be sent now. They count as unread from now on.

        :param frames: the queued frames, at least one.
        :param in_flight: the number of NOTIFYs that have arrived and whose ACK was not sent. ACKs in ``frames`` were
            not sent yet.
        :param answered: the number of ACKs that were sent since the last NOTIFY arrived. When it arrived, their NOTIFYs
            were in flight together with the others.
        """
        if in_flight + answered > self._max_in_flight:
            # More NOTIFYs than HAProxy keeps in flight: it has given up some of them.
            self._in_flight_unknown = True
        if not self._counting:
            longest = max(map(len, frames))
            if longest <= self._max_small_frame and not self._in_flight_unknown:
                self._uncounted += len(frames)
                if longest > self._longest_uncounted:
                    self._longest_uncounted = longest
                return len(frames)
            self._counting = True
            # Earlier ACKs may be unread, too. Their sizes were not kept: the largest of them is assumed. While NOTIFYs
            # wait for the in-flight limit, others of the same read are answered, before all are counted.
            for _ in range(min(self._uncounted, self._max_in_flight + answered)):
                self._add(self._longest_uncounted)
        if not self._in_flight_unknown:
            # Source 1: at most (20 - in_flight) ACKs are unread. All older ones have been read.
            self._remove_oldest(len(self._frames) - (self._max_in_flight - in_flight))
        admitted = 0
        for frame in frames:
            # If nothing is unread, the first frame always leaves: send_ack has made sure that one frame fits.
            if self.size + len(frame) > self._max_unread and self._frames:
                break
            self._add(len(frame))
            admitted += 1
            if len(frame) > self._max_small_frame:
                self.long_acks += 1
        return admitted

    def has_room(self, frames: list[bytes], answered: int = 0) -> bool:
        """Return whether all of ``frames`` and an AGENT-DISCONNECT may be sent at once. No other NOTIFY is in flight.

        :param frames: the queued ACKs; there may be none.
        :param answered: as for :meth:`admit`.
        """
        size = self.size
        if not self._counting:
            unread = self._max_in_flight
            if not self._in_flight_unknown and len(frames) + answered <= unread:
                # Source 1, as in admit: HAProxy has read all but the last of the ACKs that were not counted.
                unread -= len(frames)
            size = min(self._uncounted, unread) * self._longest_uncounted
        return size + sum(map(len, frames)) <= self._max_unread - _MAX_DISCONNECT_FRAME_SIZE

    def interval_ends(self) -> None:
        """Announce that the caller is about to ask the kernel.

        The answer may not cover frames that are sent from now on. So they belong to the next interval.
        """
        self._interval = self._intervals_ended + 1

    def interval_ended(self, receipt: Receipt) -> None:
        """Report the end of an interval, and forget the frames that have been read.

        :param receipt: what is known about the frames that were sent before :meth:`interval_ends`.
        """
        if receipt is not Receipt.MISSING:
            # Sources 2 and 3.
            self._intervals_ended += 1
            self._interval = self._intervals_ended
            # Frames that were sent in the interval with this number, or in an earlier one, have been read.
            read = self._intervals_ended - int(receipt.value)
            while self._frames and self._frames[0][1] <= read:
                self._remove_oldest(1)
        if not self._frames:
            # Back to the short path for small ACKs.
            self._counting = self._in_flight_unknown = False
            self._uncounted = self._longest_uncounted = 0

    def _add(self, size: int) -> None:
        self._frames.append((size, self._interval))
        self.size += size

    def _remove_oldest(self, count: int) -> None:
        # A count below 0 removes nothing.
        for _ in range(count):
            size, _ = self._frames.popleft()
            self.size -= size

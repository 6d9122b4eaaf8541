"""A histogram of latencies. Its size does not grow with the number of latencies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

# The number of leading bits that tell two latencies apart. Below 2**_BITS ns each nanosecond has its own bucket; above,
# each power of two is divided into _HALF buckets, which are less than 1 % wide.
_BITS: Final = 8
_HALF: Final = 1 << (_BITS - 1)

# In nanoseconds, about 18 minutes. A longer latency is counted in the bucket of this one.
_MAX_COUNTED: Final = (1 << 40) - 1


def _bucket(nanoseconds: int) -> int:
    """Return the number of the bucket that counts this latency."""
    shift = max(0, nanoseconds.bit_length() - _BITS)
    return shift * _HALF + (nanoseconds >> shift)


def _lowest(bucket: int) -> int:
    """Return the shortest latency of a bucket: the inverse of :func:`_bucket`."""
    shift = max(0, bucket // _HALF - 1)
    return (bucket - shift * _HALF) << shift


@final
class Latencies:
    """Counts latencies in nanoseconds: exactly below 256, above in buckets that are less than 1 % wide.

    It has 4352 buckets.
    """

    __slots__ = ("_counts", "longest", "total")

    def __init__(self) -> None:
        self._counts = [0] * (_bucket(_MAX_COUNTED) + 1)
        #: How many latencies were added.
        self.total = 0
        #: The longest latency in nanoseconds. It is exact.
        self.longest = 0

    def add(self, nanoseconds: int, times: int = 1) -> None:
        """Count a latency ``times`` times, which may be 0."""
        if not times:
            return
        self._counts[_bucket(min(nanoseconds, _MAX_COUNTED))] += times
        self.total += times
        if nanoseconds > self.longest:
            self.longest = nanoseconds

    def percentile(self, share: float) -> int:
        """Return the shortest latency that ``share`` percent of the latencies do not exceed.

        The result is the upper end of a bucket. It is 0 if there are no latencies.
        """
        # In integers: 99.9 % of 1000 are 999, but 99.9 / 100 * 1000 is 999.0000000000001, which would round up to 1000.
        rank = max(1, -(-self.total * round(share * 1000) // 100_000))
        for bucket, count in enumerate(self._counts):
            rank -= count
            if rank <= 0:
                return min(_lowest(bucket + 1) - 1, self.longest)
        return self.longest

    def to_json(self) -> list[list[int]]:
        """Return pairs of a bucket and its count, without empty buckets; and first -1 and the longest latency."""
        return [[-1, self.longest], *([i, count] for i, count in enumerate(self._counts) if count)]

    def merge(self, pairs: Iterable[Iterable[int]]) -> None:
        """Add the latencies of another histogram, from the pairs that its :meth:`to_json` returned."""
        for bucket, count in pairs:
            if bucket < 0:
                self.longest = max(self.longest, count)
            else:
                self._counts[bucket] += count
                self.total += count

"""A histogram of latencies whose size does not grow with what is counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

# Below 2 to this power each nanosecond has a bucket; above, each power of two is divided into half as many.
_BITS: Final = 8
_HALF: Final = 1 << (_BITS - 1)

# Longer than this, about 18 minutes, counts as this.
_LONGEST: Final = (1 << 40) - 1


def _bucket(nanoseconds: int) -> int:
    shift = max(0, nanoseconds.bit_length() - _BITS)
    return shift * _HALF + (nanoseconds >> shift)


def _lowest(bucket: int) -> int:
    shift = max(0, bucket // _HALF - 1)
    return (bucket - shift * _HALF) << shift


@final
class Latencies:
    """Counts nanoseconds, exactly below 256, else in buckets whose ends differ by less than 1 %. 4352 integers."""

    __slots__ = ("_counts", "longest", "total")

    def __init__(self) -> None:
        self._counts = [0] * (_bucket(_LONGEST) + 1)
        #: How many were counted.
        self.total = 0
        #: The longest one, exactly.
        self.longest = 0

    def add(self, nanoseconds: int, times: int = 1) -> None:
        """Count one of so many nanoseconds, or several, or none."""
        if not times:
            return
        self._counts[_bucket(min(nanoseconds, _LONGEST))] += times
        self.total += times
        if nanoseconds > self.longest:
            self.longest = nanoseconds

    def percentile(self, share: float) -> int:
        """Return the least latency that ``share`` percent do not exceed: the upper end of its bucket."""
        # In integers: 99.9 % of 1000 are 999, which floats exceed.
        rank = max(1, -(-self.total * round(share * 1000) // 100_000))
        for bucket, count in enumerate(self._counts):
            rank -= count
            if rank <= 0:
                return min(_lowest(bucket + 1) - 1, self.longest)
        return self.longest

    def to_json(self) -> list[list[int]]:
        """Return it as pairs of a bucket and its count, the longest in front."""
        return [[-1, self.longest], *([i, count] for i, count in enumerate(self._counts) if count)]

    def merge(self, pairs: Iterable[Iterable[int]]) -> None:
        """Add what :meth:`to_json` returned elsewhere."""
        for bucket, count in pairs:
            if bucket < 0:
                self.longest = max(self.longest, count)
            else:
                self._counts[bucket] += count
                self.total += count

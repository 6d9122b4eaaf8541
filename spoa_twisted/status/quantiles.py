"""What a histogram tells: how many observations it has, how many took long, and within what time most of them ended.

A histogram knows only in which bucket an observation is. So the time for a share of the observations is the upper bound
of a bucket, and the page says "≤". Prometheus guesses a time within the bucket; a bound is true, and does not flicker.
"""

from __future__ import annotations

from itertools import accumulate
from math import inf

from spoa_twisted.status.report import BOUNDS, Histogram


def observations(histogram: Histogram) -> int:
    """Return the number of observations."""
    return sum(histogram["buckets"])


def within(histogram: Histogram, part: float, longest: float = inf) -> float:
    """Return a time that ``part`` of the observations did not exceed.

    :param part: 0.99 for 99 % of the observations.
    :param longest: the longest observation, if it is known. No result is above it.
    :returns: the upper bound of a bucket, or ``longest``; 0 if there are no observations. ``inf`` means: longer than
        the last of :data:`~spoa_twisted.status.report.BOUNDS`.
    """
    needed = part * observations(histogram)
    if not needed:
        return 0.0
    for bound, reached in zip(BOUNDS, accumulate(histogram["buckets"]), strict=False):
        # Without the tolerance, 0.99 * 100 would be more than 99.
        if reached >= needed - 1e-6:
            return min(bound, longest)
    return longest


def longer_than(histogram: Histogram, bound: float) -> int:
    """Return how many observations took longer than ``bound``, one of the bounds of the buckets."""
    return sum(histogram["buckets"][BOUNDS.index(bound) + 1 :])

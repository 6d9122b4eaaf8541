"""status.quantiles: what a histogram tells."""

from __future__ import annotations

from math import inf

import pytest

from spoa_twisted.status.quantiles import longer_than, observations, within
from spoa_twisted.status.report import BOUNDS

from .examples import histogram

HUNDRED = histogram((0.0009, 50), (0.004, 49), (0.3, 1))


@pytest.mark.parametrize(("part", "bound"), [(0.5, 0.001), (0.51, 0.005), (0.99, 0.005), (0.999, 0.5), (1.0, 0.5)])
def test_within(part: float, bound: float) -> None:
    """The bound of the bucket: exactly 99 of 100 observations are within 5 ms."""
    assert within(HUNDRED, part) == bound


def test_the_longest_is_nearer_than_the_bound() -> None:
    """No observation took longer, so no share of them did."""
    assert within(HUNDRED, 1.0, 0.312) == 0.312
    assert within(HUNDRED, 0.5, 0.312) == 0.001


def test_beyond_the_last_bound() -> None:
    """Only the longest observation tells then."""
    beyond = histogram((9.0, 3))
    assert within(beyond, 0.5) == inf
    assert within(beyond, 0.5, 9.0) == 9.0


def test_nothing_was_observed() -> None:
    """There is no bound to tell."""
    assert within(histogram(), 0.99) == 0
    assert observations(histogram()) == 0


def test_longer_than() -> None:
    """A bound belongs to the bucket below it."""
    assert [longer_than(HUNDRED, bound) for bound in (0.0005, 0.001, 0.005, 0.5)] == [100, 50, 1, 0]
    assert longer_than(histogram((9.0, 3)), BOUNDS[-1]) == 3

"""ctl.latency: a histogram of latencies."""

from __future__ import annotations

import json
import random

import pytest

from spoa_twisted.ctl.latency import Latencies


def test_percentiles_are_exact_below_256() -> None:
    """A percentile is the nearest rank: the shortest latency that so many latencies do not exceed."""
    latencies = Latencies()
    for value in random.Random(1).sample(range(1, 201), 200):
        latencies.add(value)
    assert [latencies.percentile(share) for share in (0.1, 50, 99, 99.9, 100)] == [1, 100, 198, 200, 200]
    assert (latencies.total, latencies.longest) == (200, 200)


def test_a_share_that_a_float_cannot_hold() -> None:
    """99.9 % of 1000 are 999, and 99.9 % of 1001 are 1000."""
    latencies = Latencies()
    latencies.add(1, 999)
    latencies.add(2)
    assert latencies.percentile(99.9) == 1
    latencies.add(2)
    assert latencies.percentile(99.9) == 2


@pytest.mark.parametrize("scale", [10**3, 10**6, 10**9, 10**10])
def test_percentiles_are_within_one_percent_elsewhere(scale: int) -> None:
    """A percentile is never too low. The longest latency is exact."""
    source = random.Random(scale)
    values = sorted(int(source.lognormvariate(0, 1) * scale) for _ in range(5000))
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    for share, rank in ((50, 2500), (99, 4950), (99.9, 4995), (100, 5000)):
        exact = values[rank - 1]
        assert exact <= latencies.percentile(share) <= exact * 1.01
    assert latencies.percentile(100) == latencies.longest == values[-1]


def test_every_nanosecond_has_a_bucket() -> None:
    """No value falls between two buckets, up to the longest that has one of its own."""
    for value in [*range(5000), *(2**power + step for power in range(12, 40) for step in (-1, 0, 1))]:
        latencies = Latencies()
        latencies.add(value)
        latencies.add(2**60)
        assert value <= latencies.percentile(50) <= max(255, value * 1.01)


def test_histograms_are_merged() -> None:
    """The result is as if all values had been added to one histogram."""
    expected, merged = Latencies(), Latencies()
    source = random.Random(3)
    for _ in range(3):
        part = Latencies()
        for _ in range(1000):
            value = source.randrange(10**7)
            part.add(value)
            expected.add(value)
        merged.merge(json.loads(json.dumps(part.to_json())))
    assert merged.to_json() == expected.to_json()
    assert merged.percentile(99) == expected.percentile(99)
    assert merged.total == 3000


def test_without_latencies() -> None:
    """All figures are 0."""
    assert Latencies().percentile(50) == Latencies().longest == 0

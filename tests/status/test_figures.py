"""status.figures: numbers as text."""

from __future__ import annotations

import pytest

from spoa_twisted.status import figures


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0000374, "0.037 ms"),
        (0.0001, "0.1 ms"),
        (0.00025, "0.25 ms"),
        (0.00123, "1.23 ms"),
        (0.25, "250 ms"),
        (0.9996, "1 s"),
        (3.24, "3.2 s"),
        (9.96, "10 s"),
        (60, "60 s"),
        (119.4, "119 s"),
        (725, "12 min"),
        (3600, "1 h"),
        (11_520, "3 h 12 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """Two or three digits are enough for an operator."""
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "seconds", "text"),
    [(0, 60, "0/s"), (1, 60, "1/min"), (90, 60, "1.5/s"), (74_040, 60, "1,234/s"), (1, 0, "1/min"), (5, 9.5, "32/min")],
)
def test_rate(count: int, seconds: float, text: str) -> None:
    """What is rare is counted by the minute. No time at all is no error."""
    assert figures.rate(count, seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0 of 0"),
        (6, 9, "6 of 9"),
        (0, 100, "0 %"),
        (1, 100_000, "< 0.1 %"),
        (5, 1000, "0.5 %"),
        (62, 100, "62 %"),
        (9999, 10_000, "99 %"),
        (50, 50, "100 %"),
    ],
)
def test_share(part: int, whole: int, text: str) -> None:
    """Only all is 100 %, and only nothing is 0 %."""
    assert figures.share(part, whole) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (16380, "16 KiB"), (45 * 2**20, "45 MiB"), (2**31, "2 GiB")])
def test_size(size: int, text: str) -> None:
    """Three digits."""
    assert figures.size(size) == text


def test_times_and_spans() -> None:
    """One is not plural."""
    assert [figures.times(1), figures.times(1234)] == ["once", "1,234 times"]
    assert [figures.counted(1, "worker"), figures.counted(0, "worker")] == ["1 worker", "0 workers"]
    assert [figures.ago(-0.5), figures.ago(0.9), figures.ago(725)] == ["now", "now", "12 min ago"]
    assert [figures.span(60), figures.span(12.3), figures.span(0)] == ["minute", "12 s", "1 s"]


def test_clock() -> None:
    """A number that is no time is shown, too."""
    assert figures.clock(1772694489).startswith("2026-03-05 ")
    assert figures.clock(1e300) == "1e+300"

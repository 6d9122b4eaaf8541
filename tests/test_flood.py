"""Which lines of a flood are logged, and which are left out or only counted."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from spoa_twisted.flood import Flood, Once, OncePerMinute


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts() -> list[Any]:
    return []


@pytest.fixture
def flood(clock: Clock, counts: list[Any]) -> Flood:
    return Flood(clock, lambda key, count: counts.append((clock.seconds(), key, count)))


def admitted(flood: Flood, name: str, times: int) -> int:
    """Return how many of as many lines are logged."""
    return sum(flood.admits("kind", name) for _ in range(times))


class TestFlood:
    def test_ten_lines_a_minute(self, flood: Flood, clock: Clock, counts: list[Any]) -> None:
        """Of each kind and name. The minute begins with the first line."""
        assert admitted(flood, "a", 10) == 10
        assert clock.getDelayedCalls() == []
        clock.advance(59)
        assert admitted(flood, "a", 5) == 0
        assert flood.admits("other kind", "a")
        clock.advance(1)
        assert counts == [(60, ("kind", "a"), 5)]
        assert admitted(flood, "a", 11) == 10

    def test_each_key_has_its_minute(self, flood: Flood, clock: Clock, counts: list[Any]) -> None:
        """One timer is enough for all."""
        for _ in range(3):
            admitted(flood, str(clock.seconds()), 12)
            clock.advance(20)
        assert counts == [(60, ("kind", "0.0"), 2)]
        assert len(clock.getDelayedCalls()) == 1
        clock.pump([20, 20])
        assert counts[1:] == [(80, ("kind", "20.0"), 2), (100, ("kind", "40.0"), 2)]
        assert clock.getDelayedCalls() == []

    def test_a_line_after_the_minute(self, flood: Flood, clock: Clock, counts: list[Any]) -> None:
        """It may come before the timer, if the reactor is late: the count of the minute before is not lost."""
        admitted(flood, "a", 12)
        clock.rightNow += 70
        assert flood.admits("kind", "a")
        assert counts == [(70, ("kind", "a"), 2)]
        clock.advance(0)
        assert len(counts) == 1
        assert clock.getDelayedCalls() == []

    def test_the_clock_may_be_set_back(self, flood: Flood, clock: Clock, counts: list[Any]) -> None:
        """A new minute begins at once."""
        clock.advance(10_000)
        admitted(flood, "a", 12)
        clock.rightNow -= 5000
        assert admitted(flood, "a", 11) == 10
        assert counts == [(5000, ("kind", "a"), 2)]
        flood.flush()
        assert counts[1:] == [(5000, ("kind", "a"), 1)]
        assert clock.getDelayedCalls() == []

    def test_many_names(self, flood: Flood, clock: Clock, counts: list[Any]) -> None:
        """A hundred are counted one by one, and the others together, until the minutes of the first are over."""
        names = [str(number) for number in range(200)]
        assert sum(admitted(flood, name, 1) for name in names) == 110
        clock.advance(60)
        assert counts == [(60, ("kind", None), 90)]
        assert sum(admitted(flood, name, 1) for name in names[:100]) == 100

    def test_a_name_after_a_minute_without_counts(self, flood: Flood, clock: Clock) -> None:
        """No timer has run. The names of the minute before are forgotten, so the new name has ten lines of its own."""
        assert sum(admitted(flood, str(number), 1) for number in range(100)) == 100
        clock.advance(60)
        assert (admitted(flood, "a", 11), admitted(flood, "b", 11)) == (10, 10)


class TestOncePerMinute:
    def test_it_admits_a_fault_again_after_a_minute(self, clock: Clock) -> None:
        """Not before. Another fault is admitted at once."""
        faults = OncePerMinute(clock)
        assert [faults.admits("a"), faults.admits("b"), faults.admits("a")] == [True, True, False]
        clock.advance(60)
        assert faults.admits("a")


class TestOnce:
    def test_it_admits_a_fault_once(self) -> None:
        """Until it forgets all, and a thousand faults at most."""
        once = Once()
        assert [once.admits("a"), once.admits("a")] == [True, False]
        once.forget()
        assert sum(once.admits(number) for number in range(1100)) == 1000

"""Adding and subtracting totals, and the last minute of them."""

from __future__ import annotations

from spoa_twisted.status.history import INTERVAL, History
from spoa_twisted.status.report import Totals
from spoa_twisted.status.totals import add, empty, empty_histogram, subtract


def some(number: int, name: str = "m") -> Totals:
    """Return totals in which each number is ``number``."""
    histogram = empty_histogram()
    histogram["buckets"][3] = number
    histogram["sum"] = number / 2
    return {
        "messages": {name: {"results": {"ok": number}, "duration": histogram}},
        "notify": histogram,
        "connections": number,
        "refused": number,
        "health_checks": number,
        "disconnects": {"agent 0": number},
        "dropped": {"unread": number},
        "stalls": number,
        "stall_seconds": number / 2,
    }


def test_the_sum_of_nothing() -> None:
    assert add([]) == empty()
    assert add([some(2), empty()]) == some(2)


def test_each_number_is_added() -> None:
    assert add([some(1), some(2), some(4)]) == some(7)


def test_names_of_either_side() -> None:
    """A worker with new handlers has other messages."""
    total = add([some(1, "old"), some(2, "new")])
    assert {name: totals["results"] for name, totals in total["messages"].items()} == {
        "old": {"ok": 1},
        "new": {"ok": 2},
    }


def test_each_number_is_subtracted() -> None:
    assert subtract(some(7), some(3)) == some(4)
    assert subtract(some(7), empty()) == some(7)


def test_no_number_is_negative() -> None:
    """A worker that did not answer in time is missing in the later totals."""
    assert subtract(some(1), some(3)) == some(0)


def test_the_arguments_stay_as_they_are() -> None:
    one, two = some(1), some(2)
    add([one, two])
    subtract(two, one)
    assert (one, two) == (some(1), some(2))


class TestHistory:
    def test_since_the_start(self) -> None:
        """Before the agent has run for a minute."""
        history = History(1000.0)
        history.add(1010.0, some(3))
        assert history.recent(1020.0, some(5)) == (some(5), 20.0)

    def test_the_last_minute(self) -> None:
        history = History(1000.0)
        for second in range(0, 300, 5):
            history.add(1000.0 + second, some(second))
        recent, seconds = history.recent(1298.0, some(300))
        assert 60.0 <= seconds < 60.0 + INTERVAL
        assert recent["connections"] == 300 - (298 - int(seconds))

    def test_it_is_bounded(self) -> None:
        """However often somebody asks."""
        history = History(1000.0)
        for second in range(1000):
            history.add(1000.0 + second, some(second))
        assert len(history._entries) <= 60 / INTERVAL + 2

    def test_nobody_has_asked_for_long(self) -> None:
        history = History(1000.0)
        history.add(1005.0, some(5))
        recent, seconds = history.recent(5000.0, some(9))
        assert (recent, seconds) == (some(4), 3995.0)

    def test_the_clock_was_set_back(self) -> None:
        """The minute begins again."""
        history = History(1000.0)
        history.add(2000.0, some(5))
        history.add(500.0, some(6))
        assert history.recent(510.0, some(8)) == (some(2), 10.0)
        assert history.recent(400.0, some(8)) == (some(2), 0.0)

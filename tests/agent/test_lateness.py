"""Lateness: for how long the reactor called nothing."""

from __future__ import annotations

import pytest

from spoa_twisted.agent.lateness import INTERVAL, Lateness
from tests.agent.memory import TurnClock


@pytest.fixture
def turns() -> TurnClock:
    return TurnClock()


@pytest.fixture
def lateness(turns: TurnClock) -> Lateness:
    lateness = Lateness(turns)
    lateness.start()
    return lateness


def before(lateness: Lateness, now: float) -> float:
    """Return how long bytes that are read now may have waited, as ``--log-slow`` does."""
    return lateness.in_this_turn + max(0.0, now - lateness.due)


def test_a_reactor_that_is_on_time(turns: TurnClock, lateness: Lateness) -> None:
    for _ in range(5):
        turns.advance(INTERVAL)
        assert before(lateness, turns.seconds()) == pytest.approx(0)
    assert lateness.total(turns.seconds()) == pytest.approx(0)


def test_a_standstill_is_known_before_the_timer_is_called(turns: TurnClock, lateness: Lateness) -> None:
    """A handler may have blocked in this turn of the reactor."""
    turns.rightNow += INTERVAL + 2
    assert before(lateness, turns.seconds()) == pytest.approx(2)
    assert lateness.total(turns.seconds()) == pytest.approx(2)


def test_what_is_read_after_a_standstill_has_waited(turns: TurnClock, lateness: Lateness) -> None:
    """What is read in the next turn has not."""
    turns.advance(INTERVAL + 2)
    assert before(lateness, turns.seconds()) == pytest.approx(2)
    turns.advance(0)
    assert before(lateness, turns.seconds()) == 0
    turns.advance(INTERVAL + 1)
    assert lateness.total(turns.seconds()) == pytest.approx(3)


def test_a_timer_that_is_stopped(turns: TurnClock, lateness: Lateness) -> None:
    lateness.start()
    lateness.stop()
    assert turns.getDelayedCalls() == []
    lateness.stop()
    turns.advance(60)
    assert lateness.total(turns.seconds()) == 0
    lateness.start()
    assert before(lateness, turns.seconds()) == 0


def test_a_clock_that_is_set_back(turns: TurnClock, lateness: Lateness) -> None:
    turns.rightNow -= 100
    assert lateness.total(turns.seconds()) == 0

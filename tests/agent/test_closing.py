"""Closing: the phases of the end of a connection, and their deadlines."""

from __future__ import annotations

import pytest

from spoa_twisted.agent.closing import Closing, Phase
from tests.agent.memory import TurnClock


@pytest.fixture
def timeouts() -> list[Phase]:
    """The phases that have lasted too long."""
    return []


@pytest.fixture
def closing(turns: TurnClock, timeouts: list[Phase]) -> Closing:
    return Closing(turns, timeouts.append)


def test_no_deadline_at_first(closing: Closing, turns: TurnClock) -> None:
    """A connection begins OPEN, and may stay so for any time."""
    assert closing.phase is Phase.OPEN
    closing.shorten(1)
    closing.stop()
    assert turns.getDelayedCalls() == []


def test_an_open_connection_has_one_turn_more(closing: Closing, turns: TurnClock, timeouts: list[Phase]) -> None:
    """If the reactor was blocked, it reads the HELLO after it has run the timer."""
    closing.end_after(2)
    turns.advance(2)
    assert timeouts == []
    turns.advance(0)
    assert timeouts == [Phase.OPEN]
    assert turns.getDelayedCalls() == []


def test_a_hello_in_the_last_turn(closing: Closing, turns: TurnClock, timeouts: list[Phase]) -> None:
    """It stops the deadline, which has passed already."""
    closing.end_after(2)
    turns.advance(2)
    closing.stop()
    turns.advance(0)
    assert timeouts == []


@pytest.mark.parametrize("phase", [Phase.DISCONNECTING, Phase.FLUSHING, Phase.CLOSING])
def test_a_later_phase_ends_in_time(phase: Phase, closing: Closing, turns: TurnClock, timeouts: list[Phase]) -> None:
    """It has its own deadline: the one of the phase before it is stopped."""
    closing.end_after(1)
    closing.enter(phase)
    assert turns.getDelayedCalls() == []
    closing.end_after(2)
    turns.advance(1.9)
    assert timeouts == []
    turns.advance(0.1)
    assert timeouts == [phase]


def test_a_deadline_can_be_shortened(closing: Closing, turns: TurnClock, timeouts: list[Phase]) -> None:
    """The time counts from now on."""
    closing.enter(Phase.CLOSING)
    closing.end_after(10)
    turns.advance(3)
    closing.shorten(1)
    turns.advance(1)
    assert timeouts == [Phase.CLOSING]
    closing.shorten(1)
    assert turns.getDelayedCalls() == []


def test_a_new_deadline_replaces_the_old_one(closing: Closing, turns: TurnClock, timeouts: list[Phase]) -> None:
    """There is one timer."""
    closing.enter(Phase.FLUSHING)
    closing.end_after(1)
    closing.end_after(2)
    turns.advance(1)
    assert timeouts == []
    assert len(turns.getDelayedCalls()) == 1


def test_a_connection_does_not_go_back(closing: Closing) -> None:
    """For example, a connection that is being closed never answers again."""
    closing.enter(Phase.FLUSHING)
    with pytest.raises(AssertionError):
        closing.enter(Phase.DISCONNECTING)


def test_the_end(closing: Closing, turns: TurnClock, timeouts: list[Phase]) -> None:
    """The connection is lost: its deadline stops."""
    closing.enter(Phase.CLOSING)
    closing.end_after(1)
    closing.end()
    assert turns.getDelayedCalls() == []
    assert timeouts == []

"""NextTurn: one call in the next turn of the reactor."""

from __future__ import annotations

from spoa_twisted.agent.next_turn import NextTurn
from tests.agent.memory import TurnClock


def test_the_call_comes_in_the_next_turn() -> None:
    """Once. It may be scheduled again by then, also by the function itself."""
    clock = TurnClock()
    calls: list[bool] = []

    def function() -> None:
        calls.append(turn.timer is not None)
        if len(calls) == 1:
            turn.schedule()

    turn = NextTurn(clock, function)
    turn.schedule()
    assert turn.timer is not None
    assert calls == []
    clock.advance(0)
    assert calls == [False]
    clock.advance(0)
    assert calls == [False, False]
    assert clock.getDelayedCalls() == []


def test_a_call_that_is_not_needed_any_more() -> None:
    """No timer is left."""
    clock = TurnClock()
    calls: list[None] = []
    turn = NextTurn(clock, lambda: calls.append(None))
    turn.schedule()
    turn.cancel()
    assert turn.timer is None
    assert clock.getDelayedCalls() == []
    turn.schedule()
    turn.end()
    turn.end()
    clock.advance(0)
    assert calls == []
    assert clock.getDelayedCalls() == []

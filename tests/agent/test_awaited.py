"""Awaited: waiting for the end of answers."""

from __future__ import annotations

from spoa_twisted.agent.awaited import Awaited
from tests.agent.memory import Answer


def test_nothing_to_wait_for() -> None:
    """The Deferred has fired."""
    awaited = Awaited()
    assert awaited.when_ended([]).called
    assert not awaited.waits


def test_it_fires_after_the_last_answer() -> None:
    """The order does not matter. Another answer, or the same one a second time, changes nothing."""
    awaited = Awaited()
    answers = [Answer(), Answer()]
    ended = awaited.when_ended(answers)
    assert awaited.waits
    for answer in (Answer(), answers[1], answers[1]):
        awaited.end(answer)
        assert not ended.called
    awaited.end(answers[0])
    assert ended.called
    assert not awaited.waits


def test_several_waits() -> None:
    """Each for its own answers, and two for the same one."""
    awaited = Awaited()
    first, second = Answer(), Answer()
    waits = [awaited.when_ended([first]), awaited.when_ended([first, second])]
    awaited.end(first)
    assert [wait.called for wait in waits] == [True, False]
    assert awaited.waits
    awaited.end(second)
    assert waits[1].called
    assert not awaited.waits


def test_a_wait_that_is_given_up() -> None:
    """Its Deferred was cancelled. The end of the answer is no error."""
    awaited = Awaited()
    answer = Answer()
    ended = awaited.when_ended([answer])
    ended.addErrback(lambda _: None)
    ended.cancel()
    awaited.end(answer)
    assert not awaited.waits

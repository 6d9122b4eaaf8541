"""Answers that come later, without a connection."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from spoa_twisted import PendingAnswer, answer_of
from spoa_twisted.handlers.pending import FollowedAnswer
from tests.agent.memory import Answer


class TestFinish:
    def test_an_answer_comes_once(self) -> None:
        """With the object that was returned."""
        answer = PendingAnswer()
        come: list[Any] = []
        answer.on_actions = lambda *arguments: come.append(arguments)
        answer.finish(b"first")
        answer.finish(b"second")
        assert come == [(answer, b"first")]

    def test_it_refers_to_nobody_afterwards(self) -> None:
        """Otherwise, only the garbage collector would free the connection."""
        answer = PendingAnswer()
        answer.on_actions = lambda *arguments: None
        answer.finish(b"")
        assert answer.on_actions is None

    def test_a_subclass_has_to_say_how_it_is_cancelled(self) -> None:
        with pytest.raises(NotImplementedError):
            PendingAnswer().cancel()


class TestFollowed:
    """An answer that somebody looks at before the agent gets it."""

    def follow(self, inner: PendingAnswer) -> tuple[FollowedAnswer, list[Any], list[Any]]:
        ends: list[Any] = []
        come: list[Any] = []
        followed = FollowedAnswer(inner, ends.append)
        followed.on_actions = lambda *arguments: come.append(arguments)
        return followed, ends, come

    @pytest.mark.parametrize("actions", [b"actions", Failure(LookupError())], ids=["actions", "failure"])
    def test_the_answer_is_passed_on(self, actions: Any) -> None:
        inner = Answer()
        followed, ends, come = self.follow(inner)
        inner.finish(actions)
        assert ends == [actions]
        assert come == [(followed, actions)]

    def test_it_is_cancelled(self) -> None:
        """A second time, nothing happens, as the canceller of a handler may cancel the answer again."""
        inner = Answer()
        followed, ends, come = self.follow(inner)
        followed.cancel()
        followed.cancel()
        assert inner.cancelled
        assert ends == [None]
        inner.finish(b"late")
        assert (ends, come) == ([None], [])

    def test_the_end_is_told_if_it_cannot_be_cancelled(self) -> None:
        """The exception is raised then: the agent reports it."""

        class Stubborn(PendingAnswer):
            def cancel(self) -> None:
                raise LookupError("cannot")

        followed, ends, _ = self.follow(Stubborn())
        with pytest.raises(LookupError, match="cannot"):
            followed.cancel()
        assert ends == [None]


class TestDeferreds:
    def test_a_deferred_that_has_fired(self) -> None:
        """It needs no object."""
        assert answer_of(succeed(b"actions")) == b"actions"

    def test_a_deferred_that_has_failed(self) -> None:
        with pytest.raises(LookupError, match="why"):
            answer_of(fail(LookupError("why")))

    def test_a_deferred_that_fires_later(self) -> None:
        deferred: Deferred[bytes] = Deferred()
        answer = answer_of(deferred)
        assert isinstance(answer, PendingAnswer)
        come: list[Any] = []
        answer.on_actions = lambda *arguments: come.append(arguments)
        deferred.callback(b"actions")
        assert come == [(answer, b"actions")]

    def test_it_is_cancelled(self) -> None:
        """Its failure is neither passed on nor logged."""
        cancelled: list[object] = []
        deferred: Deferred[bytes] = Deferred(cancelled.append)
        answer = answer_of(deferred)
        assert isinstance(answer, PendingAnswer)
        come: list[Any] = []
        answer.on_actions = lambda *arguments: come.append(arguments)
        answer.cancel()
        answer.cancel()
        assert cancelled == [deferred]
        assert come == []

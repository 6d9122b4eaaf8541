"""Answers that come later, because handlers wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from spoa_twisted.compiling import mypyc_attr

#: A LIST-OF-ACTIONS, or the failure of all handlers of a NOTIFY.
Actions: TypeAlias = bytes | Failure


@mypyc_attr(allow_interpreted_subclasses=True)
class PendingAnswer:
    """The answer to a NOTIFY whose handlers have not finished: a LIST-OF-ACTIONS that comes later.

    ``IHandlers.respond`` returns it. The agent then sets :attr:`on_actions`, and may call :meth:`cancel`. It is less
    than a Deferred, and costs a fraction of one: every NOTIFY that waits needs an answer.

    A subclass overrides :meth:`cancel`, and calls :meth:`finish` when it has the actions. :func:`answer_of` makes one
    from a Deferred.
    """

    __slots__ = ("actions", "on_actions")

    #: The actions, or the failure, if they have come before :attr:`on_actions` was set. ``None`` otherwise.
    actions: Actions | None
    #: Called once, with this object and the LIST-OF-ACTIONS; or with a Failure, if the handlers have failed as a whole.
    #: ``None`` from then on, and after :meth:`cancel`.
    on_actions: Callable[[PendingAnswer, Actions], object] | None

    def __init__(self) -> None:
        self.on_actions = None
        self.actions = None

    def finish(self, actions: Actions) -> None:
        """Call :attr:`on_actions`, unless that was done before, or the answer was cancelled.

        If it is not set yet, keep the actions: handlers may finish before ``respond`` has returned the answer.
        """
        on_actions, self.on_actions = self.on_actions, None
        if on_actions is not None:
            on_actions(self, actions)
        elif self.actions is None:
            self.actions = actions

    def cancel(self) -> None:
        """Cancel the handlers, because the connection has ended. :attr:`on_actions` is not called any more.

        It may be called again, and after the answer has come: then it does nothing.
        """
        raise NotImplementedError


@final
class FollowedAnswer(PendingAnswer):
    """Passes ``answer`` on, after a call of ``on_end``.

    :param on_end: called once, with what :attr:`on_actions` receives, or with ``None`` if the answer is cancelled.
    """

    __slots__ = ("_answer", "_on_end")

    def __init__(self, answer: PendingAnswer, on_end: Callable[[Actions | None], object]) -> None:
        super().__init__()
        self._answer = answer
        self._on_end: Callable[[Actions | None], object] | None = on_end
        if answer.actions is None:
            answer.on_actions = self._pass_on
        else:
            self._pass_on(answer, answer.actions)

    def cancel(self) -> None:
        """Cancel the answer that is followed, and then call ``on_end``."""
        self.on_actions = None
        try:
            self._answer.cancel()
        finally:
            self._end(None)

    def _pass_on(self, answer: PendingAnswer, actions: Actions) -> None:
        self._end(actions)
        self.finish(actions)

    def _end(self, actions: Actions | None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(actions)


def answer_of(deferred: Deferred[bytes]) -> bytes | PendingAnswer:
    """Return what ``IHandlers.respond`` returns for a ``deferred`` that fires with a LIST-OF-ACTIONS.

    :raises BaseException: if the Deferred has failed already. If it fails later, the agent reports that in the same
        way, and the ACK sets no variables.
    """
    answer = _DeferredAnswer(deferred)
    deferred.addBoth(answer.finish)
    result = answer.actions
    if isinstance(result, Failure):
        result.raiseException()
    return answer if result is None else result


@final
class _DeferredAnswer(PendingAnswer):
    __slots__ = ("_deferred",)

    def __init__(self, deferred: Deferred[bytes]) -> None:
        super().__init__()
        self._deferred = deferred

    def cancel(self) -> None:
        """Cancel the Deferred; see :meth:`PendingAnswer.cancel`."""
        self.on_actions = None
        self._deferred.cancel()

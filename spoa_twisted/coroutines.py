"""Coroutine -> its result, or a Deferred of it when it waits.

``Deferred.fromCoroutine`` makes a Deferred for each, and costs several times what stepping costs. It also gives what
comes after the first wait a context of its own, in which a context variable that was set before cannot be reset.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


def step(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run ``coroutine`` until it ends or waits; return its result, or a Deferred of it.

    To cancel that Deferred is to cancel the one that the coroutine waits for.

    :raises BaseException: what the coroutine raises before it waits.
    """
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as stop:
        return _result(stop)
    return _Steps(coroutine, context).start(awaited)


def pass_on(result: Any, deferred: Deferred[Any]) -> Any:
    """Return what a callback of ``deferred`` is to return when it has used the ``result``.

    Others may wait for the same Deferred, and are told of its failure too; behind the last of them it is handled.
    """
    if isinstance(result, Failure):
        deferred.addErrback(lambda _: None)
    return result


@final
class _Steps:
    """The rest of a coroutine that waits: each step in the same context, when what it waits for has come."""

    __slots__ = ("_awaited", "_context", "_coroutine", "_ended")

    _awaited: Deferred[Any]

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        self._coroutine = coroutine
        self._context = context
        self._ended: Deferred[Any] = Deferred(self._cancel)

    def start(self, awaited: Any) -> Deferred[Any]:
        """Go on when ``awaited`` has come; return the Deferred of the end."""
        if isinstance(awaited, Deferred):
            self._wait_for(awaited)
        else:
            self._go_on(awaited)
        return self._ended

    def _wait_for(self, awaited: Deferred[Any]) -> None:
        self._awaited = awaited
        awaited.addBoth(self._came, awaited)

    def _came(self, result: Any, awaited: Deferred[Any]) -> Any:
        self._go_on(result)
        return pass_on(result, awaited)

    def _go_on(self, came: Any) -> None:
        coroutine, run = self._coroutine, self._context.run
        try:
            try:
                if isinstance(came, Failure):
                    error: Any = came.value
                    awaited = run(coroutine.throw, error)
                else:
                    awaited = run(coroutine.send, came)
                while not isinstance(awaited, Deferred):
                    # It comes back as it is, as in Twisted's own coroutines.
                    awaited = run(coroutine.send, awaited)
            except StopIteration as stop:
                self._end(_result(stop))
                return
        except BaseException:
            self._end(Failure())
            return
        self._wait_for(awaited)

    def _end(self, result: Any) -> None:
        # What was given up may go on for as long as it likes, and nobody waits.
        if not self._ended.called:
            self._ended.callback(result)

    def _cancel(self, ended: Deferred[Any]) -> None:
        self._awaited.cancel()


def _result(stop: StopIteration) -> Any:
    if isinstance(stop.value, Deferred):
        raise TypeError("a coroutine returned a Deferred that it did not await") from None
    return stop.value

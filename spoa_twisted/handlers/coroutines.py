"""Coroutine -> its result, or a Deferred of it when it waits.

``Deferred.fromCoroutine`` makes a Deferred for every coroutine, also for one that never waits, and costs several times
as much as the first step of the coroutine itself.
"""

from __future__ import annotations

import inspect
from asyncio import isfuture
from collections.abc import Awaitable, Coroutine, Mapping
from contextvars import Context, copy_context
from typing import Any, Final, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

# In place of a result that has not come.
_NOTHING: Final = object()


def begin(result: Any) -> Any:
    """Return what a handler returned, or a Deferred of it when it must be awaited.

    :raises BaseException: whatever a coroutine raises before it waits for anything.
    """
    if result is None or isinstance(result, (Deferred, Mapping)):
        return result
    if inspect.iscoroutine(result):
        return step(result)
    if isfuture(result):
        return Deferred.fromFuture(result)
    if inspect.isawaitable(result):
        return step(_await(result))
    return result


def step(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run ``coroutine`` until it ends or waits. Return its result, or a Deferred of it.

    To cancel that Deferred is to cancel the Deferred that the coroutine waits for.

    :raises BaseException: whatever the coroutine raises before it waits.
    """
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as stop:
        return _result(stop)
    return _Steps(coroutine, context).start(awaited)


def pass_on(result: Any, deferred: Deferred[Any]) -> Any:
    """Return ``result`` from a callback of ``deferred`` that has used it.

    A handler may keep its Deferred, and add callbacks of its own: they see a failure too. An errback added behind them
    keeps Twisted from logging the failure as unhandled.
    """
    if isinstance(result, Failure):
        deferred.addErrback(lambda _: None)
    return result


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


@final
class _Steps:
    """A coroutine that waits. Each time that a Deferred it waits for has fired, it is run on, in the same context."""

    __slots__ = ("_adding", "_awaited", "_context", "_coroutine", "_ended", "_result_at_once")

    _awaited: Deferred[Any]

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        self._coroutine = coroutine
        self._context = context
        self._ended: Deferred[Any] = Deferred(self._cancel)
        # True while _wait_for adds a callback: a Deferred that has fired calls it at once, and its result is kept in
        # _result_at_once. Else a loop over such Deferreds would recurse.
        self._adding = False
        self._result_at_once: Any = _NOTHING

    def start(self, awaited: Any) -> Deferred[Any]:
        """Run on when ``awaited`` fires. Return the Deferred of the coroutine's end."""
        self._run(self._wait_for(awaited))
        return self._ended

    def _wait_for(self, awaited: Any) -> Any:
        """Return the result of ``awaited``, or ``_NOTHING`` if it has none so far."""
        if not isinstance(awaited, Deferred):
            # Twisted's own coroutines send it back as it is, too.
            return awaited
        self._awaited = awaited
        self._adding = True
        awaited.addBoth(self._on_result, awaited)
        self._adding = False
        result, self._result_at_once = self._result_at_once, _NOTHING
        return result

    def _on_result(self, result: Any, awaited: Deferred[Any]) -> Any:
        if self._adding:
            self._result_at_once = result
        else:
            self._run(result)
        return pass_on(result, awaited)

    def _run(self, result: Any) -> None:
        """Run the coroutine, with ``result`` for what it waits for, until it waits again or ends."""
        coroutine: Any = self._coroutine
        while result is not _NOTHING:
            try:
                try:
                    if isinstance(result, Failure):
                        awaited = self._context.run(result.throwExceptionIntoGenerator, coroutine)
                    else:
                        awaited = self._context.run(coroutine.send, result)
                except StopIteration as stop:
                    self._end(_result(stop))
                    return
            except BaseException:
                self._end(Failure())
                return
            result = self._wait_for(awaited)

    def _end(self, result: Any) -> None:
        # A coroutine that was cancelled may go on and end later: then _ended was called, and nobody waits.
        if not self._ended.called:
            self._ended.callback(result)

    def _cancel(self, ended: Deferred[Any]) -> None:
        self._awaited.cancel()


def _result(stop: StopIteration) -> Any:
    if isinstance(stop.value, Deferred):
        raise TypeError("a coroutine returned a Deferred that it did not await") from None
    return stop.value

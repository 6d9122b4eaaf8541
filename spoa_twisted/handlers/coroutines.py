"""Running a coroutine: its result if it never waits, or a Deferred that fires with its result.

This replaces ``Deferred.fromCoroutine``, which creates a Deferred even for a coroutine that never waits. That takes
several times as long as the first step of the coroutine itself.
"""

from __future__ import annotations

import inspect
from asyncio import isfuture
from collections.abc import Awaitable, Coroutine, Mapping
from contextvars import Context, copy_context
from typing import Any, Final, final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.hold_ups import HoldUps
from spoa_twisted.spop.messages import Message

# Stands for the result of a Deferred that has not fired.
_NO_RESULT: Final = object()


def begin(result: Any, hold_ups: HoldUps, handler: Handler, message: Message, reactor: IReactorTime) -> Any:
    """Return ``result``, which a handler returned. If it is an awaitable, run it, and return what :func:`step` does.

    :param hold_ups: told how long the steps of a coroutine take, with the three other arguments.
    :raises BaseException: any exception that a coroutine raises before it waits for the first time.
    """
    if result is None or isinstance(result, (Deferred, Mapping)):
        return result
    if inspect.iscoroutine(result):
        return step(result, hold_ups, handler, message, reactor)
    if isfuture(result):
        return Deferred.fromFuture(result)
    if inspect.isawaitable(result):
        return step(_await(result), hold_ups, handler, message, reactor)
    return result


def step(
    coroutine: Coroutine[Any, Any, Any], hold_ups: HoldUps, handler: Handler, message: Message, reactor: IReactorTime
) -> Any:
    """Run ``coroutine`` until it ends or waits. Return its result, or a Deferred that fires with its result.

    If the Deferred is cancelled, it cancels the Deferred that the coroutine waits for.

    :raises BaseException: any exception that the coroutine raises before it waits for the first time.
    """
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as stop:
        return _return_value(stop)
    return _WaitingCoroutine(coroutine, context, hold_ups, handler, message, reactor).start(awaited)


def pass_on(result: Any, deferred: Deferred[Any]) -> Any:
    """Return ``result``. A callback of ``deferred`` that has used ``result`` ends with this call.

    A handler may have kept the Deferred, and may add callbacks to it: they receive the same result, also a failure. If
    nothing else handles the failure, the errback that is added here does: otherwise Twisted would log it as unhandled.
    """
    if isinstance(result, Failure):
        deferred.addErrback(lambda _: None)
    return result


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


@final
class _WaitingCoroutine:
    """A coroutine that waits for a Deferred. When the Deferred fires, the coroutine continues, in the same context."""

    __slots__ = (
        "_adding",
        "_awaited",
        "_context",
        "_coroutine",
        "_ended",
        "_handler",
        "_hold_ups",
        "_message",
        "_reactor",
        "_result_at_once",
    )

    _awaited: Deferred[Any]

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        hold_ups: HoldUps,
        handler: Handler,
        message: Message,
        reactor: IReactorTime,
    ) -> None:
        self._coroutine = coroutine
        self._context = context
        self._hold_ups = hold_ups
        self._handler = handler
        self._message = message
        self._reactor = reactor
        self._ended: Deferred[Any] = Deferred(self._cancel)
        # True while _wait_for adds a callback. A Deferred that has already fired calls it at once; _on_result then
        # stores the result in _result_at_once. If it called _run instead, a coroutine that awaits many fired Deferreds
        # would recurse.
        self._adding = False
        self._result_at_once: Any = _NO_RESULT

    def start(self, awaited: Any) -> Deferred[Any]:
        """Continue the coroutine when ``awaited`` fires. Return the Deferred that fires when the coroutine ends."""
        self._run(self._wait_for(awaited))
        return self._ended

    def _wait_for(self, awaited: Any) -> Any:
        """Return the result of ``awaited``, or ``_NO_RESULT`` if it has not fired."""
        if not isinstance(awaited, Deferred):
            # Twisted's own inlineCallbacks also sends a value that is not a Deferred back unchanged.
            return awaited
        self._awaited = awaited
        self._adding = True
        awaited.addBoth(self._on_result, awaited)
        self._adding = False
        result, self._result_at_once = self._result_at_once, _NO_RESULT
        return result

    def _on_result(self, result: Any, awaited: Deferred[Any]) -> Any:
        if self._adding:
            self._result_at_once = result
        else:
            self._run(result)
        return pass_on(result, awaited)

    def _run(self, result: Any) -> None:
        """Send ``result`` to the coroutine, and run it until it ends or waits for a Deferred that has not fired."""
        while result is not _NO_RESULT:
            try:
                try:
                    awaited = self._send(result)
                except StopIteration as stop:
                    self._end(_return_value(stop))
                    return
            except BaseException:
                self._end(Failure())
                return
            result = self._wait_for(awaited)

    def _send(self, result: Any) -> Any:
        """Send ``result`` to the coroutine. Return the next object that it awaits."""
        coroutine: Any = self._coroutine
        started = self._reactor.seconds()
        try:
            if isinstance(result, Failure):
                return self._context.run(result.throwExceptionIntoGenerator, coroutine)
            return self._context.run(coroutine.send, result)
        finally:
            self._hold_ups.on_resumed(self._handler, self._message, started, self._reactor)

    def _end(self, result: Any) -> None:
        # A cancelled coroutine may catch CancelledError, and end later. By then, _ended has already been called.
        if not self._ended.called:
            self._ended.callback(result)

    def _cancel(self, ended: Deferred[Any]) -> None:
        self._awaited.cancel()


def _return_value(stop: StopIteration) -> Any:
    if isinstance(stop.value, Deferred):
        raise TypeError("a coroutine returned a Deferred that it did not await") from None
    return stop.value

"""Running a coroutine without an asyncio event loop: its result if it never waits, or a Deferred of its result.

This replaces ``Deferred.fromCoroutine``, which creates a Deferred even for a coroutine that never waits. That takes
several times as long as the first step of the coroutine itself.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from spoa_twisted.handlers.asyncio_needed import needs_loop, without_loop
from spoa_twisted.handlers.hold_ups import Steps

#: Stands for the result of a Deferred that has not fired, or of a coroutine that has not ended.
NO_RESULT: Final = object()


def step(coroutine: Coroutine[Any, Any, Any], steps: Steps | None = None) -> Any:
    """Run ``coroutine`` until it ends or waits. Return its result, or a Deferred that fires with its result.

    If the Deferred is cancelled, it cancels the Deferred that the coroutine waits for.

    :param steps: measures the steps of the coroutine, but not the first one.
    :raises BaseException: any exception that the coroutine raises before it waits for the first time.
    """
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as stop:
        return return_value(stop)
    return _WaitingCoroutine(coroutine, context, steps).start(awaited)


def pass_on(result: Any, deferred: Deferred[Any]) -> Any:
    """Return ``result``. A callback of ``deferred`` that has used ``result`` ends with this call.

    A handler may have kept the Deferred, and may add callbacks to it: they receive the same result, also a failure. If
    nothing else handles the failure, the errback that is added here does: otherwise Twisted would log it as unhandled.
    """
    if isinstance(result, Failure):
        deferred.addErrback(lambda _: None)
    return result


def return_value(stop: StopIteration) -> Any:
    """Return the result of the coroutine that raised ``stop``.

    :raises TypeError: if the result is a Deferred.
    """
    if isinstance(stop.value, Deferred):
        raise TypeError("a coroutine returned a Deferred that it did not await") from None
    return stop.value


@final
class _WaitingCoroutine:
    """A coroutine that waits for a Deferred. When the Deferred fires, the coroutine continues, in the same context."""

    __slots__ = ("_adding", "_awaited", "_context", "_coroutine", "_ended", "_result_at_once", "_steps")

    _awaited: Deferred[Any]

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context, steps: Steps | None) -> None:
        self._coroutine = coroutine
        self._context = context
        self._steps = steps
        self._ended: Deferred[Any] = Deferred(self._cancel)
        # True while _wait_for adds a callback. A Deferred that has already fired calls it at once; _on_result then
        # stores the result in _result_at_once. If it called _run instead, a coroutine that awaits many fired Deferreds
        # would recurse.
        self._adding = False
        self._result_at_once: Any = NO_RESULT

    def start(self, awaited: Any) -> Deferred[Any]:
        """Continue the coroutine when ``awaited`` fires. Return the Deferred that fires when the coroutine ends."""
        self._run(self._wait_for(awaited))
        return self._ended

    def _wait_for(self, awaited: Any) -> Any:
        """Return the result of ``awaited``, or ``NO_RESULT`` if it has not fired."""
        if not isinstance(awaited, Deferred):
            # Twisted's own inlineCallbacks also sends a value that is not a Deferred back unchanged.
            return Failure(without_loop(awaited)) if needs_loop(awaited) else awaited
        self._awaited = awaited
        self._adding = True
        awaited.addBoth(self._on_result, awaited)
        self._adding = False
        result, self._result_at_once = self._result_at_once, NO_RESULT
        return result

    def _on_result(self, result: Any, awaited: Deferred[Any]) -> Any:
        if self._adding:
            self._result_at_once = result
        else:
            self._run(result)
        return pass_on(result, awaited)

    def _run(self, result: Any) -> None:
        """Send ``result`` to the coroutine, and run it until it ends or waits for a Deferred that has not fired."""
        while result is not NO_RESULT:
            try:
                try:
                    awaited = self._send(result)
                except StopIteration as stop:
                    self._end(return_value(stop))
                    return
            except BaseException:
                self._end(Failure())
                return
            result = self._wait_for(awaited)

    def _send(self, result: Any) -> Any:
        """Send ``result`` to the coroutine, and return the next object that it awaits."""
        coroutine: Any = self._coroutine
        steps = self._steps
        started = 0.0 if steps is None else steps.seconds()
        try:
            if isinstance(result, Failure):
                return self._context.run(result.throwExceptionIntoGenerator, coroutine)
            return self._context.run(coroutine.send, result)
        finally:
            if steps is not None:
                steps.end(started)

    def _end(self, result: Any) -> None:
        # A cancelled coroutine may catch CancelledError, and end later. By then, _ended has already been called.
        if not self._ended.called:
            self._ended.callback(result)

    def _cancel(self, ended: Deferred[Any]) -> None:
        self._awaited.cancel()

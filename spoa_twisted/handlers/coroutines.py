"""Running a coroutine without an asyncio event loop: its result if it never waits, or else a callback with its result.

This replaces ``Deferred.fromCoroutine``, which creates a Deferred even for a coroutine that never waits. That takes
several times as long as the first step of the coroutine itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, TypeAlias, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from spoa_twisted.handlers.asyncio_needed import needs_loop, without_loop
from spoa_twisted.handlers.hold_ups import Where, end_step

#: Stands for the result of a Deferred that has not fired, or of a coroutine that has not ended.
NO_RESULT: Final = object()


def step(coroutine: Coroutine[Any, Any, Any], where: Where | None = None) -> Any:
    """Run ``coroutine`` until it ends or waits. Return its result, or a :class:`WaitingCoroutine`.

    :param where: whose coroutine it is, to measure its steps, but not the first one.
    :raises BaseException: any exception that the coroutine raises before it waits for the first time.
    """
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as stop:
        return return_value(stop)
    return WaitingCoroutine(coroutine, context, where).start(awaited)


def pass_on(result: Any, waiting: Waiting) -> Any:
    """Return ``result``. A callback of ``waiting`` that has used ``result`` ends with this call.

    A handler may have kept a Deferred, and may add callbacks to it: they receive the same result, also a failure. If
    nothing else handles the failure, the errback that is added here does: otherwise Twisted would log it as unhandled.
    """
    if isinstance(result, Failure) and isinstance(waiting, Deferred):
        waiting.addErrback(lambda _: None)
    return result


def return_value(stop: StopIteration) -> Any:
    """Return the result of the coroutine that raised ``stop``.

    :raises TypeError: if the result is a Deferred.
    """
    value = stop.value
    # First the usual result: isinstance takes long for an object that is no Deferred.
    if type(value) is not dict and isinstance(value, Deferred):
        raise TypeError("a coroutine returned a Deferred that it did not await") from None
    return value


def _ignore(result: Any) -> None:
    pass


@final
class WaitingCoroutine:
    """A coroutine that waits for a Deferred. When the Deferred fires, the coroutine continues, in the same context.

    It has two methods of a Deferred: those that a caller needs who waits for the result. To make and fire a Deferred
    would take as long as a step of the coroutine.
    """

    __slots__ = ("_adding", "_awaited", "_callback", "_context", "_coroutine", "_result", "_result_at_once", "_where")

    _awaited: Deferred[Any]

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context, where: Where | None) -> None:
        self._coroutine = coroutine
        self._context = context
        self._where = where
        # Receives the result; None before addBoth.
        self._callback: Callable[[Any], object] | None = None
        # The result, if there is no callback yet.
        self._result: Any = NO_RESULT
        # True while _wait_for adds a callback. A Deferred that has already fired calls it at once; _on_result then
        # stores the result in _result_at_once. If it called _run instead, a coroutine that awaits many fired Deferreds
        # would recurse.
        self._adding = False
        self._result_at_once: Any = NO_RESULT

    def start(self, awaited: Any) -> Any:
        """Continue the coroutine when ``awaited`` fires. Return its result if it has ended already, or this object."""
        result = self._wait_for(awaited)
        if result is NO_RESULT:
            return self
        self._run(result)
        # A Failure is left for addBoth.
        return self if self._result is NO_RESULT or isinstance(self._result, Failure) else self._result

    def addBoth(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback`` with the result, or with a Failure: at once, if the coroutine has ended. Call this once."""
        self._callback = callback
        result, self._result = self._result, NO_RESULT
        if result is not NO_RESULT:
            callback(result)

    def cancel(self) -> None:
        """Cancel the Deferred that the coroutine waits for. The callback is not called any more.

        The coroutine may catch ``CancelledError``, and wait again.
        """
        self._callback = _ignore
        self._awaited.cancel()

    def _wait_for(self, awaited: Any) -> Any:
        """Return the result of ``awaited``, or ``NO_RESULT`` if it has not fired."""
        if not isinstance(awaited, Deferred):
            # Twisted's own inlineCallbacks also sends a value that is not a Deferred back unchanged.
            return Failure(without_loop(awaited)) if needs_loop(awaited) else awaited
        self._awaited = awaited
        self._adding = True
        awaited.addBoth(self._on_result)
        self._adding = False
        result, self._result_at_once = self._result_at_once, NO_RESULT
        return result

    def _on_result(self, result: Any) -> Any:
        # Read it first: _run sets it to the next Deferred for which the coroutine waits.
        awaited = self._awaited
        if self._adding:
            self._result_at_once = result
        else:
            self._run(result)
        return pass_on(result, awaited)

    def _run(self, result: Any) -> None:
        """Send ``result`` to the coroutine, and run it until it ends or waits for a Deferred that has not fired."""
        coroutine: Any = self._coroutine
        where = self._where
        while result is not NO_RESULT:
            started = 0.0 if where is None else where[-1].seconds()
            try:
                try:
                    if isinstance(result, Failure):
                        awaited = self._context.run(result.throwExceptionIntoGenerator, coroutine)
                    else:
                        awaited = self._context.run(coroutine.send, result)
                finally:
                    if where is not None:
                        end_step(where, started)
            except StopIteration as stop:
                # Nearly every coroutine returns a dict. Then two calls are saved.
                if type(stop.value) is dict:
                    self._end(stop.value)
                else:
                    self._stop(stop)
                return
            except BaseException:
                # No variable may refer to the Failure: it refers to this frame, and only the garbage collector would
                # free the two.
                self._end(Failure())
                return
            result = self._wait_for(awaited)

    def _stop(self, stop: StopIteration) -> None:
        try:
            result = return_value(stop)
        except TypeError:
            self._end(Failure())
        else:
            self._end(result)

    def _end(self, result: Any) -> None:
        callback, self._callback = self._callback, _ignore
        if callback is None:
            self._result = result
        else:
            callback(result)


#: What waits, in a handler that has not finished: the Deferred that it returned, or the coroutine that it is.
Waiting: TypeAlias = Deferred[Any] | WaitingCoroutine

#: The classes of :data:`Waiting`. Deferred is the last one: to find that an object is none takes long.
WAITING: Final = (WaitingCoroutine, Deferred)

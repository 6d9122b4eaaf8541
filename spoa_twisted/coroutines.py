"""Coroutine -> its result, or a Deferred of it when it waits.

``Deferred.fromCoroutine`` makes a Deferred for each, and costs several times what stepping costs.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_NOTHING: Final = object()


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

    __slots__ = ("_asking", "_at_once", "_awaited", "_context", "_coroutine", "_ended")

    _awaited: Deferred[Any]

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        self._coroutine = coroutine
        self._context = context
        self._ended: Deferred[Any] = Deferred(self._cancel)
        # While a Deferred is asked for its result, and what it answers with at once.
        self._asking = False
        self._at_once: Any = _NOTHING

    def start(self, awaited: Any) -> Deferred[Any]:
        """Go on when ``awaited`` has come; return the Deferred of the end."""
        self._go_on(self._wait_for(awaited))
        return self._ended

    def _wait_for(self, awaited: Any) -> Any:
        """Return what ``awaited`` came to, or ``_NOTHING`` when that comes later."""
        if not isinstance(awaited, Deferred):
            # It comes back as it is, as in Twisted's own coroutines.
            return awaited
        self._awaited = awaited
        self._asking = True
        awaited.addBoth(self._came, awaited)
        self._asking = False
        came, self._at_once = self._at_once, _NOTHING
        return came

    def _came(self, result: Any, awaited: Deferred[Any]) -> Any:
        if self._asking:
            self._at_once = result
        else:
            self._go_on(result)
        return pass_on(result, awaited)

    def _go_on(self, came: Any) -> None:
        coroutine: Any = self._coroutine
        while came is not _NOTHING:
            try:
                try:
                    if isinstance(came, Failure):
                        awaited = self._context.run(came.throwExceptionIntoGenerator, coroutine)
                    else:
                        awaited = self._context.run(coroutine.send, came)
                except StopIteration as stop:
                    self._end(_result(stop))
                    return
            except BaseException:
                self._end(Failure())
                return
            came = self._wait_for(awaited)

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

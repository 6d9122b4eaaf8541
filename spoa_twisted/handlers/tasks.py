"""Running a coroutine in an ``asyncio.Task``, where it can await Deferreds and the awaitables of asyncio.

A Task can wait for futures only. So the Task runs a :class:`_Call`. This runs the coroutine of the handler, and
replaces each Deferred that the coroutine awaits by a :class:`_Wait`, which has the methods of a future that a Task
calls.

The first step of the coroutine runs at once. If the coroutine does not wait in it, its result needs neither a Deferred
nor another turn of the event loop.
"""

from __future__ import annotations

import sys
from asyncio import AbstractEventLoop, CancelledError, Task, current_task, isfuture
from asyncio import _get_running_loop as get_running_loop
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from dis import opmap
from types import CodeType, CoroutineType
from typing import Any, Final, NoReturn, final

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from spoa_twisted.handlers.coroutines import NO_RESULT, pass_on, return_value
from spoa_twisted.handlers.hold_ups import Where, end_step

_Coroutine = Coroutine[Any, Any, Any]

# A coroutine can wait only after one of these instructions: of "await", of "async with", and of "async for".
# (GET_AWAITABLE serves the first two.) A Python without instructions of these names has None here.
_AWAITING: Final = frozenset({opmap.get("GET_AWAITABLE"), opmap.get("GET_ANEXT")})

# How many code objects may_wait remembers. A program has few coroutine functions, but it may make code while it runs.
_MAX_CODES: Final = 1000

# The answers of may_wait, by the id of the code object: its hash takes long, because it covers all instructions. The
# code object is kept too, so that no other object can get the same id.
_codes: dict[int, tuple[CodeType, bool]] = {}


def may_wait(code: CodeType) -> bool:
    """Return whether a coroutine with this code has an ``await``. Without one it never waits, and needs no Task."""
    known = _codes.get(id(code))
    if known is None:
        if len(_codes) >= _MAX_CODES:
            _codes.clear()
        # Each instruction is two bytes. PyPy 7.3.19 cannot disassemble every code: dis raises IndexError.
        waits = None in _AWAITING or not _AWAITING.isdisjoint(code.co_code[::2])
        known = _codes[id(code)] = (code, waits)
    return known[1]


def run(coroutine: CoroutineType[Any, Any, Any], loop: AbstractEventLoop, where: Where | None = None) -> Any:
    """Run ``coroutine`` in a Task of ``loop``, which is running.

    Return its result if it ends before it waits, or else a Deferred that fires with its result. If the Deferred is
    cancelled, it cancels the Task.

    :param where: whose coroutine it is, to measure its steps.
    """
    call, task = _start(coroutine, loop, where)
    if call.result is NO_RESULT:
        return call.pending(task)
    if isinstance(call.result, Failure):
        return fail(call.take_result())
    return call.take_result()


class _Call(Coroutine[Any, None, None]):
    """The coroutine of a Task. It runs the coroutine of a handler, and keeps its result or its exception."""

    __slots__ = ("_coroutine", "_ended", "_error", "_in_wake", "_loop", "_outside", "_wait", "_where", "result")

    _error: BaseException
    _outside: Context

    def __init__(self, coroutine: _Coroutine, loop: AbstractEventLoop, where: Where | None) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._where = where
        # The Deferred that the caller has; None during the first step.
        self._ended: Deferred[Any] | None = None
        # The wait for a Deferred; None if the coroutine waits for a future.
        self._wait: _Wait | None = None
        # True while wake runs the Task.
        self._in_wake = False
        #: What the coroutine has returned, or a Failure; NO_RESULT until it ends, and after take_result.
        self.result: Any = NO_RESULT

    def __getattr__(self, name: str) -> Any:
        # asyncio and anyio read attributes of a Task's coroutine, for example cr_frame and cr_running.
        return getattr(self._coroutine, name)

    def __await__(self) -> NoReturn:
        raise TypeError("only a Task can run this coroutine")

    def pending(self, task: Task[None]) -> Deferred[Any]:
        """Return a Deferred that fires when the coroutine ends. If it is cancelled, it cancels ``task``."""
        # The callbacks of the Deferred run in this context. If they ran in the context of the Task, the handlers of the
        # next NOTIFYs could see the values that this handler has set.
        self._outside = copy_context()
        self._ended = Deferred(lambda _: _cancel(task))
        return self._ended

    def take_result(self) -> Any:
        """Return the result, and forget it: a Failure refers to frames, and they refer to this object."""
        result, self.result = self.result, NO_RESULT
        return result

    def send(self, value: None) -> Any:
        """Run the coroutine until it waits. Return the future that it waits for.

        :raises StopIteration: when the coroutine has ended.
        """
        wait, self._wait = self._wait, None
        awaited = self._advance(_send_none if wait is None else wait.resume)
        if awaited is NO_RESULT:
            raise StopIteration
        return awaited

    def throw(self, error: Any, *_: Any) -> Any:
        """Raise ``error`` in the coroutine, and run it as :meth:`send` does."""
        self._wait = None
        # If the coroutine does not catch the error, the traceback of the error refers to this frame. So this frame must
        # not refer to the error: CPython would not free the two before the garbage collector runs.
        self._error = error
        del error
        awaited = self._advance(self._throw)
        if awaited is NO_RESULT:
            raise StopIteration
        return awaited

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def wake(self, wakeup: Callable[[Any], object], wait: _Wait, context: Context) -> None:
        """Continue the Task, because the Deferred of ``wait`` has a result, which is not a failure.

        :param wakeup: the callback that the Task has added to ``wait``; it must run in ``context``.
        """
        if get_running_loop() is not self._loop or current_task(self._loop) is not None:
            # A Task has fired the Deferred. Another Task cannot run at the same time.
            self._loop.call_soon(wakeup, wait, context=context)
            return
        # Do not wait for the next turn of the loop: callbacks that others add to the Deferred could have changed its
        # result by then.
        self._in_wake = True
        context.run(wakeup, wait)
        self._in_wake = False
        if self.result is not NO_RESULT:
            # The event loop runs timers in the context that made them: for deferLater, in that of the handler.
            self._outside.run(self._deliver)

    def _throw(self, coroutine: _Coroutine) -> Any:
        error = self._error
        del self._error
        try:
            return coroutine.throw(error)
        finally:
            del error

    def _advance(self, resume: Callable[[_Coroutine], Any]) -> Any:
        """Run the coroutine until it waits. Return the future that it waits for, or NO_RESULT if it has ended."""
        try:
            try:
                awaited = self._step(resume)
                while isinstance(awaited, Deferred):
                    wait = _Wait(self, self._loop, awaited)
                    if not wait.done:
                        self._wait = wait
                        return wait
                    # The Deferred has already fired. A loop, and no recursion: there may be many of them.
                    awaited = self._step(wait.resume)
                return awaited
            except StopIteration as stop:
                self._end(return_value(stop))
        except BaseException:
            # The Task must not end with an exception: it would log the exception, and SystemExit would end the loop.
            self._end(Failure())
        return NO_RESULT

    def _step(self, resume: Callable[[_Coroutine], Any]) -> Any:
        where = self._where
        started = 0.0 if where is None else where[-1].seconds()
        try:
            return self._run(resume)
        finally:
            if where is not None:
                end_step(where, started)

    def _run(self, resume: Callable[[_Coroutine], Any]) -> Any:
        return resume(self._coroutine)

    def _end(self, result: Any) -> None:
        self.result = result
        if self._ended is not None and not self._in_wake:
            # The Task is still the current one. Handlers of other NOTIFYs must not run inside it.
            self._loop.call_soon(self._deliver, context=self._outside)

    def _deliver(self) -> None:
        assert self._ended is not None
        # A cancelled coroutine may catch CancelledError, and end later. By then, _ended has already been called.
        if self._ended.called:
            self.take_result()
        else:
            self._ended.callback(self.take_result())


@final
class _EarlyCall(_Call):
    """A call for Python < 3.12, whose Tasks cannot start at once: its first step runs before that of its Task."""

    __slots__ = ("_context", "_first", "_started")

    def __init__(self, coroutine: _Coroutine, loop: AbstractEventLoop, where: Where | None) -> None:
        super().__init__(coroutine, loop, where)
        # Every step runs in this context. The first step cannot run in the context of the Task, because Python 3.10
        # has no method that returns that context.
        self._context = copy_context()
        # True after the first step of the Task.
        self._started = False
        # What the coroutine waited for in its first step; NO_RESULT if it has ended.
        self._first: Any = NO_RESULT

    def start(self) -> None:
        """Run the first step of the coroutine. Its Task must be the current one."""
        self._first = self._advance(_send_none)

    def send(self, value: None) -> Any:
        """See :meth:`_Call.send`. At first, the Task receives the future that the coroutine already waits for."""
        return super().send(value) if self._started else self._take_first()

    def throw(self, error: Any, *_: Any) -> Any:
        """See :meth:`_Call.throw`. The Task calls this in its first step if it was cancelled before."""
        if not self._started:
            first = self._take_first()
            # A Task that is cancelled cancels the future that it waits for. If the future has ended, or there is none,
            # the Task raises CancelledError in its coroutine.
            if isfuture(first) and first.cancel():
                return first
        # See _Call.throw.
        errors = [error]
        del error
        return super().throw(errors.pop())

    def _take_first(self) -> Any:
        self._started = True
        first, self._first = self._first, NO_RESULT
        if first is NO_RESULT:
            raise StopIteration
        return first

    def _run(self, resume: Callable[[_Coroutine], Any]) -> Any:
        return self._context.run(resume, self._coroutine)


if sys.version_info >= (3, 12):

    def _start(
        coroutine: CoroutineType[Any, Any, Any], loop: AbstractEventLoop, where: Where | None
    ) -> tuple[_Call, Task[None]]:
        """Run the first step of ``coroutine`` in a new Task."""
        call = _Call(coroutine, loop, where)
        return call, Task(call, loop=loop, name=coroutine.__name__, eager_start=True)

else:
    from asyncio.tasks import _enter_task, _leave_task

    def _start(
        coroutine: CoroutineType[Any, Any, Any], loop: AbstractEventLoop, where: Where | None
    ) -> tuple[_Call, Task[None]]:
        """Run the first step of ``coroutine`` in a new Task."""
        call = _EarlyCall(coroutine, loop, where)
        task = Task(call, loop=loop, name=coroutine.__name__)
        # A Task runs if another one has started the handler, for example that of a test with a FakeHAProxy.
        outer = current_task(loop)
        if outer is not None:
            _leave_task(loop, outer)
        _enter_task(loop, task)
        try:
            call.start()
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)
        return call, task


@final
class _Wait:
    """A wait for a Deferred. It has the methods of an asyncio future that a Task calls."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_call",
        "_cancelled",
        "_context",
        "_deferred",
        "_loop",
        "_message",
        "_result",
        "_wakeup",
        "done",
    )

    _context: Context

    def __init__(self, call: _Call, loop: AbstractEventLoop, deferred: Deferred[Any]) -> None:
        # By this attribute, a Task recognizes a future.
        self._asyncio_future_blocking = True
        self._call = call
        self._loop = loop
        self._deferred = deferred
        # The callback of the Task.
        self._wakeup: Callable[[Any], object] | None = None
        self._result: Any = NO_RESULT
        self._cancelled = False
        self._message: object = None
        #: True after the Deferred has fired, or the wait was cancelled.
        self.done = False
        deferred.addBoth(self._on_result)

    def resume(self, coroutine: _Coroutine) -> Any:
        """Continue ``coroutine`` with the result of the Deferred."""
        result, self._result = self._result, NO_RESULT
        if not isinstance(result, Failure):
            return coroutine.send(result)
        error: Any = result.value
        try:
            return coroutine.throw(error.with_traceback(result.getTracebackObject()))
        finally:
            # See _Call.throw.
            del result, error

    def get_loop(self) -> AbstractEventLoop:
        """Return the loop of the Task."""
        return self._loop

    def add_done_callback(self, wakeup: Callable[[Any], object], *, context: Context) -> None:
        """Call ``wakeup`` with this object when the Deferred has fired, or the wait was cancelled."""
        if self.done:
            # With Python < 3.12, this may have happened before the first step of the Task.
            self._loop.call_soon(wakeup, self, context=context)
        else:
            self._wakeup = wakeup
            self._context = context

    def result(self) -> None:
        """Raise CancelledError if the wait was cancelled. The Task then raises it in its coroutine."""
        if self._cancelled:
            raise CancelledError() if self._message is None else CancelledError(self._message)

    def cancel(self, msg: object = None) -> bool:
        """Cancel the Deferred. Return whether the wait is cancelled: it is not if the Deferred has already fired."""
        if self.done:
            return False
        # First: the Deferred fires when it is cancelled, and its result must then be dropped.
        self.done = self._cancelled = True
        self._message = msg
        if self._wakeup is not None:
            self._loop.call_soon(self._wakeup, self, context=self._context)
            self._wakeup = None
        self._deferred.cancel()
        return True

    def _on_result(self, result: Any) -> Any:
        deferred = self._deferred
        if not self.done:
            self.done = True
            self._result = result
            if self._wakeup is not None:
                wakeup, self._wakeup = self._wakeup, None
                if isinstance(result, Failure):
                    # In another turn of the loop: the callers of this method refer to the failure, whose traceback
                    # would refer to their frames. See _Call.throw.
                    self._loop.call_soon(wakeup, self, context=self._context)
                else:
                    self._call.wake(wakeup, self, self._context)
        return pass_on(result, deferred)


def _cancel(task: Task[None]) -> None:
    task.cancel()


def _send_none(coroutine: _Coroutine) -> Any:
    return coroutine.send(None)

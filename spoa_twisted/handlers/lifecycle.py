"""Functions that run when an agent starts, again and again while it runs, and when it stops.

:class:`LifeCycle` registers the functions: it is the base class of ``Handlers``. A :class:`Lifespan` runs them, from
one start of an agent to its stop: the same handlers may be started again, or by several agents.
"""

from __future__ import annotations

import inspect
import math
from asyncio import _get_running_loop as get_running_loop
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn, TypeVar, final, overload

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorThreads, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str
from zope.interface import implementer

from spoa_twisted.handlers.asyncio_needed import explain
from spoa_twisted.handlers.awaitables import begin
from spoa_twisted.handlers.coroutines import WAITING, Waiting, pass_on
from spoa_twisted.handlers.handler import name_of
from spoa_twisted.handlers.interfaces import ILifeCycle, ILifespan
from spoa_twisted.handlers.outcome import cancel
from spoa_twisted.handlers.threads import BlockingThreads
from spoa_twisted.observer import IObserver, LifeCycleFailed, ShutdownTimedOut
from spoa_twisted.spop.hints import type_of

FunctionT = TypeVar("FunctionT", bound=Callable[[], Any])


class Kind(str, Enum):
    """When a function runs. The values are the names of the decorators."""

    STARTUP = "startup"
    EVERY = "every"
    SHUTDOWN = "shutdown"


class StartupFailed(Exception):
    """A startup function failed, so the agent does not listen. ``__cause__`` is the exception of the function.

    :param function: the name of the function, with its module.
    """

    def __init__(self, function: str, error: BaseException) -> None:
        reason = " ".join(f"{type(error).__name__}: {safe_str(error)}".split())
        super().__init__(f"startup function {function} failed: {reason.removesuffix(':')}")


@final
@dataclass(frozen=True, slots=True)
class LifeCycleFunction:
    """A function without parameters, and the options that it was registered with.

    :param blocking: true to run the function in a thread.
    :param seconds: for ``every``: the interval in seconds. For ``startup``: the timeout; 0 for no limit.
    :raises TypeError: for an object that is not a function, for a function that needs arguments, or for an ``async
        def`` with ``blocking``.
    """

    kind: Kind
    function: Callable[[], Any]
    blocking: bool
    seconds: float = 0

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"@handlers.{self.kind.value} takes a function, not {type_of(self.function)}")
        if self.blocking and inspect.iscoroutinefunction(self.function):
            raise TypeError(f"{self} is an async function: it cannot run in a thread, so leave out blocking=True")
        try:
            signature = inspect.signature(self.function)
        except ValueError:
            # Some functions that are written in C do not tell their parameters.
            return
        try:
            signature.bind()
        except TypeError as error:
            raise TypeError(f"{self} is called without arguments, but its parameters are {signature}") from error

    def __str__(self) -> str:
        return f"the {self.kind.value} function {self.name}"

    @property
    def name(self) -> str:
        """The name of the function, with its module."""
        return name_of(self.function)


@implementer(ILifeCycle)
class LifeCycle:
    """Registers functions that run when the agent starts, while it runs, and when it stops.

    A function is plain, returns a Deferred, or is an ``async def``. It takes no arguments, and its result is ignored.
    The decorators return the function unchanged, so that they can be stacked: with ``startup`` above ``every(30)``, a
    function runs before the agent listens, and then every 30 seconds.
    """

    def __init__(self) -> None:
        self._life_cycle: list[LifeCycleFunction] = []

    @property
    def life_cycle(self) -> tuple[LifeCycleFunction, ...]:
        """The registered functions, in the order of their registration."""
        return tuple(self._life_cycle)

    @overload
    def startup(self, function: FunctionT) -> FunctionT: ...

    @overload
    def startup(self, *, timeout: float = 0, blocking: bool = False) -> Callable[[FunctionT], FunctionT]: ...

    def startup(
        self, function: FunctionT | None = None, *, timeout: float = 0, blocking: bool = False
    ) -> FunctionT | Callable[[FunctionT], FunctionT]:
        """Run the decorated function before the agent listens.

        Startup functions run one after the other, in the order of their registration. If one fails, the agent does not
        listen: the shutdown functions that were registered before that function run, and the agent ends.

        :param timeout: the timeout in seconds; 0 for no limit. A plain function cannot be interrupted.
        :param blocking: run the function in a thread, because it blocks. It must be a plain function.
        :raises TypeError: for an object that is not a function, for a function that needs arguments, for an ``async
            def`` with ``blocking``, or for a timeout that is not a number.
        :raises ValueError: for a timeout that is negative or not finite.
        """
        if timeout != 0:
            _check_seconds("the timeout of @handlers.startup", timeout)
        registered: FunctionT | Callable[[FunctionT], FunctionT] = self._register(
            function, Kind.STARTUP, blocking, timeout
        )
        return registered

    @overload
    def shutdown(self, function: FunctionT) -> FunctionT: ...

    @overload
    def shutdown(self, *, blocking: bool = False) -> Callable[[FunctionT], FunctionT]: ...

    def shutdown(
        self, function: FunctionT | None = None, *, blocking: bool = False
    ) -> FunctionT | Callable[[FunctionT], FunctionT]:
        """Run the decorated function when the agent has stopped listening, and has answered the pending NOTIFYs.

        Shutdown functions run one after the other, the last registered one first. If one fails, the failure is logged,
        and the others run. They have the time that is left of ``drain_timeout``, but at least a second.

        :param blocking: run the function in a thread, because it blocks. It must be a plain function.
        :raises TypeError: as :meth:`startup` does.
        """
        registered: FunctionT | Callable[[FunctionT], FunctionT] = self._register(function, Kind.SHUTDOWN, blocking)
        return registered

    def every(self, seconds: float, *, blocking: bool = False) -> Callable[[FunctionT], FunctionT]:
        """Run the decorated function every ``seconds``, for as long as the agent answers NOTIFYs.

        The first run begins ``seconds`` after startup. Two runs of a function never overlap: if a run takes longer than
        ``seconds``, the runs that are due meanwhile are left out. If a run fails, the failure is logged, and the next
        run begins when it is due.

        :param seconds: the interval from the begin of one run to the begin of the next.
        :param blocking: run the function in a thread, because it blocks. It must be a plain function.
        :raises TypeError: as :meth:`startup` does.
        :raises ValueError: if ``seconds`` is not positive and finite.
        """
        _check_seconds("the interval of @handlers.every", seconds, "every(30)")
        register: Callable[[FunctionT], FunctionT] = self._register(None, Kind.EVERY, blocking, seconds)
        return register

    def lifespan(self, reactor: IReactorTime, observer: IObserver) -> Lifespan | None:
        """Return a new :class:`Lifespan` of the functions, or ``None`` if there are none. It has not started."""
        return Lifespan(self._life_cycle, reactor, observer) if self._life_cycle else None

    def _register(self, function: Any, kind: Kind, blocking: bool, seconds: float = 0) -> Any:
        def register(function: FunctionT) -> FunctionT:
            self._life_cycle.append(LifeCycleFunction(kind, function, blocking, seconds))
            return function

        return register if function is None else register(function)


@final
@implementer(ILifespan)
class Lifespan:
    """One run of the functions of a :class:`LifeCycle`, from startup to shutdown.

    :param functions: the functions, in the order of their registration.
    :param reactor: the clock. If it is an ``IReactorThreads`` too, blocking functions run in threads.
    :param observer: receives the failures of ``every`` and shutdown functions as events.
    """

    def __init__(self, functions: list[LifeCycleFunction], reactor: IReactorTime, observer: IObserver) -> None:
        self._functions = list(functions)
        self._reactor = reactor
        self._observer = observer
        # How many of the functions startup has passed. Only the shutdown functions among these will run.
        self._passed = 0
        self._loops: list[LoopingCall] = []
        # The calls that have not finished.
        self._calls: set[Deferred[Any]] = set()
        self._stopping = False
        # True when the time of the shutdown functions is over.
        self._timed_out = False
        self._ended = False
        # The Deferreds that stop() has returned, and the timers of its timeouts.
        self._waiting: list[Deferred[None]] = []
        self._timers: list[IDelayedCall] = []
        self._threads: BlockingThreads | None = None

    @property
    def has_startup(self) -> bool:
        """Whether there are startup functions."""
        return any(function.kind is Kind.STARTUP for function in self._functions)

    def start(self) -> Deferred[None]:
        """Run the startup functions, and then begin with ``every``; see :meth:`ILifespan.start`."""
        return Deferred.fromCoroutine(self._start_up())

    def stop(self, timeout: float) -> Deferred[None]:
        """Stop ``every``, and run the shutdown functions; see :meth:`ILifespan.stop`."""
        stopped: Deferred[None] = Deferred()
        if self._ended:
            stopped.callback(None)
            return stopped
        self._waiting.append(stopped)
        self._timers.append(self._reactor.callLater(timeout, self._on_timeout))
        if not self._stopping:
            self._stopping = True
            for loop in self._loops:
                loop.stop()
            cancelled = bool(self._calls)
            self._cancel_calls()
            Deferred.fromCoroutine(self._shut_down(cancelled))
        return stopped

    async def _start_up(self) -> None:
        if get_running_loop() is None:
            # Functions may use asyncio. Its event loop runs when the reactor runs.
            await self._cancellable(self._next_turn())
        for function in self._functions:
            if function.kind is Kind.STARTUP:
                call = self._call(function)
                if function.seconds:
                    call.addTimeout(function.seconds, self._reactor, _raise_timeout)
                await call.addErrback(self._on_startup_failure, function)
            self._passed += 1
            if self._stopping:
                raise CancelledError
        for function in self._functions:
            if function.kind is Kind.EVERY:
                loop = LoopingCall(self._run_again, function)
                loop.clock = self._reactor
                loop.start(function.seconds, now=False)
                self._loops.append(loop)

    def _next_turn(self) -> Deferred[Any]:
        """Return a Deferred that fires in the next turn of the event loop: at once if the reactor is not asyncio's."""
        if isinstance(self._reactor, AsyncioSelectorReactor):
            return deferLater(self._reactor, 0)
        return succeed(None)

    def _on_startup_failure(self, failure: Failure, function: LifeCycleFunction) -> Failure:
        if self._stopping:
            # stop() has cancelled the function.
            return failure
        error = _explained(failure, function).value
        assert error is not None
        # The runner looks in the traceback of the cause for the user's line.
        raise StartupFailed(function.name, error) from failure.value

    def _run_again(self, function: LifeCycleFunction) -> Deferred[Any]:
        return self._call(function).addErrback(self._on_failure, function)

    async def _shut_down(self, cancelled: bool) -> None:
        if cancelled:
            # An asyncio Task sees its cancellation then. It may clean up with what the shutdown functions close.
            await self._next_turn()
        for function in reversed(self._functions[: self._passed]):
            if function.kind is Kind.SHUTDOWN:
                call = self._call(function).addErrback(self._on_failure, function)
                if self._timed_out:
                    self._cancel_calls()
                await call
        if self._timed_out:
            # The same for the shutdown function that was cancelled: the reactor may end now.
            await self._next_turn()
        self._ended = True
        if self._threads is not None:
            self._threads.end()
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        for stopped in self._waiting:
            stopped.callback(None)

    def _on_failure(self, failure: Failure, function: LifeCycleFunction) -> None:
        if function.kind is Kind.SHUTDOWN and self._timed_out and failure.check(CancelledError):
            self._observer.on_event(ShutdownTimedOut(function.name))
        elif function.kind is Kind.SHUTDOWN or not self._stopping:
            failure = _explained(failure, function)
            self._observer.on_event(LifeCycleFailed(function.kind.value, function.name, failure))
        # Otherwise, stop() has cancelled a run of an every function.

    def _on_timeout(self) -> None:
        self._timed_out = True
        self._cancel_calls()

    def _cancel_calls(self) -> None:
        for call in list(self._calls):
            call.cancel()

    def _call(self, function: LifeCycleFunction) -> Deferred[Any]:
        """Call ``function``. Return a Deferred that fires with its result."""
        result: Any
        try:
            if function.blocking and IReactorThreads.providedBy(self._reactor):
                result = self._in_thread(function)
            else:
                result = begin(function.function())
        except BaseException as error:
            traceback = error.__traceback__
            failed: Deferred[Any] = fail(Failure())
            # Twisted 22.4 has removed the traceback from the exception. See _on_startup_failure.
            error.__traceback__ = traceback
            return failed
        return self._cancellable(result) if isinstance(result, WAITING) else succeed(result)

    def _cancellable(self, waiting: Waiting) -> Deferred[Any]:
        """Return a Deferred that fires with the result of ``waiting``, and that fires at once if it is cancelled.

        When ``waiting`` itself is cancelled, it may not fire: a canceller may raise an exception.
        """
        call: Deferred[Any] = Deferred(lambda _: cancel(waiting, self._observer))
        self._calls.add(call)

        def on_result(result: Any) -> Any:
            self._calls.discard(call)
            if not call.called:
                call.callback(result)
            return pass_on(result, waiting)

        waiting.addBoth(on_result)
        return call

    def _in_thread(self, function: LifeCycleFunction) -> Deferred[Any]:
        # These are not the threads of the handlers: a handler that never returns must not delay these functions.
        if self._threads is None:
            self._threads = BlockingThreads(sum(function.blocking for function in self._functions))
        reactor: Any = self._reactor
        return self._threads.run(reactor, function.function)


def lifespan_of(handlers: object, reactor: IReactorTime, observer: IObserver) -> ILifespan | None:
    """Return a new lifespan of ``handlers``, or ``None`` if they have no functions to run."""
    life_cycle = ILifeCycle(handlers, None)
    return None if life_cycle is None else life_cycle.lifespan(reactor, observer)


def _explained(failure: Failure, function: LifeCycleFunction) -> Failure:
    """Return ``failure``, or one that says that the function needs the asyncio reactor."""
    return failure if function.blocking else explain(failure)


def _raise_timeout(result: object, seconds: float) -> NoReturn:
    raise TimeoutError(f"it took longer than {seconds:g} s")


def _check_seconds(name: str, seconds: object, example: str = "") -> None:
    """Raise TypeError or ValueError if ``seconds`` is not a positive and finite number."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        hint = f": @handlers.{example}" if example else ""
        raise TypeError(f"{name} is a number of seconds, not {type_of(seconds)}{hint}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{name} is {seconds}; it must be positive and finite")

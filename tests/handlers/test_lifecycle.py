"""Functions that run when an agent starts, again and again while it runs, and when it stops."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from spoa_twisted import Handlers
from spoa_twisted.handlers.interfaces import ILifeCycle
from spoa_twisted.handlers.lifecycle import Lifespan, StartupFailed, lifespan_of
from spoa_twisted.observer import CancelFailed, LifeCycleFailed, ShutdownTimedOut
from tests.handlers.answers import Recorder

reactor: Any = default_reactor


class Run:
    """A lifespan of ``handlers`` on a Clock, and its results."""

    def __init__(self, handlers: Handlers, clock: Any = None) -> None:
        self.clock = Clock() if clock is None else clock
        self.observer = Recorder()
        lifespan = handlers.lifespan(self.clock, self.observer)
        assert lifespan is not None
        self.lifespan: Lifespan = lifespan
        self.started: list[Any] = []
        self.stopped: list[None] = []

    def start(self) -> Run:
        self.lifespan.start().addBoth(self.started.append)
        return self

    def stop(self, timeout: float = 10) -> Run:
        self.lifespan.stop(timeout).addCallback(self.stopped.append)
        return self

    def failure(self) -> StartupFailed:
        (failure,) = self.started
        error = failure.value
        assert isinstance(error, StartupFailed)
        return error


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def calls() -> list[str]:
    return []


#: Makes a function of one of the three kinds. The function appends ``name`` to ``calls``, and then raises ``error``.
Make = Callable[..., Callable[[], Any]]


@pytest.fixture(params=["plain", "deferred", "async"])
def make(request: pytest.FixtureRequest, calls: list[str]) -> Make:
    def make(name: str, error: BaseException | None = None) -> Callable[[], Any]:
        def plain() -> str:
            calls.append(name)
            if error is not None:
                raise error
            return "ignored"

        def deferred() -> Deferred[str]:
            calls.append(name)
            return succeed("ignored") if error is None else fail(error)

        async def coroutine() -> str:
            calls.append(name)
            await succeed(None)
            if error is not None:
                raise error
            return "ignored"

        functions: dict[str, Callable[[], Any]] = {"plain": plain, "deferred": deferred, "async": coroutine}
        return functions[request.param]

    return make


class TestRegistration:
    @pytest.mark.parametrize("decorate", ["startup", "shutdown"])
    def test_the_function_is_unchanged(self, decorate: str, handlers: Handlers) -> None:
        """The decorators return the function, with and without options, so that they can be stacked."""

        def function() -> None:
            return None

        decorator = getattr(handlers, decorate)
        assert decorator(function) is function
        assert decorator(blocking=True)(function) is function
        assert handlers.every(30)(function) is function

    def test_without_functions_there_is_no_lifespan(self, handlers: Handlers) -> None:
        """An agent whose handlers have no such functions starts as before. Other IHandlers may lack the interface."""
        events = Recorder()
        assert ILifeCycle.providedBy(handlers)
        assert lifespan_of(handlers, Clock(), events) is None
        assert lifespan_of(object(), Clock(), events) is None

    def test_only_startup_delays_listening(self, handlers: Handlers) -> None:
        """``has_startup`` is true with a startup function only."""
        handlers.every(30)(lambda: None)
        handlers.shutdown(lambda: None)
        assert not Run(handlers).lifespan.has_startup
        handlers.startup(lambda: None)
        assert Run(handlers).lifespan.has_startup

    @pytest.mark.parametrize(
        ("seconds", "error", "text"),
        [
            (0, ValueError, "the interval of @handlers.every is 0; it must be positive and finite"),
            (-1, ValueError, "-1"),
            (float("nan"), ValueError, "nan"),
            (float("inf"), ValueError, "inf"),
            ("30", TypeError, "is a number of seconds, not a str: @handlers.every(30)"),
            (True, TypeError, "not a bool"),
            (lambda: None, TypeError, "not a function: @handlers.every(30)"),
        ],
    )
    def test_a_bad_interval(self, seconds: Any, error: type[Exception], text: str, handlers: Handlers) -> None:
        """``every`` needs a number of seconds that is positive and finite."""
        with pytest.raises(error) as caught:
            handlers.every(seconds)
        assert text in str(caught.value)

    @pytest.mark.parametrize("timeout", [-1, float("nan"), "5"])
    def test_a_bad_timeout(self, timeout: Any, handlers: Handlers) -> None:
        """The timeout of ``startup`` is checked like the interval of ``every``."""
        with pytest.raises((TypeError, ValueError), match=r"the timeout of @handlers\.startup is"):
            handlers.startup(timeout=timeout)

    @pytest.mark.parametrize("decorate", ["startup", "shutdown", "every"])
    def test_a_bad_function(self, decorate: str, handlers: Handlers) -> None:
        """A function that needs arguments, or an object that is no function, is refused when it is registered."""

        def needs(pool: object, size: int = 1) -> None:
            return None

        async def waits() -> None:
            return None

        def register(function: Any, **options: bool) -> None:
            if decorate == "every":
                handlers.every(30, **options)(function)
            else:
                getattr(handlers, decorate)(**options)(function)

        with pytest.raises(TypeError, match=rf"the {decorate} function .*needs is called without arguments, but its"):
            register(needs)
        with pytest.raises(TypeError, match=rf"@handlers.{decorate} takes a function, not a str"):
            register("name")
        with pytest.raises(TypeError, match=r"waits is an async function: it cannot run in a thread"):
            register(waits, blocking=True)
        register(lambda size=1, *args, **kwargs: None)
        # inspect cannot tell the parameters of dict.
        register(dict)

    def test_sets_are_merged_in_order(self, calls: list[str]) -> None:
        """Startup follows the order of the sets, and shutdown the reverse order. ``merged`` changes no set."""
        sets = [Handlers(), Handlers()]
        for number, handlers in enumerate(sets):
            handlers.startup(lambda number=number: calls.append(f"start {number}"))
            handlers.shutdown(lambda number=number: calls.append(f"stop {number}"))
        Run(Handlers.merged(*sets)).start().stop()
        assert calls == ["start 0", "start 1", "stop 1", "stop 0"]
        Run(sets[0]).start()
        assert calls[4:] == ["start 0"]


class TestStartup:
    def test_each_kind_of_function(self, make: Make, handlers: Handlers, calls: list[str]) -> None:
        """Plain functions, functions that return a Deferred, and async functions run in the order of registration."""
        for name in "abc":
            handlers.startup(make(name))
        assert Run(handlers).start().started == [None]
        assert calls == ["a", "b", "c"]

    def test_one_after_the_other(self, handlers: Handlers, calls: list[str]) -> None:
        """A function runs when the one before has finished."""
        waits: Deferred[None] = Deferred()
        handlers.startup(lambda: waits)
        handlers.startup(lambda: calls.append("b"))
        run = Run(handlers).start()
        assert (calls, run.started) == ([], [])
        waits.callback(None)
        assert (calls, run.started) == (["b"], [None])

    def test_a_failure_ends_startup(self, make: Make, handlers: Handlers, calls: list[str]) -> None:
        """The next functions do not run. Then those shutdown functions run that were registered before it."""
        handlers.startup(make("open"))
        handlers.shutdown(make("close"))
        handlers.startup(make("connect", ConnectionRefusedError("no\ndatabase")))
        handlers.startup(make("later"))
        handlers.shutdown(make("disconnect"))
        handlers.every(1)(make("every"))
        run = Run(handlers).start()
        error = run.failure()
        assert str(error).endswith(" failed: ConnectionRefusedError: no database")
        assert str(error).startswith("startup function tests.handlers.test_lifecycle.make.")
        assert isinstance(error.__cause__, ConnectionRefusedError)
        run.clock.advance(1)
        run.stop()
        assert calls == ["open", "connect", "close"]
        assert run.stopped == [None]
        assert run.observer.take() == []

    def test_sys_exit_is_a_failure_too(self, make: Make, handlers: Handlers) -> None:
        """Otherwise the process would end without the name of the function."""
        handlers.startup(make("a", SystemExit(3)))
        assert str(Run(handlers).start().failure()).endswith("failed: SystemExit: 3")

    def test_a_running_event_loop(self, handlers: Handlers, calls: list[str]) -> None:
        """An application may start the agent in its event loop. The functions run at once."""

        @handlers.startup
        async def connect() -> None:
            asyncio.get_running_loop()
            calls.append("connect")

        async def application() -> list[Any]:
            return Run(handlers).start().started

        assert asyncio.run(application()) == [None]
        assert calls == ["connect"]

    @pytest.mark.parametrize("waits", [False, True])
    def test_asyncio_on_another_reactor(self, waits: bool, handlers: Handlers) -> None:
        """The reason says which reactor is needed. The cause is the exception of asyncio, for its line."""

        @handlers.startup
        async def connect() -> None:
            if waits:
                await started
            await asyncio.sleep(1)

        started: Deferred[None] = Deferred()
        run = Run(handlers).start()
        started.callback(None)
        error = run.failure()
        assert ".connect failed: AsyncioNeeded: no running event loop: this needs twistd --reactor=asyncio;" in str(
            error
        )
        assert type(error.__cause__) is RuntimeError

    def test_an_exception_without_a_text(self, handlers: Handlers) -> None:
        """The reason is the name of the exception alone, as of an assert."""

        @handlers.startup
        def connect() -> None:
            raise AssertionError

        assert str(Run(handlers).start().failure()).endswith(".connect failed: AssertionError")

    def test_the_timeout(self, handlers: Handlers, calls: list[str]) -> None:
        """A function that takes longer than its timeout is cancelled, and has failed."""
        cancelled: list[object] = []
        handlers.startup(timeout=5)(lambda: Deferred(cancelled.append))
        run = Run(handlers).start()
        run.clock.advance(4.9)
        assert run.started == []
        run.clock.advance(0.1)
        assert str(run.failure()).endswith("failed: TimeoutError: it took longer than 5 s")
        assert len(cancelled) == 1
        assert run.stop().clock.getDelayedCalls() == []

    def test_there_is_no_timeout_by_default(self, handlers: Handlers) -> None:
        """An agent may wait for its database for as long as that takes."""
        handlers.startup(lambda: Deferred())
        run = Run(handlers).start()
        assert run.clock.getDelayedCalls() == []

    def test_stopping_cancels_startup(self, handlers: Handlers, calls: list[str]) -> None:
        """The shutdown functions that are registered before the cancelled function run; no further function does."""
        handlers.startup(lambda: calls.append("open"))
        handlers.shutdown(lambda: calls.append("close"))
        handlers.startup(lambda: Deferred(lambda _: calls.append("cancelled")))
        handlers.shutdown(lambda: calls.append("not started"))
        handlers.startup(lambda: calls.append("later"))
        run = Run(handlers).start().stop()
        assert calls == ["open", "cancelled", "close"]
        assert run.started[0].check(CancelledError)
        assert run.stopped == [None]
        assert run.observer.take() == []

    def test_a_function_that_ignores_the_cancellation(self, handlers: Handlers, calls: list[str]) -> None:
        """If a function succeeds when it is cancelled, the next one does not run."""
        handlers.startup(lambda: Deferred(lambda deferred: deferred.callback(None)))
        handlers.shutdown(lambda: calls.append("close"))
        handlers.startup(lambda: calls.append("later"))
        run = Run(handlers).start().stop()
        assert calls == []
        assert run.started[0].check(CancelledError)

    def test_a_startup_that_is_forgotten(self, handlers: Handlers) -> None:
        """A lifespan that nothing refers to is collected, and nothing is logged."""
        handlers.startup(lambda: Deferred())
        Run(handlers).start()
        gc.collect()


class TestEvery:
    def test_each_kind_of_function(self, make: Make, handlers: Handlers, calls: list[str]) -> None:
        """The first run comes after the interval. The loop begins when startup is done."""
        waits: Deferred[None] = Deferred()
        handlers.every(30)(make("a"))
        handlers.startup(lambda: waits)
        run = Run(handlers).start()
        run.clock.advance(100)
        waits.callback(None)
        run.clock.advance(29)
        assert calls == []
        run.clock.advance(1)
        assert calls == ["a"]
        run.clock.advance(30)
        assert calls == ["a", "a"]

    def test_now_and_then_again(self, make: Make, handlers: Handlers, calls: list[str]) -> None:
        """``startup`` and ``every`` can be stacked."""
        handlers.startup(handlers.every(30)(make("a")))
        run = Run(handlers).start()
        assert calls == ["a"]
        run.clock.advance(30)
        assert calls == ["a", "a"]

    def test_it_never_overlaps_itself(self, handlers: Handlers, calls: list[str]) -> None:
        """The runs that are due while one is pending are left out. The interval is from begin to begin."""
        runs: list[Deferred[None]] = []

        @handlers.every(10)
        def slow() -> Deferred[None]:
            runs.append(Deferred())
            return runs[-1]

        handlers.every(10)(lambda: calls.append("other"))
        run = Run(handlers).start()
        for _ in range(35):
            run.clock.advance(1)
        assert len(runs) == 1
        assert len(calls) == 3
        runs[0].callback(None)
        run.clock.advance(4)
        assert len(runs) == 1
        run.clock.advance(1)
        assert len(runs) == 2

    def test_a_failure_does_not_end_it(self, make: Make, handlers: Handlers, calls: list[str]) -> None:
        """The failure is reported as an event, and the next run comes when it is due."""
        handlers.every(30)(make("a", LookupError("no file")))
        run = Run(handlers).start()
        run.clock.advance(30)
        (event,) = run.observer.take()
        assert isinstance(event, LifeCycleFailed)
        assert (event.kind, event.failure.type) == ("every", LookupError)
        assert event.function.startswith("tests.handlers.test_lifecycle.make.")
        run.clock.advance(30)
        assert len(run.observer.take()) == 1
        assert calls == ["a", "a"]

    def test_asyncio_on_another_reactor(self, handlers: Handlers) -> None:
        """The failure says which reactor is needed."""

        @handlers.every(30)
        async def read() -> None:
            await asyncio.sleep(1)

        run = Run(handlers).start()
        run.clock.advance(30)
        (event,) = run.observer.take()
        assert isinstance(event, LifeCycleFailed)
        assert "this needs twistd --reactor=asyncio" in event.failure.getErrorMessage()

    def test_stopping_ends_it(self, handlers: Handlers, calls: list[str]) -> None:
        """A pending run is cancelled, which is not reported. No timer is left."""
        handlers.every(30)(lambda: Deferred(lambda _: calls.append("cancelled")))
        handlers.every(30)(lambda: calls.append("ran"))
        run = Run(handlers).start()
        run.clock.advance(30)
        assert calls == ["ran"]
        run.stop()
        assert calls == ["ran", "cancelled"]
        assert run.stopped == [None]
        assert run.observer.take() == []
        assert run.clock.getDelayedCalls() == []


class TestShutdown:
    def test_each_kind_of_function(self, make: Make, handlers: Handlers, calls: list[str]) -> None:
        """The functions run in the reverse order."""
        for name in "abc":
            handlers.shutdown(make(name))
        assert Run(handlers).start().stop().stopped == [None]
        assert calls == ["c", "b", "a"]

    def test_a_failure_is_reported_and_the_others_run(self, make: Make, handlers: Handlers, calls: list[str]) -> None:
        """A pool that fails to close keeps no other one open."""
        handlers.shutdown(make("a"))
        handlers.shutdown(make("b", LookupError("boom")))
        run = Run(handlers).start().stop()
        assert calls == ["b", "a"]
        (event,) = run.observer.take()
        assert isinstance(event, LifeCycleFailed)
        assert (event.kind, event.failure.type) == ("shutdown", LookupError)

    def test_one_after_the_other(self, handlers: Handlers, calls: list[str]) -> None:
        """A function runs when the one before has finished. Later calls of ``stop`` wait for the same end."""
        waits: Deferred[None] = Deferred()
        handlers.shutdown(lambda: calls.append("a"))
        handlers.shutdown(lambda: waits)
        run = Run(handlers).start().stop().stop()
        assert (calls, run.stopped) == ([], [])
        waits.callback(None)
        assert (calls, run.stopped) == (["a"], [None, None])
        assert run.stop().stopped == [None] * 3
        assert run.clock.getDelayedCalls() == []

    def test_the_timeout(self, handlers: Handlers, calls: list[str]) -> None:
        """When it has passed, the pending function is cancelled. Others are called, and cancelled if they wait."""
        handlers.shutdown(lambda: calls.append("plain"))
        handlers.shutdown(lambda: Deferred(lambda _: calls.append("second cancelled")))
        handlers.shutdown(lambda: Deferred(lambda _: calls.append("first cancelled")))
        run = Run(handlers).start().stop(3)
        run.clock.advance(2.9)
        assert calls == []
        run.clock.advance(0.1)
        assert calls == ["first cancelled", "second cancelled", "plain"]
        assert run.stopped == [None]
        assert [type(event) for event in run.observer.take()] == [ShutdownTimedOut] * 2

    def test_a_second_call_ends_it_sooner(self, handlers: Handlers) -> None:
        """As Ctrl-C does, the second time."""
        handlers.shutdown(lambda: Deferred())
        run = Run(handlers).start().stop(10).stop(0)
        run.clock.advance(0)
        assert run.stopped == [None, None]

    def test_a_failure_after_the_timeout(self, handlers: Handlers) -> None:
        """A function that fails for another reason than the timeout is reported with that reason."""

        @handlers.shutdown
        def late() -> None:
            raise LookupError("boom")

        handlers.shutdown(lambda: Deferred())
        run = Run(handlers).start().stop(0)
        run.clock.advance(0)
        assert [type(event) for event in run.observer.take()] == [ShutdownTimedOut, LifeCycleFailed]

    def test_a_canceller_that_raises(self, handlers: Handlers, calls: list[str]) -> None:
        """The end does not wait for a Deferred that does not fire when it is cancelled."""

        def canceller(deferred: Deferred[None]) -> None:
            raise LookupError("boom")

        stuck: Deferred[None] = Deferred(canceller)
        handlers.shutdown(lambda: calls.append("a"))
        handlers.shutdown(lambda: stuck)
        run = Run(handlers).start().stop(1)
        run.clock.advance(1)
        assert calls == ["a"]
        assert run.stopped == [None]
        assert [type(event) for event in run.observer.take()] == [CancelFailed, ShutdownTimedOut]
        stuck.errback(Failure(LookupError("late")))
        assert run.observer.take() == []

    def test_a_lifespan_that_was_not_started(self, handlers: Handlers, calls: list[str]) -> None:
        """Without startup, there is nothing to shut down."""
        handlers.shutdown(lambda: calls.append("a"))
        assert Run(handlers).stop().stopped == [None]
        assert calls == []


class TestBlocking:
    @pytest_twisted.ensureDeferred
    async def test_functions_run_in_threads(self, handlers: Handlers) -> None:
        """On a reactor with threads, blocking functions do not hold it up."""
        threads: list[threading.Thread] = []
        ran: Deferred[None] = Deferred()

        def function() -> None:
            threads.append(threading.current_thread())

        @handlers.every(0.001, blocking=True)
        def every() -> None:
            if len(threads) == 1:
                function()
                reactor.callFromThread(ran.callback, None)

        handlers.startup(blocking=True)(function)
        handlers.shutdown(blocking=True)(function)
        run = Run(handlers, reactor)
        await run.lifespan.start()
        await ran
        await run.lifespan.stop(10)
        assert len(threads) == 3
        assert threading.main_thread() not in threads
        # The threads end with the lifespan.
        for thread in threads:
            await deferToThread(thread.join, 30)
            assert not thread.is_alive()
        assert run.observer.take() == []

    @pytest_twisted.ensureDeferred
    async def test_a_failure_in_a_thread(self, handlers: Handlers) -> None:
        """It is the failure of the function."""

        @handlers.startup(blocking=True)
        def read() -> None:
            raise LookupError("no file")

        run = Run(handlers, reactor)
        with pytest.raises(StartupFailed, match="read failed: LookupError: no file"):
            await run.lifespan.start()
        await run.lifespan.stop(10)

    def test_without_threads(self, handlers: Handlers) -> None:
        """On a Clock, they run in the calling thread, as blocking handlers do."""
        threads: list[threading.Thread] = []
        handlers.startup(blocking=True)(lambda: threads.append(threading.current_thread()))
        Run(handlers).start()
        assert threads == [threading.current_thread()]

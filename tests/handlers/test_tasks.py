"""Coroutine -> its result, in an asyncio Task. Each test runs an event loop turn by turn."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
import traceback
import types
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from twisted.internet import defer
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from spoa_twisted import Handlers, Message, Variables
from spoa_twisted.handlers import tasks
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.testing import FakeHAProxy
from tests.conftest import Logged
from tests.handlers.answers import Recorder, ask, late_line, result_of

request: ContextVar[str] = ContextVar("request", default="none")

ERROR = {"sess.error": True}


class Loop:
    """An event loop that runs as many turns as the test says."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        #: The clock of the agent. It has the timeouts of the handlers.
        self.clock = Clock()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of ``function``, which one turn of the loop calls, as a reactor calls ``dataReceived``."""
        results: list[Any] = []
        self.loop.call_soon(lambda: results.append(function(*arguments)))
        self.turn()
        return results[0]

    def turn(self, times: int = 1) -> None:
        """Run everything that is ready now, but nothing that gets ready meanwhile."""
        for _ in range(times):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def ask(self, function: Callable[..., Any], *messages: Message, **options: Any) -> Any:
        """Return what ``function`` answers to ``messages``, as a handler with the on_error ``ERROR``."""
        handlers = Handlers(on_error=ERROR)
        handlers.message("m", **options)(function)
        return self.call(lambda: ask(handlers, *messages or [Message("m")], clock=self.clock))

    def begin(self, function: Callable[..., Any], *messages: Message, **options: Any) -> Deferred[bytes]:
        """Do what :meth:`ask` does, for a function that does not answer at once."""
        answer = self.ask(function, *messages, **options)
        assert isinstance(answer, Deferred)
        assert not answer.called
        return answer

    def at_once(self, function: Callable[..., Any], **options: Any) -> dict[str, Any]:
        """Return the variables that ``function`` sets. It answers without a Deferred."""
        answer = self.ask(function, **options)
        assert isinstance(answer, bytes)
        return result_of(answer)


@pytest.fixture
def loop(caplog: pytest.LogCaptureFixture) -> Iterator[Loop]:
    """A loop. At the end no Task is left, and asyncio has logged nothing, for example no exception of a Task."""
    with caplog.at_level(logging.WARNING):
        loop = Loop()
        yield loop
        loop.turn(3)
        assert asyncio.all_tasks(loop.loop) == set()
        assert loop.clock.getDelayedCalls() == []
        loop.loop.close()
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def future_in(loop: Loop) -> asyncio.Future[Any]:
    return loop.loop.create_future()


class TestAtOnce:
    """Coroutines that do not wait."""

    def test_a_coroutine_without_await_has_no_task(self, loop: Loop) -> None:
        """It is run as on any other reactor."""

        async def handler() -> Variables:
            return {"sess.task": asyncio.current_task() is not None}

        assert loop.at_once(handler) == {"sess.task": False}
        assert asyncio.all_tasks(loop.loop) == set()

    def test_a_coroutine_with_await_is_in_a_task_from_its_first_step(self, loop: Loop) -> None:
        """asyncio.timeout and anyio ask for the Task before they wait. The Task has the name of the function."""

        async def handler(wait: bool = False) -> Variables:
            task = asyncio.current_task()
            assert isinstance(task, asyncio.Task)
            assert asyncio.get_running_loop() is loop.loop
            if wait:
                await Deferred()
            return {"sess.name": task.get_name()}

        assert loop.at_once(handler) == {"sess.name": "handler"}
        assert loop.call(lambda: asyncio.current_task(loop.loop)) is None

    def test_deferreds_that_have_fired_need_no_turn(self, loop: Loop) -> None:
        """Nor does the stack grow with them."""

        async def handler() -> Variables:
            total = 0
            for _ in range(20_000):
                total += await succeed(1)
            return {"sess.total": total}

        assert loop.at_once(handler) == {"sess.total": 20_000}

    def test_a_paused_deferred_that_fires_while_it_is_awaited(self, loop: Loop) -> None:
        """Deferreds without end that fire when a callback is added do not recurse either."""

        @types.coroutine
        def yields(deferred: Deferred[int]) -> Generator[Any, int, int]:
            return (yield deferred)

        async def handler() -> Variables:
            return {"sess.total": sum([await yields(succeed(1)) for _ in range(20_000)])}

        assert loop.at_once(handler) == {"sess.total": 20_000}

    @pytest.mark.parametrize("error", [LookupError, SystemExit, GeneratorExit, asyncio.CancelledError])
    def test_an_exception(self, error: type[BaseException], loop: Loop, logged: Logged) -> None:
        """The handler has failed. The loop goes on, also after SystemExit."""

        async def handler(wait: bool = False) -> None:
            if wait:
                await Deferred()
            raise error

        answer = loop.ask(handler)
        assert result_of(answer) == ERROR
        (line,) = logged.take()
        assert "the handler of the message 'm' failed" in line
        assert error.__name__ in line

    def test_a_deferred_that_has_failed(self, loop: Loop, logged: Logged) -> None:
        """Its exception is raised where it is awaited."""

        async def handler() -> Variables:
            try:
                await fail(LookupError("no row"))
            except LookupError as error:
                return {"sess.text": str(error)}
            return {}

        assert loop.at_once(handler) == {"sess.text": "no row"}

    def test_a_coroutine_that_returns_a_deferred(self, loop: Loop, logged: Logged) -> None:
        """It fails, as on other reactors."""

        async def handler() -> Any:
            await succeed(None)
            return succeed(None)

        assert result_of(loop.ask(handler)) == ERROR
        assert "returned a Deferred that it did not await" in logged.take()[0]


class TestWaiting:
    def test_futures_and_deferreds_in_one_function(self, loop: Loop) -> None:
        """In any order."""
        futures = [future_in(loop), future_in(loop)]
        deferreds: list[Deferred[int]] = [Deferred(), Deferred()]

        async def handler() -> Variables:
            return {
                "sess.a": await futures[0],
                "sess.b": await deferreds[0],
                "sess.c": await futures[1],
                "sess.d": await deferreds[1],
            }

        answer = loop.begin(handler)
        for number in range(2):
            loop.call(futures[number].set_result, 2 * number)
            loop.turn()
            loop.call(deferreds[number].callback, 2 * number + 1)
        assert result_of(answer) == {"sess.a": 0, "sess.b": 1, "sess.c": 2, "sess.d": 3}

    def test_a_deferred_that_fires_needs_no_other_turn(self, loop: Loop) -> None:
        """The coroutine continues at once, and the answer is there at once too."""
        waits: Deferred[int] = Deferred()

        async def handler() -> Variables:
            return {"sess.a": await waits}

        answer = loop.begin(handler)
        loop.turn()

        def fire() -> bool:
            waits.callback(1)
            return answer.called

        assert loop.call(fire)
        assert result_of(answer) == {"sess.a": 1}

    def test_a_deferred_that_fires_before_the_first_turn_of_the_task(self, loop: Loop) -> None:
        """With Python < 3.12, the Task does not wait for it yet."""
        waits: Deferred[int] = Deferred()

        async def handler() -> Variables:
            return {"sess.a": await waits}

        def begin_and_fire() -> Any:
            answer = ask(Handlers({"m": handler}), Message("m"), clock=loop.clock)
            waits.callback(1)
            return answer

        answer = loop.call(begin_and_fire)
        loop.turn(3)
        assert result_of(answer) == {"sess.a": 1}

    def test_a_deferred_that_another_handler_fires(self, loop: Loop) -> None:
        """One Task cannot run inside another one, so this takes another turn."""
        waits: Deferred[int] = Deferred()

        async def handler(fires: bool) -> Variables:
            if not fires:
                return {"sess.a": await waits}
            await asyncio.sleep(0)
            waits.callback(1)
            await asyncio.sleep(0)
            return {"sess.b": 2}

        answer = loop.begin(handler, *[Message("m", [("fires", fires)]) for fires in (False, True)])
        loop.turn(6)
        assert result_of(answer) == {"sess.a": 1, "sess.b": 2}

    def test_callbacks_that_are_added_later_do_not_change_the_result(self, loop: Loop) -> None:
        """They get the same result, also if it is a failure. Nothing is logged."""
        waits: Deferred[int] = Deferred()
        seen: list[Any] = []

        async def handler() -> Variables:
            return {"sess.a": await waits}

        answer = loop.begin(handler)
        waits.addCallback(seen.append)
        loop.turn()
        loop.call(waits.callback, 5)
        assert result_of(answer) == {"sess.a": 5}
        assert seen == [5]

    def test_a_failure_is_raised_with_its_traceback(self, loop: Loop, logged: Logged) -> None:
        """The traceback names the function that has raised it. The Deferred's own failure is not logged."""
        waits: Deferred[int] = Deferred()
        names: list[str] = []

        def query(_: int) -> None:
            raise LookupError("no row")

        async def handler() -> Variables:
            try:
                await waits.addCallback(query)
            except LookupError as error:
                names.extend(frame.name for frame in traceback.extract_tb(error.__traceback__))
                raise
            return {}

        answer = loop.begin(handler)
        loop.turn()
        loop.call(waits.callback, 5)
        loop.turn(2)
        assert result_of(answer) == ERROR
        assert names[0] == "handler"
        assert names[-1] == "query"
        (line,) = logged.take()
        assert line.endswith("LookupError: no row")

    def test_sleep_and_asynchronous_generators(self, loop: Loop) -> None:
        """``asyncio.sleep(0)`` yields None, which only a Task understands."""
        deferreds: list[Deferred[int]] = [Deferred(), Deferred()]

        async def numbers() -> AsyncIterator[int]:
            for deferred in deferreds:
                await asyncio.sleep(0)
                yield await deferred

        async def handler() -> Variables:
            return {"sess.sum": sum([number async for number in numbers()])}

        answer = loop.begin(handler)
        for deferred in deferreds:
            loop.turn(2)
            loop.call(deferred.callback, 21)
        assert result_of(answer) == {"sess.sum": 42}

    def test_an_exception_after_a_future(self, loop: Loop, logged: Logged) -> None:
        """Also one that would end the event loop, if the Task ended with it."""
        waits = future_in(loop)

        async def handler() -> None:
            await waits
            raise SystemExit(3)

        answer = loop.begin(handler)
        loop.call(waits.set_result, None)
        loop.turn(3)
        assert result_of(answer) == ERROR
        assert "SystemExit" in logged.take()[0]

    def test_a_coroutine_may_not_yield_any_object(self, loop: Loop, logged: Logged) -> None:
        """The Task refuses it."""

        @types.coroutine
        def yields_an_int() -> Iterator[int]:
            yield 42

        async def handler() -> None:
            await yields_an_int()

        answer = loop.begin(handler)
        loop.turn(3)
        assert result_of(answer) == ERROR
        assert "Task got bad yield: 42" in logged.take()[0]

    def test_wait_for_and_gather(self, loop: Loop) -> None:
        """They use the Task of the handler, before and after it has waited for a Deferred."""
        waits: Deferred[int] = Deferred()

        async def handler() -> Variables:
            values: dict[str, Any] = {}
            task = asyncio.create_task(asyncio.sleep(0, 5))
            try:
                await asyncio.wait_for(future_in(loop), 0.001)
            except asyncio.TimeoutError:
                values["sess.timeout"] = True
            values["sess.deferred"] = await waits
            values["sess.tasks"] = sum(await asyncio.gather(task, asyncio.sleep(0, 7)))
            return values

        answer = loop.begin(handler)
        loop.loop.call_later(0.002, waits.callback, 6)
        while not answer.called:
            loop.turn()
        assert result_of(answer) == {"sess.timeout": True, "sess.deferred": 6, "sess.tasks": 12}

    # Python 3.10 has neither asyncio.timeout nor TaskGroup. test_anyio cancels a Deferred with each version of Python.
    if sys.version_info >= (3, 11):

        def test_timeout_and_task_group(self, loop: Loop) -> None:
            """asyncio.timeout cancels a Deferred. A TaskGroup in which a Deferred is awaited waits for its Tasks."""
            cancelled: list[object] = []

            async def handler() -> Variables:
                values: dict[str, Any] = {}
                try:
                    async with asyncio.timeout(0):
                        await Deferred(cancelled.append)
                except TimeoutError:
                    values["sess.timeout"] = True
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(asyncio.sleep(0, 5))
                    values["sess.deferred"] = await succeed(6)
                values["sess.task"] = task.result()
                return values

            answer = loop.begin(handler)
            while not answer.called:
                loop.turn()
            assert result_of(answer) == {"sess.timeout": True, "sess.deferred": 6, "sess.task": 5}
            assert len(cancelled) == 1

    def test_anyio(self, loop: Loop) -> None:
        """httpx uses it. It cancels what is awaited by the Task of the handler, a Deferred too."""
        cancelled: list[object] = []
        states: list[str] = []

        async def handler() -> Variables:
            task = asyncio.current_task()
            assert task is not None
            states.append(inspect.getcoroutinestate(task.get_coro()))  # type: ignore[arg-type]
            with anyio.move_on_after(0) as scope:
                await Deferred(cancelled.append)
            return {"sess.cancelled": scope.cancelled_caught}

        answer = loop.begin(handler)
        (task,) = asyncio.all_tasks(loop.loop)
        states.append(inspect.getcoroutinestate(task.get_coro()))  # type: ignore[arg-type]
        assert "handler() running at" in repr(task)
        while not answer.called:
            loop.turn()
        assert result_of(answer) == {"sess.cancelled": True}
        assert states == [inspect.CORO_RUNNING, inspect.CORO_SUSPENDED]
        assert len(cancelled) == 1

    def test_plain_functions_may_return_tasks_and_other_awaitables(self, loop: Loop) -> None:
        """Such as an asyncio Task, and an object with ``__await__``."""

        class Query:
            def __await__(self) -> Any:
                yield from asyncio.sleep(0).__await__()
                value = yield from succeed({"sess.query": 1}).__await__()
                return value

        async def task() -> Variables:
            await asyncio.sleep(0)
            return {"sess.task": 2}

        for function, variables in (
            (Query, {"sess.query": 1}),
            (lambda: asyncio.ensure_future(task()), {"sess.task": 2}),
        ):
            answer = loop.begin(function)
            loop.turn(4)
            assert result_of(answer) == variables


class TestCall:
    """The coroutine of a Task."""

    def test_in_a_task_that_starts_later(self, loop: Loop) -> None:
        """It waits for Deferreds there too."""
        waits: Deferred[int] = Deferred()

        async def handler() -> int:
            return await waits

        call = tasks._Call(handler(), loop.loop, None)
        ended = call.pending(loop.call(lambda: asyncio.Task(call, loop=loop.loop)))
        loop.turn()
        loop.call(waits.callback, 5)
        assert ended.result == 5

    def test_it_is_closed_with_its_coroutine(self, loop: Loop) -> None:
        """Only a Task can run it."""
        closed: list[str] = []

        async def handler() -> None:
            try:
                await Deferred()
            finally:
                closed.append("closed")

        call = tasks._Call(handler(), loop.loop, None)
        call.send(None)
        call.close()
        assert closed == ["closed"]
        with pytest.raises(TypeError, match="only a Task"):
            call.__await__()


class TestContexts:
    def test_each_call_has_a_context_of_its_own(self, loop: Loop) -> None:
        """In its first step, and after it has waited for a future, and for a Deferred that was fired elsewhere."""
        futures: dict[str, asyncio.Future[None]] = {name: future_in(loop) for name in "ab"}
        deferreds: dict[str, Deferred[None]] = {name: Deferred() for name in "ab"}
        seen: dict[str, list[str]] = {"a": [], "b": []}

        async def handler(name: str) -> Variables:
            seen[name].append(request.get())
            token = request.set(name)
            await futures[name]
            seen[name].append(request.get())
            await deferreds[name]
            seen[name].append(request.get())
            request.reset(token)
            return {f"sess.{name}": request.get()}

        def fire() -> None:
            request.set("firing")
            for deferred in deferreds.values():
                deferred.callback(None)

        answer = loop.begin(handler, *[Message("m", [("name", name)]) for name in "ab"])
        for future in futures.values():
            loop.call(future.set_result, None)
        loop.turn(2)
        loop.call(fire)
        assert result_of(answer) == {"sess.a": "none", "sess.b": "none"}
        assert seen == {"a": ["none", "a", "a"], "b": ["none", "b", "b"]}
        assert request.get() == "none"

    @pytest.mark.parametrize("awaited", ["future", "deferred", "timer"])
    def test_the_answer_is_given_outside_of_the_task(self, awaited: str, loop: Loop) -> None:
        """The agent may call the next handlers then: they see neither the Task nor its values.

        A timer that the handler has made runs in the context of the handler.
        """
        future = future_in(loop)
        deferred: Deferred[None] = Deferred()
        seen: list[Any] = []

        async def handler() -> None:
            request.set("own")
            if awaited == "timer":
                loop.loop.call_later(0, deferred.callback, None)
            await (future if awaited == "future" else deferred)

        answer = loop.begin(handler)
        answer.addCallback(lambda _: seen.extend([request.get(), asyncio.current_task(loop.loop)]))
        loop.turn()
        if awaited != "timer":
            loop.call(deferred.callback if awaited == "deferred" else future.set_result, None)
        loop.turn(3)
        assert seen == ["none", None]


class TestCancelling:
    """A request that is gone, and a handler that takes too long."""

    @pytest.mark.parametrize("turns", [0, 1, 2])
    def test_the_connection_is_lost(self, turns: int, loop: Loop) -> None:
        """The coroutine sees asyncio's CancelledError, and what it waits for is cancelled. Nothing is logged.

        If this happens before the first turn of the Task, too.
        """
        future = future_in(loop)
        cancelled: list[object] = []
        errors: list[type[BaseException]] = []

        async def handler(which: str) -> None:
            try:
                if which == "future":
                    await future
                elif which == "deferred":
                    await Deferred(cancelled.append)
                elif which == "turn":
                    await asyncio.sleep(0)
                await asyncio.sleep(1000)
            except BaseException as error:
                errors.append(type(error))
                raise

        def begin_and_cancel() -> None:
            messages = [Message("m", [("which", which)]) for which in ("future", "deferred", "turn", "sleep")]
            answer = ask(Handlers({"m": handler}), *messages, clock=loop.clock)
            assert isinstance(answer, Deferred)
            answer.addErrback(lambda failure: failure.trap(defer.CancelledError))
            cancel(answer, turns)

        def cancel(answer: Deferred[bytes], times: int) -> None:
            if times:
                loop.loop.call_soon(cancel, answer, times - 1)
            else:
                answer.cancel()

        loop.call(begin_and_cancel)
        loop.turn(5)
        assert future.cancelled()
        assert len(cancelled) == 1
        assert errors == [asyncio.CancelledError] * 4

    @pytest.mark.parametrize("catch", [False, True])
    def test_a_timeout(self, catch: bool, loop: Loop, logged: Logged) -> None:
        """The on_error variables are sent at once. A coroutine that goes on all the same has no effect."""
        future = future_in(loop)
        ended: list[str] = []

        async def handler() -> Variables:
            if catch:
                with suppress(asyncio.CancelledError):
                    await Deferred()
                await future
            else:
                await future
            ended.append("ended")
            return {"sess.late": True}

        answer = loop.begin(handler, timeout=1)
        loop.turn()

        def expire() -> bool:
            loop.clock.advance(1)
            return answer.called

        assert loop.call(expire)
        assert result_of(answer) == ERROR
        loop.turn(2)
        if catch:
            loop.call(future.set_result, None)
        loop.turn(3)
        assert ended == ["ended"] * catch
        assert logged.take() == [late_line("m", 1)]

    def test_a_late_exception_is_dropped(self, loop: Loop) -> None:
        """As one of a Deferred. asyncio does not log it either."""

        async def handler() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                raise LookupError("late")

        answer = loop.begin(handler).addErrback(lambda failure: failure.trap(defer.CancelledError))
        loop.turn()
        loop.call(answer.cancel)
        loop.turn(4)

    def test_a_result_that_is_not_delivered_yet(self, loop: Loop) -> None:
        """If the connection is lost in the same turn in which the coroutine ends, its result is dropped."""
        future = future_in(loop)

        async def handler() -> Variables:
            await future
            loop.loop.call_soon(answer.cancel)
            raise LookupError

        answer = loop.begin(handler).addErrback(lambda failure: failure.trap(defer.CancelledError))
        loop.call(future.set_result, None)
        loop.turn(4)
        assert answer.called

    def test_a_deferred_that_fires_when_it_is_cancelled(self, loop: Loop, logged: Logged) -> None:
        """Its result comes too late: the coroutine is cancelled."""
        fired: list[Deferred[int]] = []

        def canceller(deferred: Deferred[int]) -> None:
            fired.append(deferred)
            deferred.callback(5)

        async def handler() -> Variables:
            try:
                return {"sess.a": await Deferred(canceller)}
            except asyncio.CancelledError:
                fired.append(Deferred())
                raise

        answer = loop.begin(handler).addErrback(lambda failure: failure.trap(defer.CancelledError))
        loop.turn()
        loop.call(answer.cancel)
        loop.turn(3)
        assert len(fired) == 2

    def test_a_canceller_that_raises(self, loop: Loop, logged: Logged) -> None:
        """It is logged, and the coroutine is cancelled nevertheless."""
        errors: list[str] = []

        def canceller(_: object) -> None:
            raise LookupError("canceller")

        async def handler() -> None:
            try:
                await Deferred(canceller)
            except asyncio.CancelledError:
                errors.append("cancelled")
                raise

        answer = loop.begin(handler).addErrback(lambda failure: failure.trap(defer.CancelledError))
        loop.turn()
        loop.call(answer.cancel)
        loop.turn(3)
        assert errors == ["cancelled"]
        assert "failed to be cancelled" in logged.take()[0]

    def test_the_task_is_cancelled_by_others(self, loop: Loop, logged: Logged) -> None:
        """The handler has failed, and the message of the cancellation is kept: anyio reads it."""

        async def handler() -> None:
            await Deferred()

        answer = loop.begin(handler)
        loop.turn()
        (task,) = asyncio.all_tasks(loop.loop)
        loop.call(task.cancel, "by others")
        loop.turn(3)
        assert result_of(answer) == ERROR
        assert logged.take()[0].endswith("CancelledError: by others")

    def test_a_deferred_that_others_cancel(self, loop: Loop) -> None:
        """The coroutine gets Twisted's CancelledError, as any other failure of a Deferred."""
        waits: Deferred[int] = Deferred()

        async def handler() -> Variables:
            try:
                await waits
            except defer.CancelledError:
                return {"sess.cancelled": True}
            return {}

        answer = loop.begin(handler)
        loop.turn()
        loop.call(waits.cancel)
        loop.turn(2)
        assert result_of(answer) == {"sess.cancelled": True}


class Tracked:
    """An object in the frame of a handler."""


class TestGarbage:
    """CPython frees what a handler used at once: connections, for example, are then closed."""

    @pytest.mark.parametrize(
        "ends", ["at once", "future", "deferred", "raises", "raises later", "failed", "cancelled", "timed out"]
    )
    @pytest.mark.usefixtures("without_collector")
    def test_nothing_is_left(self, ends: str, loop: Loop) -> None:
        """However the coroutine ends."""
        handlers = Handlers(on_error=ERROR)
        alive: list[weakref.ref[Any]] = []
        future = future_in(loop)
        waits: list[Deferred[int]] = [Deferred()]

        @handlers.message("m")
        async def handler() -> Variables:
            tracked = Tracked()
            alive.append(weakref.ref(tracked))
            if ends == "raises":
                raise LookupError
            if ends.startswith("raises"):
                await (asyncio.sleep(0) if ends == "raises later" else succeed(None))
                raise LookupError
            if ends in ("deferred", "failed"):
                await waits[0]
            elif ends != "at once":
                await future
            return {}

        # The log keeps the failures that it shows, so another observer hears of them.
        recorder = Recorder()
        answer = loop.call(handlers.respond, [Message("m")], 1000, loop.clock, 10, Outcomes(recorder))
        loop.turn()
        if ends == "cancelled":
            loop.call(answer.cancel)
        elif ends == "timed out":
            loop.call(loop.clock.advance, 10)
        elif ends == "future":
            loop.call(future.set_result, None)
        elif ends == "deferred":
            loop.call(waits[0].callback, 1)
        elif ends == "failed":
            loop.call(waits[0].errback, LookupError())
        del answer
        waits.clear()
        loop.turn(4)
        recorder.take()
        assert [ref() for ref in alive] == [None]


class TestFakeHAProxy:
    def test_in_a_test_that_is_a_task(self) -> None:
        """A test of pytest-asyncio is one. The handlers run in Tasks of their own."""
        handlers = Handlers()

        @handlers.message("m")
        async def handler(number: int) -> Variables:
            await asyncio.sleep(0)
            deferred: Deferred[int] = Deferred()
            asyncio.get_running_loop().call_soon(deferred.callback, number)
            return {"sess.n": await deferred}

        @handlers.message("cached")
        async def cached(number: int) -> Variables:
            if number < 0:
                await asyncio.sleep(0)
            return {"sess.n": number}

        async def test() -> None:
            me = asyncio.current_task()
            haproxy = FakeHAProxy(handlers)
            assert haproxy.notify("cached", number=1) == {"sess.n": 1}
            sent = [haproxy.send(Message("m", [("number", number)])) for number in range(20)]
            assert asyncio.current_task() is me
            futures = [deferred.asFuture(asyncio.get_running_loop()) for deferred in sent]
            assert [await future for future in futures] == [{"sess.n": number} for number in range(20)]

        asyncio.run(test())


class TestMayWait:
    """Code object -> whether its coroutine can wait."""

    def test_codes(self) -> None:
        async def nothing() -> None: ...

        async def awaits() -> None:
            await Deferred()

        async def enters() -> None:
            async with asyncio.Lock():
                pass

        async def iterates(values: Any) -> None:
            async for _ in values:
                pass

        async def comprehends(values: Any) -> Any:
            return [value async for value in values]

        async def has_a_function() -> Any:
            async def inner() -> None:
                await Deferred()

            return inner

        found = [
            tasks.may_wait(function.__code__)
            for function in (nothing, awaits, enters, iterates, comprehends, has_a_function)
        ]
        assert found == [False, True, True, True, True, False]

    def test_memory_is_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Code that is made while the program runs does not fill the memory."""
        monkeypatch.setattr(tasks, "_codes", {})
        for number in range(2500):
            tasks.may_wait(compile(f"x = {number}", "made", "exec"))
        assert len(tasks._codes) <= 1000

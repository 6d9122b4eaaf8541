"""Coroutine -> its result, or a Deferred of it when it waits."""

from __future__ import annotations

import gc
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock

from spoa_twisted import Handlers, Message
from spoa_twisted.handlers import coroutines
from tests.conftest import Logged
from tests.handlers.answers import answer_of, ask, begin, late_line, line_of, respond, result_of

request: ContextVar[str] = ContextVar("request", default="none")


class TestContexts:
    def test_a_coroutine_that_does_not_wait_has_its_own_context(self) -> None:
        """It sees the values of its caller. Neither the caller nor the next coroutine sees the values that it sets."""

        async def handler(name: str) -> dict[str, Any]:
            seen = request.get()
            request.set(name)
            await succeed(None)
            return {f"sess.{name}": seen, f"sess.{name}_own": request.get()}

        token = request.set("caller")
        try:
            messages = [Message("m", [("name", name)]) for name in "ab"]
            assert respond(Handlers({"m": handler}), *messages) == {
                "sess.a": "caller",
                "sess.a_own": "a",
                "sess.b": "caller",
                "sess.b_own": "b",
            }
            assert request.get() == "caller"
        finally:
            request.reset(token)

    def test_a_coroutine_that_waits_keeps_its_context(self) -> None:
        """Other coroutines, and the code that fires the Deferred, set other values meanwhile."""
        deferreds: dict[str, Deferred[None]] = {}
        seen: dict[str, list[str]] = {"a": [], "b": []}

        async def handler(name: str) -> None:
            request.set(f"{name}0")
            for number in range(1, 4):
                deferreds[name] = Deferred()
                await deferreds[name]
                seen[name].append(request.get())
                request.set(f"{name}{number}")

        messages = [Message("m", [("name", name)]) for name in "ab"]
        answer = begin(Handlers({"m": handler}), *messages)
        for _ in range(3):
            token = request.set("firing")
            try:
                deferreds["b"].callback(None)
                deferreds["a"].callback(None)
                assert request.get() == "firing"
            finally:
                request.reset(token)
        assert result_of(answer) == {}
        assert seen == {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
        assert request.get() == "none"

    def test_a_coroutine_may_reset_its_values_after_it_waited(self) -> None:
        """A context manager around an await does that. Every step runs in the same context."""
        waiting: Deferred[int] = Deferred()

        async def handler() -> dict[str, Any]:
            token = request.set("inner")
            try:
                number = await waiting
            finally:
                request.reset(token)
            return {"sess.n": number, "sess.request": request.get()}

        answer = begin(Handlers({"m": handler}), Message("m"))
        waiting.callback(5)
        assert result_of(answer) == {"sess.n": 5, "sess.request": "none"}

    def test_a_coroutine_that_times_out_cleans_up_in_its_context(self, logged: Logged) -> None:
        """Its ``finally`` clauses see the values that it set."""
        seen: list[str] = []

        async def handler() -> None:
            request.set("own")
            try:
                await Deferred()
            finally:
                seen.append(request.get())

        clock = Clock()
        answer = begin(Handlers({"m": handler}), Message("m"), clock=clock, timeout=1)
        clock.advance(1)
        assert result_of(answer) == {}
        assert seen == ["own"]
        assert len(logged.take()) == 1


class TestWaiting:
    def test_a_coroutine_may_wait_several_times(self) -> None:
        """For Deferreds that fire later, have fired already, or fire before the coroutine awaits them."""
        late: list[Deferred[int]] = [Deferred() for _ in range(3)]

        async def handler() -> dict[str, Any]:
            return {"sess.sum": await late[0] + await succeed(10) + await late[1] + await late[2]}

        answer = begin(Handlers({"m": handler}), Message("m"))
        late[1].callback(100)
        late[0].callback(1)
        assert not answer.called
        late[2].callback(1000)
        assert result_of(answer) == {"sess.sum": 1111}

    def test_twenty_thousand_deferreds_that_have_fired(self) -> None:
        """The stack does not grow with them, neither before the coroutine first waits nor after."""
        waits: Deferred[None] = Deferred()

        async def handler() -> dict[str, Any]:
            total = 0
            for number in range(20_000):
                total += await succeed(1)
                if number == 10_000:
                    await waits
            return {"sess.sum": total}

        answer = begin(Handlers({"m": handler}), Message("m"))
        waits.callback(None)
        assert result_of(answer) == {"sess.sum": 20_000}

    def test_a_coroutine_may_catch_the_failure_of_its_deferred(self) -> None:
        """It catches the exception itself, which nothing wraps, and may wait again."""
        failing: Deferred[None] = Deferred()
        then: Deferred[int] = Deferred()
        error = LookupError("boom")

        async def handler() -> dict[str, Any]:
            try:
                await failing
            except LookupError as caught:
                assert caught is error
                return {"sess.then": await then}
            return {}

        answer = begin(Handlers({"m": handler}), Message("m"))
        failing.errback(error)
        then.callback(7)
        assert result_of(answer) == {"sess.then": 7}

    def test_coroutines_may_await_the_same_deferred(self, logged: Logged) -> None:
        """Each gets its result. When it fails, each raises its exception."""
        for outcome in (7, LookupError("no such table")):
            shared: Deferred[Any] = Deferred()

            async def handler(shared: Deferred[Any] = shared) -> dict[str, Any]:
                return {"sess.n": await shared}

            handlers = Handlers(on_error={"sess.failed": True})
            handlers.message("m")(handler)
            answers = [begin(handlers, Message("m")) for _ in range(3)]
            if isinstance(outcome, int):
                shared.callback(outcome)
                assert [result_of(answer) for answer in answers] == [{"sess.n": 7}] * 3
            else:
                shared.errback(outcome)
                assert [result_of(answer) for answer in answers] == [{"sess.failed": True}] * 3
                assert len(logged.take()) == 3
            del shared, handler, handlers, answers
            gc.collect()

    def test_five_thousand_awaitables_that_are_no_deferreds(self) -> None:
        """The coroutine gets each back unchanged, and the stack does not grow with them."""

        class Itself:
            def __await__(self) -> Any:
                return (yield self)

        async def handler() -> dict[str, Any]:
            things = [Itself() for _ in range(5000)]
            return {"sess.same": all([await thing is thing for thing in things])}

        assert respond(Handlers({"m": handler}), Message("m")) == {"sess.same": True}

    def test_a_failure_that_fifty_coroutines_await(self, logged: Logged) -> None:
        """The traceback of each shows its own frames, not those of the coroutines before it."""
        shared: Deferred[Any] = Deferred()

        async def handler() -> None:
            try:
                await shared
            except LookupError as error:
                depths.append(len(traceback.extract_tb(error.__traceback__)))
                raise

        depths: list[int] = []
        answers = [begin(Handlers({"m": handler}), Message("m")) for _ in range(50)]
        shared.errback(LookupError("no such table"))
        assert [result_of(answer) for answer in answers] == [{}] * 50
        assert set(depths) == {depths[0]}
        assert len(logged.take()) == 50

    def test_five_thousand_deferreds_that_are_yielded(self) -> None:
        """A generator-based coroutine may yield Deferreds that have fired. The stack does not grow with them."""

        @types.coroutine
        def ask(deferred: Deferred[int]) -> Any:
            return (yield deferred)

        async def handler() -> dict[str, Any]:
            return {"sess.sum": sum([await ask(succeed(number)) for number in range(5000)])}

        assert respond(Handlers({"m": handler}), Message("m")) == {"sess.sum": sum(range(5000))}

    def test_a_coroutine_that_raises_after_it_waited(self, logged: Logged) -> None:
        """Its message has the variables of on_error, and the log names its exception."""
        waits: Deferred[None] = Deferred()

        async def handler() -> None:
            await waits
            raise LookupError("boom")

        answer = begin(Handlers({"m": handler}, on_error={"sess.e": 1}), Message("m"))
        waits.callback(None)
        assert result_of(answer) == {"sess.e": 1}
        (line,) = logged.take()
        assert line.endswith("the handler of the message 'm' failed: LookupError: boom")

    @pytest.mark.parametrize("waits", [False, True])
    def test_a_coroutine_that_raises_StopIteration(self, waits: bool, logged: Logged) -> None:
        """It has failed. The value of the exception is not its result."""
        waited: Deferred[None] = Deferred()

        async def handler() -> None:
            if waits:
                await waited
            raise StopIteration({"sess.a": 1})

        answer = ask(Handlers({"m": handler}), Message("m"))
        waited.callback(None)
        assert result_of(answer) == {}
        (line,) = logged.take()
        assert "RuntimeError: coroutine raised StopIteration" in line

    def test_a_coroutine_whose_deferred_fails_with_StopIteration(self, logged: Logged) -> None:
        """It has failed too."""
        waits: Deferred[None] = Deferred()

        async def handler() -> None:
            await waits

        answer = begin(Handlers({"m": handler}), Message("m"))
        waits.errback(StopIteration({"sess.a": 1}))
        assert result_of(answer) == {}
        assert len(logged.take()) == 1

    @pytest.mark.parametrize("waits", [False, True])
    def test_a_coroutine_that_returns_a_deferred(self, waits: bool, logged: Logged) -> None:
        """It has failed, because it did not await the Deferred. The error says so, and no timer is left."""
        waited: Deferred[None] = Deferred()

        async def handler() -> Any:
            if waits:
                await waited
            return succeed({"sess.a": 1})

        clock = Clock()
        answer = ask(Handlers({"m": handler}, on_error={"sess.e": 1}), Message("m"), clock=clock)
        waited.callback(None)
        assert result_of(answer) == {"sess.e": 1}
        (line,) = logged.take()
        assert line.endswith("TypeError: a coroutine returned a Deferred that it did not await")
        assert clock.getDelayedCalls() == []

    @pytest.mark.parametrize("waits", [False, True])
    def test_a_coroutine_that_returns_a_coroutine(self, waits: bool, logged: Logged) -> None:
        """It has failed: a coroutine is no mapping."""
        waited: Deferred[None] = Deferred()

        async def another() -> None: ...

        unawaited = another()

        async def handler() -> Any:
            if waits:
                await waited
            return unawaited

        answer = ask(Handlers({"m": handler}, on_error={"sess.e": 1}), Message("m"))
        waited.callback(None)
        assert result_of(answer) == {"sess.e": 1}
        unawaited.close()
        (line,) = logged.take()
        assert "a coroutine is no mapping of variables" in line


class TestEnds:
    @pytest.mark.parametrize("way", ["returns", "raises", "waits"])
    def test_a_coroutine_that_times_out_may_go_on(self, way: str, logged: Logged) -> None:
        """CancelledError is raised where it waits. Its result or exception after that is dropped."""
        caught: list[CancelledError] = []
        more: Deferred[None] = Deferred()

        async def handler() -> dict[str, Any]:
            try:
                await Deferred()
            except CancelledError as error:
                caught.append(error)
                if way == "raises":
                    raise LookupError("boom") from error
                if way == "waits":
                    await more
            return {"sess.late": 1}

        clock = Clock()
        answer = begin(Handlers({"m": handler}, on_error={"sess.e": 1}), Message("m"), clock=clock, timeout=1)
        clock.advance(1)
        assert result_of(answer) == {"sess.e": 1}
        assert len(caught) == 1
        more.callback(None)
        assert logged.take() == [late_line("m", 1)]
        assert clock.getDelayedCalls() == []

    def test_the_awaited_deferred_is_cancelled(self, logged: Logged) -> None:
        """But not the Deferreds that the coroutine awaited before."""
        cancelled: list[object] = []
        before: Deferred[None] = Deferred(cancelled.append)
        waited: Deferred[None] = Deferred(cancelled.append)

        async def inner() -> None:
            await waited

        async def handler() -> None:
            await before
            await inner()

        clock = Clock()
        answer = begin(Handlers({"m": handler}), Message("m"), clock=clock, timeout=1)
        before.callback(None)
        clock.advance(1)
        assert result_of(answer) == {}
        assert cancelled == [waited]
        assert len(logged.take()) == 1

    @pytest.mark.parametrize("waits_again", [False, True])
    def test_a_coroutine_is_closed_when_nothing_refers_to_it(self, waits_again: bool) -> None:
        """No code can fire its Deferred any more. It may clean up, and Python gives no warning."""
        closed: list[type[BaseException]] = []

        async def handler(before: Deferred[None] | None) -> None:
            if before is not None:
                await before
            try:
                await Deferred()
            except BaseException as error:
                closed.append(type(error))
                raise

        firsts: list[Deferred[None]] = [Deferred()]
        handlers = Handlers({"m": lambda: handler(firsts[0] if waits_again else None)})
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            answer = begin(handlers, Message("m"), timeout=0)
            firsts.pop().callback(None)
            gc.collect()
            # The answer still refers to its coroutine.
            assert closed == []
            assert not answer.called
            del answer
            gc.collect()
        # PyPy closes no coroutine that is collected.
        assert closed == ([GeneratorExit] if sys.implementation.name == "cpython" else [])
        assert warned == []


async def check(ip: str, *, note: str = "", awaited: Deferred[None] | None = None) -> dict[str, Any]:
    if awaited is not None:
        await awaited
    return {"sess.ip": ip, "sess.note": note}


class Checker:
    async def __call__(self, ip: str) -> dict[str, Any]:
        return await check(ip, note="called")

    async def method(self, ip: str) -> dict[str, Any]:
        return await check(ip, note="method")


@pytest.mark.parametrize(
    ("function", "note"),
    [
        (check, ""),
        (partial(check, note="partial"), "partial"),
        (partial(partial(check), note="twice"), "twice"),
        (Checker(), "called"),
        (Checker().method, "method"),
        (lambda ip: check(ip, note="returned"), "returned"),
    ],
)
def test_any_callable_may_return_a_coroutine(function: Callable[..., Any], note: str) -> None:
    """For example a partial of a coroutine function, a bound method, a plain function, an object with ``__call__``."""
    assert respond(Handlers({"m": function}), Message("m", [("ip", "a")])) == {"sess.ip": "a", "sess.note": note}


def test_an_object_with_await_may_wait() -> None:
    """Its ``__await__`` runs like a coroutine."""
    waits: Deferred[int] = Deferred()

    class Lookup:
        def __await__(self) -> Any:
            value = yield from waits.__await__()
            return {"sess.a": value}

    answer = begin(Handlers({"m": Lookup}), Message("m"))
    waits.callback(5)
    assert result_of(answer) == {"sess.a": 5}


class TestPassOn:
    """The end of a callback that has used the result of a Deferred."""

    def test_a_result_is_passed_on(self) -> None:
        """To callbacks that the handler's author adds later."""
        assert coroutines.pass_on(5, succeed(5)) == 5

    def test_a_failure_is_passed_on_but_not_logged(self) -> None:
        """An errback behind all others handles it. Else Twisted would log it when the Deferred is collected."""
        failed = fail(LookupError("no such row"))
        seen: list[Any] = []

        def use(result: Any) -> Any:
            passed = coroutines.pass_on(result, failed)
            failed.addErrback(seen.append)
            return passed

        failed.addBoth(use)
        gc.collect()
        # The errback of pass_on was added first, and has handled it.
        assert seen == []


async def yields_an_int() -> dict[str, Any]:
    @types.coroutine
    def ask_for_an_int() -> Iterator[int]:
        yield 42

    await ask_for_an_int()
    return {"sess.v": 1}


async def asynchronous_generator() -> Any:
    yield {"sess.v": 1}


def generator() -> Iterator[tuple[str, int]]:
    yield "sess.v", 1


def awaited_before() -> Any:
    async def handler() -> dict[str, Any]:
        return {"sess.v": 1}

    result = handler()
    with pytest.raises(StopIteration):
        result.send(None)
    return result


class AwaitRaises:
    def __await__(self) -> Any:
        raise LookupError("cannot be awaited")


def cancelled() -> Deferred[Any]:
    deferred: Deferred[Any] = Deferred()
    deferred.cancel()
    return deferred


def recurses() -> Any:
    return recurses()


async def recurses_asynchronously() -> Any:
    return await recurses_asynchronously()


class TestHostileResults:
    """An agent answers, whatever the handler returned."""

    @pytest.mark.parametrize("function", [generator, asynchronous_generator])
    def test_a_generator_is_refused(self, function: Callable[[], Any], logged: Logged) -> None:
        """A handler must not yield."""
        assert answer_of(function) == {"sess.error": True}
        assert "generator is no mapping of variables" in line_of(logged)

    @pytest.mark.parametrize(
        "function",
        [awaited_before, AwaitRaises, cancelled, lambda: fail(LookupError())],
        ids=["awaited before", "raises", "cancelled", "failed"],
    )
    def test_an_awaitable_that_fails_at_once(self, function: Callable[[], Any], logged: Logged) -> None:
        """The handler has failed, and its on_error is sent at once."""
        assert answer_of(function) == {"sess.error": True}
        assert "failed" in line_of(logged)

    def test_a_coroutine_may_yield_any_object(self) -> None:
        """It gets the object back, as from Twisted."""
        assert answer_of(yields_an_int) == {"sess.v": 1}

    def test_a_deferred_that_fires_with_a_coroutine(self, logged: Logged) -> None:
        """The coroutine is not awaited: it is no mapping."""
        inner = yields_an_int()
        assert answer_of(lambda: succeed(inner)) == {"sess.error": True}
        assert "a coroutine is no mapping of variables" in line_of(logged)
        inner.close()

    @pytest.mark.parametrize("function", [recurses, recurses_asynchronously])
    def test_a_recursion_without_end_fails(self, function: Callable[[], Any], logged: Logged) -> None:
        """Python ends it, and the ACK is sent."""
        assert answer_of(function) == {"sess.error": True}
        assert "failed" in line_of(logged)

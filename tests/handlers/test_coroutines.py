"""Handlers that are coroutines: stepped by hand until they wait for something."""

from __future__ import annotations

import gc
import subprocess
import sys
import traceback
import types
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from spoa_twisted import Handlers, Message
from spoa_twisted.spop.actions import decode_actions
from tests.conftest import Logged
from tests.programs import ENVIRONMENT
from tests.test_handlers import begin, respond, result_of

request: ContextVar[str] = ContextVar("request", default="none")


class TestContexts:
    def test_one_that_does_not_wait_has_a_context_of_its_own(self) -> None:
        """What it sets is seen neither by the next, nor by who calls; it sees what its caller has set."""

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

    def test_one_that_waits_keeps_its_context(self) -> None:
        """Whatever was set before, between and after, by others and by who lets it go on."""
        waits: dict[str, Deferred[None]] = {}
        seen: dict[str, list[str]] = {"a": [], "b": []}

        async def handler(name: str) -> None:
            request.set(f"{name}0")
            for number in range(1, 4):
                waits[name] = Deferred()
                await waits[name]
                seen[name].append(request.get())
                request.set(f"{name}{number}")

        messages = [Message("m", [("name", name)]) for name in "ab"]
        answer = begin(Handlers({"m": handler}), *messages)
        for _ in range(3):
            token = request.set("whoever")
            try:
                waits["b"].callback(None)
                waits["a"].callback(None)
                assert request.get() == "whoever"
            finally:
                request.reset(token)
        assert result_of(answer) == {}
        assert seen == {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
        assert request.get() == "none"

    def test_one_that_waits_may_take_back_what_it_set(self) -> None:
        """As a context manager around an await does: every step is in the same context."""
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

    def test_one_that_is_given_up_cleans_up_in_its_context(self, logged: Logged) -> None:
        """As a log's fields that are kept there."""
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
    def test_one_that_waits_several_times(self) -> None:
        """For Deferreds that fire late, at once, and before they are awaited."""
        late: list[Deferred[int]] = [Deferred() for _ in range(3)]

        async def handler() -> dict[str, Any]:
            return {"sess.sum": await late[0] + await succeed(10) + await late[1] + await late[2]}

        answer = begin(Handlers({"m": handler}), Message("m"))
        late[1].callback(100)
        late[0].callback(1)
        assert not answer.called
        late[2].callback(1000)
        assert result_of(answer) == {"sess.sum": 1111}

    def test_a_crowd_of_deferreds_that_have_fired(self) -> None:
        """One after the other, before the first wait and after it: the stack does not grow."""
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

    def test_one_that_catches_what_it_awaits_failing(self) -> None:
        """The exception itself, not what wraps it; and goes on waiting."""
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

    def test_several_that_await_the_same_deferred(self, logged: Logged) -> None:
        """Each gets what it comes to, and is told when it fails."""
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

    def test_a_crowd_of_awaitables_that_are_no_deferreds(self) -> None:
        """They come back as they are, and the stack does not grow with them."""

        class Itself:
            def __await__(self) -> Any:
                return (yield self)

        async def handler() -> dict[str, Any]:
            things = [Itself() for _ in range(5000)]
            return {"sess.same": all([await thing is thing for thing in things])}

        assert respond(Handlers({"m": handler}), Message("m")) == {"sess.same": True}

    def test_a_failure_that_many_await(self, logged: Logged) -> None:
        """The traceback of each shows its own frames, not those of all who were told before."""
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

    def test_a_crowd_of_deferreds_that_are_yielded(self) -> None:
        """As what was written by hand may do, though they have fired: the stack does not grow with them."""

        @types.coroutine
        def ask(deferred: Deferred[int]) -> Any:
            return (yield deferred)

        async def handler() -> dict[str, Any]:
            return {"sess.sum": sum([await ask(succeed(number)) for number in range(5000)])}

        assert respond(Handlers({"m": handler}), Message("m")) == {"sess.sum": sum(range(5000))}

    def test_one_that_raises_after_a_wait(self, logged: Logged) -> None:
        """Costs its message, and the log has where it was."""
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
    def test_one_that_raises_StopIteration(self, waits: bool, logged: Logged) -> None:
        """Has not returned."""
        waited: Deferred[None] = Deferred()

        async def handler() -> None:
            if waits:
                await waited
            raise StopIteration({"sess.a": 1})

        answer = Handlers({"m": handler}).respond([Message("m")], 1000, Clock(), 10)
        waited.callback(None)
        assert (result_of(answer) if isinstance(answer, Deferred) else decode_actions(answer)) == {}
        (line,) = logged.take()
        assert "RuntimeError: coroutine raised StopIteration" in line

    def test_one_whose_deferred_fails_with_StopIteration(self, logged: Logged) -> None:
        """Nor has it then."""
        waits: Deferred[None] = Deferred()

        async def handler() -> None:
            await waits

        answer = begin(Handlers({"m": handler}), Message("m"))
        waits.errback(StopIteration({"sess.a": 1}))
        assert result_of(answer) == {}
        assert len(logged.take()) == 1

    @pytest.mark.parametrize("waits", [False, True])
    def test_one_that_returns_a_deferred(self, waits: bool, logged: Logged) -> None:
        """It was not awaited, before any wait or after one: an error that says so, at once."""
        waited: Deferred[None] = Deferred()

        async def handler() -> Any:
            if waits:
                await waited
            return succeed({"sess.a": 1})

        clock = Clock()
        answer = Handlers({"m": handler}, on_error={"sess.e": 1}).respond([Message("m")], 1000, clock, 10)
        waited.callback(None)
        assert (result_of(answer) if isinstance(answer, Deferred) else decode_actions(answer)) == {"sess.e": 1}
        (line,) = logged.take()
        assert line.endswith("TypeError: a coroutine returned a Deferred that it did not await")
        assert clock.getDelayedCalls() == []

    @pytest.mark.parametrize("waits", [False, True])
    def test_one_that_returns_a_coroutine(self, waits: bool, logged: Logged) -> None:
        """Is no mapping either."""
        waited: Deferred[None] = Deferred()

        async def another() -> None: ...

        unawaited = another()

        async def handler() -> Any:
            if waits:
                await waited
            return unawaited

        answer = Handlers({"m": handler}, on_error={"sess.e": 1}).respond([Message("m")], 1000, Clock(), 10)
        waited.callback(None)
        assert (result_of(answer) if isinstance(answer, Deferred) else decode_actions(answer)) == {"sess.e": 1}
        unawaited.close()
        (line,) = logged.take()
        assert "a coroutine is no mapping of variables" in line


class TestEnds:
    @pytest.mark.parametrize("way", ["returns", "raises", "waits"])
    def test_one_that_is_given_up_may_do_what_it_likes(self, way: str, logged: Logged) -> None:
        """CancelledError comes where it waits; what becomes of it then interests nobody."""
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
        assert logged.take() == ["error: the handler of the message 'm' took longer than 1 s"]
        assert clock.getDelayedCalls() == []

    def test_what_it_waits_for_is_cancelled(self, logged: Logged) -> None:
        """Not what it waited for before."""
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
    def test_one_that_is_forgotten_while_it_waits_is_closed(self, waits_again: bool) -> None:
        """When nobody can fire what it waits for: it may clean up, and no warning is given."""
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
            # While the answer is waited for, its handler lives.
            assert closed == []
            assert not answer.called
            del answer
            gc.collect()
        # PyPy closes no coroutine that is collected.
        assert closed == ([GeneratorExit] if sys.implementation.name == "cpython" else [])
        assert warned == []


async def check(ip: str, *, note: str = "", waits: Deferred[None] | None = None) -> dict[str, Any]:
    if waits is not None:
        await waits
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
def test_whatever_returns_a_coroutine_is_awaited(function: Callable[..., Any], note: str) -> None:
    """A partial of it, an object that is called, a bound method, a plain function that returns one."""
    assert respond(Handlers({"m": function}), Message("m", [("ip", "a")])) == {"sess.ip": "a", "sess.note": note}


def test_an_awaitable_of_a_class_may_wait() -> None:
    """As long as a coroutine, and fail as one."""
    waits: Deferred[int] = Deferred()

    class Lookup:
        def __await__(self) -> Any:
            value = yield from waits.__await__()
            return {"sess.a": value}

    answer = begin(Handlers({"m": Lookup}), Message("m"))
    waits.callback(5)
    assert result_of(answer) == {"sess.a": 5}


ASYNCIO = """
import asyncio
from contextvars import ContextVar

from twisted.internet import asyncioreactor

loop = asyncio.new_event_loop()
asyncioreactor.install(loop)

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from spoa_twisted import Handlers, Message
from spoa_twisted.spop.actions import decode_actions

request = ContextVar("request", default="none")
handlers = Handlers(on_error={"sess.e": 1})
futures = []


@handlers.message("future")
def future():
    futures.append(loop.create_future())
    loop.call_later(0, futures[-1].set_result, {"sess.future": 1})
    return futures[-1]


@handlers.message("wrapped")
async def wrapped():
    request.set("own")
    await Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0)))
    return {"sess.wrapped": request.get()}


@handlers.message("bare")
async def bare():
    await asyncio.sleep(0.001)


@handlers.message("hangs", timeout=0.01)
def hangs():
    futures.append(loop.create_future())
    return futures[-1]


async def main():
    answer = handlers.respond([Message(name) for name in handlers], 1000, reactor, 10)
    print(decode_actions(await answer))
    print(request.get(), futures[-1].cancelled(), len(reactor.getDelayedCalls()))


def run():
    ensureDeferred(main()).addErrback(print).addBoth(lambda _: reactor.stop())


reactor.callLater(0, run)
reactor.run()
"""


def test_on_the_reactor_of_asyncio() -> None:
    """A future is awaited, and cancelled when it takes too long; one awaited bare is an error, as Twisted has it."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", ASYNCIO],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "{'sess.future': 1, 'sess.wrapped': 'own', 'sess.e': 1}",
        "none True 0",
    ], done.stderr

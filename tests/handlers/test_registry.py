"""Message -> handler -> variables."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections import UserDict
from functools import partial
from ipaddress import IPv4Address
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from spoa_twisted import NULL, Handlers, IHandlers, Int32, Message
from spoa_twisted.spop.actions import decode_actions, encode_actions
from tests.conftest import Logged

ROOM = 16000


def respond(
    handlers: Handlers, *messages: Message, room: int = ROOM, clock: Any = None, timeout: float = 10
) -> dict[str, Any]:
    """Return the variables that ``handlers`` answer ``messages`` with, at once."""
    answer = handlers.respond(list(messages), room, clock or Clock(), timeout)
    assert isinstance(answer, bytes)
    return decode_actions(answer)


def begin(
    handlers: Handlers, *messages: Message, room: int = ROOM, clock: Any = None, timeout: float = 10
) -> Deferred[bytes]:
    """Return the Deferred that ``handlers`` answer ``messages`` with."""
    answer = handlers.respond(list(messages), room, clock or Clock(), timeout)
    assert isinstance(answer, Deferred)
    return answer


def result_of(answer: Deferred[bytes]) -> dict[str, Any]:
    """Return what ``answer`` has fired with."""
    results: list[Any] = []
    answer.addBoth(results.append)
    (actions,) = results
    assert isinstance(actions, bytes), actions
    return decode_actions(actions)


class TestRegistration:
    def test_it_provides_the_interface(self) -> None:
        """A protocol asks no more of it than IHandlers says."""
        assert IHandlers.providedBy(Handlers())

    def test_a_decorated_function_stays_as_it_is(self) -> None:
        """So it can be called and tested."""
        handlers = Handlers()

        def function(ip: object) -> None:
            return None

        assert handlers.message("m")(function) is function
        assert handlers.default(function) is function
        assert "m" in handlers
        assert list(handlers) == ["m"]

    def test_one_function_may_answer_several_messages(self) -> None:
        """Decorators stack."""
        handlers = Handlers()

        @handlers.message("a")
        @handlers.message("b")
        def function(message: Message) -> dict[str, str]:
            return {"txn.name": message.name}

        assert respond(handlers, Message("a")) == {"txn.name": "a"}
        assert respond(handlers, Message("b")) == {"txn.name": "b"}

    def test_the_mapping_form_takes_bound_methods(self) -> None:
        """Handlers may belong to an application's object."""

        class Application:
            def check(self, ip: object) -> dict[str, Any]:
                return {"sess.ip": ip}

        handlers = Handlers({"m": Application().check}, default=lambda: {"sess.x": 1})
        assert respond(handlers, Message("m", [("ip", 7)]), Message("n")) == {"sess.ip": 7, "sess.x": 1}

    def test_a_name_has_one_handler(self) -> None:
        """A second one is an error that names both."""
        handlers = Handlers()

        @handlers.message("m")
        def first() -> None: ...

        def second() -> None: ...

        with pytest.raises(ValueError, match=r"'m' has two handlers: .*\.first and .*\.second"):
            handlers.message("m")(second)
        handlers.default(first)
        with pytest.raises(ValueError, match=r"two default handlers: .*\.first and .*\.second"):
            handlers.default(second)

    @pytest.mark.parametrize(
        ("function", "options", "error", "text"),
        [
            (42, {}, TypeError, "'m' is a int, not a function"),
            (lambda *names: None, {}, TypeError, r"'m' takes \*names"),
            (lambda: None, {"timeout": -1}, ValueError, "timeout of the message 'm' is -1"),
            (lambda: None, {"timeout": float("nan")}, ValueError, "timeout"),
            (lambda: None, {"on_error": {"bad.x": 1}}, ValueError, "on_error of the message 'm': variable 'bad.x'"),
            (lambda: None, {"on_error": {"sess.x": 1.0}}, TypeError, "on_error of the message 'm': variable 'sess.x'"),
            (asyncio.sleep, {"blocking": True}, TypeError, "async"),
        ],
    )
    def test_what_cannot_work_is_refused_at_once(
        self, function: Any, options: dict[str, Any], error: type[Exception], text: str
    ) -> None:
        """Not when the first message comes."""
        with pytest.raises(error, match=text):
            Handlers().message("m", **options)(function)

    def test_a_decorator_without_a_name_is_refused(self) -> None:
        """It would register nothing, and take the function's place."""
        with pytest.raises(TypeError, match="the name of a message is a str, not a function"):
            Handlers().message(lambda: None)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("options", "error"),
        [({"timeout": -1}, ValueError), ({"on_error": {"x y": 1}}, ValueError), ({"on_error": [1]}, TypeError)],
    )
    def test_a_sets_options_are_judged_at_once(self, options: dict[str, Any], error: type[Exception]) -> None:
        """Not when its first handler is registered."""
        with pytest.raises(error):
            Handlers(**options)

    def test_a_pool_has_threads(self) -> None:
        """A pool of none would never run anything."""
        with pytest.raises(ValueError, match="blocking_threads is 0"):
            Handlers(blocking_threads=0)

    def test_sets_are_merged(self, logged: Logged) -> None:
        """Each handler keeps what was said of it in its own set."""
        one = Handlers({"a": lambda: 1 / 0}, on_error={"sess.one": 1})  # type: ignore[dict-item, return-value]
        two = Handlers({"b": lambda: 1 / 0}, default=lambda: {"sess.d": 1})  # type: ignore[dict-item, return-value]
        merged = Handlers.merged(one, two)
        assert sorted(merged) == ["a", "b"]
        assert "b" not in one
        assert respond(merged, Message("a"), Message("b"), Message("c")) == {"sess.one": 1, "sess.d": 1}
        assert len(logged.take()) == 2

    def test_sets_that_claim_the_same_are_not_merged(self) -> None:
        """The error names the message, or says that it is the default, and names both functions."""

        def function() -> None: ...

        with pytest.raises(ValueError, match=r"'a' has two handlers: .*function and .*function"):
            Handlers.merged(Handlers({"a": function}), Handlers({"a": function}))
        with pytest.raises(ValueError, match="two default handlers"):
            Handlers.merged(Handlers(default=function), Handlers(default=function))


class TestBinding:
    MESSAGE = Message("m", [("ip", 1), ("user-agent", "x"), ("", 2), ("a.b", 3), ("ip", 4), ("message", 5)])

    @pytest.mark.parametrize(
        ("function", "seen"),
        [
            (lambda ip: (ip,), (1,)),
            (lambda user_agent, ip: (user_agent, ip), ("x", 1)),
            (lambda a_b: (a_b,), (3,)),
            (lambda *, ip: (ip,), (1,)),
            (lambda ip, /: (ip,), (1,)),
            (lambda nobody=7: (nobody,), (7,)),
            (lambda nobody=7, *, ip=8, other=9: (nobody, ip, other), (7, 1, 9)),
            (lambda message: (message.name, message["message"]), ("m", 5)),
            (lambda ip, message: (ip, message[2]), (1, 2)),
            (lambda message, **rest: (message.name, *rest), ("m", "ip", "user_agent", "a_b")),
            (lambda **rest: tuple(rest.items()), (("ip", 1), ("user_agent", "x"), ("a_b", 3), ("message", 5))),
            (lambda ip, **rest: (ip, *rest), (1, "user_agent", "a_b", "message")),
            (lambda: (), ()),
            (partial(lambda x, ip: (x, ip), 0), (0, 1)),
            (partial(lambda x, ip: (x, ip), x=0), (0, 1)),
        ],
    )
    def test_parameters_take_arguments_by_name(self, function: Any, seen: tuple[Any, ...]) -> None:
        """Of a repeated name the first, with - and . as _, and the message itself as message; twice alike."""
        calls: list[Any] = []

        class Recorder:
            __signature__ = inspect.signature(function)

            def __call__(self, *args: Any, **kwargs: Any) -> None:
                calls.append(function(*args, **kwargs))

        handlers = Handlers({"m": Recorder()})
        respond(handlers, self.MESSAGE)
        respond(handlers, self.MESSAGE)
        assert calls == [seen, seen]

    def test_a_missing_argument_is_that_handlers_error(self, logged: Logged) -> None:
        """It names the argument and those that there are; the other messages keep theirs."""
        handlers = Handlers({"m": lambda port: {"sess.a": 1}, "n": lambda: {"sess.b": 2}}, on_error={"sess.e": True})
        assert respond(handlers, Message("m", [("ip", 1)]), Message("n")) == {"sess.e": True, "sess.b": 2}
        (text,) = logged.take()
        assert "the message 'm' has no argument 'port'; it has: 'ip'" in text

    def test_messages_of_one_name_may_differ_in_their_arguments(self, logged: Logged) -> None:
        """As those of two HAProxys do: each is bound for itself, however many there are."""
        handlers = Handlers({"m": lambda ip=0, port=0: {"sess.ip": ip, "sess.port": port}})
        for number in range(200):
            assert respond(handlers, Message("m", [("port", 1), (f"x{number}", 3), ("ip", 2)])) == {
                "sess.ip": 2,
                "sess.port": 1,
            }
        assert respond(handlers, Message("m", [("ip", 2)])) == {"sess.ip": 2, "sess.port": 0}
        handler = handlers._by_name["m"]
        assert 0 < len(handler._plans) <= 64
        plans = dict(handler._plans)
        respond(handlers, Message("m", [("x" * 5000, 1)]))
        assert handler._plans == plans


class TestResults:
    @pytest.mark.parametrize("result", [None, {}, UserDict()])
    def test_no_variables(self, result: Any) -> None:
        """None and an empty mapping set none."""
        assert respond(Handlers({"m": lambda: result}), Message("m")) == {}

    def test_no_messages(self) -> None:
        """HAProxy 3.1 and 3.2 send such NOTIFYs."""
        assert Handlers().respond([], ROOM, Clock(), 10) == b""

    def test_variables_go_in_the_order_of_the_messages(self) -> None:
        """Whatever finishes first, and with a later message's value last."""
        slow: Deferred[Any] = Deferred()
        slower: Deferred[Any] = Deferred()
        handlers = Handlers({"a": lambda: slow, "b": lambda: {"sess.x": "b", "sess.b": 1}, "c": lambda: slower})
        answer = begin(handlers, Message("a"), Message("b"), Message("c"))
        slower.callback({"sess.x": "c"})
        slow.callback({"sess.x": "a", "sess.a": None})
        assert list(result_of(answer).items()) == [("sess.x", "c"), ("sess.a", None), ("sess.b", 1)]

    def test_all_kinds_of_handlers_are_alike(self) -> None:
        """Plain, Deferred, async def, and other awaitables."""

        async def coroutine(ip: int) -> dict[str, Any]:
            return {"txn.coroutine": await succeed(ip)}

        class Awaitable:
            def __await__(self) -> Any:
                yield from succeed(None)
                return {"txn.awaitable": 1}

        handlers = Handlers(
            {
                "plain": lambda ip: {"txn.plain": ip},
                "deferred": lambda ip: succeed({"txn.deferred": ip}),
                "coroutine": coroutine,
                "awaitable": lambda: Awaitable(),
                "none": lambda: succeed(None),
            }
        )
        messages = [Message(name, [("ip", 1)]) for name in handlers]
        assert respond(handlers, *messages) == {
            "txn.plain": 1,
            "txn.deferred": 1,
            "txn.coroutine": 1,
            "txn.awaitable": 1,
        }

    def test_a_future_of_asyncio_is_awaited(self) -> None:
        """As an application on the asyncio reactor returns it."""
        loop = asyncio.new_event_loop()
        try:
            future: asyncio.Future[Any] = loop.create_future()
            answer = begin(Handlers({"m": lambda: future}), Message("m"))
            future.set_result({"sess.a": 1})
            loop.run_until_complete(asyncio.sleep(0))
            assert result_of(answer) == {"sess.a": 1}
        finally:
            loop.close()

    def test_a_deferred_may_wait_for_another(self) -> None:
        """One that was called and waits on is not taken for finished."""
        inner: Deferred[Any] = Deferred()
        clock = Clock()
        answer = begin(Handlers({"m": lambda: succeed(1).addCallback(lambda _: inner)}), Message("m"), clock=clock)
        inner.callback({"sess.a": 1})
        assert result_of(answer) == {"sess.a": 1}
        assert clock.getDelayedCalls() == []


class TestFaults:
    """A handler's fault costs its own message only."""

    @staticmethod
    def answer(function: Any, clock: Clock | None = None, **options: Any) -> dict[str, Any]:
        handlers = Handlers({"good": lambda: {"sess.good": 1}})
        handlers.message("bad", on_error={"sess.error": True}, **options)(function)
        answer = handlers.respond([Message("good"), Message("bad")], ROOM, clock or Clock(), 10)
        return decode_actions(answer) if isinstance(answer, bytes) else result_of(answer)

    @staticmethod
    async def raising_coroutine() -> None:
        raise LookupError("boom")

    @staticmethod
    def raising() -> None:
        raise LookupError("boom")

    @staticmethod
    def exiting() -> None:
        raise SystemExit(3)

    @pytest.mark.parametrize(
        ("function", "text"),
        [
            (raising, "LookupError: boom"),
            (exiting, "SystemExit: 3"),
            (lambda: fail(LookupError("boom")), "LookupError: boom"),
            (raising_coroutine, "LookupError: boom"),
            (lambda: Failure(LookupError("boom")), "a Failure is no mapping of variables"),
            (lambda: [("sess.a", 1)], "a list is no mapping of variables"),
            (lambda: succeed("text"), "a str is no mapping of variables"),
            (lambda: 42, "a int is no mapping of variables"),
            (lambda: {"session.a": 1}, "variable 'session.a': 'session' is no scope"),
            (lambda: {"sess.a-b": 1}, "variable 'sess.a-b': HAProxy drops names"),
            (lambda: {"sess.a": 0.5}, "variable 'sess.a': a float has no SPOP type"),
            (lambda: {"sess.a": 2**63}, "variable 'sess.a': 9223372036854775808 is outside the range of INT64"),
            (lambda: {"sess.a": Int32(-(2**31) - 1)}, "variable 'sess.a': -2147483649 is outside the range of INT32"),
            (lambda: succeed({7: 1}), "variable 7: "),
            (lambda: {"sess.good": 5, "sess.a": object()}, "variable 'sess.a': a object has no SPOP type"),
        ],
    )
    def test_on_error_stands_in(self, function: Any, text: str, logged: Logged) -> None:
        """Its variables are set, the other message keeps its own, and one line names the message."""
        function = getattr(function, "__func__", function)
        assert self.answer(function) == {"sess.good": 1, "sess.error": True}
        (line,) = logged.take()
        assert line.startswith("error: " if "Error: " not in text and "Exit" not in text else "critical: ")
        assert "the message 'bad'" in line
        assert text in line

    def test_the_sets_on_error_stands_in_for_a_handlers_own(self, logged: Logged) -> None:
        """The handler's, else the set's, else none."""
        handlers = Handlers({"a": self.raising}, on_error={"sess.set": 1})
        handlers.message("b", on_error={"sess.own": 1})(self.raising)
        handlers.message("c", on_error={})(self.raising)
        assert respond(handlers, Message("a"), Message("b"), Message("c")) == {"sess.set": 1, "sess.own": 1}
        assert respond(Handlers({"a": self.raising}), Message("a")) == {}
        assert len(logged.take()) == 4

    def test_a_slow_handler_times_out(self, logged: Logged) -> None:
        """At its own limit: what it waited for is cancelled, and what becomes of that interests nobody."""
        clock = Clock()
        cancelled: list[object] = []
        slow: Deferred[Any] = Deferred(cancelled.append)
        handlers = Handlers({"good": lambda: {"sess.good": 1}}, timeout=5)
        handlers.message("slow", timeout=0.2, on_error={"sess.late": True})(lambda: slow)
        answer = begin(handlers, Message("good"), Message("slow"), clock=clock)
        clock.advance(0.19)
        assert not answer.called
        clock.advance(0.02)
        assert result_of(answer) == {"sess.good": 1, "sess.late": True}
        assert cancelled == [slow]
        assert logged.take() == ["error: the handler of the message 'slow' took longer than 0.2 s"]

    @pytest.mark.parametrize(
        ("set_", "given", "expected"), [(3, 10, 3), (None, 10, 10), (0, 10, None), (None, 0, None)]
    )
    def test_the_limit_is_the_handlers_the_sets_or_the_agents(
        self, set_: float | None, given: float, expected: float | None
    ) -> None:
        """In that order; 0 is no limit."""
        clock = Clock()
        waits: Deferred[Any] = Deferred()
        answer = begin(Handlers({"m": lambda: waits}, timeout=set_), Message("m"), clock=clock, timeout=given)
        assert [call.getTime() for call in clock.getDelayedCalls()] == ([expected] if expected else [])
        waits.callback(None)
        assert result_of(answer) == {}
        assert clock.getDelayedCalls() == []

    def test_a_coroutine_that_will_not_be_cancelled_is_answered_in_time(self, logged: Logged) -> None:
        """The ACK does not wait for it."""
        clock = Clock()

        async def stubborn() -> dict[str, Any]:
            while True:
                try:
                    await Deferred()
                except CancelledError:
                    await Deferred()

        answer = begin(Handlers({"m": stubborn}, on_error={"sess.e": 1}), Message("m"), clock=clock, timeout=1)
        clock.advance(1)
        assert result_of(answer) == {"sess.e": 1}
        assert logged.take() == ["error: the handler of the message 'm' took longer than 1 s"]

    def test_a_canceller_that_raises_harms_nobody(self, logged: Logged) -> None:
        """It is logged, and the answer goes."""
        clock = Clock()

        def canceller(deferred: object) -> None:
            raise LookupError("cannot")

        handlers = Handlers({"m": lambda: Deferred(canceller)}, on_error={"sess.e": 1})
        answer = begin(handlers, Message("m"), clock=clock, timeout=1)
        clock.advance(1)
        assert result_of(answer) == {"sess.e": 1}
        assert len(logged.take()) == 2

    def test_cancelling_gives_everything_up_silently(self) -> None:
        """As when the connection is gone: all that waits is cancelled, no timer is left, nothing is logged."""
        clock = Clock()
        cancelled: list[object] = []
        waiting: list[Deferred[Any]] = [Deferred(cancelled.append), Deferred(cancelled.append)]
        handlers = Handlers({"a": lambda: waiting[0], "b": lambda: waiting[1], "c": lambda: {"sess.c": 1}})
        answer = begin(handlers, Message("a"), Message("b"), Message("c"), clock=clock)
        failures: list[Failure] = []
        answer.addErrback(failures.append)
        answer.cancel()
        assert cancelled == waiting
        assert failures[0].check(CancelledError)
        assert clock.getDelayedCalls() == []

    def test_what_does_not_fit_is_left_out(self, logged: Logged) -> None:
        """The message whose variables exceed what is left of the frame has its on_error; the others keep theirs."""
        handlers = Handlers({"a": lambda: {"sess.a": "x" * 50}, "c": lambda: {"sess.c": "z" * 20}})
        too_big: dict[str, Any] = {"sess.small": 1, "sess.big": "y" * 100}
        handlers.message("b", on_error={"sess.e": 1})(lambda: too_big)
        assert respond(handlers, Message("a"), Message("b"), Message("c"), room=120) == {
            "sess.a": "x" * 50,
            "sess.e": 1,
            "sess.c": "z" * 20,
        }
        (line,) = logged.take()
        assert "the variables of the message 'b' do not fit" in line
        assert "the largest is sess.big" in line

    def test_what_an_ack_without_actions_says_may_not_fit(self, logged: Logged) -> None:
        """A variable may be called as the one that nobody sets."""
        handlers = Handlers({"a": lambda: {"sess.a": b"x" * (ROOM - 12)}, "b": lambda: {"txn._": None}})
        answer = handlers.respond([Message("a"), Message("b")], ROOM, Clock(), 10)
        assert isinstance(answer, bytes)
        assert decode_actions(answer).keys() == {"sess.a"}
        (line,) = logged.take()
        assert "the variables of the message 'b' do not fit" in line

    def test_an_on_error_that_does_not_fit_either_is_left_out(self, logged: Logged) -> None:
        """The ACK goes all the same."""
        handlers = Handlers({"a": lambda: {"sess.big": b"y" * 100}}, on_error={"sess.error": "x" * 30})
        assert respond(handlers, Message("a"), room=20) == {}
        assert len(logged.take()) == 1

    def test_what_fits_exactly_fits(self) -> None:
        """The room itself is no excess."""
        variables = {"sess.a": "x" * 50}
        handlers = Handlers({"a": lambda: variables})
        assert respond(handlers, Message("a"), room=len(encode_actions(variables))) == variables

    def test_a_failure_that_no_log_could_hold_is_escaped(self, logged: Logged) -> None:
        """What a client sent may stand in the text of an exception."""

        def raising(token: str) -> None:
            raise ValueError(f"bad token {token}")

        assert respond(Handlers({"m": raising}), Message("m", [("token", "\udc80é")])) == {}
        (line,) = logged.take()
        assert line.isascii()
        assert "the message 'm' failed" in line
        assert "bad token \\udc80\\xe9" in line

    def test_one_deferred_may_answer_several_messages(self) -> None:
        """As one from a cache does."""
        shared: Deferred[Any] = Deferred()
        answer = begin(Handlers({"a": lambda: shared, "b": lambda: shared}), Message("a"), Message("b"))
        shared.callback({"sess.a": 1})
        assert result_of(answer) == {"sess.a": 1}
        results: list[Any] = []
        shared.addCallback(results.append)
        assert results == [{"sess.a": 1}]

    def test_a_shared_deferred_that_fails(self, logged: Logged) -> None:
        """All who wait for it have failed, in other NOTIFYs too, and its failure is handled then."""
        shared: Deferred[Any] = Deferred()
        handlers = Handlers()
        for name in "abc":
            handlers.message(name, on_error={f"txn.{name}": True})(lambda: shared)
        answers = [begin(handlers, Message("a"), Message("b")), begin(handlers, Message("c"))]
        shared.errback(LookupError("no such table"))
        assert [result_of(answer) for answer in answers] == [{"txn.a": True, "txn.b": True}, {"txn.c": True}]
        assert len(logged.take()) == 3
        del handlers
        shared = Deferred()
        gc.collect()

    def test_a_shared_deferred_that_is_cancelled(self, logged: Logged) -> None:
        """By a NOTIFY that nobody waits for any more: the others have failed."""
        shared: Deferred[Any] = Deferred()
        handlers = Handlers({"a": lambda: shared}, on_error={"txn.failed": True})
        given_up, answer = begin(handlers, Message("a")), begin(handlers, Message("a"))
        given_up.addErrback(lambda failure: failure.trap(CancelledError))
        given_up.cancel()
        assert result_of(answer) == {"txn.failed": True}
        assert len(logged.take()) == 1


class TestDefault:
    def test_it_answers_what_has_no_handler(self) -> None:
        """With options too."""
        handlers = Handlers({"known": lambda: {"sess.known": 1}})

        @handlers.default(timeout=1)
        def default(message: Message) -> dict[str, Any]:
            return {"sess.name": message.name}

        assert respond(handlers, Message("known"), Message("other")) == {"sess.known": 1, "sess.name": "other"}

    def test_without_it_such_messages_set_nothing(self, logged: Logged) -> None:
        """And are logged once per name, of which not too many are remembered."""
        handlers = Handlers({"known": lambda: {"sess.known": 1}})
        for _ in range(3):
            assert respond(handlers, Message("other"), Message("known")) == {"sess.known": 1}
        assert logged.take() == ["warn: no handler for the message 'other': it sets no variables"]
        for number in range(1500):
            respond(handlers, Message(f"name{number}"))
        assert len(logged.take()) == 999

    def test_a_long_name_is_cut(self, logged: Logged) -> None:
        """It comes from a peer, and may be as long as a frame."""
        respond(Handlers(), Message("x" * 100_000))
        (line,) = logged.take()
        assert len(line) < 200


class TestNames:
    def test_a_name_that_may_be_too_long_is_warned_about_once(self, logged: Logged) -> None:
        """HAProxy drops scope.prefix.name above 63 characters; the variable is sent nevertheless."""
        name = "a" * 41
        handlers = Handlers({"m": lambda: {f"sess.{name}": 1, name: NULL, f"txn.{name[1:]}": 1}})
        for _ in range(3):
            assert len(respond(handlers, Message("m"))) == 3
        lines = logged.take()
        assert len(lines) == 2
        assert all("may be too long for HAProxy" in line for line in lines)


class TestBlocking:
    @pytest_twisted.ensureDeferred
    async def test_it_runs_in_a_thread_of_the_agents_own(self) -> None:
        """Neither in the reactor's thread nor in its pool."""
        handlers = Handlers()

        @handlers.message("m", blocking=True)
        def slow(ip: IPv4Address) -> dict[str, Any]:
            return {"sess.ip": ip, "sess.thread": threading.current_thread().name}

        answer = handlers.respond([Message("m", [("ip", IPv4Address("192.0.2.1"))])], ROOM, reactor, 10)
        assert isinstance(answer, Deferred)
        variables = decode_actions(await answer)
        assert variables["sess.ip"] == IPv4Address("192.0.2.1")
        assert "spoa-blocking" in str(variables["sess.thread"])

    @pytest_twisted.ensureDeferred
    async def test_a_mapping_is_read_in_the_thread(self) -> None:
        """One that looks up its values when it is read may block, too."""
        threads: list[threading.Thread] = []

        class Lookups(UserDict[str, Any]):
            def __getitem__(self, name: str) -> Any:
                threads.append(threading.current_thread())
                return super().__getitem__(name)

        handlers = Handlers()
        handlers.message("m", blocking=True)(lambda: Lookups({"sess.a": "x" * 50, "sess.b": 1}))
        answer = handlers.respond([Message("m")], ROOM, reactor, 10)
        assert isinstance(answer, Deferred)
        assert decode_actions(await answer) == {"sess.a": "x" * 50, "sess.b": 1}
        assert len(threads) == 2
        assert threading.current_thread() not in threads

    @pytest_twisted.ensureDeferred
    async def test_its_faults_are_like_any(self, logged: Logged) -> None:
        """What it raises, or returns in vain, costs its message."""
        handlers = Handlers(on_error={"sess.e": 1})
        handlers.message("raises", blocking=True)(lambda: 1 / 0)  # type: ignore[type-var]
        handlers.message("list", blocking=True)(lambda: [1])  # type: ignore[type-var]
        handlers.message("late", blocking=True)(lambda: succeed({"sess.a": 1}))
        for name in ("raises", "list", "late"):
            answer = handlers.respond([Message(name)], ROOM, reactor, 10)
            assert isinstance(answer, Deferred)
            assert decode_actions(await answer) == {"sess.e": 1}
        assert len(logged.take()) == 3

    @pytest_twisted.ensureDeferred
    async def test_threads_are_bounded_and_what_waits_too_long_is_not_run(self, logged: Logged) -> None:
        """With one thread taken, the next message waits for it, and when it is given up it does not run at all."""
        handlers = Handlers(blocking_threads=1)
        release = threading.Event()
        ran: list[str] = []

        @handlers.message("holds", blocking=True, timeout=0)
        def holds() -> None:
            ran.append("holds")
            assert release.wait(30)

        @handlers.message("waits", blocking=True, timeout=0.01)
        def waits() -> None:
            ran.append("waits")

        holding = handlers.respond([Message("holds")], ROOM, reactor, 10)
        waiting = handlers.respond([Message("waits")], ROOM, reactor, 10)
        assert isinstance(holding, Deferred)
        assert isinstance(waiting, Deferred)
        assert await waiting == b""
        release.set()
        assert await holding == b""
        after = handlers.respond([Message("holds")], ROOM, reactor, 10)
        assert isinstance(after, Deferred)
        await after
        assert ran == ["holds", "holds"]
        assert logged.take() == ["error: the handler of the message 'waits' took longer than 0.01 s"]

    @pytest_twisted.ensureDeferred
    async def test_one_that_is_given_up_while_it_runs(self, logged: Logged) -> None:
        """Keeps its thread until it returns, which nobody waits for; then the next one has the thread."""
        handlers = Handlers(blocking_threads=1)
        release = threading.Event()
        handlers.message("holds", blocking=True, timeout=0.01)(lambda: release.wait(30) and None)  # type: ignore[type-var]
        handlers.message("next", blocking=True)(lambda: {"sess.next": 1})
        held = handlers.respond([Message("holds")], ROOM, reactor, 10)
        assert isinstance(held, Deferred)
        assert await held == b""
        following = handlers.respond([Message("next")], ROOM, reactor, 10)
        assert isinstance(following, Deferred)
        assert not following.called
        release.set()
        assert decode_actions(await following) == {"sess.next": 1}
        assert logged.take() == ["error: the handler of the message 'holds' took longer than 0.01 s"]

    @pytest_twisted.ensureDeferred
    async def test_what_was_given_up_leaves_nothing(self, logged: Logged) -> None:
        """Even if the threads are taken for ever: what waited for one is forgotten with its message."""

        class Body(str):
            """A text that tells when it is gone."""

            __slots__ = ("__weakref__",)

        handlers = Handlers(blocking_threads=1)
        release = threading.Event()
        handlers.message("holds", blocking=True, timeout=0)(lambda: release.wait(30) and None)  # type: ignore[type-var]
        handlers.message("waits", blocking=True, timeout=0.01)(lambda body: None)
        holding = handlers.respond([Message("holds")], ROOM, reactor, 10)
        gone = []
        answers = []
        for _ in range(10):
            body = Body("body")
            gone.append(weakref.ref(body))
            answers.append(handlers.respond([Message("waits", [("body", body)])], ROOM, reactor, 10))
        del body
        for answer in answers:
            assert isinstance(answer, Deferred)
            assert await answer == b""
        del answers, answer
        await deferLater(reactor, 0)
        gc.collect()
        assert [body() for body in gone] == [None] * 10
        release.set()
        assert isinstance(holding, Deferred)
        assert await holding == b""
        assert len(logged.take()) == 10

    @pytest_twisted.ensureDeferred
    async def test_a_thread_that_cannot_be_started(self, logged: Logged) -> None:
        """When the system has none, who asks for it has failed, and the next one may have more luck."""
        handlers = Handlers(blocking_threads=1, on_error={"sess.failed": True})
        handlers.message("m", blocking=True)(lambda: {"sess.a": 1})

        async def ask() -> dict[str, Any]:
            answer = handlers.respond([Message("m")], ROOM, reactor, 10)
            return decode_actions(answer if isinstance(answer, bytes) else await answer)

        assert await ask() == {"sess.a": 1}
        assert handlers._threads is not None
        pool: Any = handlers._threads._threadpool
        in_thread = pool.callInThreadWithCallback

        def no_thread(*call: Any) -> None:
            raise RuntimeError("can't start new thread")

        pool.callInThreadWithCallback = no_thread
        for _ in range(3):
            assert await ask() == {"sess.failed": True}
        pool.callInThreadWithCallback = in_thread
        assert await ask() == {"sess.a": 1}
        assert len(logged.take()) == 3

    @pytest_twisted.ensureDeferred
    async def test_threads_end_with_their_handlers(self) -> None:
        """As when a service takes new ones."""
        handlers = Handlers()
        handlers.message("m", blocking=True)(lambda: {"sess.thread": threading.get_ident()})
        answer = handlers.respond([Message("m")], ROOM, reactor, 10)
        assert isinstance(answer, Deferred)
        number = decode_actions(await answer)["sess.thread"]
        (thread,) = [thread for thread in threading.enumerate() if thread.ident == number]
        del handlers, answer
        # The answer is being given further up until the next turn of the reactor.
        await deferLater(reactor, 0)
        gc.collect()
        thread.join(30)
        assert not thread.is_alive()

    def test_without_threads_it_runs_in_place(self) -> None:
        """As in a test with a Clock."""
        handlers = Handlers()
        handlers.message("m", blocking=True)(lambda: {"sess.a": 1})
        assert respond(handlers, Message("m")) == {"sess.a": 1}


@pytest_twisted.ensureDeferred
async def test_handlers_of_one_notify_run_at_the_same_time() -> None:
    """The second is called before the first has finished."""
    order: list[str] = []

    def waits(message: Message) -> Deferred[Any]:
        order.append(f"begins {message[0]!r}")
        return deferLater(reactor, 0, order.append, f"ends {message[0]!r}")

    handlers = Handlers({"m": waits})
    answer = handlers.respond([Message("m", [("", n)]) for n in (1, 2)], ROOM, reactor, 10)
    assert isinstance(answer, Deferred)
    await answer
    assert order == ["begins 1", "begins 2", "ends 1", "ends 2"]

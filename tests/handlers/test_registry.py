"""Handlers: which function answers which message, and what becomes of the messages of a NOTIFY."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from spoa_twisted import Handlers, IHandlers, Int32, Message
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.observer import HandlerFailed, MessageUnhandled, Outcome
from spoa_twisted.spop.actions import decode_actions, encode_actions
from tests.conftest import Logged
from tests.handlers.answers import (
    KINDS,
    Recorder,
    UnprintableError,
    answer_of,
    ask,
    begin,
    late_line,
    later,
    line_of,
    respond,
    result_of,
)


def nothing() -> None:
    """A handler. It is not called when a NOTIFY is refused."""
    raise AssertionError


class TestRefusing:
    """What a NOTIFY sets that is too long for the agent."""

    def test_the_on_error_of_each_message(self) -> None:
        """Each known message sets its own on_error, and a message without a handler that of the default handler."""
        handlers = Handlers(on_error={"txn.error": "handler"})
        handlers.message("own", on_error={"txn.own": False})(nothing)
        handlers.message("shared")(nothing)
        handlers.default(on_error={"txn.unknown": True})(nothing)
        names = ("own", "shared", "other")
        expected = {"txn.own": False, "txn.error": "handler", "txn.unknown": True}
        assert decode_actions(handlers.refuse(names, 100)) == expected

    def test_a_message_without_a_handler(self) -> None:
        """It sets nothing. Neither does a NOTIFY whose names are unknown."""
        handlers = Handlers({"a": nothing}, on_error={"txn.error": True})
        assert handlers.refuse(("b",), 100) == handlers.refuse((), 100) == b""

    def test_the_same_on_error_is_sent_once(self) -> None:
        """A NOTIFY of many messages has a short ACK."""
        handlers = Handlers(default=nothing, on_error={"txn.error": True})
        assert handlers.refuse(("a", "b", "a"), 100) == encode_actions({"txn.error": True})

    def test_an_on_error_that_does_not_fit_is_left_out(self) -> None:
        """The others are sent."""
        handlers = Handlers()
        handlers.message("long", on_error={"txn.long": "x" * 100})(nothing)
        handlers.message("short", on_error={"txn.short": True})(nothing)
        actions = encode_actions({"txn.short": True})
        assert handlers.refuse(("long", "short"), len(actions)) == actions
        assert handlers.refuse(("long", "short"), len(actions) - 1) == b""


class TestRegistration:
    def test_it_provides_the_interface(self) -> None:
        """A connection uses only the methods of IHandlers."""
        assert IHandlers.providedBy(Handlers())

    def test_a_decorated_function_stays_unchanged(self) -> None:
        """So it can be called and tested."""
        handlers = Handlers()

        def function(ip: object) -> None:
            return None

        assert handlers.message("m")(function) is function
        assert handlers.default(function) is function
        assert "m" in handlers
        assert list(handlers) == ["m"]

    def test_one_function_may_answer_several_messages(self) -> None:
        """It has one decorator for each."""
        handlers = Handlers()

        @handlers.message("a")
        @handlers.message("b")
        def function(message: Message) -> dict[str, str]:
            return {"txn.name": message.name}

        assert respond(handlers, Message("a")) == {"txn.name": "a"}
        assert respond(handlers, Message("b")) == {"txn.name": "b"}

    def test_the_mapping_form_takes_bound_methods(self) -> None:
        """Handlers may belong to an object of the application."""

        class Application:
            def check(self, ip: object) -> dict[str, Any]:
                return {"sess.ip": ip}

        handlers = Handlers({"m": Application().check}, default=lambda: {"sess.x": 1})
        assert respond(handlers, Message("m", [("ip", 7)]), Message("n")) == {"sess.ip": 7, "sess.x": 1}

    def test_a_message_has_one_handler(self) -> None:
        """To register a second one is an error that names both functions."""
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
            (42, {}, TypeError, "'m' is an int, not a function"),
            (lambda *names: None, {}, TypeError, r"'m' takes \*names"),
            (lambda: None, {"timeout": -1}, ValueError, "timeout of the message 'm' is -1"),
            (lambda: None, {"timeout": float("nan")}, ValueError, "timeout"),
            (lambda: None, {"on_error": {"bad.x": 1}}, ValueError, "on_error of the message 'm': variable 'bad.x'"),
            (lambda: None, {"on_error": {"sess.x": 1.0}}, TypeError, "on_error of the message 'm': variable 'sess.x'"),
            (asyncio.sleep, {"blocking": True}, TypeError, "async"),
        ],
    )
    def test_a_handler_that_cannot_work_is_refused(
        self, function: Any, options: dict[str, Any], error: type[Exception], text: str
    ) -> None:
        """At the registration, not when the first message arrives. It is then not registered."""
        handlers = Handlers()
        with pytest.raises(error, match=text):
            handlers.message("m", **options)(function)
        with pytest.raises(error, match=text.replace("'m'", "'default'")):
            (handlers.default(**options) if options else handlers.default)(function)
        assert list(handlers) == []

    def test_a_decorator_without_a_name_is_refused(self) -> None:
        """It would register nothing, and replace the function."""
        with pytest.raises(TypeError, match="the name of a message is a str, not a function"):
            Handlers().message(lambda: None)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["", "a b", "check/ip", "m\n", "m\u00e4"])
    def test_a_name_that_haproxy_does_not_allow_is_refused(self, name: str) -> None:
        """No message of this name can ever come: HAProxy refuses its configuration."""
        with pytest.raises(ValueError, match=r"HAProxy does not allow the name '.*' for a spoe-message"):
            Handlers().message(name)
        assert list(Handlers({"aZ09_-.:": lambda: None})) == ["aZ09_-.:"]

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"timeout": -1}, ValueError),
            ({"timeout": "2s"}, TypeError),
            ({"on_error": {"x y": 1}}, ValueError),
            ({"on_error": [1]}, TypeError),
        ],
    )
    def test_the_options_of_a_set_are_checked_at_once(self, options: dict[str, Any], error: type[Exception]) -> None:
        """Not when its first handler is registered."""
        with pytest.raises(error, match="of Handlers"):
            Handlers(**options)

    def test_blocking_handlers_need_a_thread(self) -> None:
        """Without threads, none would ever run."""
        with pytest.raises(ValueError, match="blocking_threads is 0; at least one is needed"):
            Handlers(blocking_threads=0)


class TestDescribe:
    @pytest.mark.parametrize(
        ("names", "default", "text"),
        [
            ([], False, "no messages: no handlers are registered yet"),
            ([], True, "all messages"),
            (["scan"], False, "the message scan"),
            (["scan"], True, "the messages scan and all others"),
            (["scan", "check-token"], False, "the messages check-token, scan"),
            (["scan", "check-token"], True, "the messages check-token, scan and all others"),
        ],
    )
    def test_it_lists_the_messages(self, names: list[str], default: bool, text: str) -> None:
        """In the order of the alphabet. The agent logs the text when it listens."""
        handlers = Handlers({name: lambda: None for name in names}, default=(lambda: None) if default else None)
        assert handlers.describe() == text

    def test_it_is_short(self) -> None:
        """An agent may have hundreds of handlers."""
        names = [f"m{number:03}" for number in range(200)]
        text = Handlers({name: lambda: None for name in names}).describe()
        assert text == f"the messages {', '.join(names[:20])} and 180 more"

    def test_is_empty(self) -> None:
        """An agent that nothing is registered for is a mistake. A default handler is enough, or a startup function."""
        handlers = Handlers()
        assert handlers.is_empty is True
        handlers.startup(lambda: None)
        assert Handlers.merged(handlers).is_empty is False
        assert not Handlers(default=lambda: None).is_empty
        assert not Handlers({"m": lambda: None}).is_empty


class TestMerged:
    def test_each_handler_keeps_its_options(self, logged: Logged) -> None:
        """The defaults of its own set count, not those of another set. The sets stay as they are."""
        first = Handlers({"a": lambda: 1 / 0}, on_error={"sess.a": 1})  # type: ignore[dict-item, return-value]
        second = Handlers({"b": lambda: 1 / 0}, default=lambda: {"sess.d": 1})  # type: ignore[dict-item, return-value]
        merged = Handlers.merged(first, second)
        assert sorted(merged) == ["a", "b"]
        assert "b" not in first
        assert respond(merged, Message("a"), Message("b"), Message("c")) == {"sess.a": 1, "sess.d": 1}
        assert len(logged.take()) == 2

    def test_two_handlers_of_one_message_are_an_error(self) -> None:
        """So are two default handlers. The error names both functions."""

        def function() -> None: ...

        with pytest.raises(ValueError, match=r"'a' has two handlers: .*function and .*function"):
            Handlers.merged(Handlers({"a": function}), Handlers({"a": function}))
        with pytest.raises(ValueError, match=r"two default handlers: .*function and .*function"):
            Handlers.merged(Handlers(default=function), Handlers(default=function))

    def test_no_sets(self) -> None:
        """They have no handlers."""
        assert list(Handlers.merged()) == []


class TestAnswers:
    def test_no_messages(self) -> None:
        """HAProxy 3.1 and 3.2 send NOTIFYs without any."""
        assert ask(Handlers()) == b""

    def test_all_kinds_of_handlers_answer_alike(self) -> None:
        """A plain function, a Deferred, a coroutine, and another awaitable."""

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

    def test_the_outcomes_are_recorded_by_position(self) -> None:
        """The position of a message counts from 0, whether its handler waits or not."""
        pending: Deferred[Any] = Deferred()
        handlers = Handlers({"bad": lambda: 1 / 0, "good": lambda: None, "wait": lambda: pending})  # type: ignore[dict-item, return-value]
        observer = Recorder()
        names = ["good", "bad", "wait", "unknown", "good", "bad"]
        record = [Outcome.OK] * len(names)
        messages = [Message(name) for name in names]
        answer = later(handlers.respond(messages, 1000, Clock(), 10, Outcomes(observer, record)))
        pending.errback(LookupError("no such row"))
        assert result_of(answer) == {}
        assert [type(event) for event in observer.take()] == [
            HandlerFailed,
            MessageUnhandled,
            HandlerFailed,
            HandlerFailed,
        ]
        assert [outcome.value for outcome in record] == ["ok", "error", "error", "unhandled", "ok", "error"]


class TestFailures:
    """A handler that fails affects only its own message."""

    @staticmethod
    def answer(function: Any) -> dict[str, Any]:
        handlers = Handlers({"good": lambda: {"sess.good": 1}})
        handlers.message("bad", on_error={"sess.error": True})(function)
        return result_of(ask(handlers, Message("good"), Message("bad")))

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
            (lambda: 42, "an int is no mapping of variables"),
            (lambda: {"session.a": 1}, "variable 'session.a': 'session' is not a scope"),
            (lambda: {"sess.a-b": 1}, "variable 'sess.a-b': HAProxy drops names"),
            (lambda: {"sess.a": 0.5}, "variable 'sess.a': a float has no SPOP type"),
            (lambda: {"sess.a": 2**63}, "variable 'sess.a': 9223372036854775808 is outside the range of INT64"),
            (lambda: {"sess.a": Int32(-(2**31) - 1)}, "variable 'sess.a': -2147483649 is outside the range of INT32"),
            (lambda: succeed({7: 1}), "variable 7: "),
            (lambda: {"sess.good": 5, "sess.a": object()}, "variable 'sess.a': an object has no SPOP type"),
        ],
    )
    def test_its_message_has_the_variables_of_on_error(self, function: Any, text: str, logged: Logged) -> None:
        """The other message keeps its own, and one line names the message."""
        function = getattr(function, "__func__", function)
        assert self.answer(function) == {"sess.good": 1, "sess.error": True}
        (line,) = logged.take()
        assert line.startswith("error: " if "Error: " not in text and "Exit" not in text else "critical: ")
        assert "the message 'bad'" in line
        assert text in line

    def test_a_missing_argument_is_an_error_of_the_handler(self, logged: Logged) -> None:
        """The log names the parameter, and the arguments of the message."""
        handlers = Handlers({"m": lambda port: {"sess.a": 1}, "n": lambda: {"sess.b": 2}}, on_error={"sess.e": True})
        assert respond(handlers, Message("m", [("ip", 1)]), Message("n")) == {"sess.e": True, "sess.b": 2}
        (text,) = logged.take()
        assert text.startswith("error: the handler of the message 'm' was not called: the message 'm' has no argument")
        assert "has no argument 'port'; it has: 'ip'" in text
        assert "\n" not in text

    def test_a_type_error_of_the_handler_itself(self, logged: Logged) -> None:
        """It has its traceback: the line that raised it is in the user's code."""
        assert respond(Handlers({"m": lambda: len(1)}, on_error={"sess.e": True}), Message("m")) == {"sess.e": True}  # type: ignore[arg-type, dict-item, return-value]
        (text,) = logged.take()
        assert text.startswith("critical: the handler of the message 'm' failed: TypeError: ")

    def test_a_handler_without_on_error_has_that_of_its_set(self, logged: Logged) -> None:
        """Without that either, it sets no variables. An empty on_error counts as one."""
        handlers = Handlers({"a": self.raising}, on_error={"sess.set": 1})
        handlers.message("b", on_error={"sess.own": 1})(self.raising)
        handlers.message("c", on_error={})(self.raising)
        assert respond(handlers, Message("a"), Message("b"), Message("c")) == {"sess.set": 1, "sess.own": 1}
        assert respond(Handlers({"a": self.raising}), Message("a")) == {}
        assert len(logged.take()) == 4

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "error",
        [
            SystemExit,
            KeyboardInterrupt,
            GeneratorExit,
            BaseException,
            asyncio.CancelledError,
            CancelledError,
            StopIteration,
            StopAsyncIteration,
            MemoryError,
            UnprintableError,
        ],
    )
    def test_every_exception_is_caught(
        self, kind: Callable[[BaseException], Callable[[], Any]], error: type[BaseException], logged: Logged
    ) -> None:
        """Also one that would end the program, and one whose ``__str__`` raises."""
        assert answer_of(kind(error("why"))) == {"sess.error": True}
        assert line_of(logged).startswith("critical: the handler of the message 'tested' failed")

    @pytest.mark.parametrize("kind", KINDS[:2])
    def test_a_blocking_handler_that_runs_in_place(
        self, kind: Callable[[BaseException], Callable[[], Any]], logged: Logged
    ) -> None:
        """The Clock of a test has no threads. The handler then fails like any other."""
        assert answer_of(kind(SystemExit("why")), blocking=True) == {"sess.error": True}
        line_of(logged)


class TestDefault:
    def test_it_answers_messages_without_a_handler(self) -> None:
        """It may have options."""
        handlers = Handlers({"known": lambda: {"sess.known": 1}})

        @handlers.default(on_error={"sess.e": 1})
        def default(message: Message) -> dict[str, Any]:
            return {"sess.name": message.name}

        assert respond(handlers, Message("known"), Message("other")) == {"sess.known": 1, "sess.name": "other"}

    def test_its_options_count(self, logged: Logged) -> None:
        """For every message that it answers, each of which is named in the log."""
        clock = Clock()
        handlers = Handlers()
        handlers.default(timeout=1, on_error={"sess.e": 1})(lambda: Deferred())
        answer = begin(handlers, Message("other"), clock=clock)
        clock.advance(1)
        assert result_of(answer) == {"sess.e": 1}
        assert logged.take() == [late_line("other", 1)]

    def test_its_on_error_counts_when_its_variables_do_not_fit(self, logged: Logged) -> None:
        """The handler is looked up again by the message's name."""
        handlers = Handlers()
        handlers.default(on_error={"sess.e": 1})(lambda: {"sess.big": "x" * 200})
        assert respond(handlers, Message("other"), room=100) == {"sess.e": 1}
        assert len(logged.take()) == 1

    def test_without_it_a_message_without_a_handler_sets_no_variables(self, logged: Logged) -> None:
        """The other messages keep theirs."""
        handlers = Handlers({"known": lambda: {"sess.known": 1}})
        assert respond(handlers, Message("other"), Message("known")) == {"sess.known": 1}
        assert logged.take() == ["warn: no handler for the message 'other': it sets no variables"]

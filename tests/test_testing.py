"""Tests of FakeHAProxy. Those of handlers that fail are in test_strict.py."""

from __future__ import annotations

import gc
from ipaddress import IPv4Address
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from spoa_twisted import NULL, Handlers, Int32, Message
from spoa_twisted.client import AgentDisconnected, PayloadRefused
from spoa_twisted.handlers.handler import name_of
from spoa_twisted.handlers.lifecycle import StartupFailed
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.testing import FakeHAProxy, NoHandler, NotAcknowledged
from tests.conftest import Logged

#: The HELLO of a HAProxy with a version of SPOP that the agent does not support.
OLD_HELLO = HAProxyHello(supported_versions=("1.0",))


def test_it_sends_and_returns_variables() -> None:
    """notify() sends named and unnamed arguments. It returns the variables, with None for a variable that is unset."""
    handlers = Handlers({"m": lambda message: {"sess.ip": message["ip"], "txn.first": message[0], "req.c": None}})
    haproxy = FakeHAProxy(handlers)
    assert haproxy.notify("m", 7, ip=IPv4Address("192.0.2.1")) == {
        "sess.ip": IPv4Address("192.0.2.1"),
        "txn.first": 7,
        "req.c": None,
    }


def test_it_sends_several_messages_at_a_time() -> None:
    """notify() sends Message objects in one NOTIFY, as HAProxy does when they have the same event."""
    handlers = Handlers(default=lambda message: {f"sess.{message.name}": len(message)})
    assert FakeHAProxy(handlers).notify(Message("a"), Message("b", [("", 1)])) == {"sess.a": 0, "sess.b": 1}


def test_notify_and_send_take_the_same_arguments() -> None:
    """A name with arguments, or messages. An argument may be called self, name or message."""
    haproxy = FakeHAProxy(Handlers(default=lambda message: {f"sess.{message.name}": message.names.index("name")}))
    answers: list[Any] = []
    haproxy.send("m", 7, self=1, message=2, name=3).addCallback(answers.append)
    haproxy.send(Message("m", [("name", 1)]), Message("n", [("name", 1)])).addCallback(answers.append)
    haproxy.send().addCallback(answers.append)
    assert answers == [{"sess.m": 3}, {"sess.m": 0, "sess.n": 0}, {}]
    assert haproxy.notify("m", 7, self=1, message=2, name=3) == answers[0]
    assert haproxy.notify() == {}


def test_arguments_that_are_no_message() -> None:
    """The error says what to pass."""
    haproxy: Any = FakeHAProxy(Handlers(default=lambda: None))
    for arguments, named in [((Message("m"), "n"), {}), ((Message("m"),), {"a": 1}), ((), {"a": 1}), ((b"m",), {})]:
        for method in (haproxy.notify, haproxy.send):
            with pytest.raises(TypeError, match="pass the name of a message and its arguments, or Message objects"):
                method(*arguments, **named)


def test_values_are_encoded_and_decoded() -> None:
    """Variables have the types that they would have after a real connection."""
    haproxy = FakeHAProxy(Handlers({"m": lambda a: {"sess.a": a, "sess.n": NULL}}))
    variables = haproxy.notify("m", a=Int32(-5))
    assert variables == {"sess.a": -5, "sess.n": NULL}
    assert type(variables["sess.a"]) is Int32


def test_a_handler_that_waits() -> None:
    """The Deferred of send() fires when the handler has finished."""
    result: Deferred[Any] = Deferred()
    haproxy = FakeHAProxy(Handlers({"m": lambda: result}))
    answers: list[Any] = []
    haproxy.send(Message("m")).addCallback(answers.append)
    assert answers == []
    result.callback({"sess.a": 1})
    assert answers == [{"sess.a": 1}]


def test_there_is_no_ack_yet() -> None:
    """If the handler has not finished, notify() raises an error that names the message and says what to do."""
    with pytest.raises(NotAcknowledged, match=r"handlers of m have not finished; send\(\)"):
        FakeHAProxy(Handlers({"m": lambda: Deferred()})).notify("m")


def test_the_test_moves_the_clock(logged: Logged) -> None:
    """A handler times out when the test advances the clock."""
    handlers = Handlers()
    handlers.message("m", timeout=2, on_error={"sess.late": True})(lambda: Deferred())
    haproxy = FakeHAProxy(handlers)
    answers: list[Any] = []
    haproxy.send(Message("m")).addCallback(answers.append)
    haproxy.clock.advance(2)
    assert answers == [{"sess.late": True}]
    assert len(logged.take()) == 1


def test_limits_are_the_factorys() -> None:
    """FakeHAProxy passes max_payload_size to the factory, and sends the given HELLO."""
    haproxy = FakeHAProxy(
        Handlers({"m": lambda body: {"sess.size": len(body)}}),
        hello=HAProxyHello(max_frame_size=256, capabilities=frozenset({"async"})),
        max_payload_size=3000,
    )
    assert haproxy.notify("m", body=b"x" * 2500) == {"sess.size": 2500}
    with pytest.raises(PayloadRefused, match="too long"):
        haproxy.notify("m", body=b"x" * 3500)
    # The next failure belongs to the next request.
    with pytest.raises(TypeError, match="has no argument 'body'"):
        haproxy.notify("m")


@pytest.mark.parametrize("names", ["ab", "ac", "c"])
def test_a_refused_notify_and_on_error(names: str, logged: Logged) -> None:
    """Its variables come back, and the exception is kept and logged, if each message has an ``on_error``."""
    handlers = Handlers()
    for name, on_error in {"a": {"sess.a": 1}, "b": {"sess.b": 2}, "c": None}.items():
        handlers.message(name, on_error=on_error)(lambda: None)
    haproxy = FakeHAProxy(handlers, hello=HAProxyHello(max_frame_size=256), max_payload_size=3000)
    # The limit is exceeded when the names of all messages have arrived.
    messages = [*[Message(name) for name in names[:-1]], Message(names[-1], [("body", b"x" * 3500)])]
    if "c" in names:
        with pytest.raises(PayloadRefused, match="too long"):
            haproxy.notify(*messages)
        assert haproxy.failures == []
        assert logged.take() == []
    else:
        assert haproxy.notify(*messages) == {"sess.a": 1, "sess.b": 2}
        (failure,) = haproxy.failures
        assert failure.name == "a, b"
        assert isinstance(failure.error, PayloadRefused)
        (line,) = logged.take()
        assert "max_payload_size" in line
    # The next failure belongs to the next request.
    with pytest.raises(NoHandler):
        haproxy.notify("other")


def test_it_disconnects_and_connects_again() -> None:
    """disconnect() cancels pending handlers and fails their requests. The next request opens a new connection."""
    cancelled: list[object] = []
    haproxy = FakeHAProxy(Handlers({"wait": lambda: Deferred(cancelled.append), "m": lambda: {"sess.a": 1}}))
    failures: list[Any] = []
    haproxy.send(Message("wait")).addErrback(failures.append)
    haproxy.disconnect()
    haproxy.disconnect()
    assert len(cancelled) == len(failures) == 1
    assert haproxy.notify("m") == {"sess.a": 1}


def test_an_agent_that_refuses_the_hello() -> None:
    """If the agent refuses the HELLO, notify() raises AgentDisconnected with its status code."""
    with pytest.raises(AgentDisconnected, match="status code 8"):
        FakeHAProxy(Handlers(), hello=OLD_HELLO).notify("m")


class TestLifeCycle:
    @pytest.fixture
    def calls(self) -> list[str]:
        return []

    @pytest.fixture
    def handlers(self, calls: list[str]) -> Handlers:
        handlers = Handlers({"m": lambda: {"sess.calls": " ".join(calls)}})
        handlers.startup(handlers.every(30)(lambda: calls.append("read")))
        handlers.shutdown(lambda: calls.append("close"))
        return handlers

    def test_startup_every_and_shutdown(self, handlers: Handlers, calls: list[str]) -> None:
        """Startup runs at once, ``every`` when the test advances the clock, and shutdown at the end of the ``with``."""
        with FakeHAProxy(handlers) as haproxy:
            assert haproxy.notify("m") == {"sess.calls": "read"}
            haproxy.clock.advance(30)
            assert haproxy.notify("m") == {"sess.calls": "read read"}
        assert calls == ["read", "read", "close"]
        haproxy.clock.advance(30)
        assert calls == ["read", "read", "close"]

    def test_stop_disconnects(self, handlers: Handlers, calls: list[str]) -> None:
        """Pending handlers are cancelled before shutdown functions run. ``stop`` returns a Deferred."""
        handlers.message("wait")(lambda: Deferred(lambda _: calls.append("cancelled")))
        waits: Deferred[None] = Deferred()
        handlers.shutdown(lambda: waits)
        haproxy = FakeHAProxy(handlers)
        haproxy.send(Message("wait")).addErrback(lambda failure: None)
        stopped: list[None] = []
        haproxy.stop().addCallback(stopped.append)
        assert (calls, stopped) == (["read", "cancelled"], [])
        waits.callback(None)
        assert (calls, stopped) == (["read", "cancelled", "close"], [None])
        # Handlers without functions have nothing to wait for.
        FakeHAProxy(Handlers()).stop().addCallback(stopped.append)
        assert stopped == [None, None]

    def test_a_startup_that_fails(self, handlers: Handlers, calls: list[str]) -> None:
        """The error is raised. Shutdown functions that were registered before have run."""

        @handlers.startup
        def connect() -> None:
            raise LookupError("boom")

        with pytest.raises(StartupFailed, match="connect failed: LookupError: boom"):
            FakeHAProxy(handlers)
        assert calls == ["read", "close"]

    def test_others_that_fail(self, handlers: Handlers, logged: Logged) -> None:
        """Failures of every and shutdown functions are kept and logged."""
        errors = [LookupError("every"), LookupError("shutdown")]

        def fail() -> None:
            raise errors[len(haproxy.failures)]

        handlers.every(30)(fail)
        handlers.shutdown(fail)
        with FakeHAProxy(handlers) as haproxy:
            haproxy.clock.advance(30)
        assert [failure.error for failure in haproxy.failures] == errors
        assert {failure.name for failure in haproxy.failures} == {name_of(fail)}
        assert len(logged.take()) == 2

    def test_a_startup_that_waits(self, handlers: Handlers) -> None:
        """``send`` sends the messages when startup is done. ``notify`` says that it is not."""
        waits: Deferred[None] = Deferred()
        handlers.startup(lambda: waits)
        haproxy = FakeHAProxy(handlers)
        answers: list[Any] = []
        haproxy.send(Message("m")).addCallback(answers.append)
        with pytest.raises(NotAcknowledged, match=r"startup has not finished; send\(\)"):
            haproxy.notify("m")
        assert answers == []
        waits.callback(None)
        assert answers == [{"sess.calls": "read"}]
        assert haproxy.notify("m") == {"sess.calls": "read"}

    def test_a_startup_that_fails_later(self, handlers: Handlers, calls: list[str]) -> None:
        """The Deferreds of ``send`` fail with its error, those of later calls too."""
        waits: Deferred[None] = Deferred()
        handlers.startup(lambda: waits)
        haproxy = FakeHAProxy(handlers)
        failures: list[Any] = []
        haproxy.send(Message("m")).addErrback(failures.append)
        waits.errback(LookupError("boom"))
        haproxy.send(Message("m")).addErrback(failures.append)
        assert [failure.type for failure in failures] == [StartupFailed] * 2
        assert calls == ["read", "close"]


def test_a_refusal_is_raised_and_not_logged(logged: Logged) -> None:
    """When the error that notify() raised is collected, Twisted does not log it as an unhandled error."""

    def refused() -> bool:
        # pytest.raises() would keep a reference to the error, so that it would not be collected.
        try:
            FakeHAProxy(Handlers(), hello=OLD_HELLO).notify("m")
        except AgentDisconnected:
            return True
        return False

    assert refused()
    gc.collect()
    assert logged.take() == []


def test_arguments_that_spop_cannot_hold() -> None:
    """notify() raises TypeError, because the mistake is in the test that calls it."""
    haproxy = FakeHAProxy(Handlers({"m": lambda: 1 / 0}))  # type: ignore[dict-item, return-value]
    with pytest.raises(TypeError, match="float"):
        haproxy.notify("m", a=0.5)  # type: ignore[call-overload]
    # The next failure belongs to the next request.
    with pytest.raises(ZeroDivisionError):
        haproxy.notify("m")

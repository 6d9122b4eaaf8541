"""Answering: the answers of handlers, right and wrong, become ACKs."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, Message, PendingAnswer, SPOAFactory, answer_of
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.connection import Ack
from spoa_twisted.spop.frames import Disconnect, HAProxyHello
from tests.agent.memory import Answer, OtherHandlers, Session
from tests.conftest import Logged
from tests.handlers.answers import Recorder


@pytest.mark.parametrize("wrap", [lambda answer: answer, succeed], ids=["bytes", "Deferred"])
def test_an_answer_that_is_ready(wrap: Any, clock: Clock) -> None:
    """It leaves in the same write, whether or not it comes in a Deferred."""
    handlers = OtherHandlers(wrap(encode_actions({"sess.a": 1})))
    session = Session(SPOAFactory(handlers, reactor=clock))
    (ids,) = session.notify("m")
    assert session.agent.is_idle()
    assert session.events() == [Ack(ids, {"sess.a": 1}, aborted=False)]


def test_what_respond_is_called_with(clock: Clock) -> None:
    """The arguments are those that IHandlers describes. The ACK has the largest size that respond may use."""
    called: list[Any] = []

    class Recording(OtherHandlers):
        def respond(self, *arguments: Any) -> Any:
            called.append(arguments)
            return encode_actions({"sess.a": b"x" * (arguments[1] - 100)}).ljust(arguments[1], b"\0")

    factory = SPOAFactory(Recording(None), reactor=clock, handler_timeout=7)
    session = Session(factory, HAProxyHello(max_frame_size=1000))
    session.notify("m")
    ((messages, max_size, reactor, timeout, outcomes),) = called
    assert [message.name for message in messages] == ["m"]
    assert reactor is clock
    assert timeout == 7
    assert isinstance(outcomes, Outcomes)
    # The length of a frame has 4 bytes. HAProxy >= 3.1 accepts one byte less than it agreed on.
    assert len(session.wire.value()) == 4 + 1000 - 1
    assert max_size < 1000


class TestRefusing:
    """A NOTIFY that is longer than max_payload_size. Its fragments are those of a HAProxy <= 3.0."""

    HELLO = HAProxyHello(max_frame_size=300, capabilities=frozenset({"pipelining", "async"}))
    LONG = Message("scan", [("body", b"x" * 2000)])

    @pytest.mark.parametrize("capabilities", [{"pipelining", "async"}, {"pipelining"}], ids=["<= 3.0", ">= 3.1"])
    def test_the_ack_has_the_variables_of_on_error(self, clock: Clock, logged: Logged, capabilities: set[str]) -> None:
        """Without an observer and with one, and also for a HAProxy that may leave ACKs unread."""
        handlers = Handlers(on_error={"txn.error": "handler"})
        handlers.message("scan", on_error={"txn.clean": False})(lambda body: {"txn.clean": True})
        for observer in (None, Recorder()):
            factory = SPOAFactory(handlers, reactor=clock, max_payload_size=1000, observer=observer)
            session = Session(factory, HAProxyHello(max_frame_size=300, capabilities=frozenset(capabilities)))
            ids = session.engine.send_notify([self.LONG, Message("other")])
            session.send()
            assert session.events() == [Ack(ids, {"txn.clean": False}, aborted=True)]
            assert session.agent.is_idle()
            assert len(logged.take()) == 1

    def test_what_refuse_is_called_with(self, clock: Clock, logged: Logged) -> None:
        """The names, and the longest answer that the ACK may have."""
        called: list[Any] = []

        class Recording(OtherHandlers):
            def refuse(self, *arguments: Any) -> Any:
                called.append(arguments)
                return b"\0" * arguments[1]

        session = Session(SPOAFactory(Recording(None), reactor=clock, max_payload_size=1000), self.HELLO)
        session.engine.send_notify([Message("first"), self.LONG])
        session.send()
        ((names, _),) = called
        assert names == ("first", "scan")
        assert len(session.wire.value()) == 4 + 300
        logged.take()

    @pytest.mark.parametrize("answer", [LookupError("boom"), b"x" * 20000, None, "text"], ids=repr)
    def test_a_wrong_answer_affects_its_request_only(self, answer: Any, clock: Clock, logged: Logged) -> None:
        """The ACK sets no variables, one more line is logged, and the connection stays open."""
        session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock, max_payload_size=1000), self.HELLO)
        ids = session.engine.send_notify([self.LONG])
        session.send()
        assert session.events() == [Ack(ids, {}, aborted=True)]
        assert len(logged.take()) == 2
        assert not session.wire.disconnecting

    def test_a_drain_waits_for_the_last_fragment(self, clock: Clock, logged: Logged) -> None:
        """The refused NOTIFY gets its ACK before AGENT-DISCONNECT."""
        handlers = Handlers({"scan": lambda body: None}, on_error={"txn.error": True})
        factory = SPOAFactory(handlers, reactor=clock, max_payload_size=1000)
        session = Session(factory, self.HELLO)
        ids = session.engine.send_notify([self.LONG])
        data = session.engine.data_to_send()
        session.agent.dataReceived(data[:-1])
        factory.drain(10)
        clock.pump([0.1] * 20)
        assert session.events() == []
        session.agent.dataReceived(data[-1:])
        clock.pump([0.1] * 20)
        ack, disconnect = session.events()
        assert ack == Ack(ids, {"txn.error": True}, aborted=True)
        assert isinstance(disconnect, Disconnect)
        logged.take()


class Adding(Handlers):  # type: ignore[misc]
    """Adds an action to those of the handlers."""

    def respond(self, *arguments: Any) -> Any:
        answer: Any = super().respond(*arguments)
        return answer + encode_actions({"sess.b": 2})


class TestOtherHandlers:
    @pytest.mark.parametrize("replace", [False, True])
    def test_a_subclass_of_handlers_may_override_respond(self, replace: bool, clock: Clock) -> None:
        """Its method is called, also if the handlers were replaced meanwhile."""
        handlers = Adding({"m": lambda: {"sess.a": 1}})
        factory = SPOAFactory(Handlers() if replace else handlers, reactor=clock)
        session = Session(factory)
        if replace:
            factory.use(handlers)
        (ids,) = session.notify("m")
        assert session.events() == [Ack(ids, {"sess.a": 1, "sess.b": 2}, aborted=False)]

    @pytest.mark.parametrize("answer", [LookupError("boom"), SystemExit(1), b"x" * 20000, None, "text"], ids=repr)
    def test_a_wrong_answer_affects_its_request_only(self, answer: Any, clock: Clock, logged: Logged) -> None:
        """The ACK sets no variables, one line is logged, and the connection stays open."""
        session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock))
        (ids,) = session.notify("m")
        assert session.events() == [Ack(ids, {}, aborted=False)]
        assert len(logged.take()) == 1
        assert not session.wire.disconnecting

    def test_a_deferred_that_fails_affects_its_request_only(self, clock: Clock, logged: Logged) -> None:
        """IHandlers does not allow it, but the agent survives it."""
        deferred: Deferred[bytes] = Deferred()
        session = Session(SPOAFactory(OtherHandlers(deferred), reactor=clock))
        (ids,) = session.notify("m")
        deferred.errback(LookupError("boom"))
        assert session.events() == [Ack(ids, {}, aborted=False)]
        assert len(logged.take()) == 1

    def test_the_clock_is_set_back_before_the_next_turn(self, clock: Clock) -> None:
        """An ACK that waits for that turn leaves with the next read, and later ACKs wait for their own next turn."""
        answers = [Answer() for _ in range(4)]
        waiting = iter(answers)
        handlers = OtherHandlers(None)
        handlers.respond = lambda *arguments: next(waiting)  # type: ignore[method-assign]
        clock.rightNow = 1000.0
        session = Session(SPOAFactory(handlers, reactor=clock))
        ids = session.notify("m", "m")
        answers[0].finish(b"")
        clock.rightNow -= 60
        clock.advance(1)
        assert session.events() == []
        ids += session.notify("m", "m")
        assert [ack.ids for ack in session.acks()] == ids[:1]
        answers[1].finish(b"")
        clock.advance(0)
        assert [ack.ids for ack in session.acks()] == ids[1:2]
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_an_answer_that_comes_after_it_was_cancelled(self, clock: Clock) -> None:
        """IHandlers does not allow it. It is dropped."""
        answer = Answer()
        session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock))
        session.notify("m")
        session.lose()
        assert answer.cancelled
        answer.finish(b"")
        assert session.events() == []

    def test_a_canceller_that_raises_is_logged(self, clock: Clock, logged: Logged) -> None:
        """The connection is closed all the same."""

        def canceller(deferred: object) -> None:
            raise LookupError("cannot")

        session = Session(SPOAFactory(OtherHandlers(Deferred(canceller)), reactor=clock))
        session.notify("m")
        session.engine.disconnect()
        session.send()
        assert session.wire.disconnecting
        assert logged.take() == ["critical: a handler's Deferred failed to be cancelled: LookupError: cannot"]


@implementer(IHandlers)
class EarlyHandlers:
    """Handlers whose answer comes after it was made, and before ``respond`` has returned it."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def respond(
        self, messages: Any, max_size: int, reactor: Any, timeout: float, outcomes: Any
    ) -> bytes | PendingAnswer:
        deferred: Deferred[bytes] = Deferred()
        answer = answer_of(deferred)
        deferred.callback(self.result)
        return answer

    def refuse(self, names: Any, max_size: int) -> bytes:
        return b""


@pytest.mark.parametrize("observer", [None, Recorder()], ids=["plain", "observed"])
def test_an_answer_that_comes_before_the_agent_has_it(observer: Recorder | None, clock: Clock, logged: Logged) -> None:
    """As when handlers that wrap others call code that fires the Deferred."""
    actions = encode_actions({"sess.a": 1})
    for result, expected in ((actions, {"sess.a": 1}), (Failure(LookupError()), {})):
        session = Session(SPOAFactory(EarlyHandlers(result), reactor=clock, observer=observer))
        session.notify("m")
        assert [event.variables for event in session.events()] == [expected]
    assert len(logged.take()) == 1

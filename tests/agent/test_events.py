"""The events that an observer hears from a factory and its connections."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.agent.outbox import UNSENT_TIMEOUT
from spoa_twisted.observer import (
    AcksHeldBack,
    CancelFailed,
    ConnectionEnded,
    ConnectionMade,
    ConnectionRefused,
    DisconnectReceived,
    DrainTimedOut,
    HandlerFailed,
    HandlersReplaced,
    HelloReceived,
    HelloTimedOut,
    PayloadRefused,
    PeerDropped,
    ProtocolError,
    RespondFailed,
    ResponseUnsendable,
)
from spoa_twisted.spop.connection import Ack
from spoa_twisted.spop.frames import Disconnect, HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.unread import READ_INTERVAL
from tests.agent.memory import OLD, OtherHandlers, Session, Waiting, long_answers
from tests.agent.recording import RaisingObserver, Recorder
from tests.conftest import Logged

#: The address of the peer of a StringTransport.
PEER = "192.168.1.1:54321"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def factory(clock: Clock, waiting: Waiting, recorder: Recorder) -> SPOAFactory:
    return SPOAFactory(
        waiting.handlers,
        reactor=clock,
        observer=recorder,
        max_connections=3,
        max_payload_size=1000,
        max_unsent=100,
        hello_timeout=3,
        handler_timeout=0,
    )


def test_an_ordinary_connection(factory: SPOAFactory, recorder: Recorder) -> None:
    """It is made, says HELLO, says DISCONNECT, and ends. NOTIFYs are no events."""
    session = Session(factory, OLD)
    session.notify("now")
    session.engine.disconnect(0, "bye")
    session.send()
    session.lose(ConnectionDone)
    *events, ended = recorder.take()
    assert events == [ConnectionMade(PEER), HelloReceived(PEER, OLD), DisconnectReceived(PEER, Disconnect(0, "bye"))]
    assert isinstance(ended, ConnectionEnded)
    assert ended.peer == PEER
    assert ended.reason.check(ConnectionDone)
    assert len(recorder.notifys) == 1


def test_a_connection_without_a_hello(factory: SPOAFactory, recorder: Recorder, clock: Clock) -> None:
    """The event comes when the time is over."""
    Session(factory, greet=False)
    clock.advance(2.9)
    assert recorder.take() == [ConnectionMade(PEER)]
    clock.advance(0.1)
    assert recorder.take() == [HelloTimedOut(PEER)]


def test_a_health_check(factory: SPOAFactory, recorder: Recorder) -> None:
    """Its HELLO says that it is one."""
    Session(factory, HAProxyHello(healthcheck=True))
    _, event = recorder.take()
    assert event.hello.healthcheck


def test_one_connection_too_many(factory: SPOAFactory, recorder: Recorder, logged: Logged) -> None:
    """Each refused connection is an event, though only the first is logged."""
    for _ in range(3):
        Session(factory)
    recorder.take()
    factory.buildProtocol(None)
    factory.buildProtocol(None)
    assert recorder.take() == [ConnectionRefused(3)] * 2
    assert len(logged.take()) == 1


def test_a_broken_protocol(factory: SPOAFactory, recorder: Recorder, logged: Logged) -> None:
    """The event has the error with its status code."""
    session = Session(factory)
    recorder.take()
    session.break_protocol()
    (event,) = recorder.take()
    assert isinstance(event, ProtocolError)
    assert event.peer == PEER
    assert event.error.status_code == 3
    assert len(logged.take()) == 1


def test_a_payload_that_is_too_long(factory: SPOAFactory, recorder: Recorder, logged: Logged) -> None:
    """The event has the names of the messages, and the limit."""
    session = Session(factory, HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities))
    recorder.take()
    session.engine.send_notify([Message("now", [("body", b"x" * 2000)])])
    session.send()
    assert recorder.take() == [PayloadRefused(PEER, ("now",), "max_payload_size", 1000)]
    assert recorder.notifys == []
    assert len(logged.take()) == 1


def test_a_peer_that_is_dropped(
    factory: SPOAFactory, recorder: Recorder, waiting: Waiting, clock: Clock, logged: Logged
) -> None:
    """The event comes once, before the end of the connection."""
    session = Session(factory)
    session.wire.capacity = 1
    session.notify(*["wait"] * 5)
    recorder.take()
    for deferred in waiting.deferreds[:3]:
        deferred.callback({"sess.a": "x" * 80})
        clock.advance(0)
    clock.advance(UNSENT_TIMEOUT)
    assert recorder.take() == [PeerDropped(PEER, 100)]
    session.lose()
    assert [type(event) for event in recorder.take()] == [ConnectionEnded]
    assert len(logged.take()) == 1


def test_the_limit_of_a_connection_is_reported(
    clock: Clock, waiting: Waiting, recorder: Recorder, logged: Logged
) -> None:
    """Other limits that the factory got later do not count for it."""
    factory = SPOAFactory(waiting.handlers, reactor=clock, observer=recorder, max_payload_size=1000)
    session = Session(factory, HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities))
    factory.limits = type(factory.limits)()
    recorder.take()
    session.engine.send_notify([Message("now", [("body", b"x" * 2000)])])
    session.send()
    assert recorder.take() == [PayloadRefused(PEER, ("now",), "max_payload_size", 1000)]
    logged.take()


def test_acks_that_are_held_back(clock: Clock, recorder: Recorder) -> None:
    """The event comes when it begins, once, with the number of bytes."""
    session = Session(SPOAFactory(long_answers(9000), reactor=clock, observer=recorder))
    recorder.take()
    session.notify("long", "long", "long")
    (event,) = recorder.take()
    assert isinstance(event, AcksHeldBack)
    assert event.peer == PEER
    assert 18_000 < event.size < 18_200
    received: list[Any] = session.events()
    while len(received) < 3:
        clock.advance(READ_INTERVAL)
        received += session.events()
    assert recorder.take() == []


@pytest.mark.parametrize("answer", [LookupError("boom"), SystemExit(1)], ids=repr)
def test_respond_that_raises(answer: Any, clock: Clock, recorder: Recorder, logged: Logged) -> None:
    """The event has the failure."""
    session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock, observer=recorder))
    recorder.take()
    session.notify("m")
    (event,) = recorder.take()
    assert isinstance(event, RespondFailed)
    assert event.peer == PEER
    assert event.failure.value is answer
    assert len(logged.take()) == 1


@pytest.mark.parametrize("answer", [b"x" * 20_000, None, "text"], ids=["long", "None", "str"])
def test_an_answer_that_cannot_be_sent(answer: Any, clock: Clock, recorder: Recorder, logged: Logged) -> None:
    """The event has the error."""
    session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock, observer=recorder))
    recorder.take()
    session.notify("m")
    (event,) = recorder.take()
    assert isinstance(event, ResponseUnsendable)
    assert event.peer == PEER
    assert isinstance(event.error, (TypeError, ValueError))
    assert len(logged.take()) == 1


def test_a_canceller_that_raises(clock: Clock, recorder: Recorder, logged: Logged) -> None:
    """The event comes after the end of the connection."""

    def canceller(deferred: object) -> None:
        raise LookupError("cannot")

    session = Session(SPOAFactory(OtherHandlers(Deferred(canceller)), reactor=clock, observer=recorder))
    session.notify("m")
    recorder.take()
    session.lose()
    ended, failed = recorder.take()
    assert isinstance(ended, ConnectionEnded)
    assert isinstance(failed, CancelFailed)
    assert failed.failure.check(LookupError)
    assert len(logged.take()) == 1


def test_handlers_report_events_too(clock: Clock, recorder: Recorder, logged: Logged) -> None:
    """The factory passes its observer on to the handlers."""

    def fail() -> None:
        raise LookupError("boom")

    session = Session(SPOAFactory(Handlers({"m": fail}), reactor=clock, observer=recorder))
    recorder.take()
    session.notify("m")
    (event,) = recorder.take()
    assert isinstance(event, HandlerFailed)
    assert len(logged.take()) == 1


def test_replaced_handlers(factory: SPOAFactory, recorder: Recorder) -> None:
    """The first handlers of a factory replace none."""
    assert recorder.take() == []
    factory.use(Handlers())
    assert recorder.take() == [HandlersReplaced()]


def test_a_drain_that_takes_too_long(factory: SPOAFactory, recorder: Recorder, clock: Clock, logged: Logged) -> None:
    """The event has the number of connections that are still open."""
    for _ in range(2):
        Session(factory).notify("wait")
    recorder.take()
    factory.drain(1)
    clock.pump([0.5, 0.5])
    assert recorder.take() == [DrainTimedOut(2)]
    assert len(logged.take()) == 1


def test_an_object_of_another_type_is_no_observer(clock: Clock) -> None:
    """The factory raises TypeError at once, not with the first event."""
    with pytest.raises(TypeError, match="a dict does not provide IObserver"):
        SPOAFactory(Handlers(), reactor=clock, observer=cast("Any", {}))


@pytest.mark.parametrize("error", [LookupError("boom"), SystemExit(1)], ids=repr)
def test_an_observer_that_raises(clock: Clock, waiting: Waiting, error: BaseException, logged: Logged) -> None:
    """A connection does not notice it, from its beginning to its end. The first exception of each kind of event is
    logged."""
    factory = SPOAFactory(waiting.handlers, reactor=clock, observer=RaisingObserver(error))
    session = Session(factory)
    (ids,) = session.notify("now")
    assert session.events() == [Ack(ids, {"sess.now": 1}, aborted=False)]
    session.notify("wait")
    session.lose()
    assert waiting.cancelled == waiting.deferreds
    assert factory.connections == set()
    assert clock.getDelayedCalls() == []
    lines = logged.take()
    # The second NOTIFY, which was cancelled, has no line: the observer failed with a NOTIFY before.
    for line, text in zip(lines, ("ConnectionMade", "HelloReceived", "a NOTIFY", "ConnectionEnded"), strict=True):
        assert f"failed with {text}; " in line
        assert f": {type(error).__name__}" in line


def test_the_log_is_written_though_an_observer_raises(clock: Clock, waiting: Waiting, logged: Logged) -> None:
    """The log is an observer too."""
    factory = SPOAFactory(waiting.handlers, reactor=clock, observer=RaisingObserver(LookupError("boom")))
    session = Session(factory)
    logged.take()
    session.break_protocol()
    line, _ = logged.take()
    assert "broke the protocol" in line

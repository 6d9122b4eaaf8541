"""Observation: on_notify of an observer hears what became of each message of a NOTIFY, and how long that took."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.agent.engines import ENGINE_TIMEOUT
from spoa_twisted.observer import Outcome
from spoa_twisted.spop.connection import Ack
from spoa_twisted.spop.messages import Message
from tests.agent.memory import OLD, OtherHandlers, Session
from tests.agent.recording import RaisingObserver, Recorder
from tests.conftest import Logged

#: The address of the peer of a StringTransport.
PEER = "192.168.1.1:54321"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def deferreds() -> list[Deferred[Any]]:
    """What the handler ``wait`` has returned."""
    return []


@pytest.fixture
def handlers(deferreds: list[Deferred[Any]]) -> Handlers:
    handlers = Handlers({"now": lambda: {"sess.now": 1}, "unsendable": lambda: {"sess.a": cast("Any", 1.5)}})

    @handlers.message("raise")
    def fail() -> None:
        raise LookupError("boom")

    @handlers.message("big")
    def big() -> dict[str, Any]:
        return {"sess.big": "x" * 20_000}

    @handlers.message("wait", timeout=5)
    def wait() -> Deferred[Any]:
        deferreds.append(Deferred())
        return deferreds[-1]

    return handlers


@pytest.fixture
def session(clock: Clock, handlers: Handlers, recorder: Recorder) -> Session:
    return Session(SPOAFactory(handlers, reactor=clock, observer=recorder))


def notify(session: Session, *names: str) -> bytes:
    """Send one NOTIFY with a message of each name."""
    ids = session.engine.send_notify([Message(name) for name in names])
    session.send()
    return ids


def test_a_notify_that_is_answered_at_once(session: Session, recorder: Recorder) -> None:
    """The observer hears the peer's address, the NOTIFY, an outcome for each message, and the time."""
    notify(session, "now", "now")
    assert recorder.notifys == [(PEER, ["now", "now"], [Outcome.OK, Outcome.OK], 0.0)]
    assert len(session.events()) == 1


def test_a_notify_without_messages(session: Session, recorder: Recorder) -> None:
    """There are no outcomes, but the observer hears of it."""
    notify(session)
    assert recorder.notifys == [(PEER, [], [], 0.0)]


def test_the_outcomes_are_in_the_order_of_the_messages(
    session: Session, recorder: Recorder, deferreds: list[Deferred[Any]], clock: Clock, logged: Logged
) -> None:
    """Each message has its own."""
    notify(session, "wait", "raise", "now", "unsendable", "unknown", "big", "wait")
    deferreds[1].callback(None)
    clock.advance(5)
    assert recorder.outcomes() == [
        Outcome.TIMEOUT,
        Outcome.ERROR,
        Outcome.OK,
        Outcome.UNSENDABLE,
        Outcome.UNHANDLED,
        Outcome.TOO_BIG,
        Outcome.OK,
    ]
    assert len(logged.take()) == 5


def test_a_deferred_answer(session: Session, recorder: Recorder, deferreds: list[Deferred[Any]], clock: Clock) -> None:
    """The observer hears of it when the ACK is ready, with the time since the NOTIFY was decoded."""
    notify(session, "wait", "now")
    clock.advance(3)
    assert recorder.notifys == []
    deferreds[0].callback(None)
    assert recorder.notifys == [(PEER, ["wait", "now"], [Outcome.OK, Outcome.OK], 3.0)]


def test_a_deferred_that_fails(
    session: Session, recorder: Recorder, deferreds: list[Deferred[Any]], logged: Logged
) -> None:
    """The handler failed, not the NOTIFY."""
    notify(session, "now", "wait")
    deferreds[0].errback(LookupError("boom"))
    assert recorder.outcomes() == [Outcome.OK, Outcome.ERROR]
    assert len(logged.take()) == 1


def test_a_connection_that_ends(session: Session, recorder: Recorder, clock: Clock, logged: Logged) -> None:
    """Messages that were not finished, or whose result was not sent, are cancelled. Others keep their outcome."""
    notify(session, "wait", "raise", "now")
    clock.advance(2)
    session.lose()
    ((_, _, outcomes, seconds),) = recorder.notifys
    assert outcomes == [Outcome.CANCELLED, Outcome.ERROR, Outcome.CANCELLED]
    assert seconds == 2.0
    assert len(logged.take()) == 1


def test_a_connection_that_ends_with_async(
    clock: Clock, handlers: Handlers, recorder: Recorder, deferreds: list[Deferred[Any]]
) -> None:
    """Its engine takes over the NOTIFYs. One is answered, the other is cancelled with the engine."""
    handlers.message("long", timeout=0)(lambda: Deferred())
    session = Session(SPOAFactory(handlers, reactor=clock, observer=recorder, async_=True), OLD)
    notify(session, "wait")
    notify(session, "long")
    session.lose()
    assert recorder.notifys == []
    deferreds[0].callback(None)
    assert recorder.outcomes() == [Outcome.OK]
    clock.advance(ENGINE_TIMEOUT)
    assert [outcomes for _, _, outcomes, _ in recorder.notifys] == [[Outcome.OK], [Outcome.CANCELLED]]


@pytest.mark.parametrize("error", [LookupError("boom"), SystemExit(1)], ids=repr)
def test_respond_that_raises(clock: Clock, recorder: Recorder, error: BaseException, logged: Logged) -> None:
    """All messages of the NOTIFY failed. The ACK goes, without variables."""
    session = Session(SPOAFactory(OtherHandlers(error), reactor=clock, observer=recorder))
    ids = notify(session, "a", "b")
    assert recorder.outcomes() == [Outcome.ERROR, Outcome.ERROR]
    assert session.events() == [Ack(ids, {}, aborted=False)]
    assert len(logged.take()) == 1


def test_a_deferred_of_respond_that_fails(clock: Clock, recorder: Recorder, logged: Logged) -> None:
    """All messages of the NOTIFY failed."""
    answer: Deferred[bytes] = Deferred()
    session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock, observer=recorder))
    ids = notify(session, "a", "b")
    clock.advance(1)
    answer.errback(LookupError("boom"))
    assert recorder.notifys == [(PEER, ["a", "b"], [Outcome.ERROR, Outcome.ERROR], 1.0)]
    assert session.events() == [Ack(ids, {}, aborted=False)]
    assert len(logged.take()) == 1


def test_replaced_handlers_are_observed(session: Session, recorder: Recorder, logged: Logged) -> None:
    """Each NOTIFY is observed with the handlers that answer it."""
    session.agent.factory.use(Handlers())
    notify(session, "now")
    assert recorder.outcomes() == [Outcome.UNHANDLED]
    assert len(logged.take()) == 1


@pytest.mark.parametrize("error", [LookupError("boom"), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("name", ["now", "wait"])
def test_an_observer_that_raises(
    clock: Clock,
    handlers: Handlers,
    deferreds: list[Deferred[Any]],
    error: BaseException,
    name: str,
    logged: Logged,
) -> None:
    """The request does not notice it: the ACK has its variables. The exception is logged."""
    session = Session(SPOAFactory(handlers, reactor=clock, observer=RaisingObserver(error)))
    logged.take()
    ids = notify(session, "now", name)
    for deferred in deferreds:
        deferred.callback(None)
    assert session.events() == [Ack(ids, {"sess.now": 1}, aborted=False)]
    (line,) = logged.take()
    assert "failed with a NOTIFY" in line
    assert type(error).__name__ in line


def test_a_clock_that_is_set_back(
    session: Session, recorder: Recorder, deferreds: list[Deferred[Any]], clock: Clock
) -> None:
    """The time that a NOTIFY took is then unknown. It is 0, not negative: observers may add it to a total."""
    notify(session, "wait")
    clock.rightNow -= 3600
    deferreds[0].callback(None)
    ((_, _, _, seconds),) = recorder.notifys
    assert seconds == 0

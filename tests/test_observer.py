"""What observers hear."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from spoa_twisted import Handlers, IHandlers, Message, SPOAFactory
from spoa_twisted.observer import (
    ConnectionMade,
    DrainTimedOut,
    Event,
    HandlerFailed,
    HandlerTimedOut,
    IObserver,
    MessageUnhandled,
    Observers,
    Outcome,
    RespondFailed,
    ResultTooBig,
    ResultUnsendable,
)
from spoa_twisted.spop.connection import Notify
from spoa_twisted.testing import FakeHAProxy
from tests.agent.memory import OLD, OtherHandlers, Session
from tests.conftest import Logged
from tests.handlers.answers import Recorder, late_line

EVENT = DrainTimedOut(1)
NOTIFY = Notify(b"", [Message("a"), Message("b")])


@implementer(IObserver)
class Raising:
    """An observer whose methods raise ``error``."""

    def __init__(self, error: type[BaseException] = LookupError) -> None:
        self.error = error

    def __repr__(self) -> str:
        return "<Raising>"

    def on_event(self, event: Event) -> None:
        raise self.error("why")

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        raise self.error("why")


class TestEvents:
    def test_an_event_cannot_be_changed(self) -> None:
        """Several observers share it. Events with the same values are equal."""
        event = ConnectionMade("192.0.2.1:1")
        with pytest.raises(FrozenInstanceError):
            event.peer = ""  # type: ignore[misc]
        with pytest.raises((AttributeError, TypeError)):
            event.other = 1  # type: ignore[attr-defined]
        assert event == ConnectionMade("192.0.2.1:1")
        assert event != ConnectionMade("192.0.2.1:2")

    def test_events_of_two_kinds_are_not_equal(self) -> None:
        """Even when they have the same values."""
        assert MessageUnhandled("m") not in [HandlerTimedOut("m", 1), ConnectionMade("m")]

    def test_an_event_can_be_pickled(self) -> None:
        """For example to send it to another process."""
        assert pickle.loads(pickle.dumps(HandlerTimedOut("m", 0.5))) == HandlerTimedOut("m", 0.5)

    def test_the_values_of_outcomes_are_names_for_metrics(self) -> None:
        """A change would break the dashboards of applications that count them."""
        assert [outcome.value for outcome in Outcome] == [
            "ok",
            "error",
            "timeout",
            "unsendable",
            "too_big",
            "unhandled",
            "cancelled",
        ]


class TestObservers:
    def test_all_hear_everything(self) -> None:
        """In the order in which they were given."""
        recorders = [Recorder(), Recorder()]
        observers = Observers(*recorders)
        assert verifyObject(IObserver, observers)
        observers.on_event(EVENT)
        observers.on_notify("192.0.2.1:1", NOTIFY, [Outcome.OK, Outcome.ERROR], 0.5)
        for recorder in recorders:
            assert recorder.events == [EVENT]
            assert recorder.notifies == [(["a", "b"], [Outcome.OK, Outcome.ERROR], 0.5)]

    def test_an_observer_provides_iobserver(self) -> None:
        """The error names the class of the object that does not."""
        with pytest.raises(TypeError, match="a dict does not provide IObserver"):
            Observers(Recorder(), {})  # type: ignore[arg-type]

    def test_none_hears_nothing(self) -> None:
        """There may be no observer."""
        observers = Observers()
        observers.on_event(EVENT)
        observers.on_notify("192.0.2.1:1", NOTIFY, [Outcome.OK, Outcome.OK], 0.5)

    @pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
    def test_an_observer_that_raises_does_not_keep_others_from_hearing(
        self, error: type[BaseException], logged: Logged
    ) -> None:
        """Neither those before it nor those behind it. The log names the observer, the event and the exception."""
        recorders = [Recorder(), Recorder()]
        observers = Observers(recorders[0], Raising(error), recorders[1])
        observers.on_event(EVENT)
        observers.on_notify("192.0.2.1:1", NOTIFY, [Outcome.OK, Outcome.OK], 0.5)
        assert [len(recorder.events) for recorder in recorders] == [1, 1]
        assert [len(recorder.notifies) for recorder in recorders] == [1, 1]
        event, notify = logged.take()
        assert event.startswith("critical: the observer <Raising> failed with DrainTimedOut; ")
        assert notify.startswith("critical: the observer <Raising> failed with a NOTIFY; ")
        assert f": {error.__name__}: " in event
        assert f": {error.__name__}: " in notify

    def test_each_kind_of_failure_is_logged_once(self, logged: Logged) -> None:
        """An observer that fails with every NOTIFY does not fill the log. Another observer has a line of its own."""
        observers = Observers(Raising(), Raising())
        for _ in range(100):
            observers.on_event(EVENT)
            observers.on_notify("192.0.2.1:1", NOTIFY, [Outcome.OK, Outcome.OK], 0.5)
        assert len(logged.take()) == 4


class Observed:
    """An agent with an observer, and the handlers that a test asks for by name."""

    def __init__(self, handlers: IHandlers | None = None) -> None:
        self.pending: list[Deferred[Any]] = []
        self.observer = Recorder()
        if handlers is None:
            handlers = Handlers(
                {
                    "ok": lambda: {"sess.ok": 1},
                    "none": lambda: None,
                    "error": lambda: fail(LookupError("no such row")),
                    "unsendable": lambda: {"sess.a": 1.5},  # type: ignore[dict-item]
                    "too_big": lambda: {"sess.a": "x" * 20_000},
                    "wait": self.wait,
                },
                timeout=2,
            )
        self.clock = Clock()
        self.session = Session(SPOAFactory(handlers, observer=self.observer, reactor=self.clock), OLD)
        self.send = self.session.notify_together

    def wait(self) -> Deferred[Any]:
        self.pending.append(Deferred())
        return self.pending[-1]

    def outcomes(self) -> list[str]:
        """Return the outcomes of the only NOTIFY so far."""
        ((_, outcomes, _),) = self.observer.notifies
        self.observer.notifies.clear()
        return [outcome.value for outcome in outcomes]


class TestOutcomes:
    """``on_notify`` of an agent's observer."""

    @pytest.mark.parametrize(
        ("name", "outcome", "event"),
        [
            ("ok", "ok", None),
            ("none", "ok", None),
            ("error", "error", HandlerFailed),
            ("unsendable", "unsendable", ResultUnsendable),
            ("too_big", "too_big", ResultTooBig),
            ("unknown", "unhandled", MessageUnhandled),
        ],
    )
    def test_each_outcome(self, name: str, outcome: str, event: type[Event] | None, logged: Logged) -> None:
        """It has the position of its message. Every fault is an event too, and a line of the log."""
        observed = Observed()
        observed.send("ok", name, "ok")
        assert observed.observer.notifies[0][0] == ["ok", name, "ok"]
        assert observed.outcomes() == ["ok", outcome, "ok"]
        faults = [known for known in observed.observer.take() if type(known) is event]
        assert len(faults) == len(logged.take()) == (0 if event is None else 1)

    def test_handlers_that_wait(self, logged: Logged) -> None:
        """``on_notify`` is called when the ACK is ready, with the seconds since the NOTIFY was decoded."""
        observed = Observed()
        observed.send("wait", "wait", "wait")
        observed.clock.advance(0.5)
        observed.pending[0].callback({"sess.a": 1})
        observed.pending[1].errback(LookupError("no such row"))
        assert observed.observer.notifies == []
        observed.clock.advance(1.5)
        assert observed.observer.notifies == [(["wait"] * 3, [Outcome.OK, Outcome.ERROR, Outcome.TIMEOUT], 2.0)]
        kinds = [type(event) for event in observed.observer.take()]
        assert kinds[-2:] == [HandlerFailed, HandlerTimedOut]
        assert len(logged.take()) == 2

    def test_a_connection_that_ends(self, logged: Logged) -> None:
        """The pending NOTIFY is cancelled. A message that has failed before keeps its outcome."""
        observed = Observed()
        observed.send("wait", "error", "wait")
        observed.clock.advance(0.5)
        observed.session.lose()
        assert observed.observer.notifies == [
            (["wait", "error", "wait"], [Outcome.CANCELLED, Outcome.ERROR, Outcome.CANCELLED], 0.5)
        ]
        assert len(logged.take()) == 1
        # A result that arrives later changes nothing.
        for pending in observed.pending:
            pending.callback({"sess.late": 1})
        assert observed.outcomes() == ["cancelled", "error", "cancelled"]

    def test_a_notify_without_messages(self) -> None:
        """HAProxy 3.1 and 3.2 send them. It has no outcomes."""
        observed = Observed()
        observed.send()
        assert observed.outcomes() == []

    @pytest.mark.parametrize("answer", [LookupError("why"), SystemExit("why")])
    def test_handlers_that_raise(self, answer: BaseException, logged: Logged) -> None:
        """An ``IHandlers`` of the application may raise. Then all messages of the NOTIFY have failed."""
        observed = Observed(OtherHandlers(answer))
        observed.send("a", "b")
        assert observed.outcomes() == ["error", "error"]
        assert RespondFailed in map(type, observed.observer.take())
        assert len(logged.take()) == 1

    def test_handlers_whose_deferred_fails(self, logged: Logged) -> None:
        """It should never fail. All messages of the NOTIFY have failed then."""
        observed = Observed(OtherHandlers(fail(LookupError("why"))))
        observed.send("a", "b")
        assert observed.outcomes() == ["error", "error"]
        assert len(logged.take()) == 1

    def test_handlers_that_report_nothing(self) -> None:
        """Their messages count as answered."""
        observed = Observed(OtherHandlers(succeed(b"")))
        observed.send("a", "b")
        assert observed.outcomes() == ["ok", "ok"]


class TestObserversThatRaise:
    """An observer that raises in an agent has no effect but the lines in the log."""

    @pytest.mark.parametrize("error", [LookupError, SystemExit])
    def test_every_notify_is_answered(self, error: type[BaseException], logged: Logged) -> None:
        """Also when it raises while a failure of a handler is reported, at once and later."""
        pending: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            pending.append(Deferred())
            return pending[-1]

        handlers = Handlers({"raises": lambda: 1 / 0, "wait": wait}, timeout=2, on_error={"sess.e": 1})  # type: ignore[dict-item, return-value]
        clock = Clock()
        session = Session(SPOAFactory(handlers, observer=Raising(error), reactor=clock), OLD)
        session.notify("raises", "unknown")
        assert [ack.variables for ack in session.events()] == [{"sess.e": 1}, {}]
        session.notify_together("wait", "wait")
        pending[0].errback(LookupError("no such row"))
        clock.advance(2)
        assert [ack.variables for ack in session.events()] == [{"sess.e": 1}]
        lines = logged.take()
        assert [line for line in lines if "the observer" not in line] == [
            "critical: the handler of the message 'raises' failed: ZeroDivisionError: division by zero",
            "warn: no handler for the message 'unknown': it sets no variables",
            "critical: the handler of the message 'wait' failed: LookupError: no such row",
            late_line("wait", 2),
        ]

    def test_cancelling_and_timers_are_not_kept(self, logged: Logged) -> None:
        """When a connection ends, all pending handlers are cancelled, and no timer is left."""
        cancelled: list[object] = []

        def canceller(deferred: object) -> None:
            cancelled.append(deferred)
            raise LookupError("cannot")

        haproxy = FakeHAProxy(Handlers({"m": lambda: Deferred(canceller)}), observer=Raising())
        haproxy.send(Message("m"), Message("m")).addErrback(lambda failure: None)
        haproxy.disconnect()
        assert len(cancelled) == 2
        assert [call for call in haproxy.clock.getDelayedCalls() if call.active()] == []
        assert sum("failed to be cancelled" in line for line in logged.take()) == 2

"""Transport <-> AgentConnection, on a transport and a clock in memory."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, SPOAFactory
from spoa_twisted.agent.drain import CLOSE_INTERVAL, FIRST_PATIENCE, QUIET_INTERVAL, REST
from spoa_twisted.agent.protocol import (
    ABORT_TIMEOUT,
    CLOSE_TIMEOUT,
    ENGINE_TIMEOUT,
    LEAVE_TIMEOUT,
    UNSENT_TIMEOUT,
    SPOAProtocol,
    describe,
)
from spoa_twisted.spop.connection import Ack, EngineConnection
from spoa_twisted.spop.frames import AgentHello, Disconnect, HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.unread import READ_INTERVAL, Receipt
from tests.conftest import Logged


class Wire(StringTransport):
    """A transport that remembers each write, and fills up when it is told to."""

    # Not bool: after "assert not wire.aborted", mypy would not know that a call can change it.
    disconnecting: Any
    aborted: Any

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False
        self.capacity = 2**30
        self.held = 0
        self.noticed_when_writing: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        super().write(data)
        self.writes.append(data)
        self.noticed_when_writing()
        self.held += len(data)
        if self.held > self.capacity and self.producer is not None:
            self.producer.pauseProducing()

    def take(self) -> None:
        """The peer has read what was written."""
        self.held = 0
        if self.producer is not None:
            self.producer.resumeProducing()

    def abortConnection(self) -> None:
        super().abortConnection()
        self.aborted = True


class Session:
    """An engine's connection to a protocol of ``factory``."""

    def __init__(self, factory: SPOAFactory, hello: HAProxyHello | None = None, greet: bool = True) -> None:
        self.engine = EngineConnection(hello)
        self.wire = Wire()
        protocol = factory.buildProtocol(None)
        assert isinstance(protocol, SPOAProtocol)
        self.agent = protocol
        self.agent.makeConnection(self.wire)
        if greet:
            self.send()
            (answer,) = self.events()
            assert isinstance(answer, AgentHello)

    def send(self) -> None:
        """Hand over what the engine has to send."""
        self.agent.dataReceived(self.engine.data_to_send())

    def events(self) -> list[Any]:
        """Return what the agent wrote since the last time."""
        self.engine.receive_data(self.wire.value())
        self.wire.clear()
        return list(iter(self.engine.next_event, None))

    def notify(self, *names: str) -> list[bytes]:
        """Send a NOTIFY for each name, all in one read; return their ids."""
        ids = [self.engine.send_notify([Message(name)]) for name in names]
        self.send()
        return ids

    def lose(self, reason: type[Exception] = ConnectionLost) -> None:
        """End the connection as the reactor does."""
        self.agent.connectionLost(Failure(reason()))


class Waiting:
    """Handlers whose results come when the test says so."""

    def __init__(self) -> None:
        self.deferreds: list[Deferred[Any]] = []
        self.cancelled: list[Deferred[Any]] = []
        self.handlers = Handlers({"wait": self.wait, "now": lambda: {"sess.now": 1}})

    def wait(self) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred(self.cancelled.append)
        self.deferreds.append(deferred)
        return deferred


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
def factory(clock: Clock, waiting: Waiting) -> SPOAFactory:
    return SPOAFactory(waiting.handlers, reactor=clock)


OLD = HAProxyHello(capabilities=frozenset({"pipelining", "async"}), engine_id="engine")


class TestWrites:
    def test_a_hello_is_answered_in_one_write(self, factory: SPOAFactory) -> None:
        """HAProxy 3.2 to 3.4 close when the AGENT-HELLO comes in two."""
        session = Session(factory, greet=False)
        session.send()
        assert len(session.wire.writes) == 1

    def test_all_acks_of_one_read_leave_in_one_write(self, factory: SPOAFactory) -> None:
        """And within the read."""
        session = Session(factory)
        ids = session.notify(*["now"] * 20)
        assert len(session.wire.writes) == 2
        assert [(event.ids, event.variables) for event in session.events()] == [(i, {"sess.now": 1}) for i in ids]

    def test_large_answers_are_written_as_they_come(self, clock: Clock) -> None:
        """So that the transport can say that it is full: small NOTIFYs may have answers larger than memory."""
        factory = SPOAFactory(Handlers({"big": lambda: {"sess.big": b"x" * 16000}}), reactor=clock)
        session = Session(factory)
        session.wire.capacity = 2**17
        session.notify(*["big"] * 1000)
        assert sum(map(len, session.wire.writes)) < 2**18

    def test_a_deferred_answer_leaves_when_it_comes(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """Out of order, the later first."""
        session = Session(factory)
        first, second = session.notify("wait", "wait")
        assert session.events() == []
        waiting.deferreds[1].callback({"sess.b": 2})
        assert session.events() == [Ack(second, {"sess.b": 2}, aborted=False)]
        waiting.deferreds[0].callback(None)
        assert session.events() == [Ack(first, {}, aborted=False)]

    def test_a_handler_may_finish_another(self, clock: Clock) -> None:
        """What fires while a NOTIFY is served is sent with it."""
        held: list[Deferred[Any]] = []

        def release() -> dict[str, Any]:
            held.pop().callback({"sess.held": 1})
            return {"sess.release": 1}

        def hold() -> Deferred[Any]:
            held.append(Deferred())
            return held[-1]

        session = Session(SPOAFactory(Handlers({"hold": hold, "release": release}), reactor=clock))
        first, second = session.notify("hold", "release")
        assert [event.ids for event in session.events()] == [first, second]

    def test_a_peer_of_single_bytes_is_served(self, factory: SPOAFactory) -> None:
        """However the bytes come."""
        session = Session(factory, greet=False)
        data = session.engine.data_to_send()
        for index in range(len(data)):
            session.agent.dataReceived(data[index : index + 1])
        assert len(session.events()) == 1


class TestGoodbyes:
    def test_a_health_check_is_answered_and_closed(self, factory: SPOAFactory) -> None:
        """With nothing behind the AGENT-HELLO."""
        session = Session(factory, HAProxyHello(healthcheck=True))
        assert session.wire.disconnecting
        assert len(session.wire.writes) == 1

    def test_haproxys_goodbye_is_answered_and_the_connection_closed(
        self, factory: SPOAFactory, waiting: Waiting
    ) -> None:
        """What is pending is given up, silently."""
        session = Session(factory)
        session.notify("wait")
        session.engine.disconnect(1, "gone")
        session.send()
        assert session.wire.disconnecting
        assert waiting.cancelled == waiting.deferreds
        assert session.wire.value().endswith(b"\x06normal")

    def test_a_broken_protocol_is_answered_with_its_code(self, factory: SPOAFactory, logged: Logged) -> None:
        """What came in front of it is answered first, and one line is logged."""
        session = Session(factory)
        session.engine.send_notify([Message("now")])
        session.agent.dataReceived(session.engine.data_to_send() + b"\xff\xff\xff\xff")
        ack, goodbye = session.events()
        assert ack.variables == {"sess.now": 1}
        assert goodbye.status_code == 3
        assert session.wire.disconnecting
        (line,) = logged.take()
        error = "a frame of 4294967295 bytes exceeds the max-frame-size of 16380 bytes"
        assert f"broke the protocol: {error} (status code 3)" in line

    def test_nothing_is_read_after_the_end(self, factory: SPOAFactory, logged: Logged) -> None:
        """What is still on its way is dropped, and no memory is kept for it."""
        session = Session(factory)
        session.agent.dataReceived(b"\xff\xff\xff\xff")
        written = len(session.wire.writes)
        for _ in range(10):
            session.agent.dataReceived(b"x" * 2**16)
        assert len(session.wire.writes) == written
        assert len(logged.take()) == 1

    def test_a_lost_connection_gives_up_what_is_pending(
        self, factory: SPOAFactory, waiting: Waiting, clock: Clock
    ) -> None:
        """No timer is left, and the connection is forgotten."""
        session = Session(factory)
        session.notify("wait", "wait")
        session.lose()
        assert waiting.cancelled == waiting.deferreds
        assert clock.getDelayedCalls() == []
        assert factory.connections == set()
        assert session.events() == []

    def test_a_late_answer_is_dropped(self, clock: Clock) -> None:
        """As of handlers that cannot be cancelled."""
        answer: Deferred[bytes] = Deferred()
        session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock))
        session.notify("m")
        session.lose()
        answer.callback(b"")
        assert session.events() == []

    def test_a_half_closed_connection_is_as_good_as_lost(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """What was written goes, what is pending is given up."""
        session = Session(factory)
        session.notify("now", "wait")
        session.agent.readConnectionLost()
        assert session.wire.disconnecting
        assert waiting.cancelled == waiting.deferreds
        assert len(session.events()) == 1
        session.agent.writeConnectionLost()
        session.agent.stopProducing()

    @pytest.mark.parametrize("reason", [ConnectionDone, ConnectionLost])
    def test_an_end_is_no_news(self, factory: SPOAFactory, reason: type[Exception]) -> None:
        """With or without a HELLO, nothing above debug is logged: the fixture would fail the test."""
        Session(factory).lose(reason)
        Session(factory, greet=False).lose(reason)

    def test_a_hello_comes_in_time(self, clock: Clock, waiting: Waiting) -> None:
        """Or the connection is closed; one that has begun to speak is told the code for a timeout."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, hello_timeout=3)
        silent, slow, greeted = Session(factory, greet=False), Session(factory, greet=False), Session(factory)
        slow.agent.dataReceived(slow.engine.data_to_send()[:20])
        clock.advance(2.9)
        assert not silent.wire.disconnecting
        assert not slow.wire.disconnecting
        clock.advance(0.2)
        assert silent.wire.disconnecting
        assert silent.events() == []
        assert slow.wire.disconnecting
        assert [event.status_code for event in slow.events()] == [2]
        assert not greeted.wire.disconnecting

    def test_a_hello_may_have_any_time(self, clock: Clock, waiting: Waiting) -> None:
        """With a limit of 0."""
        Session(SPOAFactory(waiting.handlers, reactor=clock, hello_timeout=0), greet=False)
        assert clock.getDelayedCalls() == []

    def test_a_peer_that_does_not_take_the_goodbye_is_dropped(self, factory: SPOAFactory, clock: Clock) -> None:
        """A connection cannot be kept by not reading."""
        session = Session(factory)
        session.engine.disconnect()
        session.send()
        clock.advance(CLOSE_TIMEOUT)
        assert session.wire.aborted


class TestLimits:
    def test_reading_pauses_while_too_much_is_pending(self, clock: Clock, waiting: Waiting) -> None:
        """What has come waits too, up to a limit, and is served when there is room again."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_in_flight=2)
        session = Session(factory, OLD)
        session.notify("wait", "now", "wait", "now", "wait")
        assert len(waiting.deferreds) == 2
        assert len(session.events()) == 1
        assert session.wire.producerState == "producing"
        sent = 0
        while session.wire.producerState == "producing":
            session.notify("now")
            sent += 1
        assert 2**16 // 30 < sent < 2**16 // 10
        waiting.deferreds[0].callback(None)
        assert len(waiting.deferreds) == 3
        assert len(session.events()) == 2
        waiting.deferreds[1].callback(None)
        assert session.wire.producerState == "producing"
        waiting.deferreds[2].callback(None)
        assert len(session.events()) == 2 + sent

    def test_an_end_is_noticed_with_too_much_pending(self, clock: Clock, waiting: Waiting) -> None:
        """The connection is still read: what is pending is given up when it goes."""
        session = Session(SPOAFactory(waiting.handlers, reactor=clock, max_in_flight=1))
        session.notify("wait", "wait")
        assert session.wire.producerState == "producing"
        session.agent.readConnectionLost()
        assert waiting.cancelled == waiting.deferreds

    def test_reading_pauses_while_the_peer_takes_nothing(self, factory: SPOAFactory) -> None:
        """What was read already waits too, and is served when the peer has read."""
        session = Session(factory)
        session.wire.capacity = 10
        session.notify("now")
        assert session.wire.producerState == "paused"
        session.notify("now", "now")
        assert len(session.events()) == 1
        session.wire.capacity = 2**30
        session.wire.take()
        assert session.wire.producerState == "producing"
        assert len(session.events()) == 2

    def test_a_peer_that_takes_nothing_for_long_is_dropped(
        self, clock: Clock, waiting: Waiting, logged: Logged
    ) -> None:
        """When what was pending amounts to more than max_unsent, and it had its time."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_unsent=200)
        session = Session(factory)
        session.wire.capacity = 10
        session.notify(*["wait"] * 10)
        for deferred in waiting.deferreds[:4]:
            deferred.callback({"sess.a": "x" * 80})
        clock.advance(UNSENT_TIMEOUT - 0.1)
        assert not session.wire.aborted
        clock.advance(0.2)
        assert session.wire.aborted
        assert waiting.cancelled == waiting.deferreds[4:]
        (line,) = logged.take()
        assert "more than max_unsent, 200 bytes" in line

    def test_a_peer_that_takes_much_in_time_is_kept(self, clock: Clock, waiting: Waiting) -> None:
        """However much there was to take."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_unsent=200, handler_timeout=0)
        session = Session(factory)
        for _ in range(3):
            session.wire.capacity = 10
            session.notify(*["wait"] * 10)
            for deferred in waiting.deferreds[-10:]:
                deferred.callback({"sess.a": "x" * 80})
            session.wire.capacity = 2**30
            clock.advance(UNSENT_TIMEOUT - 0.1)
            session.wire.take()
            clock.advance(UNSENT_TIMEOUT)
        assert not session.wire.aborted
        assert len(session.events()) == 30

    def test_connections_are_counted(self, clock: Clock, waiting: Waiting, logged: Logged) -> None:
        """Beyond the limit they are refused, which is logged once in a minute, however many come and go."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_connections=2)
        for _ in range(2):
            first, second = Session(factory), Session(factory)
            for _ in range(2):
                refused = factory.buildProtocol(None)
                wire = Wire()
                refused.makeConnection(wire)
                assert wire.aborted
                refused.connectionLost(Failure(ConnectionDone()))
            first.lose()
            third = Session(factory)
            factory.buildProtocol(None)
            assert logged.take() == ["warn: max_connections, 2, are open: new ones are refused"]
            second.lose()
            third.lose()
            clock.advance(60)

    def test_a_payload_beyond_the_limit_costs_that_request(
        self, clock: Clock, waiting: Waiting, logged: Logged
    ) -> None:
        """It is aborted and logged; the connection goes on."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_payload_size=1000)
        session = Session(factory, HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities))
        big = session.engine.send_notify([Message("now", [("body", b"x" * 2000)])])
        (small,) = session.notify("now")
        assert session.events() == [Ack(big, {}, aborted=True), Ack(small, {"sess.now": 1}, aborted=False)]
        (line,) = logged.take()
        assert "max_payload_size, 1000 bytes" in line

    @pytest.mark.parametrize(
        ("limit", "value"),
        [
            ("max_frame_size", 255),
            ("max_frame_size", 2**32),
            ("max_payload_size", 0),
            ("max_in_flight", 0),
            ("max_unsent", 0),
            ("max_connections", 0),
            ("hello_timeout", -1),
            ("handler_timeout", float("nan")),
        ],
    )
    def test_a_limit_that_makes_no_sense_is_refused(self, limit: str, value: Any, clock: Clock) -> None:
        """The error names it."""
        with pytest.raises(ValueError, match=f"{limit} is {value}"):
            SPOAFactory(Handlers(), reactor=clock, **{limit: value})

    def test_what_is_no_handlers_is_refused(self, clock: Clock) -> None:
        """At once, not with the first NOTIFY."""
        with pytest.raises(TypeError, match="a dict does not provide IHandlers"):
            SPOAFactory(cast("Any", {}), reactor=clock)


@implementer(IHandlers)
class OtherHandlers:
    """Handlers of somebody else's making, which keep no promise."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def respond(self, messages: Any, max_size: int, reactor: Any, timeout: float) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class TestOtherHandlers:
    @pytest.mark.parametrize("answer", [LookupError("boom"), SystemExit(1), b"x" * 20000, None, "text"], ids=repr)
    def test_what_they_do_wrong_costs_that_request(self, answer: Any, clock: Clock, logged: Logged) -> None:
        """It is answered without variables and logged; the connection goes on."""
        session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock))
        (ids,) = session.notify("m")
        assert session.events() == [Ack(ids, {}, aborted=False)]
        assert len(logged.take()) == 1

    def test_a_deferred_that_fails_costs_that_request(self, clock: Clock, logged: Logged) -> None:
        """Though it should never."""
        deferred: Deferred[bytes] = Deferred()
        session = Session(SPOAFactory(OtherHandlers(deferred), reactor=clock))
        (ids,) = session.notify("m")
        deferred.errback(LookupError("boom"))
        assert session.events() == [Ack(ids, {}, aborted=False)]
        assert len(logged.take()) == 1


#: Turns of the clock until a connection without NOTIFYs is told goodbye.
UNTIL_RESTED = [0.0, *[QUIET_INTERVAL] * REST]


class TestDrain:
    def test_nothing_to_drain(self, factory: SPOAFactory, clock: Clock) -> None:
        """Without connections it is done at once."""
        assert factory.drain(5).called
        assert clock.getDelayedCalls() == []

    def test_idle_connections_are_told_goodbye(self, factory: SPOAFactory, clock: Clock) -> None:
        """Soon: what has come is answered first."""
        session = Session(factory)
        drained: Any = factory.drain(5)
        session.notify("now")
        assert [type(event) for event in session.events()] == [Ack]
        clock.pump(UNTIL_RESTED)
        assert session.events() == [Disconnect(0, "normal")]
        assert not session.wire.disconnecting
        session.agent.readConnectionLost()
        assert session.wire.disconnecting
        assert not drained.called
        session.lose()
        assert drained.called
        assert clock.getDelayedCalls() == []

    def test_a_peer_that_does_not_close_is_closed(self, factory: SPOAFactory, clock: Clock) -> None:
        """Though it was told goodbye."""
        session = Session(factory)
        factory.drain(5)
        clock.pump([*UNTIL_RESTED, LEAVE_TIMEOUT])
        assert session.wire.disconnecting
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_a_peer_that_has_said_nothing_is_closed_at_once(self, factory: SPOAFactory, clock: Clock) -> None:
        """There is nobody to wait for."""
        session = Session(factory, greet=False)
        factory.drain(5)
        clock.pump([0, QUIET_INTERVAL])
        assert session.wire.disconnecting
        assert session.wire.value() == b""

    def test_a_connection_that_ends_at_the_goodbye(self, factory: SPOAFactory, clock: Clock) -> None:
        """As one whose reset is noticed by writing; nothing goes on after the last."""
        session = Session(factory)
        drained = factory.drain(5)
        session.wire.noticed_when_writing = session.lose
        clock.pump(UNTIL_RESTED)
        assert drained.called
        assert clock.getDelayedCalls() == []

    def test_acks_are_kept_back_until_no_more_notifys_come(self, factory: SPOAFactory, clock: Clock) -> None:
        """They leave together with the goodbye: none of those that get them can send another meanwhile."""
        session = Session(factory)
        factory.drain(5)
        clock.advance(0)
        for _ in range(3):
            session.notify("now")
            clock.advance(QUIET_INTERVAL)
            assert session.events() == []
        written = len(session.wire.writes)
        clock.advance(QUIET_INTERVAL)
        assert len(session.wire.writes) == written + 1
        assert [type(event) for event in session.events()] == [Ack, Ack, Ack, Disconnect]

    def test_idle_connections_are_closed_first(self, factory: SPOAFactory, clock: Clock) -> None:
        """Who gets an ACK sends its next NOTIFY: that must not find one of which HAProxy has not read the goodbye."""
        busy, other, idle = Session(factory), Session(factory), Session(factory)
        factory.drain(5)
        clock.pump(UNTIL_RESTED[:-2])
        busy.notify("now")
        other.notify("now")
        clock.pump(UNTIL_RESTED[-2:])
        assert idle.events() == [Disconnect(0, "normal")]
        assert busy.events() == other.events() == []
        idle.lose()
        clock.advance(QUIET_INTERVAL)
        for session in (busy, other):
            assert [type(event) for event in session.events()] == [Ack, Disconnect]

    def test_idle_connections_that_stay_open_are_not_waited_for(self, factory: SPOAFactory, clock: Clock) -> None:
        """HAProxy 3.1.0 does not close them."""
        busy, idle = Session(factory), Session(factory)
        factory.drain(5)
        clock.pump(UNTIL_RESTED[:-2])
        busy.notify("now")
        clock.pump(UNTIL_RESTED[-2:])
        assert idle.events() == [Disconnect(0, "normal")]
        began = clock.seconds()
        while not (events := busy.events()):
            clock.advance(QUIET_INTERVAL)
        assert [type(event) for event in events] == [Ack, Disconnect]
        assert CLOSE_INTERVAL <= clock.seconds() - began < 2 * CLOSE_INTERVAL

    def test_busy_connections_finish_first(self, factory: SPOAFactory, waiting: Waiting, clock: Clock) -> None:
        """What comes meanwhile is answered too; the goodbye goes behind the last ACK."""
        session = Session(factory)
        session.notify("wait")
        factory.drain(5)
        clock.advance(0)
        session.notify("now", "wait")
        clock.advance(FIRST_PATIENCE)
        assert [type(event) for event in session.events()] == [Ack]
        waiting.deferreds[0].callback(None)
        assert session.events() == []
        waiting.deferreds[1].callback({"sess.a": 1})
        clock.pump([QUIET_INTERVAL] * 2)
        assert [type(event) for event in session.events()] == [Ack, Ack, Disconnect]

    def test_patience_grows(self, factory: SPOAFactory, waiting: Waiting, clock: Clock) -> None:
        """ACKs are kept back for a short time first; who needs long to answer gets a longer one."""
        session = Session(factory)
        session.notify("wait")
        factory.drain(5)
        clock.advance(0)
        kept_back = []
        for _ in range(3):
            session.notify("now")
            began = clock.seconds()
            while not session.events():
                clock.advance(QUIET_INTERVAL)
            kept_back.append(round((clock.seconds() - began) / FIRST_PATIENCE))
        assert kept_back == [1, 2, 4]

    def test_who_is_settled_does_not_wait_for_who_is_not(
        self, factory: SPOAFactory, waiting: Waiting, clock: Clock
    ) -> None:
        """Not for longer than ACKs are kept back."""
        stuck, idle = Session(factory), Session(factory)
        stuck.notify("wait")
        factory.drain(5)
        clock.pump(UNTIL_RESTED[:-1])
        assert idle.events() == []
        clock.advance(2 * FIRST_PATIENCE)
        assert idle.events() == [Disconnect(0, "normal")]
        assert stuck.events() == []

    def test_acks_that_have_left_may_not_have_been_read(self, factory: SPOAFactory, clock: Clock) -> None:
        """However fast they were: HAProxy needs a core to send the next NOTIFYs, which must not cross the goodbye."""
        session = Session(factory)
        factory.drain(5)
        clock.pump(UNTIL_RESTED[:-1])
        session.agent.release()
        session.notify("now")
        session.agent.release()
        assert [type(event) for event in session.events()] == [Ack]
        clock.pump([QUIET_INTERVAL] * REST)
        assert session.events() == []
        clock.advance(QUIET_INTERVAL)
        assert session.events() == [Disconnect(0, "normal")]

    def test_what_has_arrived_is_read_first(self, factory: SPOAFactory, clock: Clock) -> None:
        """When the process had no core for a while, what is on time may have to wait for its timers."""
        session = Session(factory)
        factory.drain(5)
        clock.pump(UNTIL_RESTED[:-1])
        look, _ = clock.getDelayedCalls()
        take_a_look = look.func  # type: ignore[attr-defined]
        look.cancel()
        # As a reactor does it: first what is on time, then what has arrived.
        take_a_look()
        session.notify("now")
        clock.advance(0)
        assert session.events() == []

    def test_what_has_begun_to_come_is_waited_for(self, factory: SPOAFactory, clock: Clock) -> None:
        """A NOTIFY of which a part was read is answered."""
        session = Session(factory)
        session.engine.send_notify([Message("now")])
        data = session.engine.data_to_send()
        session.agent.dataReceived(data[:9])
        factory.drain(5)
        clock.advance(0)
        clock.advance(1)
        assert not session.wire.disconnecting
        session.agent.dataReceived(data[9:])
        clock.pump([QUIET_INTERVAL] * 2)
        assert [type(event) for event in session.events()] == [Ack, Disconnect]

    def test_it_ends_in_time(self, factory: SPOAFactory, waiting: Waiting, clock: Clock, logged: Logged) -> None:
        """What is pending then is given up; a peer that does not take the goodbye is dropped a second later."""
        session = Session(factory)
        session.notify("wait")
        drained = factory.drain(5)
        clock.advance(4.9)
        assert waiting.cancelled == []
        clock.advance(0.2)
        assert session.events() == [Disconnect(0, "normal")]
        assert waiting.cancelled == waiting.deferreds
        clock.advance(ABORT_TIMEOUT)
        assert session.wire.aborted
        session.lose()
        assert drained.called
        assert logged.take() == ["warn: 1 connections were not drained in time"]

    @pytest.mark.parametrize("greeted", [True, False])
    def test_a_peer_that_keeps_the_connection(self, factory: SPOAFactory, clock: Clock, greeted: bool) -> None:
        """As with TLS one can that says nothing: it does not keep the agent until the time is over."""
        wire = Session(factory, greet=greeted).wire
        factory.drain(60)
        clock.pump([*UNTIL_RESTED, LEAVE_TIMEOUT])
        assert wire.disconnecting
        assert not wire.aborted
        clock.advance(ABORT_TIMEOUT)
        assert wire.aborted

    def test_a_connection_that_was_aborted_already(self, factory: SPOAFactory, clock: Clock, logged: Logged) -> None:
        """When the time is over, nothing more is done to it: its end is on the way."""
        session = Session(factory)
        session.engine.disconnect()
        session.send()
        clock.advance(CLOSE_TIMEOUT)
        assert session.wire.aborted
        drained: list[None] = []
        factory.drain(0).addCallback(drained.append)
        clock.advance(0)
        assert logged.take() == ["warn: 1 connections were not drained in time"]
        assert drained == []
        session.lose()
        assert drained == [None]
        assert clock.getDelayedCalls() == []


class TestAsync:
    @pytest.fixture
    def factory(self, clock: Clock, waiting: Waiting) -> SPOAFactory:
        return SPOAFactory(waiting.handlers, reactor=clock, async_=True, handler_timeout=0)

    def test_an_ack_leaves_on_its_own_connection(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """As long as there is that."""
        first, second = Session(factory, OLD), Session(factory, OLD)
        first.notify("wait")
        waiting.deferreds[0].callback(None)
        assert len(first.events()) == 1
        assert second.events() == []

    def test_an_ack_without_its_connection_takes_another_of_its_engine(
        self, factory: SPOAFactory, waiting: Waiting
    ) -> None:
        """Not one of another engine."""
        other = Session(factory, HAProxyHello(capabilities=OLD.capabilities, engine_id="other"))
        first, second = Session(factory, OLD), Session(factory, OLD)
        (ids,) = first.notify("wait")
        first.lose()
        assert waiting.cancelled == []
        second.engine._waiting.add(ids)
        waiting.deferreds[0].callback({"sess.a": 1})
        assert second.events() == [Ack(ids, {"sess.a": 1}, aborted=False)]
        assert other.events() == []

    def test_a_connection_whose_frames_are_smaller(
        self, factory: SPOAFactory, waiting: Waiting, clock: Clock, logged: Logged
    ) -> None:
        """The ACK goes without what does not fit there, and one line says so."""
        first = Session(factory, OLD)
        (ids,) = first.notify("wait")
        first.lose()
        waiting.deferreds[0].callback({"sess.a": "x" * 4000})
        second = Session(factory, replace(OLD, max_frame_size=256), greet=False)
        second.send()
        second.engine._waiting.add(ids)
        hello, ack = second.events()
        assert isinstance(hello, AgentHello)
        assert ack == Ack(ids, {}, aborted=False)
        (line,) = logged.take()
        assert "the handlers' response cannot be sent: 4" in line

    def test_an_ack_waits_for_a_connection_to_come(self, factory: SPOAFactory, waiting: Waiting, clock: Clock) -> None:
        """HAProxy opens one when ACKs are due."""
        first = Session(factory, OLD)
        sent = first.notify("wait", "wait")
        first.lose()
        waiting.deferreds[0].callback({"sess.a": 1})
        second = Session(factory, OLD, greet=False)
        second.engine._waiting.update(sent)
        second.send()
        assert [event.ids for event in second.events() if isinstance(event, Ack)] == [sent[0]]
        waiting.deferreds[1].callback(None)
        assert [event.ids for event in second.events()] == [sent[1]]
        second.lose()
        assert factory._engines == {}
        assert clock.getDelayedCalls() == []

    def test_an_engine_that_does_not_come_back_is_forgotten(
        self, factory: SPOAFactory, waiting: Waiting, clock: Clock
    ) -> None:
        """With what is pending for it."""
        session = Session(factory, OLD)
        session.notify("wait", "wait")
        session.engine.disconnect()
        session.send()
        session.lose()
        waiting.deferreds[0].callback(None)
        clock.advance(ENGINE_TIMEOUT)
        assert factory._engines == {}
        assert waiting.cancelled == [waiting.deferreds[1]]

    def test_an_engine_with_nothing_pending_is_forgotten_at_once(self, factory: SPOAFactory, clock: Clock) -> None:
        """Whoever invents engine-ids fills no table."""
        for number in range(100):
            Session(factory, HAProxyHello(capabilities=OLD.capabilities, engine_id=str(number))).lose()
        assert factory._engines == {}
        assert clock.getDelayedCalls() == []

    def test_without_the_peers_consent_nothing_changes(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """HAProxy >= 3.1 does not know async: a lost connection gives up what is pending."""
        session = Session(factory)
        session.notify("wait")
        session.lose()
        assert waiting.cancelled == waiting.deferreds


def test_handlers_can_be_replaced(factory: SPOAFactory, waiting: Waiting) -> None:
    """What is pending finishes with the old ones."""
    session = Session(factory)
    session.notify("wait")
    factory.use(Handlers({"now": lambda: {"sess.new": 2}}))
    session.notify("now")
    waiting.deferreds[0].callback({"sess.old": 1})
    assert [event.variables for event in session.events()] == [{"sess.new": 2}, {"sess.old": 1}]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (IPv4Address("TCP", "127.0.0.1", 12345), "127.0.0.1:12345"),
        (IPv6Address("TCP", "::1", 12345), "[::1]:12345"),
        (UNIXAddress(b"/run/spoa.sock"), "/run/spoa.sock"),
        (UNIXAddress(b"/run/a\nb\x1b"), "/run/a\\nb\\x1b"),
        (UNIXAddress(None), "unix socket"),
        (HostnameAddress(b"a.test", 12345), str(HostnameAddress(b"a.test", 12345))),
    ],
)
def test_addresses_are_shown_as_they_are_written(address: Any, text: str) -> None:
    """As in HAProxy's configuration; of another kind, as Twisted shows it."""
    assert describe(address) == text


def test_the_protocol_knows_its_factory(factory: SPOAFactory) -> None:
    """As Twisted's do."""
    protocol = factory.buildProtocol(None)
    assert isinstance(protocol, SPOAProtocol)
    assert protocol.factory is factory


def test_an_engine_outlives_the_end_of_an_older_connection(clock: Clock, waiting: Waiting) -> None:
    """The end of a connection that was told goodbye before does not touch what has come since."""
    factory = SPOAFactory(waiting.handlers, reactor=clock, async_=True)
    old = Session(factory, OLD)
    old.engine.disconnect()
    old.send()
    new = Session(factory, OLD)
    old.lose()
    assert list(factory._engines) == ["engine"]
    new.lose()
    assert factory._engines == {}


class TestUnread:
    """HAProxy >= 3.1 stops reading for ever when one read fills its buffer."""

    def test_long_acks_leave_one_after_another(self, clock: Clock) -> None:
        """As HAProxy can read them; meanwhile others are answered behind them, and the goodbye waits."""
        factory = SPOAFactory(Handlers({"long": lambda: {"sess.a": "x" * 6000}}), reactor=clock)
        session = Session(factory)
        session.notify(*["long"] * 10)
        factory.drain(5)
        received: list[Any] = []
        for _ in range(6 * Receipt.UNKNOWN.value):
            assert len(session.wire.value()) < 16384
            received += session.events()
            clock.advance(READ_INTERVAL)
        assert [type(event) for event in received] == [Ack] * 10 + [Disconnect]
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_long_acks_leave_as_fast_while_draining(self, clock: Clock) -> None:
        """They are not kept back for the goodbye as well."""
        factory = SPOAFactory(Handlers({"long": lambda: {"sess.a": "x" * 9000}}), reactor=clock)
        session = Session(factory)
        factory.drain(5)
        clock.advance(0)
        session.notify(*["long"] * 6)
        received: list[Any] = []
        while not received or type(received[-1]) is not Disconnect:
            clock.advance(READ_INTERVAL)
            received += session.events()
        assert [type(event) for event in received] == [Ack] * 6 + [Disconnect]
        assert clock.seconds() < 8 * Receipt.UNKNOWN.value * READ_INTERVAL
        session.lose()

    def test_what_has_not_left_is_not_read(self, clock: Clock) -> None:
        """What was written while the kernel was about to be asked it does not know of yet."""
        handlers = Handlers({"long": lambda: {"sess.a": "x" * 7000}, "longer": lambda: {"sess.a": "x" * 9000}})
        session = Session(SPOAFactory(handlers, reactor=clock))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            session.wire.socket = ours  # type: ignore[attr-defined]
            session.notify("long")
            assert session.agent._unread_timer is not None
            session.agent._unread_timer.cancel()
            session.agent._interval_ended()
            session.notify("longer", "longer")
            clock.advance(0)
            for _ in range(Receipt.HANDED_OUT.value - 1):
                clock.pump([READ_INTERVAL, 0, 0])
            # The first was read. So was the second, as far as is known, but not long enough ago for the third.
            assert len(session.events()) == 2
            clock.pump([READ_INTERVAL, 0, 0])
            assert len(session.events()) == 1
        session.lose()

    def test_what_is_read_may_not_have_been_returned(self, clock: Clock) -> None:
        """When the kernel says so for the first time, the call that reads may still take more."""
        factory = SPOAFactory(Handlers({"long": lambda: {"sess.a": "x" * 9000}}), reactor=clock)
        session = Session(factory)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            session.wire.socket = ours  # type: ignore[attr-defined]
            session.notify("long", "long")
            for _ in range(Receipt.HANDED_OUT.value):
                assert len(session.wire.value()) < 16384
                clock.pump([READ_INTERVAL, 0, 0])
            assert len(session.events()) == 2
        session.lose()

    def test_what_is_answered_behind_the_last_acks_is_dropped(self, clock: Clock, logged: Logged) -> None:
        """The ACKs are held back, and so is the DISCONNECT, which is sent last."""
        answer: Deferred[Any] = Deferred()
        handlers = Handlers({"wait": lambda: answer, "long": lambda: {"sess.a": "x" * 9000}})
        session = Session(SPOAFactory(handlers, reactor=clock))
        session.notify("wait", "long", "long")
        session.agent.dataReceived(b"\xff\xff\xff\xff")
        answer.callback({"sess.late": 1})
        received: list[Any] = []
        while not session.wire.disconnecting:
            received += session.events()
            clock.advance(READ_INTERVAL)
        received += session.events()
        assert [type(event) for event in received] == [Ack, Ack, Disconnect]
        assert len(logged.take()) == 1
        session.lose()

    def test_no_timer_outlives_a_connection(self, clock: Clock) -> None:
        """Nor does one run when nothing is unread."""
        session = Session(SPOAFactory(Handlers({"long": lambda: {"sess.a": "x" * 9000}}), reactor=clock))
        session.notify("long")
        assert len(clock.getDelayedCalls()) == 1
        for _ in range(Receipt.UNKNOWN.value):
            clock.advance(READ_INTERVAL)
        assert clock.getDelayedCalls() == []
        session.notify("long")
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_what_is_held_back_is_bounded(self, clock: Clock) -> None:
        """No further NOTIFY is taken until some has left."""
        calls: list[int] = []

        def handler() -> dict[str, Any]:
            calls.append(1)
            return {"sess.a": "x" * 16000}

        session = Session(SPOAFactory(Handlers({"long": handler}), reactor=clock))
        session.notify(*["long"] * 1000)
        assert len(calls) <= 6

    def test_room_is_taken_when_it_is_there(self, clock: Clock) -> None:
        """Whenever some has left, the next NOTIFYs are taken at once, not after another interval."""
        calls: list[int] = []

        def handler() -> dict[str, Any]:
            calls.append(1)
            return {"sess.a": "x" * 16000}

        session = Session(SPOAFactory(Handlers({"long": handler}), reactor=clock))
        session.notify(*["long"] * 20)
        for _ in range(20 * Receipt.UNKNOWN.value):
            taken, left = len(calls), len(session.wire.writes)
            clock.pump([READ_INTERVAL, 0, 0])
            assert len(calls) - taken == len(session.wire.writes) - left or len(calls) == 20
        assert taken == 20

    def test_what_waits_behind_it_is_bounded(self, clock: Clock) -> None:
        """A peer that sends without end is not read without end, however slowly its ACKs leave."""
        session = Session(SPOAFactory(Handlers({"long": lambda: {"sess.a": "x" * 900}}), reactor=clock))
        for _ in range(200):
            while session.wire.producerState == "producing":
                session.notify(*["long"] * 20)
            assert session.agent._connection.bytes_received < 2**17
            session.events()
            clock.advance(READ_INTERVAL)


class TestInFlight:
    @pytest.mark.parametrize("capabilities", [OLD.capabilities, frozenset()])
    def test_their_answers_are_bounded(
        self, clock: Clock, waiting: Waiting, logged: Logged, capabilities: frozenset[str]
    ) -> None:
        """A peer that agreed on long frames and takes none of the answers is dropped before they fill the memory."""
        factory = SPOAFactory(waiting.handlers, reactor=clock)
        session = Session(factory, HAProxyHello(max_frame_size=2**20, capabilities=capabilities))
        session.wire.capacity = 10
        session.notify(*["wait"] * 100)
        for number in range(10):
            if not session.wire.aborted:
                waiting.deferreds[number].callback({"sess.a": b"x" * 1_000_000})
        assert session.wire.aborted
        assert len(waiting.cancelled) >= 93
        (line,) = logged.take()
        assert "dropped" in line

    def test_it_is_bounded_in_bytes(self, clock: Clock, waiting: Waiting) -> None:
        """A NOTIFY may be long, or hold very many messages; what is answered counts no more."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_in_flight_size=20_000)
        session = Session(factory)
        for _ in range(5):
            session.engine.send_notify([Message("wait", [("body", b"x" * 9000)])])
        session.send()
        assert len(waiting.deferreds) == 2
        waiting.deferreds[0].callback(None)
        assert len(waiting.deferreds) == 3
        for deferred in waiting.deferreds[1:3]:
            deferred.callback(None)
        assert len(waiting.deferreds) == 5
        session = Session(factory)
        for _ in range(2):
            session.engine.send_notify([Message("wait")] * 30)
        session.send()
        assert len(waiting.deferreds) == 35


class TestFaultsOfOthers:
    def test_a_canceller_that_raises_harms_nobody(self, clock: Clock, logged: Logged) -> None:
        """The others are cancelled, and the connection is closed."""

        def canceller(deferred: object) -> None:
            raise LookupError("cannot")

        answers: list[Deferred[bytes]] = [Deferred(canceller), Deferred(canceller)]
        session = Session(SPOAFactory(OtherHandlers(answers[0]), reactor=clock))
        session.notify("m")
        session.engine.disconnect()
        session.send()
        assert session.wire.disconnecting
        assert [line.split(": ", 1)[1] for line in logged.take()] == [
            "the handlers failed to be cancelled: LookupError: cannot"
        ]

    def test_an_orphaned_failure_is_answered(self, clock: Clock, logged: Logged) -> None:
        """On another connection of its engine, as it would have been on its own."""
        answer: Deferred[bytes] = Deferred()
        factory = SPOAFactory(OtherHandlers(answer), reactor=clock, async_=True)
        first, second = Session(factory, OLD), Session(factory, OLD)
        (ids,) = first.notify("m")
        first.lose()
        second.engine._waiting.add(ids)
        answer.errback(LookupError("boom"))
        assert second.events() == [Ack(ids, {}, aborted=False)]
        assert len(logged.take()) == 1

    def test_orphans_are_bounded(self, clock: Clock, waiting: Waiting) -> None:
        """In number while they wait for handlers, in bytes while they wait for a connection, over all engines."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, async_=True, handler_timeout=0)
        for number in range(10):
            hello = HAProxyHello(capabilities=OLD.capabilities, engine_id=str(number))
            session = Session(factory, hello)
            session.notify(*["wait"] * 200)
            session.lose()
        assert len(waiting.cancelled) == 2000 - 1024
        alive = [deferred for deferred in waiting.deferreds if not deferred.called]
        for deferred in alive:
            deferred.callback({"sess.a": "x" * 16000})
        assert sum(len(a) for engine in factory._engines.values() for _, a in engine._homeless) <= 2**20
        clock.advance(ENGINE_TIMEOUT)
        assert (factory._engines, factory._orphans, factory._homeless_size) == ({}, 0, 0)

    def test_an_engine_lives_as_long_as_a_connection(self, clock: Clock, waiting: Waiting) -> None:
        """The end of one does not touch the others."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, async_=True)
        first, second = Session(factory, OLD), Session(factory, OLD)
        first.lose()
        assert len(factory._engines) == 1
        assert clock.getDelayedCalls() == []
        second.notify("now")
        assert len(second.events()) == 1
        second.lose()

    def test_the_faults_remembered_are_bounded(self, factory: SPOAFactory) -> None:
        """However many peers there are."""
        for number in range(2500):
            assert not factory._logged_lately(number)
            assert factory._logged_lately(number)
        assert len(factory._logged) <= 1000

    def test_the_same_fault_of_the_same_peer_is_logged_once_a_minute(
        self, factory: SPOAFactory, clock: Clock, logged: Logged
    ) -> None:
        """HAProxy <= 3.0 tries again hundreds of times a second."""
        for _ in range(10):
            Session(factory).agent.dataReceived(b"\xff\xff\xff\xff")
        assert len(logged.take()) == 1
        Session(factory).agent.dataReceived(b"\x00\x00\x00\x00")
        assert len(logged.take()) == 1
        clock.advance(61)
        Session(factory).agent.dataReceived(b"\xff\xff\xff\xff")
        assert len(logged.take()) == 1


def test_a_peer_that_takes_some_does_not_stay_for_ever(clock: Clock, waiting: Waiting, logged: Logged) -> None:
    """One that was told goodbye, took a part of what was written, and then nothing any more."""
    factory = SPOAFactory(waiting.handlers, reactor=clock, max_unsent=10)
    session = Session(factory, HAProxyHello(max_frame_size=2**20, capabilities=frozenset({"pipelining"})))
    session.notify(*["wait"] * 4)
    session.wire.capacity = 10
    for deferred in waiting.deferreds[:3]:
        deferred.callback({"sess.a": b"x" * 500_000})
    drained = factory.drain(3)
    clock.advance(1)
    session.wire.take()
    clock.pump([0.5] * 60)
    assert session.wire.aborted
    session.lose()
    assert drained.called
    assert clock.getDelayedCalls() == []
    logged.take()


class TestDrainOfMany:
    def test_two_may_drain(self, factory: SPOAFactory, clock: Clock) -> None:
        """As two services of one factory do."""
        session = Session(factory)
        drained = [factory.drain(5), factory.drain(7)]
        clock.advance(0)
        session.lose()
        assert all(deferred.called for deferred in drained)
        assert clock.getDelayedCalls() == []

    def test_with_async_an_ack_finds_one_that_has_not_left(self, clock: Clock, waiting: Waiting) -> None:
        """Where the goodbye was said, nothing can be sent any more."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, async_=True, handler_timeout=0)
        lost, idle, busy = (Session(factory, OLD) for _ in range(3))
        busy.notify("wait")
        lost.notify("wait")
        lost.lose()
        factory.drain(5)
        clock.pump([*UNTIL_RESTED, 2 * FIRST_PATIENCE])
        assert idle.events() == [Disconnect(0, "normal")]
        waiting.deferreds[1].callback({"sess.a": 1})
        while not (written := busy.wire.value()):
            clock.advance(QUIET_INTERVAL)
        assert b"\x01a" in written

    def test_with_async_nothing_is_left(self, clock: Clock, waiting: Waiting, logged: Logged) -> None:
        """What waits for its handlers is cancelled when there is no connection left to come."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, async_=True, handler_timeout=0)
        first, second = Session(factory, OLD), Session(factory, OLD)
        first.notify("wait")
        second.notify("wait")
        first.lose()
        drained = factory.drain(5)
        clock.advance(5)
        assert waiting.cancelled == [waiting.deferreds[1]]
        second.lose()
        assert waiting.cancelled == waiting.deferreds[::-1]
        assert drained.called
        assert factory._engines == {}
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == 1


def test_a_health_check_belongs_to_no_engine(clock: Clock, waiting: Waiting) -> None:
    """Whatever it says of itself."""
    factory = SPOAFactory(waiting.handlers, reactor=clock, async_=True)
    hello = HAProxyHello(capabilities=OLD.capabilities, engine_id="engine", healthcheck=True)
    Session(factory, hello).lose()
    assert factory._engines == {}


def test_acks_of_later_reads_leave_together_too(factory: SPOAFactory) -> None:
    """However much was written before."""
    session = Session(factory, OLD)
    for _ in range(300):
        session.notify(*["now"] * 20)
    assert len(session.wire.writes) == 301


def test_the_transport_is_let_go(factory: SPOAFactory) -> None:
    """A transport with a producer would wait for it, and never close."""
    session = Session(factory)
    session.engine.disconnect()
    session.send()
    assert session.wire.producer is None

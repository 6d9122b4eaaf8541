"""SPOAProtocol and SPOAFactory: reads, answers, writes and ends of a connection."""

from __future__ import annotations

import socket
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from traceback import walk_stack
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from spoa_twisted import Handlers, Message, SPOAFactory
from spoa_twisted.agent.drain import QUIET_INTERVAL, QUIET_INTERVALS_AFTER_ACKS
from spoa_twisted.agent.protocol import ABORT_TIMEOUT, CLOSE_TIMEOUT, DISCONNECT_TIMEOUT, SPOAProtocol
from spoa_twisted.limits import Limits
from spoa_twisted.spop.connection import Ack
from spoa_twisted.spop.frames import AgentHello, Disconnect, HAProxyHello
from spoa_twisted.spop.reassembly import STALE_AFTER
from spoa_twisted.spop.unread import READ_INTERVAL, Receipt
from tests.agent.memory import OLD, OtherHandlers, Session, TurnClock, Waiting, Wire, long_answers
from tests.agent.sockets import KINDS, Connect, SocketEngine, lose, lowest, turn
from tests.certificates import skip_without_tls
from tests.conftest import Logged

reactor: Any = default_reactor


class TestWrites:
    def test_a_hello_is_answered_in_one_write(self, factory: SPOAFactory) -> None:
        """HAProxy 3.2 to 3.4 close the connection if the AGENT-HELLO arrives in two pieces."""
        session = Session(factory, greet=False)
        session.send()
        assert len(session.wire.writes) == 1

    def test_all_acks_of_one_read_leave_in_one_write(self, factory: SPOAFactory) -> None:
        """The write happens before dataReceived returns."""
        session = Session(factory)
        ids = session.notify(*["now"] * 20)
        assert len(session.wire.writes) == 2
        assert [(event.ids, event.variables) for event in session.events()] == [(i, {"sess.now": 1}) for i in ids]

    def test_acks_of_later_reads_leave_in_one_write_each(self, factory: SPOAFactory) -> None:
        """The number of bytes that were written before makes no difference."""
        session = Session(factory, OLD)
        for _ in range(300):
            session.notify(*["now"] * 20)
        assert len(session.wire.writes) == 301

    def test_long_answers_leave_in_several_writes(self, clock: Clock) -> None:
        """So the transport can pause the agent in time: the answers to short NOTIFYs may be larger than the memory."""
        factory = SPOAFactory(Handlers({"big": lambda: {"sess.big": b"x" * 16000}}), reactor=clock)
        session = Session(factory)
        session.wire.capacity = 2**17
        session.notify(*["big"] * 1000)
        assert sum(map(len, session.wire.writes)) < 2**18

    def test_long_answers_to_an_old_haproxy_leave_in_several_writes(self, clock: Clock) -> None:
        """The agent does not hold ACKs back for a HAProxy <= 3.0, so only the transport stops it."""
        session = Session(SPOAFactory(long_answers(16000), reactor=clock), OLD)
        session.wire.capacity = 2**17
        session.notify(*["long"] * 1000)
        assert 2**17 < sum(map(len, session.wire.writes)) < 2**18
        assert session.wire.producerState == "paused"

    def test_a_deferred_answer_leaves_when_it_is_ready(
        self, factory: SPOAFactory, waiting: Waiting, clock: Clock
    ) -> None:
        """ACKs leave in the order in which the handlers finish: in the next turn, while others are pending."""
        session = Session(factory)
        first, second = session.notify("wait", "wait")
        assert session.events() == []
        waiting.deferreds[1].callback({"sess.b": 2})
        assert session.events() == []
        clock.advance(0)
        assert session.events() == [Ack(second, {"sess.b": 2}, aborted=False)]
        waiting.deferreds[0].callback(None)
        assert session.events() == [Ack(first, {}, aborted=False)]

    def test_a_handler_may_finish_another(self, clock: Clock) -> None:
        """The ACK of a Deferred that fires while the agent answers a NOTIFY leaves in the same write."""
        held: list[Deferred[Any]] = []

        def release() -> dict[str, Any]:
            held.pop().callback({"sess.held": 1})
            return {"sess.release": 1}

        def hold() -> Deferred[Any]:
            held.append(Deferred())
            return held[-1]

        session = Session(SPOAFactory(Handlers({"hold": hold, "release": release}), reactor=clock))
        first, second = session.notify("hold", "release")
        assert len(session.wire.writes) == 2
        assert [event.ids for event in session.events()] == [first, second]

    def test_a_peer_that_sends_single_bytes_is_served(self, factory: SPOAFactory) -> None:
        """The agent answers when the frame is complete."""
        session = Session(factory, greet=False)
        data = session.engine.data_to_send()
        for index in range(len(data)):
            session.agent.dataReceived(data[index : index + 1])
        assert len(session.events()) == 1


class TestEnds:
    def test_a_health_check_is_answered_and_closed(self, factory: SPOAFactory) -> None:
        """The agent writes nothing after the AGENT-HELLO."""
        session = Session(factory, HAProxyHello(healthcheck=True))
        assert session.wire.disconnecting
        assert len(session.wire.writes) == 1

    def test_haproxy_disconnect_is_answered_and_the_connection_closed(
        self, factory: SPOAFactory, waiting: Waiting
    ) -> None:
        """Pending handlers are cancelled, and nothing is logged."""
        session = Session(factory)
        session.notify("wait")
        session.engine.disconnect(1, "gone")
        session.send()
        assert session.wire.disconnecting
        assert waiting.cancelled == waiting.deferreds
        assert session.wire.value().endswith(b"\x06normal")

    def test_a_broken_protocol_is_answered_with_its_status_code(self, factory: SPOAFactory, logged: Logged) -> None:
        """The NOTIFYs before the bad frame are answered first, and the agent logs one line."""
        session = Session(factory)
        session.engine.send_notify([Message("now")])
        session.agent.dataReceived(session.engine.data_to_send() + b"\xff\xff\xff\xff")
        ack, disconnect = session.events()
        assert ack.variables == {"sess.now": 1}
        assert disconnect.status_code == 3
        assert session.wire.disconnecting
        (line,) = logged.take()
        error = "a frame of 4294967295 bytes exceeds the max-frame-size of 16380 bytes"
        assert f"broke the protocol: {error} (status code 3, frame is too big)" in line

    def test_nothing_is_read_after_the_end(self, factory: SPOAFactory, logged: Logged) -> None:
        """The agent drops bytes that arrive after it closed the connection, and keeps no memory for them."""
        session = Session(factory)
        session.break_protocol()
        written = len(session.wire.writes)
        for _ in range(10):
            session.agent.dataReceived(b"x" * 2**16)
        assert session.agent.is_idle()
        assert len(session.wire.writes) == written
        assert len(logged.take()) == 1

    def test_the_same_fault_of_a_host_is_logged_once_a_minute(
        self, factory: SPOAFactory, clock: Clock, logged: Logged
    ) -> None:
        """HAProxy <= 3.0 connects again hundreds of times a second."""
        for _ in range(10):
            Session(factory).break_protocol()
        assert len(logged.take()) == 1
        Session(factory).agent.dataReceived(b"\x00\x00\x00\x00")
        assert len(logged.take()) == 1
        clock.advance(61)
        Session(factory).break_protocol()
        assert len(logged.take()) == 1

    def test_a_lost_connection_cancels_what_is_pending(
        self, factory: SPOAFactory, waiting: Waiting, clock: Clock
    ) -> None:
        """No timer is left, and the factory forgets the connection."""
        session = Session(factory)
        session.notify("wait", "wait")
        session.lose()
        assert waiting.cancelled == waiting.deferreds
        assert clock.getDelayedCalls() == []
        assert factory.connections == set()
        assert session.events() == []

    def test_a_late_answer_is_dropped(self, clock: Clock) -> None:
        """Some Deferreds cannot be cancelled. They fire when the connection has ended."""
        answer: Deferred[bytes] = Deferred()
        session = Session(SPOAFactory(OtherHandlers(answer), reactor=clock))
        session.notify("m")
        session.lose()
        answer.callback(b"")
        assert session.events() == []

    def test_a_half_closed_connection_is_closed(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """ACKs that were written before are sent; pending handlers are cancelled."""
        session = Session(factory)
        session.notify("now", "wait")
        session.agent.readConnectionLost()
        assert session.wire.disconnecting
        assert waiting.cancelled == waiting.deferreds
        assert len(session.events()) == 1
        session.agent.writeConnectionLost()
        session.agent.stopProducing()

    def test_a_half_close_in_the_turn_of_an_answer(self, waiting: Waiting, clock: Clock) -> None:
        """The ACK would leave in the next turn of the reactor, together with others. It is sent before the close."""
        session = Session(SPOAFactory(waiting.handlers, reactor=clock))
        answered, _ = session.notify("wait", "wait")
        waiting.deferreds[0].callback({"sess.a": 1})
        session.agent.readConnectionLost()
        assert session.wire.disconnecting
        assert [ack.ids for ack in session.events()] == [answered]

    @pytest.mark.parametrize("reason", [ConnectionDone, ConnectionLost])
    def test_the_end_of_a_connection_is_not_logged(self, factory: SPOAFactory, reason: type[Exception]) -> None:
        """The fixture ``logged`` fails the test if anything above debug is logged, with or without a HELLO."""
        Session(factory).lose(reason)
        Session(factory, greet=False).lose(reason)

    def test_the_transport_has_no_producer_when_it_closes(self, factory: SPOAFactory) -> None:
        """A transport with a producer would wait for the producer, and never close."""
        session = Session(factory)
        session.engine.disconnect()
        session.send()
        assert session.wire.producer is None

    def test_a_peer_that_does_not_read_agent_disconnect_is_dropped(self, factory: SPOAFactory, clock: Clock) -> None:
        """A peer that reads nothing cannot keep a connection open."""
        session = Session(factory)
        session.engine.disconnect()
        session.send()
        clock.advance(CLOSE_TIMEOUT - 0.1)
        assert not session.wire.aborted
        clock.advance(0.1)
        assert session.wire.aborted

    @pytest.mark.usefixtures("without_collector")
    @pytest.mark.parametrize(
        "end",
        [
            lambda session: None,
            lambda session: session.notify("wait"),
            lambda session: session.notify("long", "long", "long"),
            lambda session: session.agent.disconnect(),
            lambda session: session.agent.abort(),
            lambda session: session.agent.readConnectionLost(),
        ],
        ids=["idle", "pending", "held back", "disconnected", "aborted", "half closed"],
    )
    def test_a_closed_connection_is_freed_without_the_garbage_collector(
        self, clock: Clock, waiting: Waiting, end: Callable[[Session], Any]
    ) -> None:
        """The module with the handlers may have turned the garbage collector off."""
        waiting.handlers.message("long")(lambda: {"sess.a": "x" * 9000})
        factory = SPOAFactory(waiting.handlers, reactor=clock)
        session = Session(factory)
        end(session)
        # Twisted's transports do the same when they have closed.
        session.wire.producer = None
        session.lose()
        waiting.deferreds.clear()
        waiting.cancelled.clear()
        agent = weakref.ref(session.agent)
        del session
        assert agent() is None

    @pytest.mark.usefixtures("without_collector")
    def test_a_cancelled_answer_is_freed(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """Also if the connection stays open for a while, until the peer has taken the last bytes."""
        session = Session(factory)
        session.notify("wait")
        pending = weakref.ref(waiting.deferreds[0])
        session.agent.abort()
        waiting.deferreds.clear()
        waiting.cancelled.clear()
        assert pending() is None


class TestHelloTimeout:
    def test_a_peer_without_a_hello_is_closed(self, clock: Clock, waiting: Waiting) -> None:
        """A peer that has begun to send receives AGENT-DISCONNECT with the status code for a timeout."""
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

    def test_a_hello_that_has_arrived_in_time_counts(self, turns: TurnClock, waiting: Waiting) -> None:
        """If the reactor was blocked, it runs the timer first, and reads the HELLO after that."""
        session = Session(SPOAFactory(waiting.handlers, reactor=turns, hello_timeout=3), greet=False)
        turns.advance(5)
        session.send()
        turns.advance(0)
        assert len(session.events()) == 1
        assert not session.wire.disconnecting
        assert turns.getDelayedCalls() == []

    def test_no_limit(self, clock: Clock, waiting: Waiting) -> None:
        """With a hello_timeout of 0 there is no timer."""
        Session(SPOAFactory(waiting.handlers, reactor=clock, hello_timeout=0), greet=False)
        assert clock.getDelayedCalls() == []


class TestReadingPauses:
    def test_reading_pauses_while_too_many_notifys_are_pending(self, clock: Clock, waiting: Waiting) -> None:
        """The agent reads some bytes ahead, and answers the NOTIFYs in them when handlers have finished."""
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
        clock.advance(0)
        assert len(waiting.deferreds) == 3
        assert len(session.events()) == 2
        waiting.deferreds[1].callback(None)
        assert session.wire.producerState == "producing"
        waiting.deferreds[2].callback(None)
        assert len(session.events()) == 2 + sent

    def test_the_end_is_noticed_while_too_many_notifys_are_pending(self, clock: Clock, waiting: Waiting) -> None:
        """The agent still reads the connection, so it can cancel the pending handlers."""
        session = Session(SPOAFactory(waiting.handlers, reactor=clock, max_in_flight=1))
        session.notify("wait", "wait")
        assert session.wire.producerState == "producing"
        session.agent.readConnectionLost()
        assert waiting.cancelled == waiting.deferreds

    def test_reading_pauses_while_the_peer_reads_nothing(self, factory: SPOAFactory) -> None:
        """NOTIFYs that have arrived wait too. The agent answers them when the peer has read."""
        session = Session(factory)
        session.wire.capacity = 10
        session.notify("now")
        assert session.wire.producerState == "paused"
        session.notify("now", "now")
        assert len(session.events()) == 1
        session.wire.capacity = 2**30
        session.wire.drain()
        assert session.wire.producerState == "producing"
        assert len(session.events()) == 2

    def test_pending_notifys_are_limited_in_bytes(self, clock: Clock, waiting: Waiting) -> None:
        """A NOTIFY may be long, or have very many messages. NOTIFYs that were answered do not count."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_in_flight_size=20_000)
        session = Session(factory)
        for _ in range(5):
            session.engine.send_notify([Message("wait", [("body", b"x" * 9000)])])
        session.send()
        assert len(waiting.deferreds) == 2
        waiting.deferreds[0].callback(None)
        clock.advance(0)
        assert len(waiting.deferreds) == 3
        for deferred in waiting.deferreds[1:3]:
            deferred.callback(None)
        assert len(waiting.deferreds) == 5
        session = Session(factory)
        for _ in range(2):
            session.engine.send_notify([Message("wait")] * 30)
        session.send()
        assert len(waiting.deferreds) == 35


class TestFactory:
    def test_connections_are_limited(self, clock: Clock, waiting: Waiting, logged: Logged) -> None:
        """The agent refuses further connections. It logs that once a minute, even if connections come and go."""
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
            assert logged.take() == [
                (
                    "warn: 2 connections are open, as many as max_connections allows: new ones are refused; find out"
                    " who opens them, or raise --max-connections"
                )
            ]
            second.lose()
            third.lose()
            clock.advance(60)

    def test_a_payload_above_the_limit_is_refused(self, clock: Clock, waiting: Waiting, logged: Logged) -> None:
        """The agent logs it and answers later NOTIFYs of the same connection."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_payload_size=1000)
        session = Session(factory, HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities))
        big = session.engine.send_notify([Message("now", [("body", b"x" * 2000)])])
        (small,) = session.notify("now")
        assert session.events() == [Ack(big, {}, aborted=True), Ack(small, {"sess.now": 1}, aborted=False)]
        (line,) = logged.take()
        assert "max_payload_size, 1000 bytes" in line

    def test_all_connections_share_the_limit_for_fragments(
        self, clock: Clock, waiting: Waiting, logged: Logged
    ) -> None:
        """A connection that ends, however it ends, leaves its share to the others. A changed limit counts at once."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_reassembly_size=2500)
        hello = HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities)
        payload = [Message("now", [("body", b"x" * 2000)])]
        for end in (Session.lose, lambda session: session.agent.abort()):
            holding, other = Session(factory, hello), Session(factory, hello)
            holding.engine.send_notify(payload)
            # All but the last fragment.
            holding.agent.dataReceived(holding.engine.data_to_send()[:2000])
            ids = other.engine.send_notify(payload)
            other.send()
            assert other.events() == [Ack(ids, {}, aborted=True)]
            (line,) = logged.take()
            assert "a NOTIFY of 'now': the fragments of all connections exceed max_reassembly_size, 2500 bytes" in line
            end(holding)
            ids = other.engine.send_notify(payload)
            other.send()
            assert other.events() == [Ack(ids, {"sess.now": 1}, aborted=False)]
            other.lose()
            logged.take()
        # A peer that keeps its connection, and never sends the last fragment.
        holding, other = Session(factory, hello), Session(factory, hello)
        holding.engine.send_notify(payload)
        holding.agent.dataReceived(holding.engine.data_to_send()[:2000])
        clock.advance(STALE_AFTER)
        ids = other.engine.send_notify(payload)
        other.send()
        assert other.events() == [Ack(ids, {"sess.now": 1}, aborted=False)]
        factory.limits = Limits(max_reassembly_size=1000)
        last = Session(factory, hello)
        ids = last.engine.send_notify(payload)
        last.send()
        assert last.events() == [Ack(ids, {}, aborted=True)]
        logged.take()

    @pytest.mark.parametrize(
        ("limit", "value"),
        [
            ("max_frame_size", 255),
            ("max_frame_size", 2**32),
            ("max_payload_size", 0),
            ("max_in_flight", 0),
            ("max_in_flight_size", 0),
            ("max_unsent", 0),
            ("max_connections", 0),
            ("hello_timeout", -1),
            ("handler_timeout", float("nan")),
        ],
    )
    def test_a_limit_out_of_range_is_refused(self, limit: str, value: Any, clock: Clock) -> None:
        """The error names the limit."""
        with pytest.raises(ValueError, match=f"{limit} is {value}"):
            SPOAFactory(Handlers(), reactor=clock, **{limit: value})

    def test_an_unknown_limit_is_refused(self, clock: Clock) -> None:
        """The error names it: it may be a limit with a typing error."""
        with pytest.raises(TypeError, match="max_unsend"):
            SPOAFactory(Handlers(), reactor=clock, max_unsend=1)

    def test_handlers_of_another_type_are_refused(self, factory: SPOAFactory, clock: Clock) -> None:
        """The factory raises TypeError at once, not with the first NOTIFY. The earlier handlers stay."""
        with pytest.raises(TypeError, match="the class Handlers does not provide IHandlers; pass an object, such as H"):
            SPOAFactory(Handlers)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a dict does not provide IHandlers"):
            SPOAFactory(cast("Any", {}), reactor=clock)
        handlers = factory.handlers
        with pytest.raises(TypeError, match="a dict does not provide IHandlers"):
            factory.use(cast("Any", {}))
        assert factory.handlers is handlers

    def test_handlers_can_be_replaced(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """Pending NOTIFYs finish with the handlers that they began with."""
        session = Session(factory)
        session.notify("wait")
        factory.use(Handlers({"now": lambda: {"sess.new": 2}}))
        session.notify("now")
        waiting.deferreds[0].callback({"sess.old": 1})
        assert [event.variables for event in session.events()] == [{"sess.new": 2}, {"sess.old": 1}]

    def test_limits_can_be_replaced(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """New connections have the new limits; open connections keep theirs."""
        before = Session(factory, OLD)
        factory.limits = replace(factory.limits, max_in_flight=1)
        after = Session(factory, OLD)
        after.notify("wait", "wait")
        assert len(waiting.deferreds) == 1
        before.notify("wait", "wait")
        assert len(waiting.deferreds) == 3

    def test_a_protocol_knows_its_factory(self, factory: SPOAFactory) -> None:
        """Twisted's own protocols have the attribute too."""
        protocol = factory.buildProtocol(None)
        assert isinstance(protocol, SPOAProtocol)
        assert protocol.factory is factory

    def test_twisteds_reactor_is_the_default(self, waiting: Waiting) -> None:
        """An application seldom passes another reactor."""
        assert SPOAFactory(waiting.handlers).reactor is reactor


class TestDisconnect:
    """A drain calls ``disconnect`` and ``abort``; see test_drain.py for the times."""

    def test_agent_disconnect_follows_the_held_acks_in_one_write(self, factory: SPOAFactory) -> None:
        """HAProxy then reads both at once, and sends no NOTIFY between them."""
        session = Session(factory)
        session.agent.hold()
        session.notify("now")
        assert session.agent.has_held_acks()
        written = len(session.wire.writes)
        session.agent.disconnect()
        assert len(session.wire.writes) == written + 1
        assert [type(event) for event in session.events()] == [Ack, Disconnect]
        assert session.agent.has_disconnected()
        assert not session.wire.disconnecting

    def test_abort_after_disconnect_with_acks_held_back(self, clock: Clock) -> None:
        """The peer has a second to read the ACKs that are held back for a HAProxy >= 3.1, not ten."""
        session = Session(SPOAFactory(long_answers(9000), reactor=clock))
        session.notify("long", "long", "long")
        session.agent.disconnect()
        session.agent.abort()
        assert not session.wire.disconnecting
        clock.advance(ABORT_TIMEOUT - 2 * READ_INTERVAL)
        assert not session.wire.aborted
        while not session.wire.aborted:
            clock.advance(READ_INTERVAL)
        assert clock.seconds() <= ABORT_TIMEOUT + READ_INTERVAL
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_abort_after_disconnect_with_everything_written(self, factory: SPOAFactory, clock: Clock) -> None:
        """The agent closes the connection at once, and drops it a second later."""
        session = Session(factory)
        session.agent.disconnect()
        assert not session.wire.disconnecting
        session.agent.abort()
        assert session.wire.disconnecting
        clock.advance(ABORT_TIMEOUT)
        assert session.wire.aborted
        session.agent.abort()
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_a_peer_that_does_not_close(self, clock: Clock) -> None:
        """Its ACKs are held back for longer than it has to close: they leave before the agent closes."""
        session = Session(SPOAFactory(long_answers(9000), reactor=clock))
        session.notify(*["long"] * 6)
        session.agent.disconnect()
        received = session.events()
        while not session.wire.disconnecting:
            clock.advance(READ_INTERVAL)
            received += session.events()
        assert [type(event) for event in received] == [Ack] * 6 + [Disconnect]
        assert DISCONNECT_TIMEOUT <= clock.seconds() < CLOSE_TIMEOUT
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_acks_held_back_at_the_end_have_ten_seconds(self, turns: TurnClock) -> None:
        """A peer that broke the protocol, and reads nothing, does not keep the connection for longer."""
        session = Session(SPOAFactory(long_answers(9000), reactor=turns))
        session.notify("long", "long", "long")
        session.engine.disconnect()
        session.send()
        assert not session.wire.disconnecting
        # Only the deadline is due in this turn and the ones after it: the receipt needs more intervals.
        turns.advance(CLOSE_TIMEOUT)
        assert session.wire.aborted
        session.lose()
        assert turns.getDelayedCalls() == []


class TestTLS:
    """A TLS transport calls dataReceived for each record of a read, all in one turn of the reactor."""

    @pytest.fixture
    def session(self, turns: TurnClock, waiting: Waiting) -> Session:
        skip_without_tls()
        return self.connect(turns, waiting)

    @staticmethod
    def connect(turns: TurnClock, waiting: Waiting) -> Session:
        wire = Wire()
        directlyProvides(wire, ISSLTransport)
        # As on a Unix socket: the wire has no TCP options.
        wire.peerAddr = UNIXAddress(None)
        session = Session(SPOAFactory(waiting.handlers, reactor=turns), greet=False, wire=wire)
        session.send()
        turns.advance(0)
        assert [type(event) for event in session.events()] == [AgentHello]
        return session

    @pytest.mark.usefixtures("without_collector")
    def test_a_closed_connection_is_freed_without_the_garbage_collector(
        self, turns: TurnClock, waiting: Waiting
    ) -> None:
        """Its transport too."""
        session = self.connect(turns, waiting)
        session.wire.producer = None
        session.lose()
        wire = weakref.ref(session.wire)
        del session
        assert wire() is None

    def test_the_records_of_one_turn_are_one_read(self, turns: TurnClock, session: Session) -> None:
        """25 NOTIFYs in one read are more than HAProxy >= 3.1 keeps in flight: the agent begins to pace its ACKs."""
        session.notify(*["now"] * 15)
        session.notify(*["now"] * 10)
        turns.advance(0)
        assert [call.getTime() for call in turns.getDelayedCalls()] == [READ_INTERVAL]
        session.lose()
        assert turns.getDelayedCalls() == []

    def test_the_next_turn_is_another_read(self, turns: TurnClock, session: Session) -> None:
        """HAProxy may have read the first ACKs before it sent the other NOTIFYs."""
        session.notify(*["now"] * 15)
        turns.advance(0)
        session.notify(*["now"] * 10)
        turns.advance(0)
        assert turns.getDelayedCalls() == []

    def test_the_acks_of_one_turn_leave_in_one_write(
        self, turns: TurnClock, session: Session, waiting: Waiting
    ) -> None:
        """No ACK leaves before the last record has come: long ones may have to wait for the count of all NOTIFYs."""
        waiting.handlers.message("long")(lambda: {"sess.a": "x" * 3000})
        for _ in range(4):
            session.notify("long")
        assert session.acks() == []
        session.wire.writes.clear()
        turns.advance(0)
        assert len(session.wire.writes) == 1
        assert len(session.acks()) == 4

    def test_acks_that_haproxy_may_not_have_read(self, turns: TurnClock, session: Session, waiting: Waiting) -> None:
        """HAProxy has given up five NOTIFYs: the records of this read make more than 20 in flight. So ACKs wait."""
        waiting.handlers.message("long")(lambda: {"sess.a": "x" * 3000})
        session.notify(*["wait"] * 15, *["long"] * 5)
        turns.advance(0)
        assert len(session.acks()) == 5
        for _ in range(6):
            session.notify("long")
        turns.advance(0)
        assert session.acks() == []
        for _ in range(2 * Receipt.UNKNOWN.value + 2):
            turns.pump([READ_INTERVAL, 0, 0])
        assert len(session.acks()) == 6

    @pytest.mark.parametrize("end", ["readConnectionLost", "connectionLost"])
    def test_the_peer_closes_in_the_turn_of_a_read(
        self, turns: TurnClock, session: Session, waiting: Waiting, end: str
    ) -> None:
        """The handlers are called before the connection ends."""
        session.notify("now", "wait")
        if end == "connectionLost":
            session.lose()
        else:
            session.agent.readConnectionLost()
            assert len(session.acks()) == 1
            assert session.wire.disconnecting
            session.lose()
        assert waiting.cancelled == waiting.deferreds != []
        assert turns.getDelayedCalls() == []

    @pytest.mark.usefixtures("without_collector")
    def test_records_after_the_end_are_not_kept(self, turns: TurnClock, waiting: Waiting) -> None:
        """A peer may send for as long as it does not end TLS."""
        session = self.connect(turns, waiting)
        session.engine.disconnect()
        session.send()
        turns.advance(0)
        assert session.wire.disconnecting
        record = bytes(1000)
        references = sys.getrefcount(record)
        session.agent.dataReceived(record)
        assert sys.getrefcount(record) == references
        session.lose()

    @pytest.mark.parametrize("end", ["abort", "disconnect"])
    def test_the_agent_ends_in_the_turn_of_a_read(self, turns: TurnClock, session: Session, end: str) -> None:
        """A NOTIFY that has just come is not answered, as one that comes a moment later."""
        session.notify("now")
        getattr(session.agent, end)()
        turns.advance(0)
        assert [type(event) for event in session.events()] == [Disconnect]
        session.lose()
        assert turns.getDelayedCalls() == []


def now(size: int = 1) -> dict[str, Any]:
    return {"sess.a": b"x" * size}


# It sends its NOTIFYs though it reads no ACK.
PATIENT = HAProxyHello(max_frame_size=2**20, capabilities=frozenset({"pipelining"}))


@pytest.mark.parametrize("kind", KINDS)
class TestSockets:
    """Agents behind real sockets."""

    @pytest_twisted.ensureDeferred
    async def test_an_ack_has_left_when_data_received_returns(self, kind: str, connect: Connect) -> None:
        """The peer receives it while the reactor stands still in dataReceived, with each of several reads."""
        factory = SPOAFactory(Handlers({"m": lambda n: {"sess.n": n}}))
        peer = SocketEngine(await connect(kind, factory), None)
        peer.send()
        await peer.events(1)
        (agent,) = factory.connections
        # The lowest layer, which gets a whole read.
        layer = lowest(agent.transport).protocol
        received = layer.dataReceived
        answered: Deferred[list[Any]] = Deferred()

        def dataReceived(data: bytes) -> None:
            received(data)
            try:
                peer.engine.receive_data(peer.peer.socket.recv(2**16))
                events = list(iter(peer.engine.next_event, None))
            except BaseException:
                answered.errback()
            else:
                answered.callback(events)

        layer.dataReceived = dataReceived
        for number in range(3):
            answered = Deferred()
            ids = peer.engine.send_notify([Message("m", [("n", number)])])
            peer.send()
            assert await answered == [Ack(ids, {"sess.n": number}, aborted=False)]
        peer.peer.socket.close()
        while factory.connections:
            await turn()

    @pytest_twisted.ensureDeferred
    async def test_large_answers_to_a_peer_that_reads_late(self, kind: str, connect: Connect) -> None:
        """Each ACK arrives once, ACKs that are ready at once in their order, and AGENT-DISCONNECT after them."""
        sizes = [10, 70_000, 10, 140_000, 300_000, 10, 70_000, 10, 10]
        factory = SPOAFactory(
            Handlers({"now": now, "wait": lambda size: deferLater(reactor, 0, now, size)}), max_frame_size=2**20
        )
        peer = SocketEngine(await connect(kind, factory), PATIENT)
        peer.send()
        await peer.events(1)
        names = ["now", "wait", "now"] * 3
        sent = [
            (peer.engine.send_notify([Message(name, [("size", size)])]), name, size)
            for name, size in zip(names, sizes, strict=True)
        ]
        peer.send()
        acks = await peer.events(len(sent))
        assert {ack.ids: len(ack.variables["sess.a"]) for ack in acks} == {ids: size for ids, _, size in sent}
        assert len(acks) == len(sent)
        at_once = [ids for ids, name, _ in sent if name == "now"]
        assert [ack.ids for ack in acks if ack.ids in at_once] == at_once
        drained = factory.drain(5)
        assert await peer.events(1) == [Disconnect(0, "normal")]
        peer.peer.socket.close()
        await drained

    @pytest_twisted.ensureDeferred
    async def test_a_late_answer_is_not_overtaken(self, kind: str, connect: Connect) -> None:
        """An ACK that is ready at once in the same turn follows it, and AGENT-DISCONNECT comes last."""
        called: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            called.append(Deferred())
            return called[-1]

        factory = SPOAFactory(Handlers({"wait": wait, "now": now}))
        peer = SocketEngine(await connect(kind, factory), PATIENT)
        peer.send()
        await peer.events(1)
        first, _ = (peer.engine.send_notify([Message("wait")]) for _ in range(2))
        peer.send()
        (agent,) = factory.connections
        while len(called) < 2:
            await turn()
        second = peer.engine.send_notify([Message("now")])
        notify = peer.engine.data_to_send()
        called[0].callback(None)
        agent.dataReceived(notify)
        if "tls" in kind:
            # These bytes do not come from the layer of TLS, so the agent handles them in the next turn.
            await turn()
        agent.abort()
        assert [getattr(event, "ids", None) for event in await peer.events(3)] == [first, second, None]
        peer.peer.socket.close()
        while factory.connections:
            await turn()

    @pytest_twisted.ensureDeferred
    async def test_a_connection_that_is_lost_in_the_turn_of_a_read(self, kind: str, connect: Connect) -> None:
        """The handler is called, and its answer goes nowhere."""
        called: list[int] = []
        factory = SPOAFactory(Handlers({"m": lambda n: called.append(n)}))
        peer = SocketEngine(await connect(kind, factory), PATIENT)
        peer.send()
        await peer.events(1)
        (agent,) = factory.connections
        peer.engine.send_notify([Message("m", [("n", 1)])])
        peer.engine.disconnect()
        agent.dataReceived(peer.engine.data_to_send())
        lose(agent.transport)
        assert called == [1]
        assert not factory.connections
        peer.peer.socket.close()

    @pytest_twisted.ensureDeferred
    async def test_a_peer_with_bytes_to_read_is_not_aborted_early(self, kind: str, connect: Connect) -> None:
        """When the agent drains, only a peer that has nothing left to read is aborted after a second."""
        clock = Clock()
        answered: list[bytes] = []

        def long() -> dict[str, Any]:
            answered.append(b"x" * 10_000)
            return {"sess.a": answered[-1]}

        factory = SPOAFactory(Handlers({"long": long}), reactor=clock)
        turns = LoopingCall(clock.advance, 0)
        turns.start(0)
        peer = SocketEngine(await connect(kind, factory), HAProxyHello(capabilities=OLD.capabilities))
        peer.send()
        await peer.events(1)
        (agent,) = factory.connections
        transport = lowest(agent.transport)
        sent = 0
        while not transport.dataBuffer:
            peer.engine.send_notify([Message("long")])
            peer.send()
            sent += 1
            while len(answered) < sent:
                await turn()
        turns.stop()
        # The agent has bytes in the transport's buffer, but not so many that the transport has paused the agent.
        assert not transport.producerPaused
        factory.drain(60)
        clock.pump([0, *[QUIET_INTERVAL] * QUIET_INTERVALS_AFTER_ACKS, DISCONNECT_TIMEOUT, ABORT_TIMEOUT])
        assert agent in factory.connections
        *acks, disconnect = await peer.events(sent + 1)
        assert len(acks) == sent
        assert disconnect == Disconnect()
        peer.peer.socket.close()
        while factory.connections:
            await turn()

    @pytest_twisted.ensureDeferred
    async def test_the_last_late_answer_has_left(self, kind: str, connect: Connect) -> None:
        """When nothing else is pending, the ACKs leave before the call that fires the last Deferred returns."""
        called: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            called.append(Deferred())
            return called[-1]

        factory = SPOAFactory(Handlers({"wait": wait}))
        peer = SocketEngine(await connect(kind, factory), PATIENT)
        peer.send()
        await peer.events(1)
        ids = [peer.engine.send_notify([Message("wait")]) for _ in range(2)]
        peer.send()
        while len(called) < 2:
            await turn()
        for deferred in called:
            deferred.callback(None)
        acks: list[Any] = []
        while len(acks) < 2:
            # The socket blocks, so the reactor stands still.
            peer.engine.receive_data(peer.peer.socket.recv(2**16))
            acks += iter(peer.engine.next_event, None)
        assert [ack.ids for ack in acks] == ids
        peer.peer.socket.close()
        while factory.connections:
            await turn()

    @pytest_twisted.ensureDeferred
    async def test_the_transport_resumes_within_the_write(self, kind: str, connect: Connect) -> None:
        """That happens many times in a row. The stack does not grow with the number of NOTIFYs that wait."""
        depths: list[int] = []

        def big() -> dict[str, Any]:
            depths.append(sum(1 for _ in walk_stack(None)))
            return now(100_000)

        factory = SPOAFactory(Handlers({"big": big}), max_frame_size=2**20)
        peer = SocketEngine(await connect(kind, factory), PATIENT)
        peer.send()
        await peer.events(1)
        (agent,) = factory.connections
        lowest(agent.transport).socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        for _ in range(50):
            peer.engine.send_notify([Message("big")])
        peer.send()
        assert len(await peer.events(50)) == 50
        assert max(depths) - min(depths) < 40
        peer.peer.socket.close()
        while factory.connections:
            await turn()

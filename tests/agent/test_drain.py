"""Drain: closes the connections of an agent that stops, without losing a request."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from twisted.internet.task import Clock

from spoa_twisted import SPOAFactory
from spoa_twisted.agent.drain import (
    CLOSE_INTERVAL,
    FIRST_PATIENCE,
    MAX_PATIENCE,
    QUIET_INTERVAL,
    QUIET_INTERVALS_AFTER_ACKS,
    Drain,
)
from spoa_twisted.agent.protocol import ABORT_TIMEOUT, CLOSE_TIMEOUT, DISCONNECT_TIMEOUT
from spoa_twisted.limits import Limits
from spoa_twisted.spop.connection import Ack
from spoa_twisted.spop.frames import Disconnect
from spoa_twisted.spop.messages import Message
from tests.agent.memory import Session, TurnClock, Waiting
from tests.conftest import Logged

#: The clock's advances until AGENT-DISCONNECT is sent on a connection without NOTIFYs.
UNTIL_QUIET = [0.0, *[QUIET_INTERVAL] * QUIET_INTERVALS_AFTER_ACKS]


class Connection:
    """A connection in a state that the test sets. It records what the drain does with it."""

    def __init__(self, *, idle: bool = True, acks: bool = False) -> None:
        self.activity = 0
        self.transport: Any = None
        self.idle = idle
        #: Whether ACKs are held back.
        self.acks = acks
        self.calls: list[str] = []

    def answer(self) -> None:
        """Answer a NOTIFY at once. The ACK is held back."""
        self.acks = True
        self.activity += 1

    def hold(self) -> None:
        self.calls.append("hold")

    def release(self) -> None:
        if self.acks:
            self.calls.append("release")
            self.acks = False
            self.activity += 1

    def is_idle(self) -> bool:
        return self.idle

    def may_have_unread_acks(self) -> bool:
        return not self.acks

    def has_held_acks(self) -> bool:
        return self.acks

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def has_disconnected(self) -> bool:
        return "disconnect" in self.calls or "abort" in self.calls

    def abort(self) -> None:
        self.calls.append("abort")


class Agent:
    """Connections that are drained."""

    def __init__(self, clock: Clock, *connections: Connection) -> None:
        self.connections = set(connections)
        self.clock = clock
        self.timeouts: list[float] = []
        self.drain = Drain(self.connections, clock, lambda: self.timeouts.append(clock.seconds()))
        clock.advance(0)

    def look(self, times: int = 1) -> None:
        """Let the drain look at the connections."""
        self.clock.pump([QUIET_INTERVAL] * times)


class TestLooks:
    """The Drain alone."""

    def test_acks_are_held_from_the_next_turn_on(self, clock: Clock) -> None:
        """The reactor first reads the bytes that have arrived by now, and their ACKs still leave."""
        connection = Connection()
        drain = Drain({connection}, clock, lambda: None)
        assert connection.calls == []
        clock.advance(0)
        assert connection.calls == ["hold"]
        drain.stop()
        assert clock.getDelayedCalls() == []

    def test_a_quiet_connection(self, clock: Clock) -> None:
        """HAProxy may not have acted on the last ACKs, so it takes several looks."""
        connection = Connection()
        agent = Agent(clock, connection)
        agent.look(QUIET_INTERVALS_AFTER_ACKS - 1)
        assert connection.calls == ["hold"]
        agent.look()
        assert connection.calls == ["hold", "disconnect"]
        agent.look(100)
        assert connection.calls == ["hold", "disconnect"]

    @pytest.mark.parametrize(("acks", "looks"), [(False, QUIET_INTERVALS_AFTER_ACKS + 3), (True, 1 + 3)])
    def test_a_distant_haproxy(self, clock: Clock, monkeypatch: pytest.MonkeyPatch, acks: bool, looks: int) -> None:
        """A NOTIFY takes time to arrive, so the connection must be quiet for longer by the round-trip time."""
        monkeypatch.setattr("spoa_twisted.agent.drain.round_trip_time", lambda transport: 2.5 * QUIET_INTERVAL)
        connection = Connection(acks=acks)
        agent = Agent(clock, connection)
        agent.look(looks - 1)
        assert connection.calls == ["hold"]
        agent.look()
        assert connection.calls == ["hold", "disconnect"]

    def test_activity_counts_as_noise(self, clock: Clock) -> None:
        """The number of quiet looks begins again."""
        connection = Connection()
        agent = Agent(clock, connection)
        agent.look(QUIET_INTERVALS_AFTER_ACKS - 1)
        connection.activity += 1
        agent.look(QUIET_INTERVALS_AFTER_ACKS)
        assert connection.calls == ["hold"]
        agent.look()
        assert connection.calls == ["hold", "disconnect"]

    def test_a_connection_with_held_acks(self, clock: Clock) -> None:
        """HAProxy waits for these ACKs, so one look without activity is enough."""
        connection = Connection(acks=True)
        agent = Agent(clock, connection)
        connection.activity += 1
        agent.look()
        assert connection.calls == ["hold"]
        agent.look()
        assert connection.calls == ["hold", "disconnect"]

    def test_a_connection_that_is_not_idle(self, clock: Clock) -> None:
        """The drain releases its ACKs when the patience is over, and waits on."""
        connection = Connection(idle=False, acks=True)
        agent = Agent(clock, connection)
        agent.look(100)
        assert connection.calls == ["hold", "release"]

    def test_a_connection_that_is_made_later(self, clock: Clock) -> None:
        """It counts as seen for the first time at the next look."""
        busy, new = Connection(idle=False), Connection()
        agent = Agent(clock, busy)
        agent.look(100)
        agent.connections.add(new)
        agent.look(QUIET_INTERVALS_AFTER_ACKS)
        assert "disconnect" not in new.calls
        # Further looks until the patience with the busy connection is over.
        agent.look(round(MAX_PATIENCE / QUIET_INTERVAL) + 1)
        assert "disconnect" in new.calls

    def test_a_connection_that_has_disconnected(self, clock: Clock) -> None:
        """The drain leaves it alone."""
        connection, busy = Connection(), Connection(idle=False)
        connection.calls.append("disconnect")
        agent = Agent(clock, connection, busy)
        agent.look(100)
        assert connection.calls == ["disconnect", "hold"]

    def test_the_drain_ends_with_the_last_connection(self, clock: Clock) -> None:
        """It looks no more."""
        connection = Connection()
        agent = Agent(clock, connection)
        agent.connections.clear()
        agent.look()
        assert clock.getDelayedCalls() == []

    def test_a_disconnect_that_ends_all_connections(self, clock: Clock) -> None:
        """The set of connections changes while the drain goes through it."""

        class Ending(Connection):
            def disconnect(self) -> None:
                super().disconnect()
                agent.connections.clear()

        connections = [Ending() for _ in range(3)]
        agent = Agent(clock, *connections)
        agent.look(QUIET_INTERVALS_AFTER_ACKS)
        assert all(connection.calls == ["hold", "disconnect"] for connection in connections)
        assert clock.getDelayedCalls() == []


class TestOrder:
    """The Drain alone: which connections are closed first."""

    def test_idle_connections_first(self, clock: Clock) -> None:
        """Connections with held ACKs follow when HAProxy has closed the idle ones."""
        idle, held = Connection(), Connection()
        agent = Agent(clock, idle, held)
        agent.look(QUIET_INTERVALS_AFTER_ACKS - 2)
        held.answer()
        agent.look(2)
        assert idle.calls == ["hold", "disconnect"]
        assert held.calls == ["hold"]
        agent.look()
        assert held.calls == ["hold"]
        agent.connections.remove(idle)
        agent.look()
        assert held.calls == ["hold", "disconnect"]

    def test_all_others_at_the_same_time(self, clock: Clock) -> None:
        """An ACK may make HAProxy send the next NOTIFY, which must not meet AGENT-DISCONNECT."""
        connections = [Connection(acks=True) for _ in range(10)]
        agent = Agent(clock, *connections)
        agent.look()
        assert all(connection.calls == ["hold", "disconnect"] for connection in connections)

    def test_acks_are_released_when_one_connection_is_busy(self, clock: Clock) -> None:
        """Until the patience is at its maximum, no connection is closed before the busy one."""
        settled, busy = Connection(acks=True), Connection(idle=False, acks=True)
        agent = Agent(clock, settled, busy)
        began = clock.seconds()
        while "release" not in settled.calls:
            agent.look()
        assert FIRST_PATIENCE <= clock.seconds() - began < FIRST_PATIENCE + 2 * QUIET_INTERVAL
        assert busy.calls == ["hold", "release"]
        while "disconnect" not in settled.calls:
            settled.acks = True
            agent.look()
        assert clock.seconds() - began > MAX_PATIENCE / 2
        assert "disconnect" not in busy.calls


class TestEnd:
    """The Drain alone: its timeout."""

    def test_open_connections_are_aborted(self, clock: Clock) -> None:
        """The callback is called once, before that."""
        busy, held = Connection(idle=False), Connection(idle=False, acks=True)
        agent = Agent(clock, busy, held)
        agent.drain.end_after(3)
        clock.advance(2.9)
        assert agent.timeouts == []
        clock.advance(0.1)
        assert agent.timeouts == [3]
        assert busy.calls[-1] == held.calls[-1] == "abort"

    def test_the_shortest_of_several_timeouts_counts(self, clock: Clock) -> None:
        """Each caller has its own."""
        connection = Connection(idle=False)
        agent = Agent(clock, connection)
        agent.drain.end_after(5)
        agent.drain.end_after(2)
        clock.advance(2)
        assert agent.timeouts == [2]
        agent.connections.clear()
        agent.drain.stop()
        assert clock.getDelayedCalls() == []

    def test_stop_within_the_end(self, clock: Clock) -> None:
        """The last connection may end when it is aborted."""

        class Ending(Connection):
            def abort(self) -> None:
                super().abort()
                agent.connections.discard(self)
                if not agent.connections:
                    agent.drain.stop()

        connections = [Ending(idle=False) for _ in range(3)]
        agent = Agent(clock, *connections)
        agent.drain.end_after(1)
        clock.advance(1)
        assert all(connection.calls[-1] == "abort" for connection in connections)
        assert clock.getDelayedCalls() == []


def test_thousands_of_connections(clock: Clock) -> None:
    """The drain has two timers, whatever the number of connections. Each is disconnected once, idle ones first."""
    idle = [Connection() for _ in range(5000)]
    held = [Connection() for _ in range(3000)]
    agent = Agent(clock, *idle, *held)
    agent.drain.end_after(60)
    assert len(clock.getDelayedCalls()) == 2
    agent.look(QUIET_INTERVALS_AFTER_ACKS - 2)
    for connection in held:
        connection.answer()
    agent.look(2)
    assert all(connection.calls == ["hold", "disconnect"] for connection in idle)
    assert all(connection.calls == ["hold"] for connection in held)
    agent.connections.difference_update(idle)
    agent.look()
    assert all(connection.calls == ["hold", "disconnect"] for connection in held)
    agent.connections.clear()
    agent.drain.stop()
    assert clock.getDelayedCalls() == []


class TestAgent:
    """SPOAFactory.drain, with whole connections."""

    def test_without_connections(self, factory: SPOAFactory, clock: Clock) -> None:
        """There is nothing to wait for."""
        assert factory.drain(5).called
        assert clock.getDelayedCalls() == []

    def test_an_idle_connection(self, factory: SPOAFactory, clock: Clock) -> None:
        """AGENT-DISCONNECT is sent after a short time. NOTIFYs that have arrived are answered first."""
        session = Session(factory)
        drained: Any = factory.drain(5)
        session.notify("now")
        assert [type(event) for event in session.events()] == [Ack]
        clock.pump(UNTIL_QUIET)
        assert session.events() == [Disconnect(0, "normal")]
        assert not session.wire.disconnecting
        session.agent.readConnectionLost()
        assert session.wire.disconnecting
        assert not drained.called
        session.lose()
        assert drained.called
        assert clock.getDelayedCalls() == []

    def test_a_peer_that_does_not_close(self, factory: SPOAFactory, clock: Clock) -> None:
        """The agent closes the connection after AGENT-DISCONNECT."""
        session = Session(factory)
        factory.drain(5)
        clock.pump(UNTIL_QUIET)
        clock.advance(DISCONNECT_TIMEOUT - 0.01)
        assert not session.wire.disconnecting
        clock.advance(0.01)
        assert session.wire.disconnecting
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_a_peer_that_has_sent_nothing(self, factory: SPOAFactory, clock: Clock) -> None:
        """Its connection is closed at once, without AGENT-DISCONNECT: the peer may not speak SPOP."""
        session = Session(factory, greet=False)
        factory.drain(5)
        clock.pump([0, QUIET_INTERVAL])
        assert session.wire.disconnecting
        assert session.wire.value() == b""

    def test_a_connection_that_ends_at_agent_disconnect(self, factory: SPOAFactory, clock: Clock) -> None:
        """The write may notice that the peer has reset the connection. The drain then ends, if it was the last one."""
        session = Session(factory)
        drained = factory.drain(5)
        session.wire.on_write = session.lose
        clock.pump(UNTIL_QUIET)
        assert drained.called
        assert clock.getDelayedCalls() == []

    def test_acks_are_held_until_no_more_notifys_come(self, factory: SPOAFactory, clock: Clock) -> None:
        """They leave in one write with AGENT-DISCONNECT, so no client can send another request between."""
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
        """A client that gets an ACK sends its next request. HAProxy must not choose a connection that is closing."""
        busy, other, idle = Session(factory), Session(factory), Session(factory)
        factory.drain(5)
        clock.pump(UNTIL_QUIET[:-2])
        busy.notify("now")
        other.notify("now")
        clock.pump(UNTIL_QUIET[-2:])
        assert idle.events() == [Disconnect(0, "normal")]
        assert busy.events() == other.events() == []
        idle.lose()
        clock.advance(QUIET_INTERVAL)
        for session in (busy, other):
            assert [type(event) for event in session.events()] == [Ack, Disconnect]

    def test_idle_connections_that_stay_open(self, factory: SPOAFactory, clock: Clock) -> None:
        """HAProxy 3.1.0 does not close them, so the drain does not wait for them for long."""
        busy, idle = Session(factory), Session(factory)
        factory.drain(5)
        clock.pump(UNTIL_QUIET[:-2])
        busy.notify("now")
        clock.pump(UNTIL_QUIET[-2:])
        assert idle.events() == [Disconnect(0, "normal")]
        began = clock.seconds()
        while not (events := busy.events()):
            clock.advance(QUIET_INTERVAL)
        assert [type(event) for event in events] == [Ack, Disconnect]
        assert CLOSE_INTERVAL <= clock.seconds() - began < 2 * CLOSE_INTERVAL

    def test_busy_connections_finish_first(self, factory: SPOAFactory, waiting: Waiting, clock: Clock) -> None:
        """NOTIFYs that arrive meanwhile are answered too. AGENT-DISCONNECT follows the last ACK."""
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
        """ACKs are held for a short time first, and for twice as long each time that was not enough."""
        session = Session(factory)
        session.notify("wait")
        factory.drain(5)
        clock.advance(0)
        held = []
        for _ in range(3):
            session.notify("now")
            began = clock.seconds()
            while not session.events():
                clock.advance(QUIET_INTERVAL)
            held.append(round((clock.seconds() - began) / FIRST_PATIENCE))
        assert held == [1, 2, 4]

    def test_a_connection_with_a_slow_handler(self, factory: SPOAFactory, waiting: Waiting, clock: Clock) -> None:
        """Idle connections do not wait for it for longer than the patience."""
        stuck, idle = Session(factory), Session(factory)
        stuck.notify("wait")
        factory.drain(5)
        clock.pump(UNTIL_QUIET[:-1])
        assert idle.events() == []
        clock.advance(2 * FIRST_PATIENCE)
        assert idle.events() == [Disconnect(0, "normal")]
        assert stuck.events() == []

    def test_acks_that_have_left_may_not_have_been_read(self, factory: SPOAFactory, clock: Clock) -> None:
        """HAProxy may need a while to send the next NOTIFYs, which must not cross AGENT-DISCONNECT."""
        session = Session(factory)
        factory.drain(5)
        clock.pump(UNTIL_QUIET[:-1])
        session.agent.release()
        session.notify("now")
        session.agent.release()
        assert [type(event) for event in session.events()] == [Ack]
        clock.pump([QUIET_INTERVAL] * QUIET_INTERVALS_AFTER_ACKS)
        assert session.events() == []
        clock.advance(QUIET_INTERVAL)
        assert session.events() == [Disconnect(0, "normal")]

    def test_bytes_that_have_arrived_are_read_first(self, turns: TurnClock, waiting: Waiting) -> None:
        """If the process had no core for a while, the reactor runs the timers first, and reads after that."""
        factory = SPOAFactory(waiting.handlers, reactor=turns)
        session = Session(factory)
        factory.drain(5)
        # Each look takes a turn for the timer, and a turn after the reactor has read.
        turns.pump([0, *[QUIET_INTERVAL, 0] * (QUIET_INTERVALS_AFTER_ACKS - 1), QUIET_INTERVAL])
        session.notify("now")
        turns.advance(0)
        assert session.events() == []
        assert not session.agent.has_disconnected()

    def test_without_a_notify_the_same_look_disconnects(self, turns: TurnClock, waiting: Waiting) -> None:
        """The counterpart of the test before."""
        factory = SPOAFactory(waiting.handlers, reactor=turns)
        session = Session(factory)
        factory.drain(5)
        turns.pump([0, *[QUIET_INTERVAL, 0] * (QUIET_INTERVALS_AFTER_ACKS - 1), QUIET_INTERVAL])
        assert not session.agent.has_disconnected()
        turns.advance(0)
        assert session.agent.has_disconnected()

    def test_a_notify_that_has_arrived_in_part(self, factory: SPOAFactory, clock: Clock) -> None:
        """The drain waits for the rest, and the NOTIFY is answered."""
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
        """Pending handlers are cancelled. A peer that does not read AGENT-DISCONNECT is dropped a second later."""
        factory.limits = Limits(handler_timeout=0)
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
        assert logged.take() == [
            "warn: closing 1 connections that were not drained in time; if handlers need longer, raise --drain-timeout"
        ]

    @pytest.mark.parametrize("greeted", [True, False])
    def test_a_peer_that_keeps_the_connection(self, factory: SPOAFactory, clock: Clock, greeted: bool) -> None:
        """A silent peer with TLS can do that. The drain does not wait for it until its time is over."""
        wire = Session(factory, greet=greeted).wire
        factory.drain(60)
        clock.pump([*UNTIL_QUIET, DISCONNECT_TIMEOUT])
        assert wire.disconnecting
        assert not wire.aborted
        clock.advance(ABORT_TIMEOUT)
        assert wire.aborted

    def test_a_connection_that_was_aborted_already(self, factory: SPOAFactory, clock: Clock, logged: Logged) -> None:
        """The end of the drain does nothing to it. The drain waits for the end of the connection."""
        session = Session(factory)
        session.engine.disconnect()
        session.send()
        clock.advance(CLOSE_TIMEOUT)
        assert session.wire.aborted
        drained: list[None] = []
        factory.drain(0).addCallback(drained.append)
        clock.advance(0)
        assert logged.take() == [
            "warn: closing 1 connections that were not drained in time; if handlers need longer, raise --drain-timeout"
        ]
        assert drained == []
        session.lose()
        assert drained == [None]
        assert clock.getDelayedCalls() == []

    def test_two_drains_of_one_factory(self, factory: SPOAFactory, clock: Clock) -> None:
        """Two services may share it. Both end with the last connection."""
        session = Session(factory)
        drained = [factory.drain(5), factory.drain(7)]
        clock.advance(0)
        session.lose()
        assert all(deferred.called for deferred in drained)
        assert clock.getDelayedCalls() == []

    def test_a_factory_can_be_drained_again(self, factory: SPOAFactory, clock: Clock) -> None:
        """An application may stop a service and start it again."""
        for _ in range(2):
            session = Session(factory)
            drained = factory.drain(5)
            clock.pump(UNTIL_QUIET)
            assert session.events() == [Disconnect(0, "normal")]
            session.lose()
            assert drained.called
        assert clock.getDelayedCalls() == []

    @pytest.mark.usefixtures("without_collector")
    def test_a_drain_that_timed_out_keeps_no_connection(
        self, factory: SPOAFactory, clock: Clock, waiting: Waiting, logged: Logged
    ) -> None:
        """The connection is freed although the garbage collector is off."""
        session = Session(factory)
        session.notify("wait")
        # The drain checks the connection, and aborts it before the next check, because the NOTIFY is still pending.
        drained = factory.drain(1.5 * QUIET_INTERVAL)
        clock.pump([0.0, QUIET_INTERVAL, QUIET_INTERVAL / 2])
        assert waiting.cancelled
        # Twisted's transports do the same when they have closed.
        session.wire.producer = None
        session.lose()
        assert drained.called
        waiting.deferreds.clear()
        waiting.cancelled.clear()
        agent = weakref.ref(session.agent)
        del session
        assert agent() is None
        assert logged.take() == [
            "warn: closing 1 connections that were not drained in time; if handlers need longer, raise --drain-timeout"
        ]

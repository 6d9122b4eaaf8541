"""Pacing: ACKs for a HAProxy >= 3.1, which stops reading for ever when one read fills its buffer."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.agent.pacing import Pacing
from spoa_twisted.observer import AcksHeldBack
from spoa_twisted.spop.connection import Ack, AgentConnection, EngineConnection
from spoa_twisted.spop.frames import Disconnect
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.unread import READ_INTERVAL, Receipt
from tests.agent.memory import Session, TurnClock, Waiting, Wire, long_answers
from tests.conftest import Logged
from tests.handlers.answers import Recorder

#: Seconds between two looks at a peer that reads nothing, at most.
LONGEST_READ_INTERVAL = 0.16


class Writer:
    """A connection with pacing, and what pacing calls."""

    def __init__(self, turns: TurnClock, transport: Any) -> None:
        self.turns = turns
        self.engine = EngineConnection()
        self.connection = AgentConnection()
        self.connection.receive_data(self.engine.data_to_send())
        self.connection.next_event()
        self.engine.receive_data(self.connection.data_to_send())
        self.engine.next_event()
        self.reads = 0
        self.recorder = Recorder()
        self.pacing = Pacing(self.connection, transport, turns, self.on_read, "peer", self.recorder, None)

    @property
    def held(self) -> list[int]:
        """The number of held bytes at each time when the connection began to hold ACKs back."""
        return [event.size for event in self.recorder.events if isinstance(event, AcksHeldBack)]

    def on_read(self) -> None:
        self.reads += 1
        self.write()

    def answer(self, *sizes: int) -> None:
        """Answer a NOTIFY for each of ``sizes``, with about so many bytes."""
        for size in sizes:
            self.engine.send_notify([Message("m")])
            self.connection.receive_data(self.engine.data_to_send())
            notify: Any = self.connection.next_event()
            # A whole action: scope, name and value matter only to their length here.
            self.connection.send_ack(notify.ids, b"\x01" * size)
        self.write()

    def write(self) -> None:
        """Do as the protocol does."""
        self.connection.data_to_send()
        if self.connection.unread:
            self.pacing.watch()

    def next_look(self) -> float:
        """Let the turns of the next look pass, and return the seconds until then."""
        began = self.turns.seconds()
        (timer,) = self.turns.getDelayedCalls()
        self.turns.pump([timer.getTime() - began, 0, 0])
        return round(self.turns.seconds() - began, 6)


class TestIntervals:
    def test_the_kernel_is_asked_two_turns_after_the_interval(self, turns: TurnClock) -> None:
        """By then it has all bytes that were written before the interval ended, with TLS too."""
        writer = Writer(turns, Wire())
        writer.answer(9000)
        turns.advance(READ_INTERVAL)
        turns.advance(0)
        assert writer.reads == 0
        turns.advance(0)
        assert writer.reads == 1

    def test_a_peer_that_reads_nothing_is_asked_about_less_often(self, turns: TurnClock) -> None:
        """When it has read, the interval is the shortest again."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            wire = Wire()
            wire.socket = ours  # type: ignore[attr-defined]
            ours.sendall(b"x")
            writer = Writer(turns, wire)
            writer.answer(9000)
            intervals = [writer.next_look() for _ in range(8)]
            assert intervals == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, LONGEST_READ_INTERVAL, LONGEST_READ_INTERVAL]
            theirs.recv(1)
            writer.next_look()
            assert writer.next_look() == READ_INTERVAL

    def test_there_is_one_timer(self, turns: TurnClock) -> None:
        """More writes do not start others, and nothing runs when everything counts as read."""
        writer = Writer(turns, Wire())
        writer.answer(9000)
        writer.answer(9000)
        for _ in range(2 * Receipt.UNKNOWN.value):
            assert len(turns.getDelayedCalls()) == 1
            writer.next_look()
        assert turns.getDelayedCalls() == []
        assert not writer.connection.unread

    @pytest.mark.parametrize("passed", [[], [READ_INTERVAL], [READ_INTERVAL, 0]], ids=["interval", "turn", "ask"])
    def test_the_end(self, turns: TurnClock, passed: list[float]) -> None:
        """The timer stops in each of its steps, and nothing is called any more."""
        writer = Writer(turns, Wire())
        writer.answer(9000)
        turns.pump(passed)
        writer.pacing.end()
        assert turns.getDelayedCalls() == []
        assert writer.reads == 0
        writer.pacing.end()


class TestHeldBack:
    def test_it_is_reported_when_acks_begin_to_be_held_back(self, turns: TurnClock) -> None:
        """It is reported once, not with each look and each write while they are held back."""
        writer = Writer(turns, Wire())
        writer.answer(9000)
        assert writer.held == []
        writer.answer(9000)
        (size,) = writer.held
        assert 9000 < size < 9100
        writer.answer(9000)
        for _ in range(Receipt.UNKNOWN.value):
            writer.next_look()
        assert writer.connection.held_back
        assert len(writer.held) == 1

    def test_it_is_reported_again_after_all_were_sent(self, turns: TurnClock) -> None:
        """ACKs are held back a second time."""
        writer = Writer(turns, Wire())
        for times in range(1, 3):
            writer.answer(9000, 9000)
            assert len(writer.held) == times
            while writer.connection.held_back:
                writer.next_look()
            assert len(writer.held) == times
        while turns.getDelayedCalls():
            writer.next_look()
        writer.answer(9000, 9000)
        assert len(writer.held) == 3

    def test_it_is_reported_again_after_short_acks_were_sent(self, turns: TurnClock) -> None:
        """The last ACKs that were held back are so short that they need no watching."""
        writer = Writer(turns, Wire())
        writer.answer(9000, *[700] * 15)
        assert len(writer.held) == 1
        while writer.connection.unread:
            writer.next_look()
        assert turns.getDelayedCalls() == []
        writer.answer(9000, 9000)
        assert len(writer.held) == 2


class TestAgent:
    """Through a whole agent."""

    def test_long_acks_leave_one_after_another(self, clock: Clock) -> None:
        """HAProxy can read each before the next. Other ACKs and AGENT-DISCONNECT wait behind them."""
        factory = SPOAFactory(long_answers(6000), reactor=clock)
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
        """The drain does not hold them back as well."""
        factory = SPOAFactory(long_answers(9000), reactor=clock)
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

    def test_a_drain_does_not_hold_acks_back_as_well(self, clock: Clock, waiting: Waiting) -> None:
        """While HAProxy reads an earlier ACK, further ACKs leave as soon as they may."""
        waiting.handlers.message("long")(lambda: {"sess.a": "x" * 7000})
        factory = SPOAFactory(waiting.handlers, reactor=clock)
        session = Session(factory)
        session.notify("wait", "long")
        assert len(session.events()) == 1
        factory.drain(5)
        clock.advance(0)
        session.notify("long", "long")
        assert len(session.events()) == 1
        session.lose()

    def test_acks_that_are_written_before_the_kernel_is_asked(self, turns: TurnClock) -> None:
        """The kernel may not have them yet when it says that HAProxy has read everything."""
        handlers = Handlers({"long": lambda: {"sess.a": "x" * 7000}, "longer": lambda: {"sess.a": "x" * 9000}})
        session = Session(SPOAFactory(handlers, reactor=turns))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            session.wire.socket = ours  # type: ignore[attr-defined]
            session.notify("long")
            turns.advance(READ_INTERVAL)
            # The interval has ended, and the kernel is asked two turns later.
            session.notify("longer", "longer")
            turns.pump([0, 0])
            for _ in range(Receipt.HANDED_OUT.value - 1):
                turns.pump([READ_INTERVAL, 0, 0])
            # HAProxy has read the first ACK and the second one, but the second not long enough ago for the third.
            assert len(session.events()) == 2
            turns.pump([READ_INTERVAL, 0, 0])
            assert len(session.events()) == 1
        session.lose()

    def test_bytes_that_were_read_may_not_have_been_returned(self, clock: Clock) -> None:
        """When the kernel says for the first time that all was read, the call that reads may still take more."""
        session = Session(SPOAFactory(long_answers(9000), reactor=clock))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            session.wire.socket = ours  # type: ignore[attr-defined]
            session.notify("long", "long")
            for _ in range(Receipt.HANDED_OUT.value):
                assert len(session.wire.value()) < 16384
                clock.pump([READ_INTERVAL, 0, 0])
            assert len(session.events()) == 2
        session.lose()

    def test_an_answer_after_the_last_acks_is_dropped(self, clock: Clock, logged: Logged) -> None:
        """ACKs are held back, and so is AGENT-DISCONNECT, which must be the last frame."""
        answer: Deferred[Any] = Deferred()
        handlers = Handlers({"wait": lambda: answer, "long": lambda: {"sess.a": "x" * 9000}})
        session = Session(SPOAFactory(handlers, reactor=clock))
        session.notify("wait", "long", "long")
        session.break_protocol()
        answer.callback({"sess.late": 1})
        received: list[Any] = []
        while not session.wire.disconnecting:
            received += session.events()
            clock.advance(READ_INTERVAL)
        received += session.events()
        assert [type(event) for event in received] == [Ack, Ack, Disconnect]
        assert len(logged.take()) == 1
        session.lose()

    def test_no_timer_is_left(self, clock: Clock) -> None:
        """None runs when everything was read, and none when the connection has ended."""
        session = Session(SPOAFactory(long_answers(9000), reactor=clock))
        session.notify("long")
        assert len(clock.getDelayedCalls()) == 1
        for _ in range(Receipt.UNKNOWN.value):
            clock.advance(READ_INTERVAL)
        assert clock.getDelayedCalls() == []
        session.notify("long")
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_acks_that_are_held_back_are_limited(self, clock: Clock) -> None:
        """The agent answers no further NOTIFY until some of them have left."""
        calls: list[int] = []

        def handler() -> dict[str, Any]:
            calls.append(1)
            return {"sess.a": "x" * 16000}

        session = Session(SPOAFactory(Handlers({"long": handler}), reactor=clock))
        session.notify(*["long"] * 1000)
        # 512 KiB of ACKs, which are more than the 20 that HAProxy has in flight.
        assert 20 < len(calls) <= 2**19 // 16000 + 2

    def test_room_is_used_at_once(self, clock: Clock) -> None:
        """When ACKs have left, the agent answers further NOTIFYs in the same turn, not after another interval."""
        calls: list[int] = []

        def handler() -> dict[str, Any]:
            calls.append(1)
            return {"sess.a": "x" * 16000}

        session = Session(SPOAFactory(Handlers({"long": handler}), reactor=clock))
        session.notify(*["long"] * 20)
        for _ in range(20 * Receipt.UNKNOWN.value):
            answered, written = len(calls), len(session.wire.writes)
            clock.pump([READ_INTERVAL, 0, 0])
            assert len(calls) - answered == len(session.wire.writes) - written or len(calls) == 20
        assert answered == 20

    def test_notifys_that_wait_behind_held_acks_are_limited(self, clock: Clock) -> None:
        """The agent stops reading from a peer that sends without end while its ACKs leave slowly."""
        calls: list[int] = []

        def handler() -> dict[str, Any]:
            calls.append(1)
            return {"sess.a": "x" * 900}

        session = Session(SPOAFactory(Handlers({"long": handler}), reactor=clock))
        sent = sent_size = 0
        for _ in range(200):
            while session.wire.producerState == "producing":
                for _ in range(20):
                    session.engine.send_notify([Message("long")])
                sent += 20
                data = session.engine.data_to_send()
                sent_size += len(data)
                session.agent.dataReceived(data)
            # NOTIFYs that no handler was called for are in the agent's memory.
            assert (sent - len(calls)) * sent_size / sent < 2**17
            session.events()
            clock.advance(READ_INTERVAL)

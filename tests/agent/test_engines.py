"""Engines: with the capability async, an ACK may take another connection of its engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.agent.drain import FIRST_PATIENCE, QUIET_INTERVAL, QUIET_INTERVALS_AFTER_ACKS
from spoa_twisted.agent.engines import ENGINE_TIMEOUT, Engine, Engines
from spoa_twisted.spop.connection import Ack
from spoa_twisted.spop.frames import AgentHello, Disconnect, HAProxyHello
from tests.agent.memory import OLD, Answer, OtherHandlers, Session, Waiting
from tests.conftest import Logged

#: Of all engines together: answers that may be pending without a connection, and bytes that may wait for one.
MAX_PENDING = 1024
MAX_WAITING_SIZE = 2**20


class Carrier:
    """A connection of an engine."""

    def __init__(self) -> None:
        self.acks: list[tuple[bytes, bytes]] = []
        self.disconnected = False

    def acknowledge(self, ids: bytes, actions: bytes) -> None:
        self.acks.append((ids, actions))

    def has_disconnected(self) -> bool:
        return self.disconnected


@pytest.fixture
def engines(clock: Clock) -> Engines:
    return Engines(clock, lambda answer: answer.cancel())


def leave(engine: Engine, count: int) -> list[Answer]:
    """Let a connection with ``count`` pending answers join and leave ``engine``. Return the answers."""
    carrier = Carrier()
    engine.add(carrier)
    answers = [Answer() for _ in range(count)]
    engine.remove(carrier, {answer: b"%d" % number for number, answer in enumerate(answers)})
    return answers


class TestEngines:
    def test_an_engine_is_found_by_its_id(self, engines: Engines) -> None:
        """Each id has one engine."""
        first = engines.get("a")
        assert engines.get("a") is first
        assert engines.get("b") is not first
        assert len(engines) == 2

    def test_an_engine_without_connections_and_answers_is_forgotten(self, engines: Engines, clock: Clock) -> None:
        """A peer that sends many engine-ids fills no table."""
        for number in range(1000):
            leave(engines.get(str(number)), 0)
        assert len(engines) == 0
        assert clock.getDelayedCalls() == []

    def test_a_forgotten_engine_may_come_back(self, engines: Engines) -> None:
        """It is a new one then."""
        first = engines.get("a")
        leave(first, 0)
        second = engines.get("a")
        assert second is not first
        carrier = Carrier()
        second.add(carrier)
        assert len(engines) == 1
        second.remove(carrier, {})
        assert len(engines) == 0

    def test_all_can_be_forgotten(self, engines: Engines, clock: Clock) -> None:
        """Pending answers are cancelled, and no timer is left."""
        answers = leave(engines.get("a"), 2) + leave(engines.get("b"), 1)
        assert len(clock.getDelayedCalls()) == 2
        engines.forget_all()
        assert all(answer.cancelled for answer in answers)
        assert len(engines) == 0
        assert clock.getDelayedCalls() == []


class TestEngine:
    def test_the_oldest_connection_carries_the_acks(self, engines: Engines) -> None:
        """A connection on which AGENT-DISCONNECT was sent is skipped."""
        engine = engines.get("a")
        first, second, lost = Carrier(), Carrier(), Carrier()
        for carrier in (first, second, lost):
            engine.add(carrier)
        answers = [Answer(), Answer()]
        engine.remove(lost, {answers[0]: b"1", answers[1]: b"2"})
        engine.on_answer(answers[0], b"x")
        assert first.acks == [(b"1", b"x")]
        first.disconnected = True
        engine.on_answer(answers[1], b"y")
        assert second.acks == [(b"2", b"y")]
        assert len(first.acks) == 1

    def test_acks_wait_for_a_connection(self, engines: Engines, clock: Clock) -> None:
        """The next connection carries them in their order."""
        engine = engines.get("a")
        answers = leave(engine, 3)
        assert [engine.awaits(answer) for answer in answers] == [True] * 3
        engine.on_answer(answers[2], b"c")
        engine.on_answer(answers[0], b"a")
        carrier = Carrier()
        engine.add(carrier)
        assert carrier.acks == [(b"2", b"c"), (b"0", b"a")]
        assert clock.getDelayedCalls() == []
        engine.on_answer(answers[1], b"b")
        assert carrier.acks[2:] == [(b"1", b"b")]
        assert not engine.awaits(answers[1])

    def test_connections_that_have_all_disconnected_carry_nothing(self, engines: Engines) -> None:
        """The ACK waits for the next connection."""
        engine = engines.get("a")
        closing, lost, new = Carrier(), Carrier(), Carrier()
        engine.add(closing)
        engine.add(lost)
        answer = Answer()
        engine.remove(lost, {answer: b"1"})
        closing.disconnected = True
        engine.on_answer(answer, b"x")
        assert closing.acks == []
        engine.add(new)
        assert new.acks == [(b"1", b"x")]

    def test_an_engine_is_forgotten_after_the_timeout(self, engines: Engines, clock: Clock) -> None:
        """Its pending answers are cancelled. The timer starts once, with the end of the last connection."""
        engine = engines.get("a")
        answers = leave(engine, 2)
        engine.on_answer(answers[0], b"x")
        clock.advance(ENGINE_TIMEOUT - 1)
        assert len(engines) == 1
        clock.advance(1)
        assert not answers[0].cancelled
        assert answers[1].cancelled
        assert not engine.awaits(answers[1])
        assert len(engines) == 0
        assert clock.getDelayedCalls() == []

    def test_a_connection_that_never_joined_may_leave(self, engines: Engines, clock: Clock) -> None:
        """A second end of a connection does not start a second timer."""
        engine = engines.get("a")
        leave(engine, 1)
        engine.remove(Carrier(), {})
        assert len(clock.getDelayedCalls()) == 1

    def test_pending_answers_are_limited_over_all_engines(self, engines: Engines, clock: Clock) -> None:
        """Answers above the limit are cancelled. There is room again when the engines are forgotten."""
        for _ in range(2):
            answers = [answer for number in range(10) for answer in leave(engines.get(str(number)), 200)]
            assert sum(answer.cancelled for answer in answers) == 2000 - MAX_PENDING
            assert not any(answer.cancelled for answer in answers[:MAX_PENDING])
            clock.advance(ENGINE_TIMEOUT)
            assert all(answer.cancelled for answer in answers)
            assert len(engines) == 0

    def test_answered_ones_do_not_count_as_pending(self, engines: Engines) -> None:
        """The limit is for answers whose handlers have not finished."""
        engine = engines.get("a")
        for answer in leave(engine, MAX_PENDING):
            engine.on_answer(answer, b"")
        assert not any(answer.cancelled for answer in leave(engine, MAX_PENDING))

    def test_waiting_acks_are_limited_over_all_engines(self, engines: Engines) -> None:
        """ACKs above the limit are dropped. There is room again when a connection has carried some."""
        size = MAX_WAITING_SIZE // 4
        for _ in range(2):
            for name in ("a", "b"):
                engine = engines.get(name)
                for answer in leave(engine, 3):
                    engine.on_answer(answer, b"x" * size)
            carried = []
            for name in ("a", "b"):
                carrier = Carrier()
                engines.get(name).add(carrier)
                carried.append(len(carrier.acks))
                engines.get(name).remove(carrier, {})
            assert carried == [3, 1]

    def test_waiting_acks_are_dropped_with_their_engine(self, engines: Engines, clock: Clock) -> None:
        """They do not count for the limit any more."""
        for _ in range(2):
            engine = engines.get("a")
            answers = leave(engine, 2)
            engine.on_answer(answers[0], b"x" * MAX_WAITING_SIZE)
            clock.advance(ENGINE_TIMEOUT)
            assert len(engines) == 0
        engine = engines.get("a")
        engine.on_answer(leave(engine, 1)[0], b"x" * MAX_WAITING_SIZE)
        carrier = Carrier()
        engine.add(carrier)
        assert len(carrier.acks) == 1


class TestAgent:
    """Through a whole agent."""

    @pytest.fixture
    def factory(self, clock: Clock, waiting: Waiting) -> SPOAFactory:
        return SPOAFactory(waiting.handlers, reactor=clock, async_=True, handler_timeout=0)

    def test_an_ack_leaves_on_its_own_connection(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """It takes another one only if its own has ended."""
        first, second = Session(factory, OLD), Session(factory, OLD)
        first.notify("wait")
        waiting.deferreds[0].callback(None)
        assert len(first.events()) == 1
        assert second.events() == []

    def test_an_ack_whose_connection_has_ended(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """It takes another connection of the same engine, not one of another engine."""
        other = Session(factory, HAProxyHello(capabilities=OLD.capabilities, engine_id="other"))
        first, second = Session(factory, OLD), Session(factory, OLD)
        (ids,) = first.notify("wait")
        first.lose()
        assert waiting.cancelled == []
        waiting.deferreds[0].callback({"sess.a": 1})
        assert second.acks() == [Ack(ids, {"sess.a": 1}, aborted=False)]
        assert other.acks() == []

    def test_a_connection_with_a_smaller_frame_size(
        self, factory: SPOAFactory, waiting: Waiting, logged: Logged
    ) -> None:
        """The ACK sets no variables if they do not fit there, and the agent logs one line."""
        first = Session(factory, OLD)
        (ids,) = first.notify("wait")
        first.lose()
        waiting.deferreds[0].callback({"sess.a": "x" * 4000})
        second = Session(factory, replace(OLD, max_frame_size=256), greet=False)
        second.send()
        assert second.acks() == [Ack(ids, {}, aborted=False)]
        (line,) = logged.take()
        assert "the response of the handlers cannot be sent: 4" in line

    def test_an_ack_waits_for_a_new_connection(self, factory: SPOAFactory, waiting: Waiting, clock: Clock) -> None:
        """HAProxy opens one when it waits for ACKs. The ACK follows the AGENT-HELLO in the same write."""
        first = Session(factory, OLD)
        sent = first.notify("wait", "wait")
        first.lose()
        waiting.deferreds[0].callback({"sess.a": 1})
        second = Session(factory, OLD, greet=False)
        second.send()
        assert len(second.wire.writes) == 1
        assert [ack.ids for ack in second.acks()] == [sent[0]]
        waiting.deferreds[1].callback(None)
        assert [ack.ids for ack in second.acks()] == [sent[1]]
        second.lose()
        assert len(factory.engines) == 0
        assert clock.getDelayedCalls() == []

    @pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1)])
    def test_waiting_for_all_answers(
        self, order: tuple[int, ...], factory: SPOAFactory, waiting: Waiting, clock: Clock
    ) -> None:
        """``when_answered`` waits for the NOTIFYs that are pending, on open connections and of ended ones."""
        first, second = Session(factory, OLD), Session(factory, OLD)
        first.notify("wait")
        second.notify("wait")
        first.lose()
        answered: list[None] = []
        factory.when_answered().addCallback(answered.append)
        clock.advance(0)
        # It does not wait for this NOTIFY, which is later.
        second.notify("wait")
        for number in order:
            assert answered == []
            waiting.deferreds[number].callback(None)
        assert answered == [None]

    def test_the_agent_hello_comes_before_acks_that_waited(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """HAProxy expects no ACK before it."""
        first = Session(factory, OLD)
        first.notify("wait")
        first.lose()
        waiting.deferreds[0].callback(None)
        second = Session(factory, OLD, greet=False)
        second.send()
        assert isinstance(second.events()[0], AgentHello)

    def test_an_engine_that_does_not_come_back(self, factory: SPOAFactory, waiting: Waiting, clock: Clock) -> None:
        """Its pending handlers are cancelled."""
        session = Session(factory, OLD)
        session.notify("wait", "wait")
        session.engine.disconnect()
        session.send()
        session.lose()
        waiting.deferreds[0].callback(None)
        clock.advance(ENGINE_TIMEOUT)
        assert len(factory.engines) == 0
        assert waiting.cancelled == [waiting.deferreds[1]]

    def test_an_engine_with_nothing_pending_is_forgotten_at_once(self, factory: SPOAFactory, clock: Clock) -> None:
        """A peer that invents engine-ids fills no table."""
        for number in range(100):
            Session(factory, HAProxyHello(capabilities=OLD.capabilities, engine_id=str(number))).lose()
        assert len(factory.engines) == 0
        assert clock.getDelayedCalls() == []

    def test_a_peer_without_async(self, factory: SPOAFactory, waiting: Waiting) -> None:
        """HAProxy >= 3.1 does not know async. When its connection is lost, pending handlers are cancelled."""
        session = Session(factory)
        session.notify("wait")
        session.lose()
        assert waiting.cancelled == waiting.deferreds
        assert len(factory.engines) == 0

    def test_the_end_of_an_older_connection(self, factory: SPOAFactory) -> None:
        """The agent closed it before. Its engine was forgotten, and has a new connection now, which stays."""
        old = Session(factory, OLD)
        old.engine.disconnect()
        old.send()
        assert len(factory.engines) == 0
        new = Session(factory, OLD)
        old.lose()
        assert len(factory.engines) == 1
        new.lose()
        assert len(factory.engines) == 0

    def test_an_engine_stays_as_long_as_one_connection(self, factory: SPOAFactory, clock: Clock) -> None:
        """The end of another connection does not matter."""
        first, second = Session(factory, OLD), Session(factory, OLD)
        first.lose()
        assert len(factory.engines) == 1
        assert clock.getDelayedCalls() == []
        second.notify("now")
        assert len(second.events()) == 1
        second.lose()

    def test_a_canceller_that_raises_is_reported(self, factory: SPOAFactory, clock: Clock, logged: Logged) -> None:
        """An engine that is forgotten cancels the other answers too."""

        def canceller(deferred: object) -> None:
            raise SystemExit(1)

        last: list[Any] = []
        deferreds: list[Deferred[Any]] = [Deferred(canceller), Deferred(last.append)]
        factory.handlers = Handlers({"wait": lambda: deferreds.pop(0)})
        session = Session(factory, OLD)
        session.notify("wait", "wait")
        session.lose()
        clock.advance(ENGINE_TIMEOUT)
        assert len(last) == 1
        (line,) = logged.take()
        assert line.startswith("critical: a handler's Deferred failed to be cancelled: SystemExit")
        assert len(factory.engines) == 0

    def test_a_health_check_belongs_to_no_engine(self, factory: SPOAFactory) -> None:
        """It may send an engine-id, but its connection closes at once."""
        Session(factory, replace(OLD, healthcheck=True)).lose()
        assert len(factory.engines) == 0

    def test_a_failure_after_the_end_of_the_connection(self, clock: Clock, logged: Logged) -> None:
        """It is answered on another connection of the engine, without variables."""
        answer: Deferred[bytes] = Deferred()
        factory = SPOAFactory(OtherHandlers(answer), reactor=clock, async_=True)
        first, second = Session(factory, OLD), Session(factory, OLD)
        (ids,) = first.notify("m")
        first.lose()
        answer.errback(LookupError("boom"))
        assert second.acks() == [Ack(ids, {}, aborted=False)]
        assert len(logged.take()) == 1

    def test_lost_connections_of_many_engines(self, factory: SPOAFactory, waiting: Waiting, clock: Clock) -> None:
        """The number of pending handlers, and the bytes of ACKs, are limited over all engines."""
        hellos = [HAProxyHello(capabilities=OLD.capabilities, engine_id=str(number)) for number in range(10)]
        for hello in hellos:
            session = Session(factory, hello)
            session.notify(*["wait"] * 200)
            session.lose()
        assert len(waiting.cancelled) == 2000 - MAX_PENDING
        for deferred in waiting.deferreds:
            if not deferred.called:
                deferred.callback({"sess.a": "x" * 16000})
        size = 0
        for hello in hellos:
            session = Session(factory, hello, greet=False)
            session.send()
            size += sum(len(str(ack.variables["sess.a"])) for ack in session.acks())
            session.lose()
        assert MAX_WAITING_SIZE - 2 * 16000 < size <= MAX_WAITING_SIZE
        clock.advance(ENGINE_TIMEOUT)
        assert len(factory.engines) == 0

    def test_a_drain_leaves_an_ack_to_a_connection_that_stays(
        self, factory: SPOAFactory, waiting: Waiting, clock: Clock
    ) -> None:
        """No ACK can follow AGENT-DISCONNECT."""
        lost, idle, busy = (Session(factory, OLD) for _ in range(3))
        busy.notify("wait")
        (ids,) = lost.notify("wait")
        lost.lose()
        factory.drain(5)
        clock.pump([0, *[QUIET_INTERVAL] * QUIET_INTERVALS_AFTER_ACKS, 2 * FIRST_PATIENCE])
        assert idle.events() == [Disconnect(0, "normal")]
        waiting.deferreds[1].callback({"sess.a": 1})
        while not (acks := busy.acks()):
            clock.advance(QUIET_INTERVAL)
        assert acks == [Ack(ids, {"sess.a": 1}, aborted=False)]

    def test_nothing_is_left_after_a_drain(
        self, factory: SPOAFactory, waiting: Waiting, clock: Clock, logged: Logged
    ) -> None:
        """Pending handlers are cancelled with the last connection: no other connection will come."""
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
        assert len(factory.engines) == 0
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == 1

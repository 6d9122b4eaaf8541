"""Pipelining: which connections of an engine may have several NOTIFYs in flight, and how the others end."""

from __future__ import annotations

import weakref
from typing import Any
from uuid import UUID

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.agent.pipelining import (
    END_INTERVAL,
    FIRST_QUIET_TIME,
    LONG_ACKS,
    LONGEST_QUIET_TIME,
    SHORT_ACKS,
)
from spoa_twisted.agent.protocol import DISCONNECT_TIMEOUT
from spoa_twisted.agent.retirement import IDLE_INTERVAL, PATIENCE
from spoa_twisted.observer import PipeliningChanged
from spoa_twisted.spop.connection import Ack
from spoa_twisted.spop.frames import Disconnect, HAProxyHello
from tests.agent.memory import OLD, Session
from tests.handlers.answers import Recorder

#: The longest answer, in characters, that makes a short ACK with the usual frame size.
SHORT = 700


def hello(engine_id: str = str(UUID(int=1)), *capabilities: str) -> HAProxyHello:
    """Return the HAPROXY-HELLO of a HAProxy >= 3.1."""
    return HAProxyHello(capabilities=frozenset(capabilities or {"pipelining"}), engine_id=engine_id)


class Agent:
    """An agent whose answers have the lengths that a test asks for, and HAProxy's ends of its connections."""

    def __init__(self, clock: Clock, **keywords: Any) -> None:
        self.clock = clock
        self.recorder = Recorder()
        self.factory = SPOAFactory(Handlers({}), reactor=clock, observer=self.recorder, **keywords)

    def connect(self, greeting: HAProxyHello | None = None) -> Session:
        return Session(self.factory, greeting or hello())

    def ask(self, session: Session, *sizes: int) -> list[Any]:
        """Send a NOTIFY for each answer of so many characters, all in one read. Return the events of HAProxy's end."""
        results = iter(sizes)
        self.factory.use(Handlers({"m": lambda: {"sess.a": "x" * next(results)}}))
        session.notify(*["m"] * len(sizes))
        return session.events()

    def let_it_read(self) -> None:
        """Let HAProxy read all ACKs, and wait until the agent assumes that it has."""
        self.clock.pump([0.005, 0, 0] * 50)

    def changes(self) -> list[bool]:
        """Return the decisions that were reported so far."""
        return [event.pipelining for event in self.recorder.events if isinstance(event, PipeliningChanged)]


@pytest.fixture
def agent(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """An agent that needs fewer short ACKs, because 20,000 take a second."""
    monkeypatch.setattr("spoa_twisted.agent.pipelining.SHORT_ACKS", 5)
    return Agent(clock)


def pipelined(session: Session) -> bool:
    """Return whether both ends of the connection list the capability."""
    listed = "pipelining" in session.engine.peer_capabilities
    assert session.agent._connection.pipelined is listed
    return listed


def earned(agent: Agent) -> Session:
    """Return a connection with pipelining, of an engine that has earned it."""
    first = agent.connect()
    for _ in range(4):
        assert [type(event) for event in agent.ask(first, SHORT)] == [Ack]
    assert [type(event) for event in agent.ask(first, SHORT)] == [Ack, Disconnect]
    agent.recorder.take()
    session = agent.connect()
    assert pipelined(session)
    return session


class TestFirstConnections:
    def test_a_new_engine_has_no_pipelining(self, agent: Agent) -> None:
        assert not pipelined(agent.connect())
        assert not pipelined(agent.connect())
        assert agent.changes() == []

    @pytest.mark.parametrize(
        "greeting",
        [
            OLD,
            hello(str(UUID(int=1)), "pipelining", "async"),
            hello(""),
            hello("engine"),
            hello(f"{UUID(int=1)}0"),
        ],
        ids=["<= 3.0", "<= 3.0 with a UUID", "no engine-id", "another program", "longer than a UUID"],
    )
    def test_others_have_pipelining(self, agent: Agent, greeting: HAProxyHello) -> None:
        assert pipelined(agent.connect(greeting))

    def test_fragmentation_is_announced_without_pipelining(self, agent: Agent) -> None:
        assert agent.connect().engine.peer_capabilities == {"fragmentation"}

    def test_an_engine_that_cannot_pipeline_is_not_watched(self, agent: Agent) -> None:
        """With ``no option pipelining`` in HAProxy, nothing ends a connection."""
        session = agent.connect(hello(str(UUID(int=1)), "other"))
        for _ in range(20):
            assert [type(event) for event in agent.ask(session, SHORT)] == [Ack]
        assert agent.changes() == []

    @pytest.mark.parametrize(("mode", "expected"), [("always", True), ("never", False)])
    @pytest.mark.parametrize("greeting", [hello(), hello(""), OLD], ids=[">= 3.1", "no engine-id", "<= 3.0"])
    def test_the_mode_decides_for_all(self, clock: Clock, mode: str, expected: bool, greeting: HAProxyHello) -> None:
        agent = Agent(clock, pipelining=mode)
        session = agent.connect(greeting)
        assert pipelined(session) is expected
        for size in [SHORT] * 20 + [2000] * 20:
            assert [type(event) for event in agent.ask(session, size)] == [Ack]
            agent.let_it_read()
        assert agent.changes() == []

    def test_another_mode_is_refused(self, clock: Clock) -> None:
        with pytest.raises(ValueError, match="pipelining is 'sometimes', which is none of auto, always, never"):
            Agent(clock, pipelining="sometimes")

    def test_the_number_of_engines_is_limited(self, agent: Agent) -> None:
        for number in range(2000):
            agent.connect(hello(str(UUID(int=number)))).agent.connectionLost()
        assert len(agent.factory.pipelining._engines) <= 1024

    def test_the_size_of_an_engine_is_limited(self, agent: Agent) -> None:
        """An engine-id may be almost as long as the longest HAPROXY-HELLO."""
        agent.connect(hello("x" * 16000))
        (name,) = agent.factory.pipelining._engines
        assert len(name) <= 64

    def test_an_engine_that_is_in_use_is_not_forgotten(self, agent: Agent) -> None:
        earned(agent)
        for number in range(2, 2000):
            agent.connect(hello(str(UUID(int=number)))).agent.connectionLost()
            if number % 500 == 0:
                assert pipelined(agent.connect())

    def test_an_engine_that_is_forgotten_ends_no_more_connections(self, agent: Agent) -> None:
        """A drain would not find it."""
        session = earned(agent)
        agent.ask(session, 9000, 9000)
        for number in range(2, 2000):
            agent.connect(hello(str(UUID(int=number)))).agent.connectionLost()
        agent.let_it_read()
        assert [type(event) for event in session.events()] == [Ack]


class TestShortAnswers:
    def test_short_acks_in_a_row_allow_pipelining(self, agent: Agent) -> None:
        """The connection without it ends with the last of them, in one write. HAProxy then has no NOTIFY on it."""
        session = agent.connect()
        for _ in range(4):
            assert [type(event) for event in agent.ask(session, SHORT)] == [Ack]
        session.wire.writes.clear()
        assert [type(event) for event in agent.ask(session, SHORT)] == [Ack, Disconnect]
        assert len(session.wire.writes) == 1
        assert agent.changes() == [True]
        assert pipelined(agent.connect())

    def test_a_long_ack_starts_the_count_again(self, agent: Agent) -> None:
        session = agent.connect()
        for size in [SHORT, SHORT, SHORT, SHORT, 1000, SHORT, SHORT, SHORT, SHORT]:
            assert [type(event) for event in agent.ask(session, size)] == [Ack]
        assert agent.changes() == [False]
        assert [type(event) for event in agent.ask(session, SHORT)] == [Ack, Disconnect]
        assert agent.changes() == [False, True]

    def test_the_first_decision_is_reported_once(self, agent: Agent) -> None:
        session = agent.connect()
        for _ in range(10):
            agent.ask(session, 1000)
        assert agent.changes() == [False]

    def test_connections_end_one_after_the_other(self, agent: Agent) -> None:
        """HAProxy opens connections in their place, and could not do that for all at the same time."""
        sessions = [agent.connect() for _ in range(3)]
        for _ in range(4):
            agent.ask(sessions[0], SHORT)
        assert [type(event) for event in agent.ask(sessions[0], SHORT)] == [Ack, Disconnect]
        assert [type(event) for event in agent.ask(sessions[1], SHORT)] == [Ack]
        agent.clock.advance(END_INTERVAL)
        assert [type(event) for event in agent.ask(sessions[1], SHORT)] == [Ack, Disconnect]
        assert [type(event) for event in agent.ask(sessions[2], SHORT)] == [Ack]

    def test_an_idle_connection_does_not_end(self, agent: Agent) -> None:
        """HAProxy could be about to send a NOTIFY on it."""
        idle = agent.connect()
        earned(agent)
        agent.clock.pump([1] * 100)
        assert idle.events() == []

    def test_a_connection_with_two_notifys_ends_with_both_acks(self, agent: Agent) -> None:
        """HAProxy has given the first NOTIFY up, and has sent another."""
        session = agent.connect()
        for _ in range(4):
            agent.ask(session, SHORT)
        assert [type(event) for event in agent.ask(session, SHORT, SHORT)] == [Ack, Ack, Disconnect]

    def test_a_connection_with_a_pending_notify_does_not_end(self, agent: Agent) -> None:
        session = agent.connect()
        for _ in range(4):
            agent.ask(session, SHORT)
        answers: list[Deferred[Any]] = [Deferred(), Deferred()]
        waiting = iter(answers)
        agent.factory.use(Handlers({"m": lambda: next(waiting)}))
        session.notify("m")
        session.notify("m")
        answers[1].callback({})
        agent.clock.advance(0)
        assert [type(event) for event in session.events()] == [Ack]
        answers[0].callback({})
        assert [type(event) for event in session.events()] == [Ack, Disconnect]

    def test_an_engine_is_remembered(self, agent: Agent) -> None:
        earned(agent).agent.connectionLost()
        agent.clock.advance(3600)
        assert pipelined(agent.connect())
        assert not pipelined(agent.connect(hello(str(UUID(int=2)))))

    @pytest.mark.parametrize("requests", [4, 0], ids=["a known engine", "a new engine"])
    def test_a_drain_ends_the_connection_by_itself(self, agent: Agent, requests: int) -> None:
        """The drain sends AGENT-DISCONNECT when the connection is quiet, not with an ACK."""
        session = agent.connect() if requests else Session(agent.factory, hello(), greet=False)
        for _ in range(requests):
            agent.ask(session, SHORT)
        agent.factory.drain(10)
        session.send()
        session.events()
        for _ in range(5):
            assert [type(event) for event in agent.ask(session, SHORT)] == [Ack]
        agent.clock.pump([0.005, 0, 0] * 100)
        assert [type(event) for event in session.events()] == [Disconnect]

    def test_a_service_that_starts_again_ends_connections_again(self, agent: Agent) -> None:
        """After a drain, the agent may listen again, while HAProxy keeps its engine-id."""
        session = agent.connect()
        drained = agent.factory.drain(0)
        session.agent.connectionLost()
        assert drained.called
        earned(agent)

    def test_20_000_are_needed(self) -> None:
        assert SHORT_ACKS == 20_000


class TestLongAnswers:
    def test_acks_that_must_wait_end_pipelining(self, agent: Agent) -> None:
        session = earned(agent)
        assert len(agent.ask(session, 9000, 9000)) == 1
        assert agent.changes() == [False]
        assert not pipelined(agent.connect())

    def test_many_long_acks_end_pipelining_although_none_waits(self, agent: Agent) -> None:
        session = earned(agent)
        for _ in range(LONG_ACKS):
            assert agent.changes() == []
            agent.ask(session, 1000)
            agent.let_it_read()
        assert agent.changes() == [False]

    def test_a_long_ack_now_and_then_changes_nothing(self, agent: Agent) -> None:
        session = earned(agent)
        for _ in range(LONG_ACKS - 1):
            agent.ask(session, 3000)
            agent.let_it_read()
            agent.ask(session, *[SHORT] * 10)
        assert agent.changes() == []

    def test_many_short_acks_that_wait_change_nothing(self, agent: Agent) -> None:
        """They wait because HAProxy gave NOTIFYs up: other connections would not help."""
        session = earned(agent)
        agent.ask(session, *[SHORT] * 40)
        assert session.agent._connection.held_back
        assert agent.changes() == []

    def test_an_idle_connection_ends(self, agent: Agent) -> None:
        idle = earned(agent)
        busy = agent.connect()
        agent.ask(busy, 9000, 9000)
        agent.clock.pump([IDLE_INTERVAL] * 6)
        assert [type(event) for event in idle.events()] == [Disconnect]

    def test_an_idle_connection_does_not_end_sooner_while_acks_are_held_back(self, agent: Agent) -> None:
        """The checks are more frequent then, but HAProxy needs the same time to act on the last ACKs."""
        idle, busy = earned(agent), agent.connect()
        agent.ask(idle, SHORT)
        agent.ask(busy, 9000, 9000)
        agent.clock.pump([0, *[0.005, 0] * 11])
        assert idle.events() == []
        agent.clock.pump([0.005] * 6)
        assert [type(event) for event in idle.events()] == [Disconnect]

    def test_a_connection_whose_acks_fit_ends_with_them(self, agent: Agent) -> None:
        """Its ACKs are held back for a moment. When no bytes follow, they leave with AGENT-DISCONNECT in one write."""
        session, busy = earned(agent), agent.connect()
        agent.ask(busy, 9000, 9000)
        agent.clock.advance(0)
        assert agent.ask(session, SHORT, SHORT) == []
        session.wire.writes.clear()
        agent.clock.pump([PATIENCE / 4, 0] * 5)
        assert [type(event) for event in session.events()] == [Ack, Ack, Disconnect]
        assert len(session.wire.writes) == 1

    def test_a_busy_connection_goes_on(self, agent: Agent) -> None:
        """While NOTIFYs arrive on it without a pause, each of them is answered, and the connection does not end."""
        session = earned(agent)
        agent.ask(session, 9000, 9000)
        acks = 1
        for _ in range(200):
            agent.clock.pump([0.005, 0, 0])
            acks += len([event for event in agent.ask(session, 9000) if isinstance(event, Ack)])
        agent.clock.pump([0.005, 0, 0] * 5000)
        events = session.events()
        assert acks + len([event for event in events if isinstance(event, Ack)]) == 202
        assert [type(event) for event in events][-1] is Disconnect

    def test_the_acks_of_the_connection_that_ends_wait_for_less_time(self, agent: Agent) -> None:
        """For 60 ms, not for 200 ms, because HAProxy's timeouts do not wait for the change."""
        session = earned(agent)
        assert len(agent.ask(session, 9000, 9000)) == 1
        agent.clock.pump([0.005, 0, 0] * 25)
        assert [type(event) for event in session.events()][:1] == [Ack]

    def test_a_pending_handler_is_awaited(self, agent: Agent) -> None:
        idle = earned(agent)
        agent.ask(agent.connect(), 9000, 9000)
        answer: Deferred[Any] = Deferred()
        agent.factory.use(Handlers({"m": lambda: answer}))
        idle.notify("m")
        agent.clock.pump([IDLE_INTERVAL] * 6)
        assert idle.events() == []
        answer.callback({})
        agent.clock.pump([IDLE_INTERVAL] * 6)
        assert [type(event) for event in idle.events()] == [Ack, Disconnect]

    def test_a_connection_with_half_a_frame_does_not_end(self, agent: Agent) -> None:
        idle = earned(agent)
        agent.ask(agent.connect(), 9000, 9000)
        idle.agent.dataReceived(b"\0\0\0")
        agent.clock.pump([IDLE_INTERVAL] * 100)
        assert idle.events() == []

    def test_haproxy_that_does_not_close_is_closed(self, agent: Agent) -> None:
        idle = earned(agent)
        agent.ask(agent.connect(), 9000, 9000)
        agent.clock.pump([IDLE_INTERVAL] * 6)
        agent.clock.advance(DISCONNECT_TIMEOUT)
        assert idle.wire.disconnecting

    def test_the_acks_wait_for_less_time_in_a_drain_too(self, agent: Agent) -> None:
        session = earned(agent)
        assert len(agent.ask(session, 9000, 9000)) == 1
        agent.factory.drain(10)
        agent.clock.pump([0.005, 0, 0] * 25)
        assert [type(event) for event in session.events()][:1] == [Ack]

    def test_a_drain_takes_over(self, agent: Agent) -> None:
        session = earned(agent)
        agent.ask(session, 9000, 9000)
        drained = agent.factory.drain(10)
        agent.clock.pump([0.005, 0, 0] * 200)
        assert [type(event) for event in session.events()] == [Ack, Disconnect]
        for connection in list(agent.factory.connections):
            connection.connectionLost()
        assert drained.called
        assert agent.clock.getDelayedCalls() == []

    @pytest.mark.usefixtures("without_collector")
    def test_no_connection_is_kept(self, agent: Agent) -> None:
        """An application may have turned the garbage collector off."""
        sessions = [agent.connect(), earned(agent), agent.connect(), agent.connect()]
        agent.ask(sessions[1], 9000, 9000)
        agent.clock.pump([0, 0.005, 0.005])
        kept = [weakref.ref(session.agent) for session in sessions]
        sessions.pop().lose()
        agent.clock.pump([0.005] * 50)
        while sessions:
            session = sessions.pop()
            session.lose()
            # StringTransport keeps its producer.
            session.agent.transport = session.wire.producer = None  # type: ignore[assignment]
        del session
        agent.recorder.take()
        assert [ref() for ref in kept[:3]] == [None] * 3

    def test_no_timer_is_left(self, agent: Agent) -> None:
        session = earned(agent)
        agent.ask(session, 9000, 9000)
        for connection in list(agent.factory.connections):
            connection.connectionLost()
        assert agent.clock.getDelayedCalls() == []


class TestBackAgain:
    def test_after_a_quiet_time(self, agent: Agent) -> None:
        agent.ask(earned(agent), 9000, 9000)
        agent.let_it_read()
        session = agent.connect()
        for _ in range(10):
            agent.ask(session, SHORT)
        assert not pipelined(agent.connect())
        agent.clock.advance(FIRST_QUIET_TIME)
        assert [type(event) for event in agent.ask(session, SHORT)] == [Ack, Disconnect]
        assert pipelined(agent.connect())

    def test_a_long_ack_begins_the_quiet_time_again(self, agent: Agent) -> None:
        agent.ask(earned(agent), 9000, 9000)
        session = agent.connect()
        agent.clock.advance(FIRST_QUIET_TIME - 1)
        agent.ask(session, 1000)
        agent.clock.advance(FIRST_QUIET_TIME - 1)
        for _ in range(10):
            agent.ask(session, SHORT)
        assert not pipelined(agent.connect())

    def test_the_last_report_is_the_last_decision(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        """The agent sends the ACKs that it held back when pipelining comes back. If they are long, it ends again."""
        monkeypatch.setattr("spoa_twisted.agent.pipelining.FIRST_QUIET_TIME", 0.0)
        session, other = earned(agent), agent.connect()
        agent.ask(session, 9000, 9000)
        agent.clock.advance(0)
        assert agent.ask(other, 9000, 9000) == []
        lone = agent.connect()
        for _ in range(5):
            agent.ask(lone, SHORT)
        assert len(other.events()) == 1
        assert agent.changes() == [False, True, False]
        assert not pipelined(agent.connect())
        agent.let_it_read()
        assert [type(event) for event in other.events()] == [Ack, Disconnect]

    def test_the_quiet_time_doubles(self, agent: Agent) -> None:
        """An engine whose answers are long now and then does not change for ever."""
        session, waited = earned(agent), []
        for _ in range(8):
            agent.ask(session, 9000, 9000)
            agent.let_it_read()
            lone, seconds = agent.connect(), 0
            for _ in range(5):
                agent.ask(lone, SHORT)
            while not pipelined(agent.connect()):
                agent.clock.advance(30)
                seconds += 30
                agent.ask(lone, SHORT)
            waited.append(seconds)
            session = agent.connect()
        assert waited == [60, 120, 240, 480, 960, 1920, LONGEST_QUIET_TIME, LONGEST_QUIET_TIME]

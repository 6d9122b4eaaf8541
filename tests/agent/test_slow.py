"""``log_slow``: where the time of a NOTIFY went that took long."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer
from zope.interface.verify import verifyObject

from spoa_twisted import Handlers, IHandlers, SPOAFactory
from spoa_twisted.agent.lateness import INTERVAL
from spoa_twisted.agent.observation import Observation
from spoa_twisted.agent.protocol import ABORT_TIMEOUT, DISCONNECT_TIMEOUT
from spoa_twisted.handlers.threads import Wait
from spoa_twisted.limits import Limits
from spoa_twisted.observer import MessageTime, NotifySlow
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.unread import READ_INTERVAL
from tests.agent.memory import OLD, OtherHandlers, Session, TurnClock
from tests.agent.recording import Recorder
from tests.lines import Lines

PEER = "192.168.1.1:54321"

#: Seconds.
SLOW = 0.1


@pytest.fixture
def turns() -> TurnClock:
    return TurnClock()


@pytest.fixture
def lines() -> Lines:
    return Lines()


class Agent:
    """An agent with ``log_slow``. The handler ``wait`` returns a Deferred, and ``block`` blocks for a second."""

    def __init__(self, turns: TurnClock, lines: Lines, handlers: Any = None, **options: Any) -> None:
        self.turns = turns
        self.recorder = Recorder()
        self.deferreds: list[Deferred[Any]] = []
        handlers = handlers or Handlers(
            {"wait": self.wait, "block": self.block, "now": lambda: None, "long": lambda: {"sess.a": "x" * 10_000}}
        )
        log = Logger(observer=lines)
        options = {"log_slow": SLOW, "handler_timeout": 0, "observer": self.recorder, **options}
        self.factory = SPOAFactory(handlers, reactor=turns, log=log, **options)

    def wait(self) -> Deferred[Any]:
        self.deferreds.append(Deferred())
        return self.deferreds[-1]

    def block(self) -> None:
        self.turns.rightNow += 1

    def slow(self) -> list[NotifySlow]:
        return [event for event in self.recorder.take() if isinstance(event, NotifySlow)]

    def pass_time(self, seconds: float) -> None:
        """Let time pass for a reactor that is on time."""
        for _ in range(round(seconds / INTERVAL)):
            self.turns.advance(INTERVAL)


@pytest.fixture
def agent(turns: TurnClock, lines: Lines) -> Agent:
    return Agent(turns, lines)


def close(event: NotifySlow) -> dict[str, Any]:
    """Return the durations of ``event``, rounded."""
    return {name: round(getattr(event, name), 6) for name in ("seconds", "unread", "held_back", "standstill")}


def test_nothing_is_done_without_it(turns: TurnClock, lines: Lines) -> None:
    """No timer runs, and no object follows the NOTIFYs."""
    agent = Agent(turns, lines, log_slow=0)
    session = Session(agent.factory, OLD)
    assert session.agent._answering.stopwatch is None
    session.notify("block")
    assert agent.slow() == []
    assert all(call.getTime() == turns.seconds() for call in turns.getDelayedCalls())


def test_a_quick_notify(agent: Agent) -> None:
    session = Session(agent.factory, OLD)
    session.notify("now", "now", "wait")
    agent.pass_time(SLOW)
    agent.deferreds[0].callback({})
    assert agent.slow() == []
    assert len(session.acks()) == 3


def test_a_handler_that_waits(agent: Agent, lines: Lines) -> None:
    """Handlers that wait do so at the same time. The line has the message that took longest first."""
    session = Session(agent.factory, OLD)
    session.notify_together("wait", "now", "wait")
    agent.pass_time(0.2)
    agent.deferreds[0].callback({})
    agent.pass_time(0.1)
    agent.deferreds[1].callback({})
    (event,) = agent.slow()
    assert close(event) == {"seconds": 0.3, "unread": 0, "held_back": 0, "standstill": 0}
    assert [(name, round(seconds, 6)) for name, seconds, _, _ in event.messages] == [
        ("wait", 0.2),
        ("now", 0.0),
        ("wait", 0.3),
    ]
    assert (event.peer, event.name, event.stream_id, event.frame_id, event.id) == (PEER, "wait", 1, 1, None)
    assert lines.take()[-1] == (
        f"warn: {PEER}: a NOTIFY took 0.300 s: 'wait' 0.300 s; 'wait' 0.200 s; 'now' 0.000 s; stream-id 1, frame-id 1"
    )


def test_a_handler_that_blocks(agent: Agent, lines: Lines) -> None:
    """Its time is a standstill, too, and the NOTIFY behind it has waited to be read."""
    session = Session(agent.factory, OLD)
    session.notify("block", "now")
    blocked, waited = agent.slow()
    assert blocked.messages == (MessageTime("block", 1.0),)
    assert close(blocked) == {"seconds": 1.0, "unread": 0, "held_back": 0, "standstill": 0.95}
    assert close(waited) == {"seconds": 0.95, "unread": 0.95, "held_back": 0, "standstill": 0}
    assert waited.messages == (MessageTime("now", 0.0),)
    assert lines.take()[-2:] == [
        (
            f"warn: {PEER}: a NOTIFY took 1.000 s: 'block' 1.000 s; the agent stood still for 0.950 s of that;"
            " stream-id 1, frame-id 1"
        ),
        (
            f"warn: {PEER}: a NOTIFY took 0.950 s: 'now' 0.000 s; waited to be read for up to 0.950 s while the agent"
            " stood still; stream-id 3, frame-id 1"
        ),
    ]


def test_handlers_of_one_notify_that_block(agent: Agent) -> None:
    """Each has its own time."""
    session = Session(agent.factory, OLD)
    session.notify_together("block", "now", "block")
    (event,) = agent.slow()
    assert event.messages == (MessageTime("block", 1), MessageTime("now", 0), MessageTime("block", 1))


def test_a_standstill_while_a_handler_waits(agent: Agent, turns: TurnClock) -> None:
    session = Session(agent.factory, OLD)
    session.notify("wait")
    turns.advance(INTERVAL + 2)
    agent.deferreds[0].callback({})
    (event,) = agent.slow()
    assert close(event) == {"seconds": 2.05, "unread": 0, "held_back": 0, "standstill": 2.0}


def test_an_ack_that_is_held_back(agent: Agent) -> None:
    """HAProxy >= 3.1 must read others first."""
    session = Session(agent.factory)
    session.notify("long", "long", "long")
    # The kernel of this transport cannot tell what HAProxy has read, so the agent waits each time.
    for _ in range(400):
        agent.turns.advance(READ_INTERVAL)
    assert len(session.acks()) == 3
    events = agent.slow()
    assert events
    for event in events:
        assert event.held_back == pytest.approx(event.seconds)
        assert event.seconds > SLOW
        assert event.messages == (MessageTime("long", 0.0),)


def test_a_timeout(agent: Agent, lines: Lines) -> None:
    """The time ends with the ACK, which has the variables of on_error."""
    agent.factory.limits = Limits(log_slow=SLOW, handler_timeout=0.2)
    session = Session(agent.factory, OLD)
    session.notify("wait")
    agent.pass_time(0.25)
    (event,) = agent.slow()
    assert event.messages[0].finished
    assert lines.take()[-2].startswith("error: the handler of the message 'wait' took longer than 0.2 s")


def test_a_connection_that_ends(agent: Agent, lines: Lines) -> None:
    session = Session(agent.factory, HAProxyHello(capabilities=frozenset({"pipelining"})))
    session.notify_together("now", "wait")
    agent.pass_time(0.2)
    lines.take()
    session.lose()
    (event,) = agent.slow()
    assert not event.answered
    assert [message.finished for message in event.messages] == [True, False]
    assert lines.take()[-1] == (
        f"warn: {PEER}: a NOTIFY took 0.200 s, and the connection ended before its ACK: 'wait' 0.200 s without a"
        " result; 'now' 0.000 s; stream-id 1, frame-id 1"
    )
    assert agent.turns.getDelayedCalls() == []


def test_an_ack_on_another_connection(turns: TurnClock, lines: Lines) -> None:
    """With the capability ``async``, a NOTIFY outlives its connection."""
    agent = Agent(turns, lines, async_=True)
    session, other = Session(agent.factory, OLD), Session(agent.factory, OLD)
    session.notify("wait")
    agent.pass_time(0.2)
    session.lose()
    agent.deferreds[0].callback({})
    (event,) = agent.slow()
    assert (event.answered, close(event)["seconds"]) == (True, 0.2)
    assert len(other.acks()) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [("4F2A\n" + "x" * 100, "4F2A\n" + "x" * 59), (5, None), (None, None), (b"abc", None)],
)
def test_the_id_of_the_request(agent: Agent, lines: Lines, value: Any, shown: str | None) -> None:
    """``args id=unique-id``. It is cut and escaped. No other value of the request is logged."""
    agent.factory.handlers = Handlers({"block": lambda **values: agent.block()})
    session = Session(agent.factory, OLD)
    session.engine.send_notify([Message("block", [("secret", "swordfish"), ("id", value)])])
    session.send()
    (event,) = agent.slow()
    assert event.id == (value if shown else None)
    line = lines.take()[-1]
    assert "swordfish" not in line
    assert line.endswith(f"frame-id 1, id {shown!a}" if shown else "frame-id 1")


def test_failures_have_their_time(agent: Agent, lines: Lines) -> None:
    """So has a message without a handler."""

    def fail() -> None:
        agent.block()
        raise LookupError("boom")

    agent.factory.handlers = Handlers({"fail": fail})
    session = Session(agent.factory, OLD)
    session.notify_together("none", "fail")
    (event,) = agent.slow()
    assert event.messages == (MessageTime("none", 0), MessageTime("fail", 1))
    assert "'fail' 1.000 s; 'none' 0.000 s" in lines.take()[-1]


def test_the_wait_for_a_thread(agent: Agent, lines: Lines) -> None:
    """The line says how long it was, also if it was too short for a line of its own."""

    (handler,) = Handlers({"m": lambda: None})._by_name.values()

    @implementer(IHandlers)
    class Threads:
        def respond(self, messages: Any, max_size: int, reactor: Any, timeout: float, outcomes: Any) -> bytes:
            agent.block()
            outcomes.awaited_thread(messages[0], Wait(0.2, True, 4))
            outcomes.returned(0, handler, messages[0], None)
            return b""

        def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
            return b""

    agent.factory.handlers = Threads()
    Session(agent.factory, OLD).notify("m")
    (event,) = agent.slow()
    assert event.messages == (MessageTime("m", 1.0, 0.2),)
    assert "'m' 1.000 s, 0.200 s of it to get a thread" in lines.take()[-1]


def test_a_message_that_timed_out_before_it_got_a_thread(agent: Agent, lines: Lines) -> None:
    """Each message has the time that it waited for a thread."""
    (handler,) = Handlers({"m": lambda: None}, on_error={"sess.failed": 1})._by_name.values()

    @implementer(IHandlers)
    class Threads(OtherHandlers):
        def respond(self, messages: Any, max_size: int, reactor: Any, timeout: float, outcomes: Any) -> bytes:
            agent.block()
            outcomes.awaited_thread(messages[0], Wait(0.2, True, 4))
            outcomes.returned(0, handler, messages[0], None)
            actions: bytes = outcomes.timed_out(1, handler, messages[1], 1.0, Wait(1.0, False, 4))
            return actions

    agent.factory.handlers = Threads(b"")
    session = Session(agent.factory, OLD)
    session.notify_together("m", "m")
    assert session.acks()[0].variables == {"sess.failed": 1}
    (event,) = agent.slow()
    assert event.messages == (MessageTime("m", 1.0, 0.2), MessageTime("m", 0.0, 1.0))
    assert "'m' 0.000 s, 1.000 s of it to get a thread" in lines.take()[-1]


def test_results_that_are_too_big(agent: Agent) -> None:
    """A message has its time also if its variables do not fit into the ACK. Its outcome is not lost."""

    def big() -> dict[str, str]:
        agent.block()
        return {"sess.a": "x" * 100_000}

    agent.factory.handlers = Handlers({"big": big})
    session = Session(agent.factory, OLD)
    session.notify_together("big", "big")
    (event,) = agent.slow()
    assert event.messages == (MessageTime("big", 1.0), MessageTime("big", 1.0))
    assert [ack.variables for ack in session.acks()] == [{}]


def test_acks_that_leave_together(agent: Agent) -> None:
    """While other handlers are pending, an ACK waits for the next turn."""
    session = Session(agent.factory, OLD)
    session.notify("wait", "wait")
    agent.pass_time(0.2)
    agent.deferreds[0].callback({})
    agent.turns.advance(0)
    (event,) = agent.slow()
    assert close(event)["seconds"] == 0.2
    agent.deferreds[1].callback({})
    assert len(agent.slow()) == 1
    assert len(session.acks()) == 2


def test_without_an_observer(turns: TurnClock, lines: Lines) -> None:
    """The NOTIFYs of a connection share an object that takes the time. Each has its own time."""
    agent = Agent(turns, lines, observer=None)
    session = Session(agent.factory, OLD)
    lines.take()
    session.notify("now")
    session.notify("block")
    (line,) = lines.take()
    assert line.startswith(f"warn: {PEER}: a NOTIFY took 1.000 s: 'block' 1.000 s;")


def test_the_agent_closes_a_connection(agent: Agent, turns: TurnClock) -> None:
    """If all bytes are written, it has a second to close, not ten."""
    session = Session(agent.factory, OLD)
    session.agent.disconnect()
    turns.advance(DISCONNECT_TIMEOUT)
    assert session.wire.disconnecting
    assert not session.wire.aborted
    turns.advance(ABORT_TIMEOUT)
    assert session.wire.aborted


def test_a_wrapper_of_handlers_is_complete(agent: Agent) -> None:
    """It provides the whole interface, although the agent passes a NOTIFY that is too long to the handlers alone."""
    handlers = Handlers({"m": lambda: None}, on_error={"sess.failed": 1})
    stopwatch = Session(agent.factory, OLD).agent._answering.stopwatch
    assert stopwatch is not None
    notify = Notify(b"", [])
    for wrapper in (stopwatch.timing(handlers, notify), Observation(agent.recorder, handlers, PEER, notify)):
        assert verifyObject(IHandlers, wrapper)
        assert wrapper.refuse(("m",), 100) == handlers.refuse(("m",), 100) != b""


def test_other_handlers(agent: Agent, lines: Lines) -> None:
    """Another implementation of IHandlers may report no messages, or fail."""
    for fails in (False, True):
        deferred: Deferred[Any] = Deferred()
        agent.factory.handlers = OtherHandlers(deferred)
        session = Session(agent.factory, OLD)
        session.notify_together()
        agent.pass_time(0.2)
        if fails:
            deferred.errback(LookupError("boom"))
        else:
            deferred.callback(b"")
        (event,) = agent.slow()
        assert (event.name, event.messages) == ("", ())
        assert "a NOTIFY took 0.200 s" in "".join(lines.take())


def test_a_flood_is_counted(agent: Agent, lines: Lines) -> None:
    """Ten a minute for each message, and then a count."""
    session = Session(agent.factory, OLD)
    for _ in range(13):
        session.notify("block")
    lines.take()
    agent.turns.advance(60)
    assert "warn: a NOTIFY of the message 'block' was slow 3 more times in the last minute" in lines.take()

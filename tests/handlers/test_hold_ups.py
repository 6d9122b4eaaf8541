"""A handler that keeps the reactor's thread is named, and the requests that waited for it are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import ILogObserver, Logger
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, Message, PendingAnswer, SPOAFactory
from spoa_twisted.handlers.hold_ups import READS
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.observer import HandlerBlocked
from tests.agent.memory import Answer, Session, TurnClock
from tests.conftest import Logged
from tests.handlers.answers import Recorder


@implementer(ILogObserver)
def drop(event: object) -> None:
    """Log nothing."""


class Agent:
    """An agent whose handlers let the clock go on while they run, as if they blocked.

    :param observed: let the agent have an observer of its own, not only the log.
    """

    def __init__(
        self,
        *,
        observed: bool = True,
        wrap: Callable[[Handlers], Any] = lambda handlers: handlers,
        clock: TurnClock | None = None,
    ) -> None:
        self.clock: Any = clock or TurnClock()
        self.waiting: list[Deferred[Any]] = []
        self.handlers = Handlers({"now": lambda: {"sess.now": 1}, "fails": self.fails, "wait": self.wait})
        for name, seconds in (("blocks", 2), ("slow", 0.3), ("quick", 0.25)):
            self.handlers.message(name)(partial(self.block, seconds))
        self.handlers.message("coroutine")(self.coroutine)
        self.handlers.message("deferred")(self.deferred)
        self.recorder = Recorder()
        self.factory = SPOAFactory(
            wrap(self.handlers),
            reactor=self.clock,
            observer=self.recorder if observed else None,
            log=Logger(observer=drop) if observed else None,
            handler_timeout=0,
        )
        self.session = Session(self.factory)
        self.recorder.take()

    def block(self, seconds: float) -> None:
        """Let the time pass. The reactor calls nothing meanwhile, as Clock.advance would."""
        self.clock.rightNow += seconds

    def fails(self) -> None:
        self.block(2)
        raise LookupError("after two seconds")

    def wait(self) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def deferred(self) -> Deferred[Any]:
        self.block(2)
        return self.wait()

    async def coroutine(self) -> None:
        """Block for one second, wait, block for three seconds, and wait again."""
        self.block(1)
        await self.wait()
        self.block(3)
        await self.wait()

    async def resumed(self) -> None:
        """Wait, and block for three seconds."""
        await self.wait()
        self.block(3)

    def blocked(self) -> list[HandlerBlocked]:
        """Return the events of handlers that blocked, after two turns of the reactor."""
        self.clock.pump([0, 0])
        return [event for event in self.recorder.take() if isinstance(event, HandlerBlocked)]


@pytest.fixture
def agent() -> Agent:
    return Agent()


def test_a_handler_that_blocks_is_named(agent: Agent) -> None:
    """With the time that it blocked."""
    agent.session.notify("now")
    agent.clock.advance(100)
    agent.session.notify("now", "blocks", "now")
    assert [event.name for event in agent.blocked()] == ["blocks"]
    agent.session.notify("now", "quick")
    assert agent.blocked() == []
    agent.session.notify("slow")
    (event,) = agent.blocked()
    assert event.seconds == pytest.approx(0.3)
    assert agent.clock.getDelayedCalls() == []


def test_one_message_of_a_notify_is_named(agent: Agent) -> None:
    """Not the messages before it and after it in the same NOTIFY. These are not counted as waiting either."""
    agent.session.engine.send_notify([Message(name) for name in ("now", "blocks", "now", "unknown")])
    agent.session.engine.send_notify([Message("now"), Message("now")])
    agent.session.send()
    assert agent.blocked() == [HandlerBlocked("blocks", 2, 1)]
    agent.session.notify("now")
    assert agent.blocked() == []
    assert agent.recorder.take() == []


def test_the_requests_that_waited_are_counted(agent: Agent) -> None:
    """Those of the same read, and those that the reactor reads in its next turn, on all connections."""
    other = Session(agent.factory)
    other.notify("now")
    agent.session.notify("now", "blocks", "now", "now")
    agent.clock.advance(0)
    other.notify(*["now"] * 10)
    agent.session.notify("wait")
    agent.clock.advance(0)
    other.notify("now")
    assert agent.blocked() == [HandlerBlocked("blocks", 2, 13)]


def test_handlers_that_block_one_after_the_other(agent: Agent) -> None:
    """Each has its own count: the second waited for the first, and the third for both."""
    agent.session.notify("blocks", "slow", "now")
    first, second = agent.blocked()
    assert (first.name, first.waiting) == ("blocks", 2)
    assert (second.name, second.waiting) == ("slow", 1)


def test_a_handler_that_fails(agent: Agent) -> None:
    """It has blocked no less."""
    agent.session.notify("fails")
    assert agent.blocked() == [HandlerBlocked("fails", 2, 0)]


def test_a_handler_that_returns_a_deferred(agent: Agent) -> None:
    """The time until it returns counts, and not the time until the Deferred fires."""
    agent.session.notify("deferred")
    agent.clock.advance(100)
    agent.waiting[0].callback(None)
    assert agent.blocked() == [HandlerBlocked("deferred", 2, 0)]


def test_a_coroutine(agent: Agent) -> None:
    """Each step counts, and not the time between them."""
    agent.session.notify("coroutine")
    assert agent.blocked() == [HandlerBlocked("coroutine", 1, 0, coroutine=True)]
    agent.clock.advance(100)
    agent.waiting[0].callback(None)
    agent.session.notify("now")
    assert agent.blocked() == [HandlerBlocked("coroutine", 3, 1, coroutine=True)]


@pytest.mark.parametrize("in_task", [False, True], ids=["without a Task", "in a Task"])
def test_a_coroutine_that_blocks_in_the_call(agent: Agent, in_task: bool) -> None:
    """Its own NOTIFY has not waited for it. The next one has."""

    @agent.handlers.message("fired")
    async def fired() -> None:
        await succeed(None)
        agent.block(2)

    def notify() -> None:
        agent.session.notify("fired", "now")

    if in_task:
        with closing(asyncio.new_event_loop()) as loop:
            loop.call_soon(notify)
            # The Task ends in a later turn of the loop than the coroutine.
            for _ in range(2):
                loop.call_soon(loop.stop)
                loop.run_forever()
    else:
        notify()
    assert agent.blocked() == [HandlerBlocked("fired", 2, 1, coroutine=True)]


def test_a_coroutine_that_another_handler_resumes(agent: Agent) -> None:
    """The coroutine is named, and not the handler that fired its Deferred."""
    agent.handlers.message("fires")(lambda: agent.waiting[0].callback(None))
    agent.session.notify("coroutine")
    agent.blocked()
    agent.session.notify("fires", "now")
    assert [(event.name, event.waiting) for event in agent.blocked()] == [("coroutine", 2)]


def test_an_observer_that_blocks_is_no_handler(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time does not count for the handler that is called next."""
    monkeypatch.setattr(agent.recorder, "on_notify", lambda *arguments: agent.block(2))
    agent.session.notify("now", "now")
    assert agent.blocked() == []


def test_the_time_between_two_calls_of_respond() -> None:
    """Other handlers may call ``respond`` of Handlers later than the agent asked. That is no hold-up."""
    calls: list[Callable[[], Any]] = []

    @implementer(IHandlers)
    class Later:
        def __init__(self, handlers: Handlers) -> None:
            self.handlers = handlers

        def respond(self, *arguments: Any) -> PendingAnswer:
            calls.append(lambda: self.handlers.respond(*arguments))
            return Answer()

        def refuse(self, *arguments: Any) -> bytes:
            return b""

    agent = Agent(wrap=Later)
    agent.session.notify("now", "now")
    for call in calls:
        agent.clock.advance(5)
        call()
    assert agent.blocked() == []


def test_a_blocking_handler_without_threads(agent: Agent) -> None:
    """A Clock has no threads, so the handler runs in place. To say blocking=True is no news then."""
    agent.handlers.message("thread", blocking=True)(lambda: agent.block(2))
    agent.session.notify("thread")
    assert agent.blocked() == []


def test_a_handler_that_lets_another_connection_go_on(agent: Agent) -> None:
    """To fire a Deferred may let the agent send an ACK and handle the reads of another connection meanwhile."""
    other = Session(agent.factory)
    other.notify("wait")

    def fire_and_block() -> None:
        agent.waiting[0].callback(None)
        agent.block(2)

    agent.handlers.message("fires")(fire_and_block)
    agent.session.notify("fires", "now")
    assert agent.blocked() == [HandlerBlocked("fires", 2, 1)]


def test_the_place(agent: Agent) -> None:
    """Who knows where the reactor's thread was may add it, to the longest of the hold-ups that are not reported yet."""
    hold_ups = agent.factory.outcomes.hold_ups
    assert hold_ups.explain("a.py, line 1, in a") == 0
    agent.session.notify("slow", "blocks")
    assert hold_ups.explain("b.py, line 2, in b") == pytest.approx(2.3)
    slow, blocks = agent.blocked()
    assert (slow.place, blocks.place) == (None, "b.py, line 2, in b")
    assert hold_ups.explain(None) == 0


class CountingClock(TurnClock):
    """A clock that counts how often it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0

    def seconds(self) -> float:
        self.readings += 1
        return super().seconds()


class TestBusyAgents:
    """An agent that is busy reads the clock twice for each read, and not for each handler: that would cost too much.

    For the durations of the status, it reads the clock for the handlers of one read in about 32.
    """

    @pytest.fixture
    def busy(self) -> Agent:
        """An agent that has handled many reads in no time."""
        agent = Agent(observed=False, clock=CountingClock())
        for _ in range(3 * READS):
            agent.session.notify("now")
        return agent

    def readings(self, agent: Agent, seconds: float = 0.0) -> int:
        """Return how often ``agent`` reads the clock in as many reads as it takes to decide.

        :param seconds: the time that passes between two reads.
        """
        before = agent.clock.readings
        for _ in range(READS):
            agent.clock.rightNow += seconds
            agent.session.notify("now", "now")
        readings: int = agent.clock.readings - before
        return readings

    def is_busy(self, agent: Agent) -> bool:
        """Return whether ``agent`` measures the handlers of 1 to 4 reads of as many as it takes to decide."""
        return 2 * READS + 1 * 4 <= self.readings(agent) <= 2 * READS + 4 * 4

    def test_two_readings_in_each_read(self, busy: Agent) -> None:
        """None for each NOTIFY."""
        assert self.is_busy(busy)

    def test_one_reading_for_each_handler_that_waits(self, busy: Agent) -> None:
        """Its duration ends. There is nothing to read then, so the agent does not take the time of a read."""
        busy.session.notify(*["wait"] * READS)
        for _ in range(READS):
            busy.session.notify("wait")
        waiting, busy.waiting = busy.waiting[READS:], []
        before = busy.clock.readings
        for deferred in waiting:
            deferred.callback({})
        # The durations of the NOTIFYs of 1 to 4 reads end too.
        assert READS + 1 <= busy.clock.readings - before <= READS + 4

    def test_a_pause_is_no_reason(self, busy: Agent) -> None:
        """After it, the agent measures until it is seen to be busy again."""
        busy.clock.rightNow += 10
        for _ in range(3):
            self.readings(busy)
        assert self.is_busy(busy)

    def test_an_agent_with_less_to_do(self, busy: Agent) -> None:
        """It reads the clock for each read and each handler, after the first block of reads that took a while."""
        for _ in range(3):
            self.readings(busy, 0.01)
        assert self.readings(busy, 0.01) == 8 * READS

    def test_a_handler_that_blocks_again(self, busy: Agent, logged: Logged) -> None:
        """The first time, nothing is known but that something took long. From then on, each handler is measured."""
        busy.session.notify("blocks")
        self.readings(busy)
        busy.blocked()
        assert logged.take() == []
        busy.clock.rightNow += 50
        busy.session.notify("now", "blocks", "now")
        busy.blocked()
        assert "'blocks' held the agent up for 2.00 s; 1 other request waited" in logged.take()[0]

    def test_it_ends_after_a_minute(self, busy: Agent) -> None:
        """If nothing blocks any more."""
        busy.session.notify("blocks")
        for _ in range(2):
            self.readings(busy)
        # The status still takes the time of few reads.
        assert 4 * READS + 1 * 4 <= self.readings(busy) <= 4 * READS + 4 * 4
        busy.clock.rightNow += 61
        for _ in range(3):
            self.readings(busy)
        assert self.is_busy(busy)

    def test_the_clock_may_be_set_back(self, busy: Agent) -> None:
        """The minute ends nevertheless."""
        busy.session.notify("blocks")
        for _ in range(2):
            self.readings(busy)
        busy.clock.rightNow -= 3600
        for _ in range(3):
            self.readings(busy)
        assert self.is_busy(busy)

    def test_a_coroutine_is_measured_in_any_case(self, busy: Agent, logged: Logged) -> None:
        """When it is resumed. The requests that are read next are counted."""
        busy.handlers.message("resumed")(busy.resumed)
        busy.session.notify("resumed")
        busy.waiting[0].callback(None)
        busy.session.notify("now")
        busy.blocked()
        assert "'resumed' held the agent up for 3.00 s; 1 other request waited" in logged.take()[0]


def test_the_line(logged: Logged) -> None:
    """An agent without an observer logs it, once a minute and message."""
    agent = Agent(observed=False)
    for _ in range(3):
        agent.session.notify("blocks", *["now"] * 31)
        agent.blocked()
    (line,) = logged.take()
    assert line == (
        "warn: the handler of the message 'blocks' held the agent up for 2.00 s; 31 other requests waited: say"
        " blocking=True"
    )


def test_outcomes_have_hold_ups_of_their_own() -> None:
    """Unless others are passed: all Outcomes of an agent share them."""
    recorder = Recorder()
    own = Outcomes(recorder)
    assert Outcomes(recorder).hold_ups is not own.hold_ups
    assert Outcomes(recorder, [], own.hold_ups).hold_ups is own.hold_ups

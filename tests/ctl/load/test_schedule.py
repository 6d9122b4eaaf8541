"""ctl.load.schedule: NOTIFYs that are due at a constant rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor

from spoa_twisted.ctl.load.schedule import Schedule
from spoa_twisted.spop.connection import Notify
from tests.ctl.agents import Agent, AgentSide, ack

from .memory import MemoryLoad

reactor: Any = default_reactor

MS = 1_000_000


class Line:
    """A connection that may have ``limit`` NOTIFYs in flight."""

    def __init__(self, limit: int) -> None:
        self.room = limit
        #: The times in milliseconds at which the NOTIFYs of each write were due.
        self.writes: list[list[float]] = []

    def send_due(self, times: Sequence[int]) -> None:
        assert len(times) <= self.room
        self.room -= len(times)
        self.writes.append([when / MS for when in times])


class Timeline:
    """A schedule of 1,000 NOTIFYs a second, whose time the test sets."""

    def __init__(self, *lines: Line, rate: float = 1000) -> None:
        self.now = 0
        #: When the timer is to wake the schedule, in milliseconds; None after stop().
        self.wake: float | None = None
        self.schedule = Schedule(rate, lambda: lines, self._make_timer, lambda: self.now)
        self.schedule.begin()

    def _make_timer(self, call: Callable[[], None]) -> Timeline:
        self._call = call
        return self

    def wake_at(self, nanoseconds: int) -> None:
        self.wake = nanoseconds / MS

    def stop(self) -> None:
        self.wake = None

    def advance_to(self, milliseconds: float) -> None:
        """Let the timer wake the schedule at this time, which may be later than it asked for."""
        assert self.wake is not None
        assert milliseconds >= self.wake
        self.now = round(milliseconds * MS)
        self._call()

    @property
    def late(self) -> tuple[int, float]:
        """How many NOTIFYs were sent without waiting for room, and the longest delay in milliseconds."""
        return self.schedule.late.total, self.schedule.late.longest / MS


def test_each_is_sent_when_it_is_due() -> None:
    line = Line(100)
    time = Timeline(line)
    for milliseconds in (1, 2, 3):
        assert time.wake == milliseconds
        time.advance_to(milliseconds)
    assert line.writes == [[0], [1], [2], [3]]
    assert time.late == (4, 0)


def test_a_rate_that_does_not_divide_a_second() -> None:
    """The timer never wakes the schedule before a NOTIFY is due."""
    line = Line(100)
    time = Timeline(line, rate=700)
    for _ in range(50):
        assert time.wake is not None
        time.advance_to(time.wake)
    assert [len(write) for write in line.writes] == [1] * 51
    assert line.writes[-1][0] == pytest.approx(50 * 1000 / 700)


def test_the_timer_is_late() -> None:
    """All that are due are sent in one write, and each counts from when it was due."""
    line = Line(100)
    time = Timeline(line)
    time.advance_to(3.5)
    assert line.writes == [[0], [1, 2, 3]]
    assert time.late == (4, 2.5)
    assert time.wake == 4


def test_connections_take_turns() -> None:
    lines = Line(100), Line(1), Line(100)
    time = Timeline(*lines)
    time.advance_to(5)
    assert [line.writes for line in lines] == [[[0], [3, 5]], [[1]], [[2, 4]]]


def test_full_connections() -> None:
    """A NOTIFY waits for room, and still counts from when it was due. The load itself is not late then."""
    line = Line(2)
    time = Timeline(line)
    time.advance_to(1)
    time.advance_to(2)
    time.advance_to(3)
    assert line.writes == [[0], [1]]
    assert time.schedule.waiting == 2
    time.now = 3 * MS + MS // 2
    line.room = 1
    time.schedule.send()
    assert line.writes[2:] == [[2]]
    line.room = 5
    time.schedule.send()
    time.advance_to(4)
    assert line.writes[3:] == [[3], [4]]
    assert time.late == (3, 0)


def test_there_is_no_connection() -> None:
    """NOTIFYs wait until there is one."""
    time = Timeline()
    time.advance_to(1)
    assert time.schedule.waiting == 2


def test_the_end() -> None:
    """Nothing more is due. What waits is sent when there is room, and given up at last."""
    line = Line(0)
    time = Timeline(line)
    time.advance_to(3)
    time.schedule.end()
    assert time.wake is None
    time.now = 100 * MS
    assert time.schedule.waiting == 4
    line.room = 1
    # A call of the timer that came before the end.
    time.schedule.on_time()
    assert time.wake is None
    assert line.writes == [[0]]
    assert time.schedule.give_up() == 3
    assert time.schedule.waiting == 0
    line.room = 1
    time.schedule.send()
    assert line.writes == [[0]]


def test_an_end_before_the_begin() -> None:
    """Ctrl-C may come while the connections are opened."""
    schedule = Schedule(1000, list, lambda call: pytest.fail("no timer is needed"), lambda: 0)
    schedule.end()
    assert schedule.give_up() == 1


@pytest_twisted.ensureDeferred
async def test_an_agent_that_stands_still(run_bench: Any, listen: Any) -> None:
    """What was due meanwhile is sent later, and its latency has the standstill. Nothing is lost."""
    held: list[tuple[AgentSide, bytes]] = []

    class Resting(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            if self.notifys <= 4:
                held.append((side, notify.ids))
                if self.notifys == 4:
                    reactor.callLater(0.2, self.go_on)
            else:
                side.transport.write(ack(notify.ids))

        def go_on(self) -> None:
            for side, ids in held:
                side.transport.write(ack(ids))

    agent = Resting()
    listen(agent)
    result = await run_bench("--connections=2", "--in-flight=2", "--rate=1000", "--duration=0.3")
    assert (result.errors, result.status) == ({}, 0)
    assert result.report["rate"] == 1000
    # At least the NOTIFYs that were due in the 0.2 s, less those at its end.
    assert result.report["latency_us"]["p50"] >= 20_000
    assert agent.notifys >= 300


def test_an_agent_that_never_answers() -> None:
    """What was never sent is unanswered too."""
    memory = MemoryLoad(rate=1000)
    connection = memory.accept()
    window = memory.run()
    assert memory.load._schedule is not None
    memory.reactor.advance(0.0045)
    memory.load._schedule.send()
    assert memory.load._schedule.waiting == 3
    window.end()
    memory.reactor.advance(5)
    memory.reactor.advance(1)
    (outcome,) = memory.outcomes
    assert len(connection.sent()) == 3
    assert outcome.errors == {"unanswered NOTIFY": 2 + 3}


def test_a_connection_that_is_lost() -> None:
    """Another one takes its turn. The schedule sends nothing on a connection without AGENT-HELLO."""
    memory = MemoryLoad(connections=2, rate=1000)
    lost, staying = memory.accept(), memory.accept()
    window = memory.run()
    schedule = memory.load._schedule
    assert schedule is not None
    lost.lose()
    memory.reactor.advance(1)
    fresh = memory.accept(greet=False)
    schedule.send()
    assert len(staying.sent()) == 2
    assert schedule.waiting >= 3
    before = len(fresh.wire.value())
    schedule.send()
    assert len(fresh.wire.value()) == before
    window.end()
    schedule.give_up()

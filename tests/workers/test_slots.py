"""A worker is kept alive, and replaced; a reload replaces all."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from spoa_twisted.workers.backoff import DELAYS, LONG_ENOUGH, Backoff
from spoa_twisted.workers.handing_over import HandingOver
from spoa_twisted.workers.reload import Reload
from spoa_twisted.workers.slots import REASONS, Slot
from tests.conftest import Logged


class FakeWorker:
    """A worker without a process."""

    def __init__(self, number: int, owner: Any, clock: Clock) -> None:
        self.number = number
        self.pid = 0
        self.state = "starting"
        self.ready_since = 0.0
        self.reason = ""
        self.ending = "exit"
        self.drained: float | None = None
        self.on_watched: Any = None
        #: The watches that the process was told to begin, and to end.
        self.watches: list[tuple[object, ...]] = []
        self._owner = owner
        self._clock = clock
        self._ended: list[Deferred[None]] = []

    def send_connection(self, *arguments: object) -> None:
        """Do nothing."""

    def begin_watch(self, *arguments: object, values: bool) -> None:
        self.watches.append(("begin", *arguments, values))

    def end_watch(self, number: int) -> None:
        self.watches.append(("end", number))

    def drain(self, timeout: float) -> None:
        self.drained = timeout
        self.state = "draining"

    def when_ended(self) -> Deferred[None]:
        self._ended.append(Deferred())
        return self._ended[-1]

    def is_ready(self) -> None:
        self.state = "ready"
        self.ready_since = self._clock.seconds()
        self._owner.on_ready(self)

    def leaves(self) -> None:
        self._owner.on_leaving(self)

    def ends(self, reason: str = "it ended", ending: str = "exit") -> None:
        self.reason, self.ending, self.state = reason, ending, "ended"
        self._owner.on_ended(self)
        for deferred in self._ended:
            deferred.callback(None)


class Agent:
    """Slots, and the workers that they have started."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        # A clock at 0 would say that no worker was ready.
        self.clock.advance(100)
        self.restarts = dict.fromkeys(REASONS, 0)
        self.lost: list[tuple[int, str, bool]] = []
        self.started: list[FakeWorker] = []
        self.may_go_on = True
        handing_over = HandingOver(self.clock, 100, lambda: None, lambda paused: None)
        staff: Any = self
        self.slots = [Slot(number, self.clock, staff, handing_over, lambda: 10.0) for number in range(1, count + 1)]
        self.reload = Reload(self.slots, self.clock, lambda: 1234.0)

    def start(self) -> None:
        for slot in self.slots:
            slot.start()
        for worker in list(self.started):
            worker.is_ready()

    def current(self, number: int) -> Any:
        """Return the worker that takes connections."""
        return self.slots[number - 1].current

    def start_worker(self, number: int, owner: Any) -> Any:
        self.started.append(FakeWorker(number, owner, self.clock))
        return self.started[-1]

    def on_ready(self, worker: Any) -> None:
        """Do nothing."""

    def on_ended(self, worker: Any) -> None:
        """Do nothing."""

    def on_lost(self, worker: Any, reason: str, *, crashed: bool) -> None:
        self.lost.append((worker.number, reason, crashed))

    def may_retry(self, worker: Any) -> bool:
        return self.may_go_on


@pytest.fixture
def agent() -> Agent:
    agent = Agent(2)
    agent.start()
    return agent


def test_backoff() -> None:
    """At once, then 1, 2, 4 ... 30 s. A worker that was ready for long begins again."""
    backoff = Backoff()
    assert [backoff.next_delay(1) for _ in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff.next_delay(LONG_ENOUGH) == 0
    assert backoff.next_delay(0) == 1
    backoff.reset()
    assert backoff.next_delay(0) == 0


def test_a_worker_that_dies_is_replaced(agent: Agent, logged: Logged) -> None:
    """It is ``lost`` until another one is ready."""
    slot, worker = agent.slots[0], agent.started[0]
    worker.ends("it was ended by the signal SIGKILL", "signal")
    assert (agent.current(1), slot.lost) == (None, "it was ended by the signal SIGKILL")
    assert logged.take() == ["error: worker 1 (process 0) has ended: it was ended by the signal SIGKILL"]
    agent.clock.advance(0)
    assert len(agent.started) == 3
    agent.started[2].is_ready()
    assert (agent.current(1), slot.lost) == (agent.started[2], "")
    assert agent.restarts == {"exit": 0, "signal": 1, "stall": 0, "reload": 0}
    assert agent.lost == [(1, "it was ended by the signal SIGKILL", True)]


def test_a_worker_that_cannot_start_is_tried_again(agent: Agent, logged: Logged) -> None:
    agent.started[0].ends()
    logged.take()
    for delay in DELAYS[:3]:
        agent.clock.advance(delay)
        agent.started[-1].ends("no database")
        assert logged.take() == ["error: worker 1 cannot start: no database"]
    assert len(agent.started) == 5
    # Nothing was replaced yet but the first one.
    assert agent.restarts["exit"] == 1


def test_the_agent_may_end_instead() -> None:
    """If no worker was ready yet."""
    agent = Agent(1)
    agent.slots[0].start()
    agent.may_go_on = False
    agent.started[0].ends()
    agent.clock.advance(100)
    assert len(agent.started) == 1


def test_a_worker_that_leaves_is_replaced(agent: Agent) -> None:
    """It drains. Its end is no news."""
    agent.started[0].leaves()
    assert agent.started[0].drained == 10
    assert agent.lost == [(1, "it was stopped", False)]
    agent.clock.advance(0)
    agent.started[2].is_ready()
    agent.started[0].ends()
    assert len(agent.started) == 3
    assert len(agent.lost) == 1


def test_reload_one_after_the_other(agent: Agent) -> None:
    """The next one starts when the old one has ended."""
    agent.reload.request()
    assert [worker.number for worker in agent.started] == [1, 2, 1]
    agent.started[2].is_ready()
    assert (agent.started[0].drained, len(agent.started)) == (10, 3)
    agent.started[0].ends()
    assert [worker.number for worker in agent.started] == [1, 2, 1, 2]
    agent.started[3].is_ready()
    agent.started[1].ends()
    assert not agent.reload.running
    assert agent.reload.results == {
        "results": {"ok": 1, "failed": 0},
        "last_ok": True,
        "last_time": 1234.0,
        "reason": "",
        "requested": 1,
        "answered": 1,
    }
    assert agent.restarts["reload"] == 2


def test_a_failed_reload(agent: Agent, logged: Logged) -> None:
    """The old workers stay, and the next worker is not started."""
    agent.reload.request()
    agent.started[2].ends("no such module")
    assert [agent.current(1), agent.current(2)] == agent.started[:2]
    assert logged.take() == ["error: reload failed: no such module; the workers go on with their old code"]
    agent.clock.advance(100)
    assert (agent.reload.running, len(agent.started)) == (False, 3)
    assert agent.reload.results["results"] == {"ok": 0, "failed": 1}
    assert agent.reload.results["answered"] == 1
    assert (agent.reload.results["last_ok"], agent.reload.results["reason"]) == (False, "no such module")


def test_a_reload_that_fails_in_the_middle(agent: Agent, logged: Logged) -> None:
    agent.reload.request()
    agent.started[2].is_ready()
    agent.started[0].ends()
    agent.started[3].ends("no memory")
    (line,) = logged.take()
    assert line.endswith("no memory; 1 of 2 workers were replaced before; the others go on with their old code")


def test_requests_during_a_reload(agent: Agent) -> None:
    """Any number of them is one more reload."""
    for _ in range(5):
        agent.reload.request()
    results = agent.reload.results
    for number in range(4):
        assert results["answered"] == (0 if number < 2 else 1)
        agent.started[number + 2].is_ready()
        agent.started[number].ends()
    # The first reload had begun when the others were asked for.
    assert (results["requested"], results["answered"]) == (5, 5)
    assert (agent.reload.running, len(agent.started)) == (False, 6)
    assert agent.reload.results["results"]["ok"] == 2


def test_a_fault_of_the_reload_itself(agent: Agent, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the reload learns that it has ended."""
    monkeypatch.delattr(Slot, "replace")
    agent.reload.request()
    (line,) = logged.take()
    assert line.startswith("critical: the reload ended")
    results = agent.reload.results
    assert (agent.reload.running, results["answered"], results["last_ok"]) == (False, 1, False)
    assert results["reason"] == "AttributeError; the log has its traceback"


def test_a_worker_dies_during_its_replacement(agent: Agent, logged: Logged) -> None:
    """The new one takes its place. If the new one fails too, another one is started later."""
    agent.reload.request()
    agent.started[0].ends()
    assert len(agent.started) == 3
    logged.take()
    agent.started[2].ends("bad code")
    assert len(logged.take()) == 1
    agent.clock.advance(0)
    assert len(agent.started) == 4
    agent.started[3].is_ready()
    assert agent.current(1) is agent.started[3]


def test_a_reload_of_a_lost_worker(agent: Agent, logged: Logged) -> None:
    """It does not wait for the time of the next start. A worker that has begun to start has the old code: it ends."""
    agent.started[0].ends()
    agent.clock.advance(0)
    agent.started[2].ends()
    logged.take()
    agent.reload.request()
    assert len(agent.started) == 4
    agent.reload.request()
    agent.started[3].is_ready()
    agent.started[4].is_ready()
    agent.started[1].ends()
    assert len(agent.started) == 6


def test_a_replacement_that_was_starting_is_started_again(agent: Agent, logged: Logged) -> None:
    agent.started[0].ends()
    agent.clock.advance(0)
    logged.take()
    agent.reload.request()
    assert (agent.started[2].drained, len(agent.started)) == (0, 4)
    agent.started[2].is_ready()
    assert agent.current(1) is None
    agent.started[3].is_ready()
    assert agent.current(1) is agent.started[3]


def test_stop_during_a_reload(agent: Agent) -> None:
    """All workers drain, the new one too, and no other is started."""
    agent.reload.request()
    agent.reload.request()
    for slot in agent.slots:
        slot.stop()
    assert [worker.drained for worker in agent.started] == [10, 10, 10]
    for worker in agent.started:
        worker.ends()
    agent.clock.advance(100)
    assert (agent.reload.running, len(agent.started)) == (False, 3)


def test_a_reload_while_the_agent_stops(agent: Agent) -> None:
    """SIGHUP after SIGTERM starts no worker: nobody would wait for its end."""
    for slot in agent.slots:
        slot.stop()
    agent.reload.request()
    assert (agent.reload.running, len(agent.started)) == (False, 2)


def test_stop_of_a_lost_worker(agent: Agent, logged: Logged) -> None:
    agent.started[0].ends()
    logged.take()
    agent.slots[0].stop()
    agent.clock.advance(100)
    assert len(agent.started) == 2

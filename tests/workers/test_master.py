"""The service of the master, with workers that have no processes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from spoa_twisted.status.report import Status
from spoa_twisted.tap import Options
from spoa_twisted.workers import master as master_module
from spoa_twisted.workers.handing_over import MAX_OFFERED
from spoa_twisted.workers.master import LAST_CONNECTIONS, MasterService, make_master
from tests.conftest import Logged
from tests.workers.test_slots import FakeWorker


class FakeProcess(FakeWorker):
    """A worker that the master has started. It takes connections when the test says so."""

    facts: dict[str, Any] = {"messages": "", "files": []}
    last_report = b""
    answered = 0.0

    def __init__(self, number: int, reactor: Any, settings: object, rules: object, owner: Any) -> None:
        super().__init__(number, owner, reactor)
        self.started = reactor.seconds()
        self.offered: list[int] = []

    def start(self) -> None:
        """Do nothing."""

    def send_connection(self, *arguments: object) -> None:
        _, number, _ = arguments
        self.offered.append(cast("int", number))

    def get_report(self) -> Deferred[bytes]:
        """Return a Deferred that does not fire: this worker does not answer."""
        return Deferred()

    def take_all(self) -> None:
        offered, self.offered = self.offered, []
        for number in offered:
            self._owner.on_taken(self, number)


class FakeSupervisor:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.told.append(name)


class Agent:
    """A master with two workers, on a reactor in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory: Any = MemoryReactorClock()
        self.memory.advance(100)
        self.checked: list[object] = []
        self.hurry: list[Callable[[], None]] = []
        self.sockets: list[socket.socket] = []
        monkeypatch.setattr(master_module, "Worker", FakeProcess)
        monkeypatch.setattr(master_module, "check_handlers", lambda settings, timeout: self.checked.append(timeout))
        monkeypatch.setattr(master_module, "MasterSignals", self._signals)
        options = Options()
        options.parseOptions(["--workers=2", "--handlers=mymod", "--listen=tcp:1:interface=127.0.0.1"])
        self.master: MasterService = make_master(options, self.memory)
        self.supervisor = FakeSupervisor()
        self.master.supervisor = cast("Any", self.supervisor)

    def _signals(self, reactor: object, end_drain: Callable[[], None], *others: object) -> Any:
        # The real ones would change the handlers of this process.
        self.hurry.append(end_drain)
        return FakeSupervisor()

    @property
    def workers(self) -> list[FakeProcess]:
        return sorted(cast("Any", self.master.workers), key=lambda worker: worker.number)

    def start(self) -> None:
        self.master.startService()
        self.run_hooks()
        for worker in self.workers:
            worker.is_ready()

    def run_hooks(self) -> None:
        """Do what the reactor does when it begins to run."""
        for function, arguments, keywords in self.memory.whenRunningHooks:
            function(*arguments, **keywords)

    def accept(self, count: int) -> None:
        for _ in range(count):
            self.sockets.append(socket.socket())
            self.master._on_accepted(self.sockets[-1], 0, 0)

    def stop(self) -> list[None]:
        """Stop the service. Return a list that gets an entry when it has stopped."""
        stopped: list[None] = []
        self.master.stopService().addCallback(stopped.append)
        return stopped


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(monkeypatch)


def test_start_and_stop(agent: Agent) -> None:
    """It has stopped when all workers have ended."""
    agent.start()
    assert agent.checked == [30]
    assert [worker.number for worker in agent.workers] == [1, 2]
    stopped = agent.stop()
    assert [worker.drained for worker in agent.workers] == [10, 10]
    for worker in agent.workers:
        assert not stopped
        worker.ends()
    assert len(stopped) == 1
    assert agent.supervisor.told == ["start", "status", "ready", "stopping", "close"]


def test_a_stop_before_the_reactor_runs(agent: Agent) -> None:
    """No worker is started afterwards."""
    agent.master.startService()
    assert len(agent.stop()) == 1
    agent.run_hooks()
    assert agent.workers == []


def test_the_last_connections(agent: Agent) -> None:
    """The workers drain when they have taken what the master had accepted before."""
    agent.start()
    agent.accept(2 * MAX_OFFERED + 1)
    agent.stop()
    agent.memory.advance(0.01)
    assert [worker.drained for worker in agent.workers] == [None, None]
    for worker in agent.workers:
        worker.take_all()
    agent.memory.advance(0.01)
    assert [worker.drained for worker in agent.workers] == [10, 10]
    for worker in agent.workers:
        worker.take_all()
    assert all(connection.fileno() == -1 for connection in agent.sockets)


def test_workers_that_take_no_connections(agent: Agent) -> None:
    """They do not keep the agent from stopping: the connections that wait are closed."""
    agent.start()
    agent.accept(2 * MAX_OFFERED + 1)
    agent.stop()
    agent.memory.pump([0.01] * round(LAST_CONNECTIONS / 0.01 + 2))
    assert [worker.drained for worker in agent.workers] == [10, 10]
    assert agent.sockets[-1].fileno() == -1
    for worker in agent.workers:
        worker.take_all()


def test_a_second_signal(agent: Agent) -> None:
    """The workers end now."""
    agent.start()
    agent.stop()
    (hurry,) = agent.hurry
    hurry()
    assert [worker.drained for worker in agent.workers] == [0, 0]


def test_an_endpoint_that_fails_later(agent: Agent, monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
    """The agent ends with status 1, so that a supervisor notices."""
    failed: list[object] = []
    monkeypatch.setattr(master_module, "stop_with_failure", failed.append)
    agent.start()
    logged.take()
    agent.master._on_listening_failed("cannot listen on onion:1: too late")
    assert logged.take() == ["critical: cannot listen on onion:1: too late"]
    assert failed == [agent.memory]


def test_a_stop_during_a_reload(agent: Agent) -> None:
    """The supervisor does not hear that the agent is ready again."""
    agent.start()
    agent.master.reload.request()
    stopped = agent.stop()
    for worker in agent.workers:
        worker.ends()
    assert len(stopped) == 1
    assert not agent.master.reload.running
    assert agent.supervisor.told == ["start", "status", "ready", "reloading", "stopping", "close"]


def test_who_waits_for_the_end(agent: Agent) -> None:
    """The status goes on until the workers have ended. If the agent does not stop, there is nothing to wait for."""
    agent.start()
    assert agent.master.when_stopped().called
    agent.stop()
    waiting = agent.master.when_stopped()
    for worker in agent.workers:
        assert not waiting.called
        worker.ends()
    assert waiting.called


def test_the_status(agent: Agent) -> None:
    """It says that the agent drains, and how many connections were refused."""
    source = agent.master.source(["tcp:1"], {"workers": "2"})
    agent.start()
    agent.master.refused = 3
    agent.stop()
    answers: list[Status] = []
    source.status().addCallback(answers.append)
    agent.memory.advance(1)
    (status,) = answers
    assert (status["state"], status["workers"], status["totals"]["refused"]) == ("draining", True, 3)

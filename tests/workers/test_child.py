"""One worker process, as the master sees it: start, drain, limits, end. No process is started."""

from __future__ import annotations

import errno
import signal
from typing import Any

import pytest
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from spoa_twisted.workers.child import GRACE, PING_INTERVAL, Owner, Rules, Worker
from tests.conftest import Logged


class Socket(StringTransport):
    """The master's end of the control socket. There is always more to read."""

    reads = 0

    def doRead(self) -> None:
        self.reads += 1


class FakeProcess:
    """A process that only keeps the signals that it gets."""

    pid = 7

    def __init__(self) -> None:
        self.signals: list[int] = []

    def signalProcess(self, number: int) -> None:
        self.signals.append(number)

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        """Do nothing."""

    def closeChildFD(self, descriptor: int) -> None:
        """Do nothing."""


class Processes(Clock):
    """A reactor whose processes are fakes.

    :param error: what starting a process raises.
    """

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.process = FakeProcess()
        self.socket = Socket()
        self._error = error

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        factory.buildProtocol(None).makeConnection(self.socket)

    def spawnProcess(self, *arguments: object, **options: object) -> FakeProcess:
        if self._error is not None:
            raise self._error
        return self.process


class Recorder(Owner):
    """Keeps the names of what a worker reports."""

    def __init__(self) -> None:
        self.reported: list[str] = []

    def on_ready(self, worker: Worker) -> None:
        self.reported.append("ready")

    def on_leaving(self, worker: Worker) -> None:
        self.reported.append("leaving")

    def on_ended(self, worker: Worker) -> None:
        self.reported.append("ended")


def started(processes: Processes, start_timeout: float = 0) -> tuple[Worker, list[str]]:
    """Return a worker that starts, and the list of what it reports."""
    settings: Any = {}
    owner = Recorder()
    rules = Rules(start_timeout=start_timeout, stall_timeout=0, reports=False)
    worker = Worker(1, processes, settings, rules, owner)
    worker.start()
    return worker, owner.reported


def test_a_process_that_cannot_be_started() -> None:
    """That is reported in the next turn of the reactor, as an end. The agent may stop before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    processes = Processes(OSError(errno.EAGAIN, "Resource temporarily unavailable"))
    worker, reported = started(processes)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    worker.drain(10)
    assert reported == []
    processes.advance(0)
    assert reported == ["ended"]
    assert worker.reason == "its process cannot be started: [Errno 11] Resource temporarily unavailable"
    assert processes.socket.disconnecting
    assert processes.getDelayedCalls() == []


@pytest.mark.parametrize(("timeout", "signals"), [(30, [signal.SIGABRT]), (0, [])])
def test_the_limit_for_the_start(timeout: float, signals: list[int]) -> None:
    """0 is no limit."""
    processes = Processes()
    worker, _ = started(processes, timeout)
    processes.advance(30)
    assert processes.process.signals == signals
    assert worker.ending == ("stall" if signals else "exit")


def test_a_worker_that_starts_makes_no_report() -> None:
    worker, _ = started(Processes())
    failures: list[object] = []
    worker.get_report().addErrback(lambda failure: failures.append(failure.type))
    assert failures == [ProcessExitedAlready]


def test_a_worker_that_is_not_needed_any_more_while_it_starts() -> None:
    """It gets SIGTERM. What it has sent before that changes nothing: it takes no connections."""
    processes = Processes()
    worker, reported = started(processes, 30)
    worker.drain(0)
    assert processes.process.signals == [signal.SIGTERM]
    worker.on_control_ready(b"{}")
    worker.on_control_leaving()
    assert (worker.state, reported) == ("draining", [])


def test_a_worker_that_does_not_end(logged: Logged) -> None:
    """It is killed after its drain."""
    processes = Processes()
    worker, _ = started(processes)
    worker.on_control_ready(b"{}")
    worker.drain(10)
    assert b"Drain" in processes.socket.value()
    processes.advance(10)
    assert processes.process.signals == []
    processes.advance(GRACE)
    assert processes.process.signals == [signal.SIGKILL]
    assert logged.take() == ["warn: worker 1: killed: it did not end after its drain"]


def test_the_answer_to_a_ping_during_a_drain() -> None:
    """No other ping follows."""
    processes = Processes()
    worker, _ = started(processes)
    worker.on_control_ready(b"{}")
    pinged = processes.socket.value().count(b"Ping")
    worker.drain(10)
    processes.advance(3)
    control: Any = worker._control
    control.dataReceived(b"\0\7_answer\0\0011\0\0")
    assert worker.answered == 3
    processes.advance(PING_INTERVAL)
    assert (pinged, processes.socket.value().count(b"Ping")) == (1, 1)


def test_a_process_ends_once() -> None:
    """A process that it has started keeps its pipes open, and fills the control socket for ever."""
    processes = Processes()
    worker, reported = started(processes)
    worker.on_control_ready(b"{}")
    before = worker.when_ended()
    worker.on_exit(3, None)
    processes.advance(1)
    assert (reported, worker.reason, processes.socket.reads) == (["ready", "ended"], "it ended with exit status 3", 16)
    # The other process has closed the pipes.
    worker.on_pipes_closed()
    worker.drain(10)
    assert (reported, worker.state) == (["ready", "ended"], "ended")
    assert (before.called, worker.when_ended().called) == (True, True)
    assert processes.getDelayedCalls() == []

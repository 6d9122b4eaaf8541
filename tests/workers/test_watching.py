"""``spoactl watch`` with workers: the watch of the master, what the workers send, and real processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.runner.watch import watch_of
from spoa_twisted.spop.messages import Message
from spoa_twisted.status.watch import MAX_WATCHERS, TooManyWatchers, ValuesNotAllowed, Watch, WatchedHandlers
from spoa_twisted.workers import control, watched
from spoa_twisted.workers.child import MasterControl, Owner, Rules, Worker
from spoa_twisted.workers.control import ControlProtocol
from spoa_twisted.workers.watched import WatchedWorker
from spoa_twisted.workers.watching import WorkersWatch
from spoa_twisted.workers.worker import WorkerControl
from tests.needs import needs_chunks
from tests.programs import SPOACTL, Program

from .conftest import Start, all_ready, ask, write
from .test_slots import FakeWorker

soak = pytest.mark.soak

CHECK = Message("check", [("token", "swordfish")])


class Master:
    """The watch of a master, and workers without processes."""

    def __init__(self, workers: int = 2, *, allow_values: bool = False) -> None:
        self.workers: list[Any] = [FakeWorker(number, None, Clock()) for number in range(1, workers + 1)]
        self.watch = WorkersWatch(self.workers, allow_values=allow_values)
        self.seen: list[dict[str, Any]] = []

    def begin(self, count: int = 10, *, values: bool = False) -> Any:
        return self.watch.begin(count, values=values, deliver=self.seen.append)

    def add(self) -> Any:
        self.workers.append(FakeWorker(len(self.workers) + 1, None, Clock()))
        self.watch.add(self.workers[-1])
        return self.workers[-1]


def lines(*objects: dict[str, Any]) -> bytes:
    return b"\n".join([json.dumps(line).encode() for line in objects])


def test_all_workers_are_asked() -> None:
    """They end when the watcher has as many as it wants, whichever worker has sent them."""
    master = Master()
    watcher = master.begin(3)
    assert [worker.watches for worker in master.workers] == [[("begin", 1, 3, False)]] * 2
    master.watch.on_watched(1, lines({"worker": 1}, {"worker": 1}))
    assert not watcher.is_over
    master.watch.on_watched(1, lines({"worker": 2}, {"worker": 2}))
    assert watcher.is_over
    assert [seen["worker"] for seen in master.seen] == [1, 1, 2]
    assert [worker.watches[1:] for worker in master.workers] == [[("end", 1)]] * 2
    # The worker has sent this before it was told to end.
    master.watch.on_watched(1, lines({"worker": 1}))
    assert len(master.seen) == 3


def test_a_worker_that_starts_meanwhile() -> None:
    """It is asked for what is left, for each watcher."""
    master = Master(1)
    master.begin(3)
    master.begin(5)
    master.watch.on_watched(1, lines({"worker": 1}))
    new = master.add()
    assert new.watches == [("begin", 1, 2, False), ("begin", 2, 5, False)]
    new.on_watched(1, lines({"worker": 2}, {"worker": 2}))
    assert len(master.seen) == 3
    assert new.watches[2:] == [("end", 1)]


def test_a_worker_drops_some() -> None:
    """They count, and the client is told how many there were."""
    master = Master()
    watcher = master.begin(5)
    master.watch.on_watched(1, lines({"worker": 1}, {"worker": 1, "dropped": 7}))
    assert master.seen[1] == {"worker": 1, "dropped": 7}
    assert watcher.is_over


def test_the_bounds_are_for_all_workers() -> None:
    """The number of watchers, and whether they may see values."""
    master = Master()
    with pytest.raises(ValuesNotAllowed):
        master.begin(values=True)
    for _ in range(MAX_WATCHERS):
        master.begin()
    with pytest.raises(TooManyWatchers):
        master.begin()
    assert all(len(worker.watches) == MAX_WATCHERS for worker in master.workers)
    master = Master(allow_values=True)
    master.begin(values=True)
    assert master.workers[0].watches == [("begin", 1, 10, True)]


def test_the_option() -> None:
    """The watch is that of the master."""
    master: Any = Master()
    assert watch_of(master, {"watch": "types", "status": "tcp:1", "workers": 2}) is master.watch


class Process:
    """What a worker sends to the master: each batch waits in ``sent`` for its answer."""

    def __init__(self, *, allow_values: bool = False) -> None:
        self.clock = Clock()
        self.factory = SPOAFactory(
            Handlers({"check": lambda token: {"txn.user": token}, "wait": Deferred}), reactor=self.clock
        )
        self.sent: list[tuple[int, list[dict[str, Any]]]] = []
        self.answers: list[Deferred[Any]] = []
        self.watched = WatchedWorker(Watch(self.factory, allow_values=allow_values), 2, self._ask)

    def _ask(self, command: object, *, number: int, lines: bytes) -> Deferred[Any]:
        assert command is control.Watched
        self.sent.append((number, [json.loads(line) for line in lines.splitlines()]))
        self.answers.append(Deferred())
        return self.answers[-1]

    def notify(self, times: int = 1) -> None:
        for _ in range(times):
            self.factory.responder.respond([CHECK], 1000, self.clock, 0, self.factory.outcomes)

    def is_watched(self) -> bool:
        return isinstance(self.factory.responder, WatchedHandlers)


def test_a_worker_sends_batches() -> None:
    """The first NOTIFY goes at once. What comes before its answer goes together after that."""
    process = Process()
    process.watched.begin(7, 4, values=False)
    process.notify(3)
    (batch,) = process.sent
    assert (batch[0], len(batch[1])) == (7, 1)
    assert batch[1][0]["worker"] == 2
    assert "swordfish" not in json.dumps(batch)
    process.answers[0].callback({})
    assert [len(batch) for _, batch in process.sent] == [1, 2]
    process.notify(2)
    assert not process.is_watched()
    process.answers[1].callback({})
    assert [len(batch) for _, batch in process.sent] == [1, 2, 1]
    process.answers[2].callback({})
    assert len(process.sent) == 3
    # The master has not noticed yet that it has all.
    process.watched.end(7)


def test_a_master_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker keeps a bounded number of lines, drops the others, and says how many they were."""
    process = Process()
    process.watched.begin(1, 100, values=False)
    process.notify()
    size = len(json.dumps(process.sent[0][1][0]))
    monkeypatch.setattr(watched, "MAX_WAITING", 2 * size + size // 2)
    process.notify(5)
    process.answers[0].callback({})
    (_, batch) = process.sent[1]
    assert [line.get("dropped") for line in batch] == [None, None, 3]
    assert batch[2] == {"worker": 2, "dropped": 3}
    # A line that is longer than the bound is sent if nothing else is on its way.
    process.answers[1].callback({})
    monkeypatch.setattr(watched, "MAX_WAITING", 1)
    process.notify()
    assert len(process.sent) == 3


def test_the_values_of_a_worker() -> None:
    """They are sent if the master has asked for them."""
    process = Process(allow_values=True)
    process.watched.begin(1, 5, values=True)
    process.notify()
    assert "swordfish" in json.dumps(process.sent)


def test_a_watcher_ends() -> None:
    """The handlers of the worker are not wrapped any more."""
    process = Process()
    process.watched.begin(1, 5, values=False)
    process.watched.begin(2, 5, values=False)
    process.watched.end(1)
    assert process.is_watched()
    process.watched.end(2)
    assert not process.is_watched()
    process.watched.end(2)


def test_a_worker_that_has_drained() -> None:
    """It does not wait for an answer before it sends its last lines."""
    process = Process()
    process.watched.begin(1, 9, values=False)
    process.notify(3)
    process.watched.flush()
    process.watched.flush()
    assert [len(batch) for _, batch in process.sent] == [1, 2]


def test_the_master_ends() -> None:
    """So do all watches. A batch that was not answered is forgotten."""
    process = Process()
    process.watched.begin(1, 5, values=False)
    process.watched.begin(2, 5, values=False)
    process.notify(2)
    process.watched.end_all()
    for answer in process.answers:
        answer.errback(ConnectionDone())
    assert not process.is_watched()
    assert len(process.sent) == 2


class Pair:
    """The two ends of a control socket, connected by hand."""

    def __init__(self) -> None:
        settings: Any = {}
        self.process = Process()
        self.worker = Worker(2, Clock(), settings, Rules(start_timeout=0, stall_timeout=0, reports=False), Owner())
        service: Any = type("Service", (), {"watched": self.process.watched, "on_control_lost": lambda: None})
        self.ends: list[ControlProtocol] = [self.worker._control, WorkerControl(service)]
        self.process.watched._ask = self.ends[1].ask
        for end in self.ends:
            end.makeConnection(StringTransport())

    def carry(self) -> None:
        """Carry what was written until there is nothing more."""
        moved = True
        while moved:
            moved = False
            for end, other in (self.ends, self.ends[::-1]):
                transport: Any = end.transport
                if data := transport.value():
                    transport.clear()
                    other.dataReceived(data)
                    moved = True


def test_the_commands() -> None:
    """From the watch of the master to the handlers of a worker, and back."""
    pair = Pair()
    assert isinstance(pair.ends[0], MasterControl)
    master = WorkersWatch([], allow_values=False)
    seen: list[dict[str, Any]] = []
    pair.worker.on_watched(1, b"")
    master.begin(9, values=False, deliver=seen.append)
    master.add(pair.worker)
    pair.carry()
    assert pair.process.is_watched()
    pair.process.notify(3)
    pair.carry()
    assert [(line["worker"], line["messages"][0]["name"]) for line in seen] == [(2, "check")] * 3
    pair.worker.end_watch(1)
    pair.carry()
    assert not pair.process.is_watched()


def test_a_closed_socket() -> None:
    """Commands that have an answer fail at once."""
    end = ControlProtocol(lambda: None)
    end.transport = None
    errors: list[object] = []
    end.ask(control.Watched, number=1, lines=b"").addErrback(errors.append)
    assert len(errors) == 1
    process = Process()
    process.watched._ask = lambda *arguments, **keywords: fail(ConnectionDone())
    process.watched.begin(1, 5, values=False)
    process.notify()


# Real processes.


def watch(agent: Program, *options: str) -> Program:
    """Watch an agent."""
    agent.said("the status is at")
    (address,) = re.findall(r"the status is at (\S+)", agent.output)
    return Program([*SPOACTL, "watch", f"--status=tcp:{address}", "--json", *options])


def seen_by(watcher: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in watcher.output.splitlines() if line.startswith("{")]


@soak
@needs_chunks
def test_a_reload_and_a_killed_worker(start: Start, folder: Path) -> None:
    """The workers that come meanwhile are watched from their first NOTIFY on. All ends without an error."""
    write(folder, "", version=1)
    agent = start("--status=tcp:0:interface=127.0.0.1", "--watch=types", workers=2)
    all_ready(agent, 2)
    with watch(agent, "--count=12") as watcher:
        watcher.said("watching the agent")
        pids = {ask(agent)["sess.pid"] for _ in range(4)}
        agent.signal(signal.SIGHUP)
        agent.said("reloaded: 2 workers")
        new = [ask(agent)["sess.pid"] for _ in range(4)]
        assert not pids & set(new)
        # What a killed worker has not sent yet is lost.
        watcher.said('"actions"', times=8)
        victim: Any = new[-1]
        number = re.findall(rf"worker (\d) is ready: process {victim},", agent.output)[0]
        subprocess.run(["kill", "-KILL", str(victim)], check=True)
        agent.said(rf"(?s)worker {number} \(process {victim}\) has ended.*worker {number} is ready")
        for _ in range(4):
            ask(agent)
        assert watcher.ended() == 0
        seen = seen_by(watcher)
        assert len(seen) == 12
        assert {line["worker"] for line in seen} == {1, 2}
        assert {line["messages"][0]["name"] for line in seen} == {"m"}
    assert "Traceback" not in agent.output
    agent.stop()

"""The reports of the workers, the control protocol, and the lag of a reactor."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, ClassVar, cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.status.local import report as report_process
from spoa_twisted.workers import control
from spoa_twisted.workers.child import Owner, Rules, Worker
from spoa_twisted.workers.collecting import ANSWER_TIMEOUT, Collector
from spoa_twisted.workers.control import Compressed, ControlProtocol
from tests.conftest import Logged


class FakeWorker:
    def __init__(self, number: int, state: str, answer: Deferred[bytes]) -> None:
        self.number, self.pid, self.state = number, 100 + number, state
        self.started = self.answered = 5.0
        self.last_report = b""
        self.stands_in = ""
        self._answer = answer

    def get_report(self) -> Deferred[bytes]:
        return self._answer


class FakeSlot:
    def __init__(self, number: int, lost: str) -> None:
        self.number, self.lost = number, lost
        self.current = None


def report(**process: object) -> bytes:
    factory = SPOAFactory(Handlers({"b": lambda: None, "a": lambda: None}), reactor=Clock())
    result: Any = report_process(factory, worker=1)
    result["process"].update(process)
    return json.dumps(result).encode()


def test_collect() -> None:
    """A worker that does not answer is silent, with its last report. One that has ended is lost."""
    clock = Clock()
    clock.advance(10)
    silent = FakeWorker(2, "ready", Deferred())
    silent.last_report = report(worker=2, connections=7)
    silent.stands_in = "mymod.py, line 3, in get"
    workers: Any = [
        FakeWorker(3, "starting", fail(ConnectionDone())),
        silent,
        FakeWorker(1, "ready", succeed(report(connections=3))),
    ]
    slots: Any = [FakeSlot(4, "it was ended by the signal SIGKILL"), FakeSlot(5, "")]
    collector = Collector(clock, workers, slots, lambda: 2000.0)
    reports: list[Any] = []
    collector.collect().addCallback(reports.extend)
    assert reports == []
    clock.advance(ANSWER_TIMEOUT)
    processes = [made["process"] for made in reports]
    assert [(process["worker"], process["state"], process["connections"]) for process in processes] == [
        (1, "ready", 3),
        (2, "silent", 7),
        (3, "starting", 0),
        (4, "lost", 0),
    ]
    assert processes[1]["age"] == 5 + ANSWER_TIMEOUT
    assert [process["detail"] for process in processes[:2]] == ["", "mymod.py, line 3, in get"]
    assert processes[2]["started"] == 1995
    assert processes[3]["detail"] == "it was ended by the signal SIGKILL"


def test_a_report_shows_that_a_worker_runs() -> None:
    """Pings are a second apart, and a worker that drains gets none: a report that comes now is a sign of life too."""
    clock = Clock()
    settings: Any = {}
    worker = Worker(1, clock, settings, Rules(start_timeout=0, stall_timeout=0, reports=True), Owner())
    worker.state, worker.answered = "draining", clock.seconds()
    connection: Any = worker._control
    connection.transport = StringTransport()
    connection.ask = lambda command: succeed({"report": report()})
    clock.advance(7)
    reports: list[Any] = []
    Collector(clock, [worker], [], lambda: 0.0).collect().addCallback(reports.extend)
    assert reports[0]["process"]["age"] == 0


def test_a_report_of_a_worker_that_was_never_ready() -> None:
    """It was told to end while it started, and has sent its last report: nothing says how old its numbers are."""
    clock = Clock()
    clock.advance(7)
    worker: Any = FakeWorker(1, "draining", fail(ConnectionDone()))
    worker.last_report, worker.answered = report(connections=2), 0.0
    reports: list[Any] = []
    Collector(clock, [worker], [], lambda: 0.0).collect().addCallback(reports.extend)
    process = reports[0]["process"]
    assert (process["state"], process["connections"], process["age"]) == ("draining", 2, 0)


def running(clock: Clock, stall_timeout: float) -> tuple[Any, list[Deferred[Any]], list[int]]:
    """Return a worker that is ready, the Deferreds of its answers, and the signals that it gets."""
    settings: Any = {}
    worker: Any = Worker(1, clock, settings, Rules(start_timeout=0, stall_timeout=stall_timeout, reports=True), Owner())
    asked: list[Deferred[Any]] = []
    signals: list[int] = []

    def ask(command: object) -> Deferred[Any]:
        asked.append(Deferred())
        return asked[-1]

    worker._control.transport, worker._control.ask = StringTransport(), ask
    worker.kill = lambda number=9: signals.append(number)
    worker.on_control_ready(b"{}")
    return worker, asked, signals


def test_a_master_that_stands_still(logged: Logged) -> None:
    """After SIGSTOP and SIGCONT, or on a machine that slept, the timers come before the answers of healthy workers."""
    clock = Clock()
    _, asked, signals = running(clock, 2.0)
    clock.advance(60)
    assert signals == []
    asked[0].callback({"report": b"{}"})
    clock.advance(1)
    assert len(asked) == 2
    clock.advance(2)
    assert signals == [6]
    assert len(logged.take()) == 1


def test_a_worker_that_stands_still_for_long() -> None:
    """The master does not ask it again and again: each question takes memory. A late answer counts."""
    clock = Clock()
    worker, asked, _ = running(clock, 0)
    for _ in range(1000):
        worker.get_report().addErrback(lambda failure: None).cancel()
    assert len(asked) == 64
    for answer in asked:
        answer.callback({"report": b"late"})
    assert worker.last_report == b"late"
    worker.get_report()
    assert len(asked) == 65


def test_the_last_words_of_a_process() -> None:
    """The reactor may tell of the end of a process before it reads the rest of the control socket."""
    from twisted.internet import reactor

    class Recorder(Owner):
        taken: ClassVar[list[int]] = []

        def on_taken(self, worker: Worker, number: int) -> None:
            assert worker.state != "ended"
            self.taken.append(number)

    settings: Any = {}
    worker = Worker(1, reactor, settings, Rules(start_timeout=0, stall_timeout=0, reports=True), Recorder())
    parent, child = socket.socketpair()
    with parent, child:
        parent.setblocking(False)
        cast("Any", reactor).adoptStreamConnection(
            parent.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: worker._control)
        )
        transport = StringTransport()
        sender = ControlProtocol(lambda: None)
        sender.makeConnection(transport)
        sender.send(control.Taken, number=7)
        sender.send(control.LastReport, report=os.urandom(150_000))
        child.sendall(transport.value())
    worker.on_exit(0, None)
    worker.on_pipes_closed()
    assert (worker.state, len(worker.last_report), Recorder.taken) == ("ended", 150_000, [7])


def test_a_worker_that_ends_while_another_one_is_silent() -> None:
    """Its last report is in ``retired`` already: the sum must not have its numbers twice. Its successor is there."""
    clock = Clock()
    ending = FakeWorker(1, "ready", succeed(report()))
    workers: Any = [ending, FakeWorker(2, "ready", Deferred())]
    reports: list[Any] = []
    Collector(clock, workers, [], lambda: 0.0).collect().addCallback(reports.extend)
    workers.remove(ending)
    workers.append(FakeWorker(1, "starting", Deferred()))
    clock.advance(ANSWER_TIMEOUT)
    assert [(made["process"]["worker"], made["process"]["state"]) for made in reports] == [
        (1, "starting"),
        (2, "silent"),
    ]


def test_the_last_report_of_a_worker() -> None:
    """It goes to ``retired``, if there is one."""
    retired: list[Any] = []
    collector = Collector(Clock(), [], [], lambda: 0.0)
    worker: Any = FakeWorker(1, "ended", Deferred())
    worker.last_report = report(connections=3)
    collector.on_ended(worker)
    collector.retired = retired.append
    collector.on_ended(worker)
    worker.last_report = b""
    collector.on_ended(worker)
    assert [made["process"]["connections"] for made in retired] == [3]


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_values_of_any_length(size: int) -> None:
    """AMP's own values have 64 KiB at most."""
    argument: Any = Compressed()
    strings: dict[bytes, bytes] = {}
    objects: dict[str, Any] = {}
    argument.toBox(b"x", strings, {"x": os.urandom(size)}, None)
    assert all(len(value) < 2**16 for value in strings.values())
    argument.fromBox(b"x", strings, objects, None)
    assert len(objects["x"]) == size
    assert strings == {}


def test_the_control_socket() -> None:
    """A command that is pending when the socket is closed fails, and so does one after that."""
    lost: list[bool] = []
    protocol: Any = ControlProtocol(lambda: lost.append(True))
    protocol.makeConnection(StringTransport())
    asked = [protocol.ask(control.Ping)]
    protocol.connectionLost()
    asked.append(protocol.ask(control.Ping))
    protocol.send(control.Leaving)
    failures = [deferred.addErrback(lambda failure: failure.type.__name__) for deferred in asked]
    assert [failure.result for failure in failures] == ["ConnectionDone", "ConnectionDone"]
    assert lost == [True]

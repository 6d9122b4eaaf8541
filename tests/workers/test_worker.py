"""The service of a worker process, in the process of the tests: the master's end of the control socket is a fake."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.runner import process as runner
from spoa_twisted.workers import control, spawning
from spoa_twisted.workers.binding import CatchingReactor
from spoa_twisted.workers.worker import WorkerService
from tests.conftest import Logged


class Socket(StringTransport):
    """The worker's end of the control socket."""

    def doWrite(self) -> None:
        """Do nothing: what is written is in ``value()`` already."""


class FakeReactor(MemoryReactorClock):
    """A reactor with a control socket. All other connections that it adopts are reset already."""

    def __init__(self) -> None:
        super().__init__()
        # True from the beginning in Twisted 22.4.
        self.hasStopped = False
        self.sigTerm = signal.getsignal(signal.SIGTERM)
        self.socket: Socket | None = None

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: int, factory: Any) -> None:
        if self.socket is not None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        self.socket = Socket()
        factory.buildProtocol(None).makeConnection(self.socket)

    def callFromThread(self, function: Callable[[], object]) -> None:
        function()


class FakePipe:
    """The pipe for the log: it keeps what a worker tells the master."""

    def __init__(self) -> None:
        self.written: list[Mapping[str, Any]] = []

    def write(self, line: Mapping[str, Any]) -> None:
        self.written.append(line)


class Process:
    """A worker in a fake process.

    :param startup: the Deferred that the startup function waits for; without it, there is none.
    """

    def __init__(self, startup: Deferred[None] | None = None) -> None:
        handlers = Handlers({"m": lambda: None})
        if startup is not None:

            @handlers.startup
            async def connect() -> None:
                await startup
                raise OSError("no database")

        self.reactor = FakeReactor()
        self.pipe = FakePipe()
        # The other settings are for the start of the process.
        settings: Any = {"number": 1, "options": {"reload-on-change": False, "watch": "types"}, "endpoints": ["tcp:1"]}
        factory = SPOAFactory(handlers, reactor=self.reactor)
        log: Any = self.pipe
        self.service = WorkerService(factory, settings, log, self.reactor)

    def sent(self) -> list[str]:
        """Return the names of the commands that the worker has sent to the master."""
        assert self.reactor.socket is not None
        return re.findall(r"_command\0.(\w+)", self.reactor.socket.value().decode("latin-1"), re.DOTALL)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a worker change only what can be restored in the process of the tests."""
    monkeypatch.setattr(runner, "collect_garbage_less_often", lambda: None)
    # The worker closes this descriptor when it starts.
    monkeypatch.setattr(spawning, "CONTROL", os.open(os.devnull, os.O_RDONLY))
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def ready() -> Iterator[Process]:
    """A worker that is ready."""
    process = Process()
    process.service.start()
    assert process.sent() == ["Ready"]
    yield process
    process.service.stopService()


def test_a_startup_function_that_fails_later() -> None:
    """The master learns why, and where."""
    startup: Deferred[None] = Deferred()
    process = Process(startup)
    process.service.start()
    assert (process.pipe.written, process.reactor.hasStopped) == ([], False)
    startup.callback(None)
    (line,) = process.pipe.written
    assert re.fullmatch(
        r"startup function tests.*\.connect failed: OSError: no database \(.*test_worker.py, line \d+\)",
        line["cannot_start"],
    )
    assert (process.service.exit_status, process.reactor.hasStopped) == (1, True)
    assert "Ready" not in process.sent()


def test_sigterm_during_the_start() -> None:
    """The process ends. The master sends no connections yet, so it need not know before."""
    process = Process(Deferred())
    process.service.start()
    handler: Any = signal.getsignal(signal.SIGTERM)
    handler(signal.SIGTERM, None)
    assert (process.reactor.hasStopped, process.sent(), process.pipe.written) == (True, [], [])
    process.service.stopService()


def test_sigterm(ready: Process) -> None:
    """The process tells the master, which must stop to send connections first."""
    handler: Any = signal.getsignal(signal.SIGTERM)
    handler(signal.SIGTERM, None)
    assert (ready.reactor.hasStopped, ready.sent()) == (False, ["Ready", "Leaving"])


def test_an_endpoint_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's may, although it did not in the master."""

    def fails(*arguments: object, **options: object) -> None:
        raise OSError("no relay")

    monkeypatch.setattr(CatchingReactor, "listenTCP", fails)
    process = Process()
    process.service.start()
    assert process.pipe.written == [{"cannot_start": "a worker cannot use tcp:1: no relay", "files": []}]
    assert (process.service.exit_status, process.reactor.hasStopped) == (1, True)


def test_a_connection_after_the_end(ready: Process) -> None:
    """It is closed here, and returned: the master hands its copy to another worker."""
    ready.service.end(0)
    sent = ready.sent()
    assert sent == ["Ready", "LastReport"]
    one, other = socket.socketpair()
    with other:
        ready.service.adopt(one.detach(), 1, 0)
        assert other.recv(1) == b""
    ready.service.adopt(control.LOST, 2, 0)
    assert ready.sent() == [*sent, "Returned", "Returned"]


def test_connections_without_descriptors(ready: Process, logged: Logged) -> None:
    """The worker asks once to be replaced. Then it returns each connection, so that another worker takes it at once."""
    ready.service.adopt(control.LOST, 1, 0)
    (line,) = logged.take()
    assert line.startswith("error: the process has as many files open as ulimit -n allows")
    one, other = socket.socketpair()
    with other:
        ready.service.adopt(one.detach(), 2, 0)
        assert other.recv(1) == b""
    ready.service.adopt(control.LOST, 3, 0)
    assert ready.sent() == ["Ready", "Leaving", "Returned", "Returned", "Returned"]


def test_connections_that_are_closed_at_the_same_time(ready: Process) -> None:
    """The master learns their number in one command."""
    for number in (1, 2):
        one, other = socket.socketpair()
        with other:
            ready.service.adopt(one.detach(), number, 0)
    assert ready.sent() == ["Ready", "Taken", "Taken"]
    ready.reactor.advance(0)
    assert ready.sent() == ["Ready", "Taken", "Taken", "Closed"]
    assert ready.reactor.socket is not None
    assert b"count\0\0012" in ready.reactor.socket.value()

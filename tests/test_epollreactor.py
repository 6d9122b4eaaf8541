"""The reactor ``spoa-epoll``: what it promises is what Twisted's epoll reactor does, so most tests run over both."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.python import context, log
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from spoa_twisted.epollreactor import LeanEPollReactor
from tests.conftest import Logged
from tests.programs import ENVIRONMENT, SPOACTL, TWISTD, Program, spoa


@pytest.fixture(params=[EPollReactor, LeanEPollReactor])
def reactor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A reactor that is not the one of the process. Tests call its ``doIteration``."""
    reactor = request.param()
    yield reactor
    reactor.removeAll()
    reactor.waker.connectionLost(None)
    reactor._poller.close()


@pytest.fixture
def messages() -> Iterator[list[tuple[str, str]]]:
    """The system and the text of each message or failure that the test logs with ``twisted.python.log``."""
    found: list[tuple[str, str]] = []

    def observe(event: dict[str, Any]) -> None:
        text = repr(event["failure"].value) if event["isError"] else " ".join(event["message"])
        found.append((event["system"], text))

    log.addObserver(observe)
    yield found
    log.removeObserver(observe)


class Readable:
    """An object that a reactor calls because its descriptor can be read.

    :param read: called for each read. It returns or raises the reason why the connection ends.
    """

    def __init__(self, reactor: Any, prefix: str, read: Callable[[], object]) -> None:
        self.prefix = prefix
        self.doRead = read
        self.lost: list[str] = []
        self._reactor = reactor
        self._socket, self._other = socket.socketpair()
        self._other.send(b"x")
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return self.prefix

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(repr(reason.value))

    def close(self) -> None:
        self._reactor.removeReader(self)
        self._socket.close()
        self._other.close()


@pytest.fixture
def readable(reactor: Any) -> Iterator[Callable[..., Readable]]:
    """Makes a ``Readable`` of a prefix and a function. It can be read at once."""
    made: list[Readable] = []

    def make(prefix: str, read: Callable[[], object]) -> Readable:
        made.append(Readable(reactor, prefix, read))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[[str, Callable[[], object]], Readable]
Messages = list[tuple[str, str]]


class TestLoggingContext:
    """What ``twisted.python.log`` adds to a message that is logged during a read."""

    def test_system(self, reactor: Any, readable: Make, messages: Messages) -> None:
        """A message has the prefix of the object that is read; afterwards, there is none."""
        readable("one", lambda: log.msg("read"))
        reactor.doIteration(0)
        log.msg("later")
        assert messages == [("one", "read"), ("-", "later")]

    def test_several(self, reactor: Any, readable: Make, messages: Messages) -> None:
        """Each object that is read in one turn has its own prefix."""
        for name in ("one", "two", "three"):
            readable(name, lambda name=name: log.msg(name))  # type: ignore[misc]
        reactor.doIteration(0)
        assert sorted(messages) == [("one", "one"), ("three", "three"), ("two", "two")]

    def test_the_prefix_before_the_read(self, reactor: Any, readable: Make, messages: Messages) -> None:
        """A read that changes the prefix changes it for the next read."""

        def read() -> None:
            one.prefix = "changed"
            log.msg("read")

        one = readable("one", read)
        reactor.doIteration(0)
        reactor.doIteration(0)
        assert messages == [("one", "read"), ("changed", "read")]

    def test_outer_context(self, reactor: Any, readable: Make) -> None:
        """The keys of a context around the reactor stay, except ``system``."""
        found: list[dict[str, str]] = []
        readable("one", lambda: found.append(context.get(log.ILogContext)))
        log.callWithContext({"system": "outer", "site": "a"}, reactor.doIteration, 0)
        assert found == [{"system": "one", "site": "a"}]

    def test_changes_of_the_context(self, reactor: Any, readable: Make) -> None:
        """A key that a read adds to the context is gone in the next read, and outside."""
        found: list[str | None] = []

        def read() -> None:
            found.append(context.get(log.ILogContext).get("user"))
            context.get(log.ILogContext)["user"] = "alice"

        readable("one", read)
        reactor.doIteration(0)
        reactor.doIteration(0)
        found.append(context.get(log.ILogContext).get("user"))
        assert found == [None, None, None]

    def test_another_key(self, reactor: Any, readable: Make) -> None:
        """Other things that are in the context of the caller are found."""
        found: list[object] = []
        readable("one", lambda: found.append(context.get("key")))
        context.call({"key": "value"}, reactor.doIteration, 0)
        assert found == ["value"]

    def test_a_reactor_in_a_read(self, reactor: Any, readable: Make, messages: Messages) -> None:
        """A read may run the reactor. When that returns, the context is again that of the read."""

        def outer() -> None:
            one.close()
            readable("two", lambda: log.msg("inner"))
            reactor.doIteration(0)
            log.msg("outer")

        one = readable("one", outer)
        reactor.doIteration(0)
        assert messages == [("two", "inner"), ("one", "outer")]

    def test_a_thread(self, reactor: Any, readable: Make, messages: Messages) -> None:
        """A thread that a read starts has the context of the read, also when the reactor has gone on."""
        pool, gone_on = ThreadPool(1, 1), Event()

        def in_thread() -> None:
            assert gone_on.wait(30)
            log.msg("thread")

        readable("one", lambda: pool.callInThread(in_thread))
        pool.start()
        reactor.doIteration(0)
        gone_on.set()
        pool.stop()
        assert messages == [("one", "thread")]


def failures(logged: Logged) -> list[str]:
    """Return the last line of each traceback that was logged: those above differ, because other functions ran."""
    return [text.splitlines()[-1] for text in logged.take()]


class TestFailures:
    """What is logged when a read fails, and what happens then."""

    def test_read(self, reactor: Any, readable: Make, messages: Messages, logged: Logged) -> None:
        """The failure of a read is logged with the prefix, and ends the connection."""

        def read() -> None:
            raise ValueError("broken")

        one = readable("one", read)
        reactor.doIteration(0)
        reactor.doIteration(0)
        assert messages == [("one", "ValueError('broken')")]
        assert one.lost == ["ValueError('broken')"]
        assert failures(logged) == ["builtins.ValueError: broken"]

    def test_connection_lost(self, reactor: Any, readable: Make, messages: Messages, logged: Logged) -> None:
        """The failure of ``connectionLost`` is logged with the prefix, and other objects are read as usual."""

        def lost(reason: Failure) -> None:
            raise ValueError("broken")

        for name in ("one", "two"):
            readable(name, lambda: OSError("gone")).connectionLost = lost  # type: ignore[method-assign]
        reactor.doIteration(0)
        log.msg("later")
        assert sorted(messages[:-1]) == [("one", "ValueError('broken')"), ("two", "ValueError('broken')")]
        assert messages[-1] == ("-", "later")
        assert failures(logged) == ["builtins.ValueError: broken"] * 2

    def test_prefix(self, reactor: Any, readable: Make, messages: Messages, logged: Logged) -> None:
        """An object whose ``logPrefix`` fails is read with another prefix."""

        def prefix() -> str:
            raise ValueError("broken")

        readable("one", lambda: log.msg("read")).logPrefix = prefix  # type: ignore[method-assign]
        reactor.doIteration(0)
        buggy = "(buggy logPrefix method)"
        assert messages == [(buggy, "ValueError('broken')"), (buggy, "read")]
        assert failures(logged) == ["builtins.ValueError: broken"]

    @pytest.mark.parametrize("method", ["logPrefix", "connectionLost"])
    def test_keyboard_interrupt(self, reactor: Any, readable: Make, messages: Messages, method: str) -> None:
        """It leaves the reactor, and with it the context."""

        def interrupted(*arguments: object) -> None:
            raise KeyboardInterrupt

        setattr(readable("one", lambda: OSError("gone")), method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            reactor.doIteration(0)
        log.msg("later")
        assert messages == [("-", "later")]


def test_removed_by_an_earlier_event(reactor: Any, readable: Make) -> None:
    """An object that another one closes in the same turn is not read."""
    read: list[str] = []

    def make(name: str, other: str) -> None:
        def close_other() -> None:
            read.append(name)
            both[other].close()

        both[name] = readable(name, close_other)

    both: dict[str, Readable] = {}
    make("one", "two")
    make("two", "one")
    reactor.doIteration(0)
    assert len(read) == 1


class Poller:
    """An epoll object that fails, or has no events."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.timeouts: list[float] = []

    def poll(self, timeout: float, number: int) -> list[tuple[int, int]]:
        self.timeouts.append(timeout)
        if self.error:
            raise self.error
        return []


@pytest.fixture
def poller(reactor: Any) -> Iterator[Poller]:
    """Stands in for the epoll object of the reactor."""
    real, reactor._poller = reactor._poller, Poller()
    yield reactor._poller
    reactor._poller = real


class TestPolling:
    def test_timeout(self, reactor: Any, poller: Poller) -> None:
        """``None`` waits for any time."""
        for timeout in (0, 1.5, None):
            reactor.doIteration(timeout)
        assert poller.timeouts == [0, 1.5, -1]

    def test_interrupted(self, reactor: Any, poller: Poller) -> None:
        """The function that a signal has called may have work for the reactor, so it goes on."""
        poller.error = InterruptedError(4, "interrupted")
        assert reactor.doIteration(None) is None

    def test_error(self, reactor: Any, poller: Poller) -> None:
        """Other errors are faults of the program, and are raised."""
        poller.error = OSError(9, "bad file descriptor")
        with pytest.raises(OSError, match="bad file descriptor"):
            reactor.doIteration(None)


def test_twistd(tmp_path: Path) -> None:
    """``twistd`` knows the reactor by its name, and an agent answers on it."""
    handlers = tmp_path / "which.py"
    handlers.write_text(
        "from spoa_twisted import Handlers\nfrom twisted.internet import reactor\nprint(f'on {type(reactor)}.')\n"
        "handlers = Handlers()\n@handlers.message('greet')\ndef greet():\n    return {'txn.greeting': 'hello'}\n"
    )
    twistd = [*TWISTD, "-n", "--pidfile=", "--reactor=spoa-epoll"]
    with Program(spoa(handlers=handlers, program=twistd)) as agent:
        agent.said("on <class 'spoa_twisted.epollreactor.LeanEPollReactor'>.")
        with Program([*SPOACTL, "send", "--agent", f"tcp:{agent.address()}", "greet"]) as client:
            client.said("txn.greeting=str:hello")
        agent.stop()


def run_twisteds_tests(names: str, folder: Path) -> dict[str, Any]:
    """Run these modules of Twisted's tests over both reactors, and return what differs."""
    command = [sys.executable, "-m", "tests.twisted_tests", *names.split()]
    ended = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


def test_twisteds_tests(tmp_path: Path) -> None:
    """Twisted's tests of what every reactor does, and of UDP and Unix sockets, have the same results over both."""
    report = run_twisteds_tests("core fdset threads time udp unix", tmp_path)
    assert report["different"] == {}
    assert report["passed"] > 100


@pytest.mark.soak
def test_all_of_twisteds_tests(tmp_path: Path) -> None:
    """With TCP, TLS and processes it takes some ten seconds."""
    names = "core fdset newtls process socket stdio tcp threads time tls udp unix"
    report = run_twisteds_tests(names, tmp_path)
    assert report["different"] == {}
    assert report["passed"] > 250

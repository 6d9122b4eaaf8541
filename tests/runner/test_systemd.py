"""What the agent tells its supervisor: over a real datagram socket, and by a real twistd."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactorClock

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.runner import process
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.process import ProcessService
from spoa_twisted.runner.systemd import Supervisor, refuse_daemon
from spoa_twisted.tap import Options, makeService
from tests.conftest import Logged
from tests.programs import ANY_PORT, LIMIT, TWIST, TWISTD, Program
from tests.runner.conftest import folder, start

__all__ = ["folder", "start"]  # fixtures


#: An option of Unix sockets on Linux, which the module socket of PyPy does not have.
SO_PASSCRED = 16


class Systemd:
    """The socket that systemd gives to a service, and what comes out of it.

    :param address: as in NOTIFY_SOCKET.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(LIMIT)
        self.socket.bind(address.replace("@", "\0"))

    def received(self) -> dict[str, str]:
        """Wait for a datagram. Return its variables."""
        lines = self.socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, name: str) -> dict[str, str]:
        """Wait for a datagram with this variable. Return its variables."""
        while name not in (variables := self.received()):
            pass
        return variables

    def is_empty(self) -> bool:
        """Return whether all datagrams have been read."""
        readable, _, _ = select.select([self.socket], [], [], 0)
        return not readable

    def fill(self) -> int:
        """Send datagrams to it until its queue is full. Return how many."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            number = 0
            try:
                while True:
                    sender.sendto(b"X=1", self.address.replace("@", "\0"))
                    number += 1
            except BlockingIOError:
                return number


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """The socket of systemd, as a file or abstract."""
    name = f"@spoa-twisted-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    system = Systemd(name)
    with system.socket:
        yield system


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[Systemd]:
    """The socket of systemd, as a file."""
    system = Systemd(str(tmp_path / "notify"))
    with system.socket:
        yield system


class TestSupervisor:
    def test_each_message(self, systemd: Systemd) -> None:
        """Each method sends one datagram, with the variables of ``sd_notify(3)``."""
        supervisor = Supervisor(systemd.address)
        supervisor.status("starting")
        assert systemd.received() == {"STATUS": "starting"}
        supervisor.ready("listening")
        assert systemd.received() == {"READY": "1", "STATUS": "listening"}
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        supervisor.reloading()
        variables = systemd.received()
        assert before <= int(variables.pop("MONOTONIC_USEC")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert variables == {"RELOADING": "1", "STATUS": "reloading"}
        supervisor.watchdog()
        assert systemd.received() == {"WATCHDOG": "1"}
        supervisor.stopping("draining")
        assert systemd.received() == {"STOPPING": "1", "STATUS": "draining"}
        assert systemd.is_empty()

    def test_a_text_is_one_short_line(self, notify: Systemd) -> None:
        """Line breaks cannot forge another variable, and systemd drops datagrams of more than 4,096 bytes."""
        Supervisor(notify.address).status("a\nREADY=1\u0142\ud800" + 5000 * "x")
        (text,) = notify.received().values()
        assert text.startswith(r"a\nREADY=1\u0142\ud800xxx")
        assert len(text) == 1000

    def test_without_a_supervisor_nothing_is_sent(self) -> None:
        """No timer is started either."""
        memory = MemoryReactorClock()
        supervisor = Supervisor.from_environment({"WATCHDOG_USEC": "1000000"})
        supervisor.start(memory)
        supervisor.ready("listening")
        assert memory.getDelayedCalls() == []
        supervisor.close()

    def test_a_socket_that_is_gone(self, notify: Systemd, logged: Logged) -> None:
        """The log says so once, and no method raises."""
        notify.socket.close()
        supervisor = Supervisor(notify.address)
        supervisor.ready("listening")
        supervisor.stopping()
        (line,) = logged.take()
        assert line.startswith(
            f"warn: cannot notify the supervisor at NOTIFY_SOCKET {notify.address}: Connection refused; "
        )

    def test_an_address_that_is_too_long(self, logged: Logged) -> None:
        """It is like a socket that is gone."""
        Supervisor("/" + 200 * "x").ready("listening")
        (line,) = logged.take()
        assert "path too long" in line

    def test_a_full_queue(self, notify: Systemd) -> None:
        """What could not be sent is sent later, in one datagram, without waiting."""
        memory = MemoryReactorClock()
        supervisor = Supervisor(notify.address)
        supervisor.start(memory)
        number = notify.fill()
        supervisor.reloading()
        supervisor.ready("listening")
        supervisor.status("twelve connections")
        memory.advance(0.5)
        assert len(memory.getDelayedCalls()) == 1
        assert [notify.received() for _ in range(number)] == [{"X": "1"}] * number
        memory.advance(0.5)
        assert notify.received() == {"READY": "1", "STATUS": "twelve connections"}
        assert memory.getDelayedCalls() == []
        assert notify.is_empty()

    def test_a_queue_that_stays_full(self, notify: Systemd) -> None:
        """After close(), nothing is tried again, and before start() neither."""
        memory = MemoryReactorClock()
        supervisor = Supervisor(notify.address)
        notify.fill()
        supervisor.status("starting")
        supervisor.start(memory)
        supervisor.stopping()
        assert len(memory.getDelayedCalls()) == 1
        supervisor.close()
        supervisor.status("stopped")
        assert memory.getDelayedCalls() == []

    def test_a_retry_has_nothing_left_to_send(self, notify: Systemd) -> None:
        """If a later message took the unsent ones with it, the timer sends no empty datagram."""
        memory = MemoryReactorClock()
        supervisor = Supervisor(notify.address)
        supervisor.start(memory)
        number = notify.fill()
        supervisor.ready("listening")
        for _ in range(number):
            notify.received()
        supervisor.status("busy")
        assert notify.received() == {"READY": "1", "STATUS": "busy"}
        memory.advance(0.5)
        assert notify.is_empty()


class TestEnvironment:
    def test_the_variables_are_removed(self, notify: Systemd) -> None:
        """Child processes do not get them. Other variables stay."""
        environment = {"NOTIFY_SOCKET": notify.address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
        supervisor = Supervisor.from_environment(environment)
        assert environment == {"HOME": "/"}
        supervisor.watchdog()
        assert notify.received() == {"WATCHDOG": "1"}

    @pytest.mark.parametrize("pid", [{}, {"WATCHDOG_PID": str(os.getpid())}], ids=["any", "ours"])
    def test_the_watchdog_is_fed_twice_in_its_time(self, notify: Systemd, pid: dict[str, str]) -> None:
        """At once, and then each time when half of WATCHDOG_USEC is over, until close()."""
        memory = MemoryReactorClock()
        environment = {"NOTIFY_SOCKET": notify.address, "WATCHDOG_USEC": "30000000", **pid}
        supervisor = Supervisor.from_environment(environment)
        supervisor.start(memory)
        supervisor.start(memory)
        assert notify.received() == {"WATCHDOG": "1"}
        for _ in range(2):
            memory.advance(14.9)
            assert notify.is_empty()
            memory.advance(0.1)
            assert notify.received() == {"WATCHDOG": "1"}
        supervisor.close()
        assert memory.getDelayedCalls() == []

    @pytest.mark.parametrize(
        "variables",
        [{"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}, {}],
        ids=["another process", "no number", "zero", "none"],
    )
    def test_no_watchdog(self, notify: Systemd, variables: dict[str, str]) -> None:
        """Without a valid WATCHDOG_USEC that is for this process, nothing is sent."""
        memory = MemoryReactorClock()
        Supervisor.from_environment({"NOTIFY_SOCKET": notify.address, **variables}).start(memory)
        assert memory.getDelayedCalls() == []
        assert notify.is_empty()

    def test_a_daemon_is_refused(self) -> None:
        """twistd without -n is, and only if a supervisor waits. The options of twist have no ``nodaemon``."""
        waiting = {"NOTIFY_SOCKET": "/x"}
        with pytest.raises(CannotStart, match=r"^spoa: NOTIFY_SOCKET is set: .*; start twistd with -n$"):
            refuse_daemon({"nodaemon": 0, "debug": None}, waiting)  # type: ignore[arg-type]
        refuse_daemon({"nodaemon": 0}, {})  # type: ignore[arg-type]
        for options in ({"nodaemon": 1}, {"nodaemon": 0, "debug": True}, {}, None):
            refuse_daemon(options, waiting)  # type: ignore[arg-type]


def test_a_service_that_fails(notify: Systemd, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is in the status."""
    monkeypatch.setattr(process, "stop_with_failure", lambda reactor: None)
    monkeypatch.setattr(ProcessService, "_limit_connections", lambda service: None)
    # The reactor of this test has no signal handlers.
    for method in ("install", "uninstall"):
        monkeypatch.setattr(process.StopSignals, method, lambda signals: None)
    handlers = Handlers()
    handlers.startup(lambda: 1 / 0)
    memory = MemoryReactorClock()
    service = ProcessService(SPOAFactory(handlers, reactor=memory), reactor=memory)
    service.supervisor = Supervisor(notify.address)
    with pytest.raises(CannotStart, match="ZeroDivisionError"):
        service.startService()
    assert notify.received() == {"STATUS": "starting"}
    assert notify.received()["STOPPING"] == "1"
    assert "ZeroDivisionError: division by zero" in notify.received()["STATUS"]
    service.start_failed(RuntimeError("too late"))
    assert notify.received() == {"STATUS": "too late"}
    service.listening_failed("onion:1", OSError("no network"))
    assert notify.received() == {"STATUS": "cannot listen on onion:1: no network"}
    assert len(logged.take()) == 2


def test_an_endpoint_that_cannot_listen(notify: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is in the status."""
    monkeypatch.setattr(ProcessService, "_before_start", lambda service: None)
    service = ProcessService(SPOAFactory(Handlers()), "unix:/nowhere/agent.sock")
    service.supervisor = Supervisor(notify.address)
    with pytest.raises(CannotStart):
        service.privilegedStartService()
    reason = "spoa: cannot listen on unix:/nowhere/agent.sock: the folder /nowhere does not exist"
    assert notify.received() == {"STATUS": reason}


def test_the_command_line_reads_it(folder: Path, notify: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """``makeService`` takes the supervisor from the environment before it imports the handlers."""
    (folder / "spawns.py").write_text(
        "import os\nfrom mymod import handlers\nassert 'NOTIFY_SOCKET' not in os.environ\n"
    )
    monkeypatch.setenv("NOTIFY_SOCKET", notify.address)
    options = Options()
    options.parseOptions(["--handlers=spawns"])
    service = makeService(options)
    assert isinstance(service, ProcessService)
    service.supervisor.status("hello")
    assert notify.received() == {"STATUS": "hello"}


HANDLERS = """\
import os
from twisted.internet import reactor, task
from spoa_twisted import Handlers

handlers = Handlers()

@handlers.startup
async def slow():
    print("startup", flush=True)
    await task.deferLater(reactor, 0.1)

@handlers.message("m")
def m():
    return {"txn.notify": os.environ.get("NOTIFY_SOCKET", "none")}
"""


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWIST], ids=["twistd", "twist"])
def test_a_process(program: list[str], folder: Path, notify: Systemd) -> None:
    """READY comes when the startup functions are done and the agent listens, STOPPING at SIGTERM, WATCHDOG meanwhile.

    All come from the process that was started: systemd accepts no others.
    """
    (folder / "starts.py").write_text(HANDLERS)
    # The kernel adds the number of the sender's process to each datagram.
    notify.socket.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    senders = set()

    def received() -> dict[str, str]:
        data, ancillary, _, _ = notify.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        ((_, _, credentials),) = ancillary
        senders.add(int.from_bytes(credentials[:4], sys.byteorder))
        return dict(line.split("=", 1) for line in data.decode().splitlines())

    command = [*program, "spoa", "--handlers=starts", f"--listen={ANY_PORT}", "--drain-timeout=7"]
    environment = {"NOTIFY_SOCKET": notify.address, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": ""}
    with ExitStack() as stack:
        agent = stack.enter_context(Program(command, cwd=folder, environment=environment))
        messages = [received()]
        while "READY" not in messages[-1]:
            messages.append(received())
        address = agent.address()
        assert messages[0] == {"WATCHDOG": "1"}
        assert {"STATUS": "starting"} in messages
        assert messages[-1] == {"READY": "1", "STATUS": f"listening on {address} for the message m"}
        for _ in range(3):
            assert received() == {"WATCHDOG": "1"}
        agent.signal(signal.SIGTERM)
        while "STOPPING" not in (last := received()):
            assert last == {"WATCHDOG": "1"}
        assert last == {"STOPPING": "1", "STATUS": "answering the pending NOTIFYs, for at most 7 s"}
        agent.ended()
        assert senders == {agent.pid}


def test_a_process_that_stands_still_is_not_alive(folder: Path, notify: Systemd) -> None:
    """A handler that blocks the reactor stops the watchdog's messages, so systemd can restart the agent."""
    (folder / "blocks.py").write_text(
        "import signal\nfrom twisted.internet import reactor\nfrom spoa_twisted import Handlers\n"
        "handlers = Handlers()\nhandlers.default(lambda: None)\n"
        "def block():\n    print('blocked', flush=True)\n    signal.pause()\n"
        "signal.signal(signal.SIGUSR2, lambda number, frame: reactor.callFromThread(block))\n"
    )
    command = [*TWIST, "spoa", "--handlers=blocks", f"--listen={ANY_PORT}"]
    environment = {"NOTIFY_SOCKET": notify.address, "WATCHDOG_USEC": "20000"}
    with Program(command, cwd=folder, environment=environment) as agent:
        notify.wait_for("READY")
        notify.wait_for("WATCHDOG")
        agent.signal(signal.SIGUSR2)
        agent.said("blocked")
        while not notify.is_empty():
            notify.received()
        # The time in which systemd would have received two of them, and then have ended the agent.
        notify.socket.settimeout(0.04)
        with pytest.raises(TimeoutError):
            notify.received()


def test_a_daemon_does_not_start(folder: Path, notify: Systemd) -> None:
    """twistd without -n says why in one line, leaves no pidfile, and sends nothing."""
    command = [*TWISTD, "spoa", "--handlers=mymod", f"--listen={ANY_PORT}"]
    with Program(command, cwd=folder, environment={"NOTIFY_SOCKET": notify.address}) as agent:
        assert agent.ended() == 1
        assert re.fullmatch(r"spoa: NOTIFY_SOCKET is set: .*; start twistd with -n\n", agent.output)
    assert not (folder / "twistd.pid").exists()
    assert notify.is_empty()

"""The process of ``twistd spoa``: start and stop, signals, garbage collector, file descriptors, log."""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.testing import MemoryReactorClock

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.runner import exit_status, process
from spoa_twisted.runner.process import ProcessService, handle_signal
from spoa_twisted.spop.connection import EngineConnection
from spoa_twisted.spop.messages import Message
from tests.conftest import Logged
from tests.programs import ANY_PORT, TWIST, TWISTD, Program
from tests.runner.conftest import Start

reactor: Any = default_reactor


class Engine:
    """HAProxy's side of a connection, on a blocking socket. The context manager says HELLO, and closes the socket."""

    def __init__(self, address: Any) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(30)
        self.socket.connect(address)
        self.connection = EngineConnection()

    def __enter__(self) -> Engine:
        self.send()
        assert self.next_event().max_frame_size == 16380
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self) -> None:
        self.socket.sendall(self.connection.data_to_send())

    def next_event(self) -> Any:
        """Return the next event, or ``None`` if the agent has closed the connection."""
        while (event := self.connection.next_event()) is None:
            data = self.socket.recv(65536)
            if not data:
                return None
            self.connection.receive_data(data)
        return event


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWIST], ids=["twistd", "twist"])
def test_it_serves_and_drains(program: list[str], start: Start) -> None:
    """On SIGTERM, the agent answers the NOTIFY in flight, sends AGENT-DISCONNECT on each connection, and ends."""
    (Path.cwd() / "slow.py").write_text(
        "from twisted.internet import reactor, task\n"
        "from spoa_twisted import Handlers\n"
        "handlers = Handlers()\n"
        "@handlers.message('slow')\n"
        "async def slow():\n"
        "    print('in flight', flush=True)\n"
        "    await task.deferLater(reactor, 0.5)\n"
        "    return {'sess.slow': 1}\n"
    )
    agent = start(*program, "spoa", "--handlers=slow", f"--listen={ANY_PORT}")
    host, _, port = agent.address().rpartition(":")
    assert host == "127.0.0.1"
    with Engine((host, int(port))) as idle, Engine((host, int(port))) as busy:
        ids = busy.connection.send_notify([Message("slow")])
        busy.send()
        agent.said("in flight")
        agent.signal(signal.SIGTERM)
        assert idle.next_event().status_code == 0
        assert idle.next_event() is None
        ack = busy.next_event()
        assert (ack.ids, ack.variables) == (ids, {"sess.slow": 1})
        assert busy.next_event().status_code == 0
        assert busy.next_event() is None
    # twistd and twist end by the signal that stopped them.
    assert agent.ended() == -signal.SIGTERM
    assert "Traceback" not in agent.output
    assert "Unhandled" not in agent.output


def look(start: Start, folder: Path, lines: str) -> Any:
    """Start an agent whose handlers' module begins with ``lines``. Return the variables that its ``look()`` sets."""
    (folder / "looking.py").write_text(
        f"import gc, sys\nfrom spoa_twisted import Handlers\n{lines}handlers = Handlers({{'look': look}})\n"
    )
    agent = start(*TWISTD, "-n", "spoa", "--handlers=looking", "--listen=unix:agent.sock")
    agent.said("SPOA listening")
    with Engine("agent.sock") as engine:
        engine.connection.send_notify([Message("look")])
        engine.send()
        variables = engine.next_event().variables
        agent.stop()
    return variables


if sys.implementation.name == "cpython":  # PyPy's gc has neither thresholds nor freeze().

    @pytest.mark.parametrize(("chosen", "threshold"), [(700, 5000), (0, 0), (9000, 9000)])
    def test_the_garbage_collector_is_tuned(chosen: int, threshold: int, start: Start, folder: Path) -> None:
        """On CPython, the agent freezes all objects loaded at the start, and raises the collector's threshold to 5000.

        It keeps a threshold of the handlers' module that is larger, or 0 (never).
        """
        variables = look(
            start,
            folder,
            f"gc.set_threshold({chosen})\n"
            "def look(): return {'sess.threshold': gc.get_threshold()[0], 'sess.frozen': gc.get_freeze_count()}\n",
        )
        assert variables["sess.threshold"] == threshold
        assert variables["sess.frozen"] > 10_000


def test_the_garbage_collector_of_other_interpreters_is_unchanged(start: Start, folder: Path) -> None:
    """On PyPy, the agent answers, and calls no function of ``gc``. On CPython, this test pretends that it is PyPy."""
    variables = look(
        start,
        folder,
        "sys.implementation.name = 'pypy'\n"
        "calls = []\n"
        "for name in ('collect', 'freeze', 'get_threshold', 'set_threshold'):\n"
        "    setattr(gc, name, lambda *arguments, name=name: calls.append(name))\n"
        "def look(): return {'sess.calls': ' '.join(calls), 'sess.enabled': gc.isenabled()}\n",
    )
    assert variables == {"sess.calls": "", "sess.enabled": True}


def test_a_unix_socket_has_the_mode_asked_for(start: Start, folder: Path) -> None:
    """The Unix socket has the mode of the endpoint, is served, and is removed when the agent stops."""
    path = folder / "agent.sock"
    agent = start(*TWISTD, "-n", "spoa", "--handlers=mymod", f"--listen=unix:{path}:mode=600")
    agent.said("SPOA listening on .*agent.sock")
    assert path.stat().st_mode & 0o777 == 0o600
    with Engine(str(path)) as engine:
        engine.connection.send_notify([Message("m")])
        engine.send()
        assert engine.next_event().variables == {"sess.file": "mymod"}
        agent.stop()
    assert not path.exists()


def test_the_socket_of_a_killed_agent_is_taken_over(start: Start, folder: Path) -> None:
    """After an agent was killed, the next agent can listen on the same Unix socket."""
    path = folder / "agent.sock"
    for _ in range(2):
        agent = start(*TWISTD, "-n", "--pidfile=", "spoa", "--handlers=mymod", f"--listen=unix:{path}")
        agent.said("SPOA listening on .*agent.sock")
        with Engine(str(path)):
            agent.kill()


def test_a_daemon_serves_and_stops(start: Start, folder: Path) -> None:
    """Without ``-n``, twistd starts a daemon. It serves, begins a new log file on SIGUSR1, and stops on SIGTERM."""
    started = start(*TWISTD, "--pidfile=agent.pid", "spoa", "--handlers=mymod", "--listen=unix:agent.sock")
    assert started.ended() == 0
    pid = int((folder / "agent.pid").read_text())
    try:
        with Engine("agent.sock") as engine:
            os.kill(pid, signal.SIGUSR1)
            os.kill(pid, signal.SIGTERM)
            assert engine.next_event().status_code == 0
            assert engine.next_event() is None
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    # On SIGUSR1, twistd renames the log file and begins a new one.
    assert (folder / "twistd.log.1").exists()


@pytest.fixture
def collector() -> Iterator[None]:
    """Restores the garbage collector's threshold after a test that starts the service in this process."""
    threshold = gc.get_threshold() if sys.implementation.name == "cpython" else None
    yield
    if threshold is not None:
        gc.set_threshold(*threshold)


@pytest.mark.usefixtures("collector")
@pytest_twisted.ensureDeferred
async def test_a_stopped_service_leaves_the_signals(folder: Path) -> None:
    """If only the service stops, not the reactor, SIGTERM and SIGINT keep their signal handlers."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    service = ProcessService(SPOAFactory(Handlers()), "unix:agent.sock")
    service.startService()
    await service.stopService()
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_reactor_in_another_thread(folder: Path) -> None:
    """In a thread that is not the main thread, ``handle_signal`` installs no signal handler, and raises nothing."""
    returned: list[bool] = []

    def start() -> None:
        present = signal.getsignal(signal.SIGWINCH)
        handle_signal(reactor, signal.SIGWINCH, lambda: None, instead_of=present)
        returned.append(True)

    before = signal.getsignal(signal.SIGWINCH)
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert returned == [True]
    assert signal.getsignal(signal.SIGWINCH) == before


class TestSignals:
    """SIGHUP, SIGUSR1, and signals that come twice: shells, terminals and supervisors send all of them."""

    MODULE = """\
import signal
import time
from pathlib import Path
from twisted.internet.defer import Deferred
from spoa_twisted import Handlers

# The process that started the tests may ignore these signals, and a child process inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGUSR1, signal.SIG_DFL)

handlers = Handlers({"now": lambda: {"sess.a": 1}, "never": lambda: Deferred()})

@handlers.message("block")
def block():
    print("blocks")
    while not Path("go").exists():
        time.sleep(0.01)
"""

    @pytest.fixture
    def start(self, start: Start, folder: Path) -> Start:
        """Starts an agent on a Unix socket. Its handler ``now`` answers at once, and ``never`` does not answer."""
        (folder / "signals.py").write_text(self.MODULE)

        def started(program: list[str], handlers: str = "signals") -> Program:
            agent = start(
                *(*program, "spoa", "--listen=unix:agent.sock", f"--handlers={handlers}"),
                *("--handler-timeout=0", "--drain-timeout=600"),
            )
            agent.said("SPOA listening")
            with Engine("agent.sock"):
                # AGENT-HELLO has come, so the reactor runs and the signal handlers are installed.
                return agent

        return started

    @staticmethod
    def check_still_draining(engine: Engine) -> None:
        """Check that the agent still answers: the last signal has not ended the drain."""
        for _ in range(2):
            # Send two NOTIFYs: the agent may read the first one before it handles the signal.
            engine.connection.send_notify([Message("now")])
            engine.send()
            assert engine.next_event().variables == {"sess.a": 1}

    @pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWIST], ids=["twistd", "twist"])
    def test_sighup(self, program: list[str], start: Start) -> None:
        """On SIGHUP, the agent drains and stops, as on SIGTERM. A second SIGHUP changes nothing.

        When a terminal is closed, both the kernel and the shell send SIGHUP.
        """
        agent = start(program)
        with Engine("agent.sock") as idle, Engine("agent.sock") as busy:
            busy.connection.send_notify([Message("never")])
            busy.send()
            agent.signal(signal.SIGHUP)
            assert idle.next_event().status_code == 0
            agent.signal(signal.SIGHUP)
            self.check_still_draining(busy)
            agent.signal(signal.SIGINT)
            assert busy.next_event().status_code == 0
        assert agent.ended() == 0
        assert agent.output.count("Received SIGHUP") == 1
        assert "Traceback" not in agent.output

    def test_sighup_that_is_ignored(self, start: Start, folder: Path) -> None:
        """If SIGHUP is ignored, as under nohup or by the handlers' module, the agent leaves it ignored."""
        (folder / "ignores.py").write_text(
            "import signal\nfrom signals import handlers\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        )
        agent = start([*TWISTD, "-n"], "ignores")
        agent.signal(signal.SIGHUP)
        agent.signal(signal.SIGTERM)
        assert agent.ended() == -signal.SIGTERM
        assert "Received SIGHUP" not in agent.output

    @pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWIST], ids=["twistd", "twist"])
    def test_sigusr1_without_a_log_file(self, program: list[str], start: Start) -> None:
        """On SIGUSR1, an agent that logs to stdout continues to serve: by default the signal would kill it."""
        agent = start(program)
        agent.signal(signal.SIGUSR1)
        with Engine("agent.sock") as engine:
            engine.connection.send_notify([Message("now")])
            engine.send()
            assert engine.next_event().variables == {"sess.a": 1}
            agent.signal(signal.SIGTERM)
        assert agent.ended() == -signal.SIGTERM

    @pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWIST], ids=["twistd", "twist"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_second_signal(self, program: list[str], number: signal.Signals, start: Start) -> None:
        """A second SIGINT (Ctrl-C) ends the drain with AGENT-DISCONNECT. A second SIGTERM is ignored.

        Supervisors often forward SIGTERM twice.
        """
        agent = start(program)
        with Engine("agent.sock") as idle, Engine("agent.sock") as busy:
            busy.connection.send_notify([Message("never")])
            busy.send()
            agent.signal(number)
            assert idle.next_event().status_code == 0
            agent.signal(number)
            if number is signal.SIGTERM:
                self.check_still_draining(busy)
                agent.signal(signal.SIGINT)
            assert busy.next_event().status_code == 0
            assert busy.next_event() is None
        assert agent.ended() == -number
        assert re.search(r"closing \d connections that were not drained in time", agent.output)
        assert "Traceback" not in agent.output

    @pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWIST], ids=["twistd", "twist"])
    def test_two_signals_at_once(self, program: list[str], start: Start, folder: Path) -> None:
        """The second SIGTERM comes before the reactor has begun to stop: the log has no traceback."""
        agent = start(program)
        with Engine("agent.sock") as engine:
            engine.connection.send_notify([Message("block")])
            engine.send()
            agent.said("blocks")
            for times in (1, 2):
                agent.signal(signal.SIGTERM)
                # The signal handler runs while the reactor is blocked.
                if times == 1:
                    agent.said("Received SIGTERM")
            (folder / "go").write_text("")
            assert engine.next_event().variables == {}
            assert engine.next_event().status_code == 0
        assert agent.ended() == -signal.SIGTERM
        assert "Traceback" not in agent.output


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWIST], ids=["twistd", "twist"])
def test_ctrl_c_ends_shutdown_functions(program: list[str], start: Start, folder: Path) -> None:
    """The second Ctrl-C cancels a shutdown function that waits. The others run."""
    (folder / "waits.py").write_text(
        "import signal\n"
        "from twisted.internet.defer import Deferred\n"
        "from spoa_twisted import Handlers\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "handlers = Handlers()\n"
        "@handlers.shutdown\n"
        "def close():\n"
        "    print('closed', flush=True)\n"
        "@handlers.shutdown\n"
        "async def wait():\n"
        "    print('shutdown', flush=True)\n"
        "    await Deferred()\n"
    )
    agent = start(*program, "spoa", "--handlers=waits", "--listen=unix:agent.sock", "--drain-timeout=600")
    agent.said("SPOA listening")
    with Engine("agent.sock"):
        # AGENT-HELLO has come, so the reactor runs and the signal handlers are installed.
        pass
    agent.signal(signal.SIGINT)
    agent.said("shutdown\n")
    agent.signal(signal.SIGINT)
    assert agent.ended() == -signal.SIGINT
    agent.said("the shutdown function waits.wait did not finish in time, and is cancelled")
    agent.said("closed\n")
    assert "Traceback" not in agent.output


def test_the_limit_of_open_files(start: Start) -> None:
    """The agent does not run out of file descriptors, even if 300 connections come in one turn of the reactor.

    It lowers ``max_connections`` to fit ``ulimit -n``, and closes the sockets of refused connections at once.
    """
    agent = start(
        *("sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *TWISTD, "-n"),
        *("spoa", "--handlers=mymod", "--listen=unix:agent.sock"),
    )
    agent.said("max_connections is 64")
    agent.said("SPOA listening")
    with Engine("agent.sock"):
        agent.signal(signal.SIGSTOP)
        with ExitStack() as connections:
            for _ in range(300):
                connection = connections.enter_context(socket.socket(socket.AF_UNIX))
                connection.setblocking(False)
                connection.connect_ex("agent.sock")
            agent.signal(signal.SIGCONT)
            agent.said("64 connections are open, as many as max_connections allows")
        agent.stop()
    assert "EMFILE" not in agent.output


@pytest.mark.parametrize(("options", "seen"), [([], False), (["--debug"], True)])
def test_health_checks_are_logged_when_asked_for(options: list[str], seen: bool, start: Start, folder: Path) -> None:
    """The agent logs connections only with ``--debug``: HAProxy's health checks come every two seconds."""
    agent = start(*TWISTD, "-n", "spoa", "--handlers=mymod", "--listen=unix:agent.sock", *options)
    agent.said("SPOA listening")
    with Engine("agent.sock"):
        pass
    with Engine("agent.sock") as engine:
        agent.signal(signal.SIGTERM)
        assert engine.next_event().status_code == 0
    agent.ended()
    assert ("HAProxyHello(" in agent.output) is seen
    assert (": ended: " in agent.output) is seen


def test_it_watches_for_standstills_until_it_is_drained(monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
    """Then no timer is left. A service that was never started stops too."""
    monkeypatch.setattr(ProcessService, "_before_start", lambda service: None)
    monkeypatch.setattr(process, "collect_garbage_less_often", lambda: None)
    memory = MemoryReactorClock()
    service = ProcessService(SPOAFactory(Handlers(), reactor=memory), reactor=memory)
    assert service.stopService().called
    service.startService()
    for _ in range(3):
        memory.advance(0.25)
    assert len(memory.getDelayedCalls()) == 1
    assert service.stopService().called
    assert memory.getDelayedCalls() == []
    assert logged.take() == []


def test_an_endpoint_that_fails_later_ends_the_agent(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an endpoint fails after the start, the agent logs the error, stops the reactor, and exits with status 1."""
    registered: list[object] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    memory = MemoryReactorClock()
    memory.running = True
    service = ProcessService(SPOAFactory(Handlers()), reactor=memory)
    service.listening_failed("onion:1234", OSError("too late"))
    assert not memory.running
    for function, arguments, keywords in memory.triggers["after"]["shutdown"]:
        function(*arguments, **keywords)
    assert registered == [exit_status._exit]
    assert logged.take() == ["critical: cannot listen on onion:1234: too late"]

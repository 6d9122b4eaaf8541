"""``twistd spoa`` and ``twist spoa``: options, loading of handlers, signals, and the running agent."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.application.service import IServiceMaker
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import getPlugins

from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.spop.connection import EngineConnection
from spoa_twisted.spop.messages import Message
from spoa_twisted.tap import CannotStart, Options, _on_signal, load, makeService
from tests.conftest import Logged
from tests.programs import ANY_PORT, TWIST, TWISTD, Program

MODULE = """\
from spoa_twisted import Handlers

handlers = Handlers()
other = Handlers()

@handlers.message("m")
def m():
    return {"sess.file": __name__}

@other.message("n")
def n():
    return {"sess.n": 2}

number = 42
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules of handlers, good and bad ones. It is the current folder of the test."""
    (tmp_path / "mymod.py").write_text(MODULE)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "inner.py").write_text("from mymod import handlers, other\n")
    (tmp_path / "raises.py").write_text("import os\n\nraise LookupError('boom')\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "lines.py").write_text("raise LookupError('one\\ntwo')\n")
    for name, registered in (
        ("star", "handlers.message('x')(lambda *a: None)"),
        ("twice", "handlers.message('x')(handlers.message('x')(lambda: None))"),
        ("scope", "handlers.message('x', on_error={'scope.a': 1})(lambda: None)"),
        ("client", "from twisted.internet import endpoints, reactor; endpoints.clientFromString(reactor, 'x:1')"),
        ("deep", "import importlib; importlib.import_module('missing')"),
    ):
        (tmp_path / f"{name}.py").write_text(
            f"from spoa_twisted import Handlers\nhandlers = Handlers()\n{registered}\n"
        )
    (tmp_path / "interrupts.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "stand_in.py").write_text(
        "class _StandIn:\n    def __getattr__(self, name): raise RuntimeError('not there yet')\nanything = _StandIn()\n"
    )
    (tmp_path / "lazy.py").write_text("def __getattr__(name): raise LookupError(name)\n")
    (tmp_path / "syntax.py").write_text("def 1\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "wrong.py").write_text("handlers = {}\n")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "string.py").write_text("from spoa_twisted import Handlers\nhandlers = Handlers()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def options(*arguments: str) -> Options:
    parsed = Options()
    parsed.parseOptions(arguments)
    return parsed


class TestLoad:
    @pytest.mark.parametrize(
        "specification",
        ["mymod", "mymod:handlers", "mymod:other", "pkg.inner", "pkg.inner:other", "mymod.py", "./mymod.py:other"],
    )
    def test_handlers_are_found(self, folder: Path, specification: str) -> None:
        """``load`` finds handlers by module or file, under the name handlers or another, in the current folder."""
        handlers = load(specification)
        assert IHandlers.providedBy(handlers)
        assert list(handlers) == (["n"] if specification.endswith("other") else ["m"])  # type: ignore[call-overload]

    def test_a_file_may_be_anywhere(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file in another folder is loaded, and can import the modules beside it."""
        monkeypatch.chdir("/")
        (folder / "user.py").write_text("from mymod import other as handlers\n")
        assert list(load(f"{folder}/user.py")) == ["n"]  # type: ignore[call-overload]

    def test_a_file_is_run_once(self, folder: Path) -> None:
        """A file that is loaded several times, by its path or as a module, is executed only once."""
        (folder / "counted.py").write_text(
            "import sys\nsys.counted = getattr(sys, 'counted', 0) + 1\nfrom mymod import handlers, other\n"
        )
        for specification in ("counted.py", "./counted.py:other", "counted", "counted.py"):
            load(specification)
        assert vars(sys).pop("counted") == 1

    def test_a_file_may_be_called_like_a_module(self, folder: Path) -> None:
        """A file with the name of an imported module, here ``string``, does not replace that module."""
        import string

        load("files/string.py")
        assert sys.modules["string"] is string

    @pytest.mark.parametrize(
        ("specification", "text"),
        [
            ("missing", "cannot import missing: ModuleNotFoundError: No module named 'missing'"),
            ("missing.py", "cannot import missing.py: FileNotFoundError"),
            ("./pkg", "cannot import ./pkg: ImportError"),
            ("raises", r"cannot import raises: LookupError: boom \(.*raises.py, line 3\)"),
            ("raises.py", r"cannot import raises.py: LookupError: boom \(.*raises.py, line 3\)"),
            ("star", r"cannot import star: .*\(.*star.py, line 3\)"),
            ("twice", r"cannot import twice: .*\(.*twice.py, line 3\)"),
            ("scope", r"cannot import scope: .*\(.*scope.py, line 3\)"),
            ("client", r"cannot import client: .*\(.*client.py, line 3\)"),
            ("deep", r"cannot import deep: ModuleNotFoundError: .*\(.*deep.py, line 3\)"),
            ("leaves", "cannot import leaves: SystemExit: 0"),
            ("lines", "cannot import lines: LookupError: one two"),
            ("interrupts", "cannot import interrupts: KeyboardInterrupt: "),
            ("stand_in", "stand_in has no 'handlers'; it has: anything"),
            ("lazy", "lazy has no 'handlers'"),
            ("syntax", r"cannot import syntax: SyntaxError: .*syntax.py, line 1"),
            ("mymod:missing", "mymod has no 'missing'; it has: handlers, other"),
            ("empty", "empty has no 'handlers'; it has: nothing"),
            ("mymod:number", "'number' of mymod is a int, not Handlers"),
            ("wrong", "'handlers' of wrong is a dict, not Handlers"),
            ("", "cannot import : "),
        ],
    )
    def test_a_failed_load_is_one_line(self, folder: Path, specification: str, text: str) -> None:
        """If handlers cannot be loaded, ``load`` raises a SystemExit whose text is one line with the reason."""
        with pytest.raises(CannotStart, match=f"^spoa: {text}") as caught:
            load(specification)
        assert isinstance(caught.value, SystemExit)
        assert "\n" not in str(caught.value)


class TestMakeService:
    def test_options_have_the_names_of_keywords(self, folder: Path) -> None:
        """Each option sets the attribute of the factory or of the service that has the same name."""
        service = makeService(
            options(
                "--handlers=mymod",
                "--async",
                "--max-frame-size=1000",
                "--max-payload-size=1001",
                "--max-in-flight=1002",
                "--max-in-flight-size=1005",
                "--max-unsent=1003",
                "--max-connections=1004",
                "--hello-timeout=1.5",
                "--handler-timeout=2.5",
                "--drain-timeout=3.5",
            )
        )
        factory = service.factory
        assert factory.async_
        assert (factory.max_frame_size, factory.max_payload_size, factory.max_in_flight) == (1000, 1001, 1002)
        assert factory.max_in_flight_size == 1005
        assert (factory.max_unsent, factory.max_connections) == (1003, 1004)
        assert (factory.hello_timeout, factory.handler_timeout, service.drain_timeout) == (1.5, 2.5, 3.5)

    def test_it_listens_on_the_loopback_interface_by_default(self) -> None:
        """Without ``--listen``, other machines cannot reach the agent."""
        assert options()["listen"] == ["tcp:12345:interface=127.0.0.1"]
        assert options("--listen=tcp:1", "--listen=unix:/x")["listen"] == ["tcp:1", "unix:/x"]

    def test_sets_are_merged(self, folder: Path) -> None:
        """Handlers from several ``--handlers`` options are merged into one set."""
        service = makeService(options("--handlers=mymod", "--handlers=pkg.inner:other"))
        assert sorted(service.factory.handlers) == ["m", "n"]  # type: ignore[call-overload]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ([], "which handlers"),
            (["--handlers=mymod", "--handlers=mymod.py"], "the message 'm' has two handlers: mymod.m and mymod.m"),
            (["--handlers=mymod", "--listen=nonsense:1"], "bad endpoint 'nonsense:1': ValueError: Unknown endpoint"),
            (["--handlers=mymod", "--listen=tcp:x"], "bad endpoint 'tcp:x'"),
            (["--handlers=mymod", "--listen="], "bad endpoint ''"),
            (["--handlers=mymod", "--listen=ssl:1:privateKey=missing.pem"], "bad endpoint .*missing.pem"),
            (["--handlers=mymod", "--max-frame-size=255"], "max_frame_size is 255"),
            (["--handlers=mymod", "--drain-timeout=-1"], "drain_timeout is -1"),
            (["--handlers=mymod", "--max-connections=0"], "max_connections is 0"),
        ],
    )
    def test_a_bad_option_is_one_line(self, folder: Path, arguments: list[str], text: str) -> None:
        """Invalid options raise CannotStart with one line of text, before the agent listens."""
        with pytest.raises(CannotStart, match=f"^spoa: {text}") as caught:
            makeService(options(*arguments))
        assert "\n" not in str(caught.value)

    def test_other_implementations_cannot_be_merged(self, folder: Path) -> None:
        """Another implementation of IHandlers works alone, but only instances of Handlers can be merged."""
        (folder / "own.py").write_text(
            "from zope.interface import implementer\n"
            "from spoa_twisted import IHandlers\n"
            "@implementer(IHandlers)\n"
            "class Own:\n"
            "    def respond(self, messages, max_size, reactor, timeout): return b''\n"
            "handlers = Own()\n"
        )
        assert makeService(options("--handlers=own")).factory.handlers.respond([], 0, None, 0) == b""  # type: ignore[arg-type]
        with pytest.raises(CannotStart, match="only instances of Handlers"):
            makeService(options("--handlers=own", "--handlers=mymod"))


def test_one_plugin_makes_the_command() -> None:
    """There is one plugin named spoa, by which twistd, twist and ``python -m twisted`` find the command."""
    (maker,) = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "spoa"]
    assert maker.module == "spoa_twisted.tap"  # type: ignore[attr-defined]
    assert maker.options is Options
    assert maker.makeService is makeService


Start = Callable[..., Program]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a command in the folder with the modules, and kills it after the test."""
    with ExitStack() as programs:
        yield lambda *command: programs.enter_context(Program(command, cwd=folder))


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


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython has gc.freeze")
@pytest.mark.parametrize(("chosen", "threshold"), [(700, 5000), (0, 0), (9000, 9000)])
def test_the_garbage_collector_is_tuned(chosen: int, threshold: int, start: Start, folder: Path) -> None:
    """On CPython, the agent freezes all objects loaded at the start, and raises the collector's threshold to 5000.

    It keeps a threshold of the handlers' module that is larger, or 0 (never).
    """
    (folder / "collected.py").write_text(
        "import gc\n"
        "from spoa_twisted import Handlers\n"
        f"gc.set_threshold({chosen})\n"
        "def look(): return {'sess.threshold': gc.get_threshold()[0], 'sess.frozen': gc.get_freeze_count()}\n"
        "handlers = Handlers({'look': look})\n"
    )
    agent = start(*TWISTD, "-n", "spoa", "--handlers=collected", "--listen=unix:agent.sock")
    agent.said("SPOA listening")
    with Engine("agent.sock") as engine:
        engine.connection.send_notify([Message("look")])
        engine.send()
        variables = engine.next_event().variables
        agent.stop()
    assert variables["sess.threshold"] == threshold
    assert variables["sess.frozen"] > 10_000


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


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWISTD, TWIST], ids=["twistd", "daemon", "twist"])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--handlers=missing"], "spoa: cannot import missing: ModuleNotFoundError"),
        (["--handlers=mymod:missing"], "spoa: mymod has no 'missing'; it has: handlers, other"),
        (["--handlers=mymod", "--listen=nonsense:1"], "spoa: bad endpoint 'nonsense:1'"),
        (["--handlers=mymod", "--listen=unix:/nowhere/agent"], "spoa: cannot listen on unix:/nowhere/agent: "),
    ],
)
def test_an_agent_that_cannot_start_exits(program: list[str], arguments: list[str], text: str, start: Start) -> None:
    """An agent that cannot start prints one line with the reason, no traceback, and exits with status 1."""
    agent = start(*program, "spoa", *arguments)
    assert agent.ended() == 1
    assert re.search(text, agent.output)
    assert "Traceback" not in agent.output
    assert "SPOA listening" not in agent.output
    deadline = time.monotonic() + 30
    while Path("twistd.pid").exists():
        # As a daemon, twistd removes its pid file after the command has ended.
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
    service = makeService(options("--handlers=mymod", "--listen=unix:agent.sock"))
    service.startService()
    await service.stopService()
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_reactor_in_another_thread(folder: Path) -> None:
    """In a thread that is not the main thread, ``_on_signal`` installs no signal handler, and raises nothing."""
    returned: list[bool] = []

    def start() -> None:
        _on_signal(signal.SIGWINCH, lambda: None, instead_of=signal.getsignal(signal.SIGWINCH))
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
from twisted.internet.defer import Deferred
from spoa_twisted import Handlers

# The process that started the tests may ignore these signals, and a child process inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGUSR1, signal.SIG_DFL)

handlers = Handlers({"now": lambda: {"sess.a": 1}, "never": lambda: Deferred()})
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
        assert "connections were not drained in time" in agent.output
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
            agent.said("max_connections, 64, are open")
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


def test_help_lists_the_options(start: Start) -> None:
    """``twistd spoa --help`` lists the options, and the default endpoint."""
    agent = start(*TWISTD, "spoa", "--help")
    assert agent.ended() == 0
    for option in ("--handlers=", "--listen=", "--drain-timeout=", "--async", "tcp:12345:interface=127.0.0.1"):
        assert option in agent.output


def test_an_endpoint_that_fails_later_ends_the_agent(
    folder: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """If an endpoint fails after the start, the agent logs the error and stops the reactor."""
    memory = MemoryReactorClock()
    memory.running = True
    monkeypatch.setattr("spoa_twisted.tap._reactor", lambda: memory)
    makeService(options("--handlers=mymod")).listening_failed("onion:1234", OSError("too late"))
    assert not memory.running
    assert logged.take() == ["critical: cannot listen on onion:1234: too late"]

"""Real agents with workers: start, stop, death, standstill, log."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from spoa_twisted.spop.messages import Message
from spoa_twisted.status.report import Status
from spoa_twisted.status.verdict import assess
from tests.programs import TWIST, TWISTD
from tests.runner.test_process import Engine

from .conftest import Start, address_of, all_ready, ask, imports, write

#: Each test starts Python three times or more.
soak = pytest.mark.soak

#: Code at the end of a module that cannot be imported, and the reason in the log. PyPy's stacks have other numbers of
#: lines.
BAD = {
    "syntax": ("def 1\n", r"cannot import mymod: SyntaxError: .* \(mymod.py, line 17\)"),
    "missing": (
        "import mising_module\n",
        r"cannot import mymod: ModuleNotFoundError: No module named 'mising_module' \(.*mymod.py, line 17\)",
    ),
    "no-handlers": ("del handlers\n", r"mymod has no 'handlers'; it has: .*"),
    "exit": ("raise SystemExit(0)\n", r"cannot import mymod: SystemExit: 0 \(.*mymod.py, line 17\)"),
    "_exit": ("os._exit(3)\n", r"it ended with exit status 3"),
    "segfault": (
        "import ctypes\nctypes.string_at(1)\n",
        r"it was ended by the signal SIGSEGV in mymod.py, line \d+, in <module>",
    ),
    "endless": (
        "import time\nwhile True: time.sleep(1)\n",
        r"it was not ready within --start-timeout, 10 s in mymod.py, line \d+, in <module>",
    ),
    "startup": (
        "@handlers.startup\ndef fails():\n    raise OSError('no database')\n",
        r"startup function mymod.fails failed: OSError: no database.*",
    ),
}

#: The reasons for the same in the child process that checks the module when the agent starts.
BAD_AT_START = {
    **{name: reason for name, (_, reason) in BAD.items()},
    "_exit": r"the import of mymod ended the process with exit status 3",
    "segfault": r"the import of mymod ended the process by the signal SIGSEGV in mymod.py, line \d+, in <module>",
    "endless": r"the import of mymod did not end within --start-timeout, 10 s in mymod.py, line \d+, in <module>",
    "startup": r"worker 1 cannot start: " + BAD["startup"][1],
}


def test_it_serves_and_drains(start: Start, folder: Path) -> None:
    """The workers answer, not the master. On SIGTERM, they send AGENT-DISCONNECT, and the agent ends."""
    agent = start(workers=2)
    with Engine(address_of(agent)) as one:
        all_ready(agent, 2)
        pid = ask(agent)["sess.pid"]
        agent.signal(signal.SIGTERM)
        assert one.next_event().status_code == 0
        assert one.next_event() is None
    assert agent.ended() == -signal.SIGTERM
    # The first process has checked the module.
    _, *workers = imports(folder)
    assert pid in workers
    assert len(workers) == 2
    assert agent.pid not in imports(folder)
    assert "Traceback" not in agent.output
    assert "Unhandled" not in agent.output


def test_a_reload_brings_new_code(start: Start, folder: Path) -> None:
    """SIGHUP replaces each worker by one with the present code."""
    agent = start(workers=2)
    assert ask(agent)["sess.version"] == 1
    all_ready(agent, 2)
    write(folder, "")
    agent.signal(signal.SIGHUP)
    agent.said("reloaded: 2 workers")
    assert {ask(agent)["sess.version"] for _ in range(4)} == {2}
    agent.stop()


@soak
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_reload_changes_nothing(kind: str, start: Start, folder: Path) -> None:
    """The old worker stays, and one line says why. When the module is good again, SIGHUP brings the new code."""
    agent = start(f"--start-timeout={10 if kind == 'endless' else 30}")
    assert ask(agent)["sess.version"] == 1
    lines, reason = BAD[kind]
    write(folder, lines)
    agent.signal(signal.SIGHUP)
    agent.said(rf"error\] reload failed: {reason}; the workers go on with their old code\n")
    assert ask(agent)["sess.version"] == 1
    assert agent.output.count("reload failed") == 1
    write(folder, "", version=3)
    agent.signal(signal.SIGHUP)
    agent.said("reloaded: 1 worker was")
    assert ask(agent)["sess.version"] == 3
    agent.stop()


@soak
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_module_ends_the_start(kind: str, start: Start, folder: Path) -> None:
    """One line says why, and the exit status is 1."""
    write(folder, BAD[kind][0])
    agent = start(f"--start-timeout={10 if kind == 'endless' else 30}", program=[*TWISTD, "-n"])
    assert agent.ended() == 1
    assert len(re.findall(BAD_AT_START[kind], agent.output)) == 1


@soak
def test_a_bad_module_ends_the_start_of_a_daemon(start: Start, folder: Path) -> None:
    write(folder, BAD["missing"][0])
    agent = start(program=TWISTD)
    assert agent.ended() == 1
    assert re.fullmatch(rf"spoa: {BAD['missing'][1]}\n", agent.output)


@soak
def test_a_dead_worker_is_replaced(start: Start, folder: Path) -> None:
    """The first time at once, and then after a second. A connection that comes meanwhile waits."""
    agent = start()
    address = address_of(agent)
    for delay in (0, 1):
        pid = ask(agent)["sess.pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
        agent.said(rf"worker 1 \(process {pid}\) has ended: it was ended by the signal SIGKILL\n")
        agent.said(f"the next start is in {delay} s")
        assert ask(agent, address=address)["sess.pid"] not in (pid, agent.pid)
    agent.stop()


@soak
@pytest.mark.parametrize("left", [0, 1])
def test_a_worker_without_descriptors(start: Start, folder: Path, left: int) -> None:
    """It is replaced, and a connection that it could not take goes to the next process.

    With one that is left, it could receive the connection, but not make a transport of it.
    """
    write(
        folder,
        "import resource\n"
        "@handlers.message('leak')\n"
        "def leak():\n"
        "    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (100, most))\n"
        "    try:\n"
        "        while True: os.dup(0)\n"
        "    except OSError:\n"
        "        pass\n"
        f"    resource.setrlimit(resource.RLIMIT_NOFILE, (100 + {left}, most))\n"
        "    return {'sess.pid': os.getpid()}\n",
    )
    agent = start()
    address = address_of(agent)
    with Engine(address) as engine:
        engine.connection.send_notify([Message("leak")])
        engine.send()
        engine.next_event()
        assert ask(agent, address=address)["sess.version"] == 2
    agent.said(f"the process has as many files open as ulimit -n allows, {100 + left}: ")
    agent.said("worker 1 .* was stopped: it drains, and is replaced")
    assert "Traceback" not in agent.output
    agent.stop()


@soak
def test_sigterm_to_a_worker(start: Start) -> None:
    """The worker drains, and is replaced at once."""
    agent = start()
    with Engine(address_of(agent)) as engine:
        pid = ask(agent)["sess.pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGTERM)
        assert engine.next_event().status_code == 0
    assert ask(agent)["sess.pid"] != pid
    assert "has ended" not in agent.output
    agent.stop()


@soak
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_workers_ignore_signals(start: Start, number: signal.Signals) -> None:
    """Those that a terminal, or pkill, sends to all processes."""
    agent = start()
    pid = ask(agent)["sess.pid"]
    assert isinstance(pid, int)
    os.kill(pid, number)
    assert ask(agent)["sess.pid"] == pid
    agent.stop()


@soak
def test_a_standstill(start: Start, folder: Path) -> None:
    """A worker that stands still writes where it stands, ends, and is replaced."""
    write(folder, "@handlers.message('hang')\ndef hang():\n    import time\n    time.sleep(60)\n")
    agent = start("--stall-timeout=1")
    with Engine(address_of(agent)) as engine:
        engine.connection.send_notify([Message("hang")])
        engine.send()
        agent.said("worker 1: it stood still for --stall-timeout, 1 s")
        agent.said(r'worker 1:   File ".*mymod.py", line \d+ in hang')
        agent.said(r"\) has ended: it stood still for --stall-timeout, 1 s in mymod.py, line \d+, in hang\n")
        assert engine.next_event() is None
    assert ask(agent)["sess.version"] == 2
    agent.stop()


@soak
def test_the_status_of_a_standstill(start: Start, folder: Path) -> None:
    """The status says in which line a worker stands still, while it does. The numbers of a killed worker stay."""
    write(folder, "@handlers.message('hang')\ndef hang():\n    import time\n    time.sleep(60)\n")
    agent = start("--status=tcp:0:interface=127.0.0.1")
    agent.said("worker 1 is ready")
    (address,) = re.findall(r"the status is at (\S+)", agent.output)
    for _ in range(3):
        ask(agent)
    # The numbers of a worker that stands still are those of its last report.
    assert status_of(address)["totals"]["messages"]["m"]["results"] == {"ok": 3}
    with Engine(address_of(agent)) as engine:
        engine.connection.send_notify([Message("hang")])
        engine.send()
        verdict = ""
        while "hang" not in verdict:
            status = status_of(address)
            verdict = assess(status).sentence
        (process,) = status["processes"]
        assert (process["state"], status["totals"]["messages"]["m"]["results"]) == ("silent", {"ok": 3})
        assert re.fullmatch(r"Worker 1 stands still for \d.* in mymod.py, line \d+, in hang", verdict)
        os.kill(process["pid"], signal.SIGKILL)
        agent.said(r"\) has ended: it was ended by the signal SIGKILL")
    ask(agent)
    status = status_of(address)
    assert status["totals"]["messages"]["m"]["results"]["ok"] == 4
    assert status["restarts"]["signal"] == 1
    (ending,) = status["endings"]
    assert (ending["worker"], ending["crashed"]) == (1, True)
    assert ending["reason"].startswith("it was ended by the signal SIGKILL")
    agent.stop()


def status_of(address: str) -> Status:
    """Return the status that the agent serves."""
    with urllib.request.urlopen(f"http://{address}/status.json") as answer:
        status: Status = json.load(answer)
        return status


@soak
def test_a_full_worker_that_drains_for_long(start: Start, folder: Path) -> None:
    """A connection that it cannot take goes to the next worker at once, although this worker drains for long."""
    write(
        folder,
        "kept = []\n"
        "@handlers.message('hog')\n"
        "async def hog():\n"
        "    from twisted.internet.defer import Deferred\n"
        "    try:\n"
        "        while True:\n"
        "            kept.append(open(os.devnull))\n"
        "    except OSError:\n"
        "        print('full', flush=True)\n"
        "    await Deferred()\n",
    )
    limited = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *TWIST]
    agent = start("--drain-timeout=600", "--handler-timeout=0", program=limited)
    with Engine(address_of(agent)) as engine:
        engine.connection.send_notify([Message("hog")])
        engine.send()
        agent.said("full")
        new = ask(agent)["sess.pid"]
        old = imports(folder)[1]
        assert new != old
        agent.said("it takes no more connections, and is replaced")
        # It still drains.
        os.kill(old, 0)
    agent.stop()


@soak
def test_the_end_of_the_master(start: Start, folder: Path) -> None:
    """When the master is killed, the workers answer what is pending, send AGENT-DISCONNECT, and end."""
    write(
        folder,
        "@handlers.message('slow')\n"
        "async def slow():\n"
        "    from twisted.internet import reactor, task\n"
        "    print('pending', flush=True)\n"
        "    await task.deferLater(reactor, 1)\n"
        "    print('nobody reads this', flush=True)\n"
        "    os.write(1, b'nor this')\n"
        "    return {'sess.slow': 1}\n",
    )
    agent = start()
    with Engine(address_of(agent)) as engine:
        engine.connection.send_notify([Message("slow")])
        engine.send()
        agent.said("pending")
        agent.signal(signal.SIGKILL)
        assert agent.ended() == -signal.SIGKILL
        assert engine.next_event().variables == {"sess.slow": 1}
        assert engine.next_event().status_code == 0
        assert engine.next_event() is None
    (worker,) = imports(folder)[1:]
    until_gone(worker)


def until_gone(pid: int) -> None:
    """Wait until a process has ended that is not a child of this one."""
    # It is a child of the process that has started the tests, or of init, which may not wait for it.
    subprocess.run(["timeout", "30", "tail", f"--pid={pid}", "-f", "/dev/null"], check=True)


@soak
def test_the_log(start: Start, folder: Path) -> None:
    """What a worker logs and prints is in the log of the master, with its number."""
    write(
        folder,
        "@handlers.message('talk')\n"
        "def talk():\n"
        "    import sys, twisted.logger\n"
        "    twisted.logger.Logger('mine').warn('log {a}', a='{b}')\n"
        "    print('printed')\n"
        "    os.write(2, b'written')\n"
        "    os.write(1, b'\\xff half')\n"
        "    raise LookupError('boom')\n",
    )
    agent = start()
    assert ask(agent, "talk") == {}
    agent.said(r"\[mine#warn\] worker 1: log \{b\}\n")
    agent.said(r"\[stdout#info\] worker 1: printed\n")
    agent.said(
        r"\[spoa_twisted.agent#critical\] worker 1: the handler of the message 'talk' failed"
        r"(.*\n)*?.*LookupError: boom\n"
    )
    agent.stop()
    agent.said(r"\[spoa_twisted.workers#warn\] worker 1: written\n")
    agent.said(r"\[spoa_twisted.workers#info\] worker 1: . half\n")


@soak
def test_reload_on_change(start: Start, folder: Path) -> None:
    """Also when the change before did not import, and the broken file was a new one."""
    agent = start("--reload-on-change")
    assert ask(agent)["sess.version"] == 1
    (folder / "helper.py").write_text("def 1\n")
    write(folder, "import helper\n")
    agent.said("reload failed: cannot import mymod: SyntaxError: .*helper.py")
    (folder / "helper.py").write_text("A = 'good now'\n")
    agent.said("helper.py has changed")
    agent.said("reloaded: 1 worker was")
    assert ask(agent)["sess.version"] == 2
    agent.stop()


@soak
def test_a_port_for_each_worker(start: Start) -> None:
    r"""``{worker}`` in an endpoint is the number of the worker that gets its connections."""
    agent = start("--listen=unix:agent{worker}.sock", workers=2)
    all_ready(agent, 2)
    pids = {agent.said(rf"worker {number} is ready: process (\d+)")[1]: number for number in (1, 2)}
    for number in (1, 2, 1, 2, 2):
        assert pids[str(ask(agent, address=f"agent{number}.sock")["sess.pid"])] == number
    agent.stop()


@soak
def test_a_unix_socket(start: Start, folder: Path) -> None:
    """It keeps its mode and its lock while workers come and go. At the end, both are removed."""
    agent = start(listen="unix:agent.sock:mode=600")
    agent.address()
    agent.signal(signal.SIGHUP)
    agent.said("reloaded: 1 worker was")
    assert (folder / "agent.sock").stat().st_mode & 0o777 == 0o600
    assert os.readlink("agent.sock.lock") == str(agent.pid)
    assert ask(agent, address="agent.sock")["sess.version"] == 1
    agent.stop()
    assert not (folder / "agent.sock").exists()
    assert not (folder / "agent.sock.lock").is_symlink()


@soak
@pytest.mark.parametrize(
    ("program", "reactor"),
    [
        (TWIST, "EPollReactor"),
        ([*TWISTD, "-n", "--reactor=asyncio"], "AsyncioSelectorReactor"),
        ([*TWISTD, "-n", "--reactor=select"], "SelectReactor"),
        ([*TWISTD, "-n", "--reactor=spoa-epoll"], "LeanEPollReactor"),
    ],
)
def test_programs_and_reactors(start: Start, folder: Path, program: list[str], reactor: str) -> None:
    """Workers have the reactor of the master."""
    write(
        folder,
        "@handlers.message('which')\ndef which():\n    from twisted.internet import reactor\n"
        "    return {'sess.reactor': type(reactor).__name__}\n",
    )
    agent = start(program=program)
    assert ask(agent, "which")["sess.reactor"] == reactor
    agent.stop()


@soak
def test_a_daemon(start: Start, folder: Path) -> None:
    """Its workers log to its log file, and find the handlers although twistd changes the folder."""
    (folder / "run").mkdir()
    program = [*TWISTD, "--pidfile=twistd.pid", "--logfile=log", "--rundir=run"]
    agent = start(program=program, listen=f"unix:{folder}/agent.sock")
    assert agent.ended() == 0
    pid = int((folder / "twistd.pid").read_text())
    try:
        ask(agent, address=str(folder / "agent.sock"))
    finally:
        os.kill(pid, signal.SIGTERM)
    until_gone(pid)
    log = (folder / "log").read_text()
    assert "worker 1 is ready" in log
    # A worker imports them in the first folder, as without workers, and then runs in the second.
    assert len((folder / "imports").read_text().splitlines()) == 2
    assert not (folder / "twistd.pid").exists()


@soak
def test_options_of_python(start: Start, folder: Path) -> None:
    """Workers have the master's -X, -W, -O, sys.path and folder."""
    write(
        folder,
        "import sys, warnings\n"
        "@handlers.message('python')\n"
        "def python():\n"
        "    return {'sess.x': repr(sorted(sys._xoptions)), 'sess.w': repr(sys.warnoptions),\n"
        "            'sess.o': sys.flags.optimize, 'sess.cwd': os.getcwd(), 'sess.path': repr(sys.path)}\n",
    )
    flags = [sys.executable, "-X", "utf8", "-W", "ignore::UserWarning", "-O"]
    code = "import sys; sys.path.append('/no/such/folder'); from twisted.scripts.twistd import run; run()"
    agent = start(program=[*flags, "-c", code, "-n"])
    variables = ask(agent, "python")
    assert variables["sess.x"] == "['utf8']"
    assert variables["sess.w"] == "['ignore::UserWarning']"
    assert (variables["sess.o"], variables["sess.cwd"]) == (1, str(folder))
    assert "/no/such/folder" in str(variables["sess.path"])
    agent.stop()


@soak
def test_chroot_is_refused(start: Start) -> None:
    agent = start(program=[*TWISTD, "-n", "--chroot=."])
    assert agent.ended() == 1
    assert "--workers and twistd's --chroot cannot be used together" in agent.output


@soak
def test_max_connections_is_for_all_workers(start: Start) -> None:
    """A connection above the limit is closed, and logged once."""
    agent = start("--max-connections=2", workers=2)
    address = address_of(agent)
    all_ready(agent, 2)
    with Engine(address), Engine(address):
        for _ in range(2):
            third = Engine(address)
            # The kernel resets the connection if it has received HAPROXY-HELLO before.
            with suppress(ConnectionResetError, BrokenPipeError):
                third.send()
                assert third.socket.recv(1) == b""
            third.socket.close()
        agent.said("2 connections are open, as many as max_connections allows")
    assert agent.output.count("as many as max_connections") == 1
    agent.stop()


@soak
def test_sigterm_to_all_processes(start: Start, folder: Path) -> None:
    """systemd sends SIGTERM to all processes of a unit at once. All drain, and nothing is left."""
    agent = start(workers=2)
    with Engine(address_of(agent)) as engine:
        all_ready(agent, 2)
        _, *workers = imports(folder)
        for pid in (*workers, agent.pid):
            os.kill(pid, signal.SIGTERM)
        assert engine.next_event().status_code == 0
        assert engine.next_event() is None
    assert agent.ended() == -signal.SIGTERM
    assert "cannot start" not in agent.output
    for pid in workers:
        until_gone(pid)

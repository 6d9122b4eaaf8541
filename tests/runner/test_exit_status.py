"""The exit status of an agent that cannot start, and what it prints and leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ANY_PORT, ENVIRONMENT, STOPPED, TWIST, TWISTD
from tests.runner.conftest import Start

#: A module whose second startup function is REPLACED. It prints each call.
MODULE = """\
import atexit
from pathlib import Path
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, succeed
from spoa_twisted import Handlers

handlers = Handlers({"m": lambda: {"sess.a": 1}})
atexit.register(lambda: Path("exit").write_text("exit function"))

@handlers.startup
def opened():
    print("opened", flush=True)

@handlers.shutdown
def closed():
    print("closed", flush=True)

def helper():
    raise ConnectionRefusedError("no\\ndatabase")

@handlers.startup
REPLACED
"""

#: Functions of the three kinds that fail at once, and some that fail when the reactor runs.
EARLY = {
    "plain": "def connect(): helper()",
    "deferred": "def connect(): return succeed(None).addCallback(lambda _: helper())",
    "async": "async def connect(): helper()",
}
LATE = {
    "deferred": "def connect(): return task.deferLater(reactor, 0.01, helper)",
    "async": "async def connect():\n    await task.deferLater(reactor, 0.01)\n    helper()",
    "blocking": "def connect(): pass\n@handlers.startup(blocking=True)\ndef connect(): helper()",
}

PROGRAMS = pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWIST], ids=["twistd", "twist"])

LINE = (
    r"spoa: startup function failing\.connect failed: ConnectionRefusedError: no database \(\S+failing\.py, line 19\)\n"
)


def write(folder: Path, function: str) -> None:
    (folder / "failing.py").write_text(MODULE.replace("REPLACED", function))


@PROGRAMS
@pytest.mark.parametrize(
    "function", [*EARLY.values(), *LATE.values()], ids=[*EARLY, *[f"late-{kind}" for kind in LATE]]
)
def test_a_startup_function_that_fails(program: list[str], function: str, start: Start, folder: Path) -> None:
    """The agent prints one line with the place in the module, does not listen, and exits with status 1.

    The shutdown functions and the exit functions of Python run, the log is complete, and the pid file is removed.
    """
    write(folder, function)
    agent = start(*program, "spoa", "--handlers=failing", f"--listen={ANY_PORT}")
    assert agent.ended() == 1
    line = LINE
    if function == EARLY["deferred"]:
        # Twisted 22.4 removes the traceback from an exception before the agent gets the Deferred.
        line = LINE.replace(r" \(\S+failing\.py, line 19\)", "")[:-2]
    assert len(re.findall(line, agent.output)) == agent.output.count("ConnectionRefusedError") == 1
    assert "Traceback" not in agent.output
    assert "Unhandled" not in agent.output
    assert "SPOA listening" not in agent.output
    assert 0 <= agent.output.find("opened") < agent.output.find("closed")
    assert (folder / "exit").read_text() == "exit function"
    assert not (folder / "twistd.pid").exists()


@PROGRAMS
def test_an_endpoint_that_fails_after_startup(program: list[str], start: Start, folder: Path) -> None:
    """The reactor runs already. The agent logs the reason in one line, and exits with status 1."""
    write(folder, "async def wait(): await task.deferLater(reactor, 0.01)")
    agent = start(*program, "spoa", "--handlers=failing", "--listen=unix:/nowhere/agent")
    assert agent.ended() == 1
    agent.said("spoa: cannot listen on unix:/nowhere/agent: ")
    agent.said("closed")
    assert "Traceback" not in agent.output
    assert not (folder / "twistd.pid").exists()


def test_a_daemon_whose_startup_fails_later(start: Start, folder: Path) -> None:
    """The command has ended with status 0. The log has the reason, and the pid file is removed."""
    write(folder, "def connect():\n    import os\n    return task.deferLater(reactor, 0.01, helper)")
    # The daemon keeps the write end of this pipe open until it ends.
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    command = [*TWISTD, "spoa", "--handlers=failing", f"--listen={ANY_PORT}"]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, pass_fds=[writing], capture_output=True, timeout=30, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert os.read(reading, 1) == b""
    os.close(reading)
    log = (folder / "twistd.log").read_text()
    assert "spoa: startup function failing.connect failed: ConnectionRefusedError: no database (" in log
    assert "Server Shut Down" in log
    assert "Traceback" not in log
    assert not (folder / "twistd.pid").exists()


def test_startup_on_the_asyncio_reactor(start: Start, folder: Path) -> None:
    """Startup functions may use asyncio: they run when the event loop runs. A failure ends the agent as elsewhere."""
    running = "    import asyncio\n    print(asyncio.get_running_loop(), flush=True)\n"
    write(folder, f"async def connect():\n{running}    helper()")
    agent = start(*TWISTD, "-n", "--reactor=asyncio", "spoa", "--handlers=failing", f"--listen={ANY_PORT}")
    assert agent.ended() == 1
    agent.said("EventLoop running=True")
    agent.said("spoa: startup function failing.connect failed: ConnectionRefusedError: no database")
    agent.said("closed")
    assert "Traceback" not in agent.output


def test_every_and_shutdown_on_the_asyncio_reactor(start: Start, folder: Path) -> None:
    """They run in the event loop too."""
    (folder / "loops.py").write_text(
        "import asyncio\n"
        "from spoa_twisted import Handlers\n"
        "handlers = Handlers()\n"
        "@handlers.startup\n"
        "@handlers.shutdown\n"
        "@handlers.every(0.01)\n"
        "async def show(): print(asyncio.get_running_loop(), flush=True)\n"
    )
    agent = start(*TWISTD, "-n", "--reactor=asyncio", "spoa", "--handlers=loops", f"--listen={ANY_PORT}")
    agent.said("EventLoop running=True", times=3)
    assert agent.stop() in STOPPED
    assert "Traceback" not in agent.output


def test_cancelled_functions_clean_up_on_the_asyncio_reactor(start: Start, folder: Path) -> None:
    """A function that is cancelled when the agent stops runs its ``finally``: before the shutdown functions."""
    (folder / "waiting.py").write_text(
        "import asyncio\n"
        "from spoa_twisted import Handlers\n"
        "handlers = Handlers()\n"
        "async def wait(name):\n"
        "    try:\n"
        "        print(name, 'waits', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "    finally:\n"
        "        print(name, 'cleans up', flush=True)\n"
        "@handlers.shutdown\n"
        "async def close(): await wait('shutdown')\n"
        "@handlers.every(0.01)\n"
        "async def read(): await wait('every')\n"
    )
    agent = start(
        *TWISTD, "-n", "--reactor=asyncio", "spoa", "--handlers=waiting", f"--listen={ANY_PORT}", "--drain-timeout=0.1"
    )
    agent.said("every waits")
    assert agent.stop() in STOPPED
    said = re.findall("every waits|every cleans up|shutdown waits|shutdown cleans up", agent.output)
    assert said == ["every waits", "every cleans up", "shutdown waits", "shutdown cleans up"]
    assert "Traceback" not in agent.output


@PROGRAMS
def test_sigterm_during_startup(program: list[str], start: Start, folder: Path) -> None:
    """Startup is cancelled, and the shutdown functions run. The agent ends by the signal, as after any other stop."""
    # When the reactor runs, it has installed its signal handlers.
    running = "    await task.deferLater(reactor, 0)\n    print('waits', flush=True)\n"
    write(folder, f"async def connect():\n{running}    await Deferred()")
    agent = start(*program, "spoa", "--handlers=failing", f"--listen={ANY_PORT}")
    agent.said("waits")
    agent.signal(signal.SIGTERM)
    assert agent.ended() == -signal.SIGTERM
    agent.said("closed")
    assert "SPOA listening" not in agent.output
    assert "Traceback" not in agent.output


@PROGRAMS
def test_an_exit_function_that_a_shutdown_function_registers(program: list[str], start: Start, folder: Path) -> None:
    """It runs once, as those that were registered before."""
    late = (
        "async def connect():\n    await task.deferLater(reactor, 0.01)\n    helper()\n"
        "def leave():\n    with open('late', 'a') as file: file.write('exit function')\n"
        "@handlers.shutdown\ndef register(): atexit.register(leave)\n"
    )
    # The functions above the one that failed run in the end.
    (folder / "failing.py").write_text(
        MODULE.replace("@handlers.startup\nREPLACED", "REPLACED").replace("REPLACED", late)
    )
    with (folder / "failing.py").open("a") as file:
        file.write("handlers.startup(connect)\n")
    agent = start(*program, "spoa", "--handlers=failing", f"--listen={ANY_PORT}")
    assert agent.ended() == 1
    assert (folder / "late").read_text() == (folder / "exit").read_text() == "exit function"


def test_the_status_without_a_stream() -> None:
    """The status is 1 also without stdout, after two calls, and if the reactor has begun to stop."""
    code = (
        "import os, sys\n"
        "from twisted.internet import reactor\n"
        "from spoa_twisted.runner.exit_status import stop_with_failure\n"
        "reactor.callWhenRunning(reactor.stop)\n"
        "reactor.callWhenRunning(stop_with_failure, reactor)\n"
        "reactor.callWhenRunning(stop_with_failure, reactor)\n"
        "reactor.run()\n"
        "sys.stdout = None\n"
    )
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, timeout=30, check=False).returncode == 1

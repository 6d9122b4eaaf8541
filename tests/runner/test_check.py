"""``twistd spoa --check``: what it prints, its exit status, and what it does not do."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from spoa_twisted.runner.changed import changed
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.tap import Options, makeService
from tests.programs import ANY_PORT, TWIST, TWISTD
from tests.runner.conftest import Start, options

HANDLERS = """\
from pathlib import Path
from spoa_twisted import Handlers

handlers = Handlers(on_error={"txn.error": 1})
first = []

@handlers.startup
def touch():
    Path("started").touch()

@handlers.startup
@handlers.every(30, blocking=True)
def read(): pass

@handlers.shutdown
def close(): pass

@handlers.message("plain")
def plain(): return {"txn.a": 1}

@handlers.message("may-wait")
def may_wait(): return first

@handlers.message("async", timeout=0.2)
async def coroutine(): return None

@handlers.message("thread", timeout=0, blocking=True, on_error={})
def thread(): return first

@handlers.default
def rest(message): return None
"""

PRINTED = """\
message       handler            runs as   timeout  on_error
async         checked.coroutine  async     0.2 s    yes
may-wait      checked.may_wait   may wait  0.5 s    yes
plain         checked.plain      plain     none     yes
thread        checked.thread     blocking  none     no
(all others)  checked.rest       plain     none     yes
at startup checked.touch
every 30 s checked.read, in a thread
at startup checked.read
at shutdown checked.close
listens on tcp:1
listens on unix:/nowhere/agent.sock
option --async
option --handler-timeout 0.5
all valid; no port was opened, and no startup function was run
"""


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWISTD, TWIST], ids=["twistd", "daemon", "twist"])
def test_it_shows_what_would_be_served(program: list[str], start: Start, folder: Path) -> None:
    """It exits with 0, does not become a daemon, runs no startup function, and leaves no file."""
    (folder / "checked.py").write_text(HANDLERS)
    before = {path.name for path in folder.iterdir()}
    listen = ("--listen=tcp:1", "--listen=unix:/nowhere/agent.sock")
    checked = start(*program, "spoa", "--check", "--handlers=checked", *listen, "--async", "--handler-timeout=.5")
    assert checked.ended() == 0
    assert checked.output == PRINTED
    assert {path.name for path in folder.iterdir()} - before <= {"__pycache__"}


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWISTD, TWIST], ids=["twistd", "daemon", "twist"])
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--handlers=mymod", "--listen=tcp:x"], "spoa: bad endpoint 'tcp:x': 'x' is not a port; write tcp:12345:"),
        (["--handlers=raises"], "spoa: cannot import raises: LookupError: boom ("),
        (["--handlers=mymod", "--max-unsent=x"], "spoa: --max-unsent: 'x' is not a whole number of bytes"),
    ],
)
def test_a_fault_is_one_line(program: list[str], arguments: list[str], line: str, start: Start) -> None:
    """It exits with 1, wherever ``--check`` stands."""
    checked = start(*program, "spoa", *arguments, "--check")
    assert checked.ended() == 1
    assert checked.output.startswith(line)
    assert checked.output.count("\n") == 1


def test_it_runs_beside_an_agent(start: Start) -> None:
    """The pidfile of an agent in the same folder is no obstacle, and stays. Its port may be in use."""
    agent = start(*TWISTD, "-n", "spoa", "--handlers=mymod", "--listen=unix:agent.sock")
    agent.said("SPOA listening")
    checked = start(*TWISTD, "spoa", "--check", "--handlers=mymod", "--listen=unix:agent.sock")
    assert checked.ended() == 0
    assert Path("twistd.pid").read_text() == str(agent.pid)
    agent.signal(signal.SIGTERM)


def check(*arguments: str) -> None:
    """Run ``--check`` in this process. If it fails, raise CannotStart, which is a SystemExit too."""
    try:
        Options().parseOptions(["--check", *arguments])
    except SystemExit as ended:
        if ended.code:
            raise


def start_service(*arguments: str) -> None:
    """Make the service, as without ``--check``."""
    makeService(options(*arguments))


def test_another_implementation_of_handlers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its messages are not known, so its class is shown."""
    check("--handlers=own")
    assert capsys.readouterr().out.startswith("handlers  own.Own\nlistens on tcp:12345:interface=127.0.0.1\nall valid;")


def test_the_socket_of_systemd_need_not_be_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd passes sockets to the agent only, and not to a check before. If it has passed some, they are checked."""
    monkeypatch.delenv("LISTEN_PID", raising=False)
    check("--handlers=mymod", "--listen=systemd:domain=INET:index=0")
    with pytest.raises(CannotStart, match="index=x is not a whole number"):
        check("--handlers=mymod", "--listen=systemd:domain=INET:index=x")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(CannotStart, match="systemd passed no socket"):
        check("--handlers=mymod", "--listen=systemd:domain=INET:index=0")


LOCAL = "tcp:8404:interface=127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--status=8404"], f"bad endpoint '8404': write {LOCAL}"),
        (["--status=tcp:8404"], "the status has no password, and 'tcp:8404' would let anybody read it"),
        (["--watch=types"], "--watch needs --status"),
        (["--workers=0"], "--workers: '0' is not a whole number of processes"),
        (["--workers=9", "--listen=tcp:6553{worker}"], "bad endpoint 'tcp:65536': a port is a number up to 65535"),
    ],
)
def test_what_needs_other_options(folder: Path, arguments: list[str], text: str) -> None:
    """What an agent would refuse at its start is refused."""
    with pytest.raises(CannotStart) as caught:
        check("--handlers=mymod", *arguments)
    assert text in str(caught.value)
    with pytest.raises(CannotStart) as started:
        start_service("--handlers=mymod", *arguments)
    assert str(started.value) == str(caught.value)


def test_the_status_needs_twisted_web(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old versions of Twisted have none for new versions of Python."""
    monkeypatch.setitem(sys.modules, "twisted.web.server", None)
    for run in (check, start_service):
        with pytest.raises(CannotStart, match=r"--status needs twisted\.web, which"):
            run("--handlers=mymod", f"--status={LOCAL}")


def test_status_and_workers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are shown."""
    check("--handlers=mymod", f"--status={LOCAL}", "--workers=2", "--listen=tcp:1234{worker}")
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4:-1] == ["listens on tcp:1234{worker}", f"option --status {LOCAL}", "option --workers 2"]


def test_options_that_differ() -> None:
    """A flag has no value. What was given with the default's value does not differ."""
    parsed = options(
        "--debug", "--max-unsent=7", "--hello-timeout=10.0", "--drain-timeout=2.50", f"--listen={ANY_PORT}"
    )
    assert changed(parsed) == {"debug": "", "max-unsent": "7", "drain-timeout": "2.5"}

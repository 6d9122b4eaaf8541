"""``twistd spoa --status``."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from twisted.application.service import MultiService

from spoa_twisted.runner.changed import changed
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.service import SPOAService
from spoa_twisted.tap import makeService
from tests.programs import TWISTD, Program
from tests.runner.conftest import Start, folder, options, start
from tests.status.test_site import Answer, exchange

# pytest finds the fixtures by these names. Without __all__, ruff would remove the imports as unused.
__all__ = ["folder", "start"]

LOCAL = "tcp:0:interface=127.0.0.1"


def test_without_it_there_is_the_agent_alone(folder: Path) -> None:
    assert isinstance(makeService(options("--handlers=mymod")), SPOAService)


def test_the_status_listens_first(folder: Path) -> None:
    """While the startup functions run, /health says so."""
    both = makeService(options("--handlers=mymod", f"--status={LOCAL}"))
    assert isinstance(both, MultiService)
    assert [child.name for child in both] == ["spoa-status", "spoa"]
    assert both.name == "spoa"


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("tcp:8404", "the status has no password, and 'tcp:8404' would let anybody read it"),
        ("8404", "bad endpoint '8404': write tcp:8404:interface=127.0.0.1"),
        ("tcp:8404:interfaze=1", "tcp has no option 'interfaze'"),
    ],
)
def test_a_bad_endpoint(folder: Path, endpoint: str, text: str) -> None:
    with pytest.raises(CannotStart) as caught:
        makeService(options("--handlers=mymod", f"--status={endpoint}"))
    assert text in str(caught.value)


def test_the_options_that_differ_from_their_defaults() -> None:
    parsed = options("--handlers=a", "--handlers=b", "--debug", "--handler-timeout=0.5", "--max-in-flight=7")
    assert changed(parsed) == {"handlers": "a, b", "debug": "", "handler-timeout": "0.5", "max-in-flight": "7"}
    assert changed(options("--handlers=a", "--listen=tcp:1")) == {"handlers": "a"}


HANDLERS = """\
from twisted.internet.defer import Deferred
from spoa_twisted import Handlers
handlers = Handlers()

@handlers.message("m")
def m():
    return {"txn.a": 1}
"""

SLOW_START = """
@handlers.startup
def wait():
    import os
    from twisted.internet import reactor, task
    ready = Deferred()
    loop = task.LoopingCall(lambda: os.path.exists("go") and not ready.called and ready.callback(None))
    loop.start(0.01)
    return ready
"""

SLOW_END = """
@handlers.shutdown
def wait():
    import os
    from twisted.internet import task
    done = Deferred()
    loop = task.LoopingCall(lambda: os.path.exists("go") and not done.called and done.callback(None))
    loop.start(0.01)
    return done
"""


def ask(program: Program, path: str) -> Answer:
    """Return the answer of the status of ``program``."""
    address = program.said(r"the status is at 127\.0\.0\.1:(\d+)")
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    return Answer(exchange(("127.0.0.1", int(address[1])), request))


def twistd(*more: str) -> list[str]:
    return [*TWISTD, "-n", "--pidfile=", "spoa", "--handlers=agent", f"--listen={LOCAL}", f"--status={LOCAL}", *more]


def test_an_agent_that_starts(folder: Path, start: Start) -> None:
    """It is not ready before its startup functions are done."""
    (folder / "agent.py").write_text(HANDLERS + SLOW_START)
    program = start(*twistd())
    answer = ask(program, "/health")
    assert (answer.code, answer.body) == (503, b"starting\n")
    assert ask(program, "/live").code == 200
    (folder / "go").touch()
    program.said("SPOA listening on")
    assert ask(program, "/health").code == 200
    made = json.loads(ask(program, "/status.json").body)
    assert (made["state"], made["listen"], made["workers"]) == ("ready", [LOCAL], False)
    assert made["options"] == {"handlers": "agent", "status": LOCAL}
    program.signal(signal.SIGTERM)
    assert program.ended() in (0, -signal.SIGTERM)


def test_an_agent_that_stops(folder: Path, start: Start) -> None:
    """It is not ready, but it lives, and a supervisor must not kill it."""
    (folder / "agent.py").write_text(HANDLERS + SLOW_END)
    program = start(*twistd("--drain-timeout=60"))
    # The reactor runs when it answers. Before, SIGTERM would kill the process.
    assert ask(program, "/health").code == 200
    program.signal(signal.SIGTERM)
    program.said(r"Port \d+ Closed")
    answer = ask(program, "/health")
    assert (answer.code, answer.body) == (503, b"draining\n")
    assert ask(program, "/live").code == 200
    (folder / "go").touch()
    assert program.ended() in (0, -signal.SIGTERM)
    assert "Traceback" not in program.output


def test_a_port_in_use(folder: Path, start: Start) -> None:
    """One line says so, and the agent does not start."""
    (folder / "agent.py").write_text(HANDLERS)
    first = start(*twistd())
    port = first.said(r"the status is at 127\.0\.0\.1:(\d+)")[1]
    second = start(*twistd(f"--status=tcp:{port}:interface=127.0.0.1"))
    assert second.ended() == 1
    line = f"spoa: cannot listen on tcp:{port}:interface=127.0.0.1: another process listens on port {port}"
    assert line in second.output
    assert "Traceback" not in second.output

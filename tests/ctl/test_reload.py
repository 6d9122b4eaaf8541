"""ctl.reload: SIGHUP for an agent, and its outcome. Most agents of these tests are small web servers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.resource import Resource
from twisted.web.server import Request

from spoa_twisted.ctl import reload as command
from spoa_twisted.ctl.reload import check_process, is_local, send_hangup
from spoa_twisted.status.report import Status
from tests.ctl.test_status import site
from tests.programs import Program, spoa
from tests.status.examples import example
from tests.workers.conftest import Start, ask, folder, start, write

from .spoactl import spoactl

# pytest finds the fixtures by these names. Without __all__, ruff would remove the imports as unused.
__all__ = ["folder", "start"]

reactor: Any = default_reactor

#: The number of no process: Linux has smaller ones only.
PID = 2**22 + 1


class FakeAgent(Resource):
    """Serves a status. After SIGHUP, each answer is the next one of ``steps``; the last one stays."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status: Status = example("all well")
        self.status["pid"] = PID
        #: Changes of the status.
        self.steps: list[Callable[[Status], None]] = []
        #: The processes that have received SIGHUP.
        self.signalled: list[int] = []

    def render_GET(self, request: Request) -> bytes:
        if self.signalled and self.steps:
            self.steps.pop(0)(self.status)
        return json.dumps(self.status).encode()


def asked(status: Status) -> None:
    status["reloads"]["requested"] += 1


def succeeds(status: Status) -> None:
    status["reloads"]["answered"] += 1
    status["reloads"]["last_ok"] = True


def fails(status: Status) -> None:
    status["reloads"]["answered"] += 1
    status["reloads"]["last_ok"] = False
    status["reloads"]["reason"] = "SyntaxError: \x1b[2J (iprep.py, line 12)"


def drains(status: Status) -> None:
    status["state"] = "draining"


def starts_again(status: Status) -> None:
    status["started"] += 1


def nothing(status: Status) -> None:
    """Change nothing."""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAgent]:
    """An agent whose status is at the Unix socket ``status``, with an entry in /proc."""
    made = FakeAgent()
    monkeypatch.setattr(command, "send_hangup", made.signalled.append)
    monkeypatch.setattr(command, "_PROC", tmp_path)
    monkeypatch.setattr(command, "INTERVAL", 0.001)
    (tmp_path / str(PID)).mkdir()
    (tmp_path / str(PID) / "cmdline").write_bytes(b"/opt/bin/python\0/opt/bin/twist\0spoa\0--workers=4\0")
    port = reactor.listenUNIX(f"{tmp_path}/status", site(made))
    yield made
    pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def reload(tmp_path: Path) -> Callable[..., Any]:
    """Runs the command in this process, and returns its error; an empty text if there is none."""

    async def reload(*arguments: str) -> str:
        options = command.parser().parse_intermixed_args([f"--status=unix:{tmp_path}/status", *arguments])
        try:
            await command.run(reactor, options)
        except ValueError as error:
            return str(error)
        return ""

    return reload


@pytest_twisted.ensureDeferred
async def test_success(agent: FakeAgent, reload: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It waits for the end, and prints one line."""
    agent.steps = [nothing, asked, nothing, succeeds]
    assert await reload() == ""
    assert agent.signalled == [PID]
    assert agent.steps == []
    out = capsys.readouterr().out
    assert out.startswith("reloaded: 4 workers were replaced in ")
    assert out.count("\n") == 1


@pytest_twisted.ensureDeferred
async def test_failure(agent: FakeAgent, reload: Any) -> None:
    """The error has the reason, escaped."""
    agent.steps = [asked, fails]
    reason = r"SyntaxError: \x1b[2J (iprep.py, line 12)"
    assert await reload() == f"the reload failed: {reason}; workers that were not replaced go on with their old code"


@pytest_twisted.ensureDeferred
async def test_a_reload_that_was_running_does_not_count(agent: FakeAgent, reload: Any) -> None:
    """It may have missed the last change of a file: its success is not that of the reload that follows."""
    asked(agent.status)
    agent.steps = [asked, succeeds, nothing, fails]
    assert (await reload()).startswith("the reload failed: ")
    assert agent.steps == []


@pytest_twisted.ensureDeferred
async def test_one_reload_for_several_requests(agent: FakeAgent, reload: Any) -> None:
    """It answers all of them."""

    def succeeds_for_all(status: Status) -> None:
        status["reloads"]["answered"] = status["reloads"]["requested"]

    asked(agent.status)
    agent.steps = [asked, asked, succeeds, succeeds_for_all]
    assert await reload() == ""
    assert agent.steps == []


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([asked, drains], "the agent was told to end during the reload"),
        ([starts_again], "the agent was started again meanwhile"),
        ([nothing], f"process {PID} has not noticed SIGHUP within 0.05 s"),
        ([asked], "the reload has not ended within 0.05 s, and goes on; spoactl status and the log show how it ends"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest_twisted.ensureDeferred
async def test_no_end(steps: list[Any], error: str, agent: FakeAgent, reload: Any) -> None:
    agent.steps = steps
    # Only an agent that does not get on lets the time pass.
    timeout = 0.05 if "0.05" in error else 30
    assert await reload(f"--timeout={timeout}") == error


@pytest_twisted.ensureDeferred
async def test_the_status_is_gone(agent: FakeAgent, reload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what was done before."""

    def breaks(status: Any) -> None:
        del status["pid"]

    agent.steps = [breaks]
    error = await reload()
    assert error.startswith(f"SIGHUP was sent to process {PID}, but its status is gone: the answer is not the status")


def without_workers(status: Status) -> None:
    status["workers"] = False


def of_all_processes(status: Status) -> None:
    status["pid"] = -1


def of_another_program(status: Status) -> None:
    status["pid"] = 77


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (without_workers, "this agent has no workers, so SIGHUP would end it"),
        (drains, "the agent is about to end, and reloads no more"),
        (of_all_processes, "process -1 of this machine is no agent"),
        (of_another_program, "process 77 of this machine is no agent: does the agent run in a container? Run spoactl"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest_twisted.ensureDeferred
async def test_no_signal_is_sent(change: Any, error: str, agent: FakeAgent, reload: Any, tmp_path: Path) -> None:
    """To a process that it would end, or that is none of an agent."""
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cmdline").write_bytes(b"/usr/bin/python3\0-c\0# spoa worker\0")
    change(agent.status)
    assert (await reload()).startswith(error)
    assert agent.signalled == []


@pytest_twisted.ensureDeferred
async def test_another_machine(agent: FakeAgent, reload: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No signal is sent."""
    monkeypatch.setattr(command, "is_local", lambda peer, host: False)
    assert await reload() == (
        f"the agent at unix:{tmp_path}/status is on another machine: run spoactl reload there, where process {PID} is"
    )
    assert agent.signalled == []


@pytest_twisted.ensureDeferred
async def test_no_agent(reload: Any) -> None:
    assert (await reload()).endswith("; does an agent run with --status there?")


@pytest.mark.parametrize(
    ("peer", "host", "expected"),
    [
        (UNIXAddress(b"/run/status"), UNIXAddress(b""), True),
        (IPv4Address("TCP", "127.0.0.2", 8404), IPv4Address("TCP", "127.0.0.1", 5), True),
        (IPv6Address("TCP", "::1", 8404), IPv6Address("TCP", "::1", 5), True),
        (IPv4Address("TCP", "192.0.2.1", 8404), IPv4Address("TCP", "192.0.2.1", 5), True),
        (IPv4Address("TCP", "192.0.2.1", 8404), IPv4Address("TCP", "192.0.2.2", 5), False),
        (object(), object(), False),
    ],
)
def test_which_addresses_are_of_this_machine(peer: object, host: object, expected: bool) -> None:
    assert is_local(peer, host) == expected


def test_a_process_that_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all systems have /proc, or show all processes there. Whether there is one, the signal tells."""
    monkeypatch.setattr(command, "_PROC", tmp_path)
    check_process(PID)


def test_no_process() -> None:
    with pytest.raises(ValueError, match=f"there is no process {PID} on this machine"):
        send_hangup(PID)


def test_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says who may."""

    def kill(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(ValueError, match="may not send a signal to process 1: run spoactl reload as the agent's user"):
        send_hangup(1)


# It starts an agent, and its workers again and again.
@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_an_agent(start: Start, folder: Path) -> None:
    """A good reload, one that the agent refuses, and two at once."""
    agent = start(f"--status=unix:{folder}/status", workers=2)
    agent.address()
    command_line = ("reload", f"--status=unix:{folder}/status")
    write(folder, "")
    out, err, status = await spoactl(*command_line)
    assert (out.partition(" in ")[0], err, status) == ("reloaded: 2 workers were replaced", "", 0)
    assert ask(agent)["sess.version"] == 2
    write(folder, "def 1\n", version=3)
    out, err, status = await spoactl(*command_line)
    assert (out, status) == ("", 1)
    assert err.startswith("spoactl: the reload failed: cannot import mymod: SyntaxError: ")
    assert err.count("\n") == 1
    assert ask(agent)["sess.version"] == 2
    write(folder, "", version=4)
    both = [Deferred.fromCoroutine(spoactl(*command_line)) for _ in range(2)]
    assert [status for _, _, status in await gatherResults(both)] == [0, 0]
    assert ask(agent)["sess.version"] == 4
    agent.signal(signal.SIGTERM)
    agent.ended()


# It starts an agent.
@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_an_agent_without_workers(start: Start, folder: Path) -> None:
    """It is told from one with workers, and goes on."""
    with Program(spoa(f"--status=unix:{folder}/status", handlers="mymod"), cwd=folder) as agent:
        agent.address()
        out, err, status = await spoactl("reload", f"--status=unix:{folder}/status")
        assert (out, status) == ("", 1)
        assert err.startswith("spoactl: this agent has no workers, so SIGHUP would end it; ")
        assert ask(agent)["sess.version"] == 1

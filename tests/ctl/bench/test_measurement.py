"""ctl.bench.measurement: the loads are run in this process or in several others, until the window ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from spoa_twisted.ctl import bench
from tests.certificates import self_signed
from tests.ctl.agents import Agent, ack
from tests.ctl.spoactl import Start, spoactl
from tests.haproxy.harness import bounded
from tests.programs import LISTENING, SPOACTL, spoa


@pytest.mark.parametrize(("kind", "processes"), [("tcp", 1), ("tcp", 2), ("ssl", 1)])
@bounded
async def test_a_real_agent(kind: str, processes: int, tmp_path: Path, start: Start) -> None:
    """The agent is a process. It is loaded by one process and by two, and with TLS."""
    (tmp_path / "handlers.py").write_text(
        "from spoa_twisted import Handlers\nhandlers = Handlers({'check-body': lambda body: {'txn.size': len(body)}})\n"
    )
    listen = f"{kind}:0:interface=127.0.0.1"
    if kind == "ssl":
        self_signed(tmp_path)
        listen += f":privateKey={tmp_path}/agent.key:certKey={tmp_path}/agent.crt"
    agent = start(spoa(handlers=tmp_path / "handlers.py", listen=[listen]))
    address = (await agent.said(LISTENING))[1]
    arguments = ["--duration=0.3", "--warm-up=0.1", "--connections=3", f"--processes={processes}", "--shape=body"]
    out, err, status = await spoactl(
        "bench", "--agent", f"{kind}:{address}", "--json", f"--pid={agent.pid}", *arguments
    )
    assert (err, status) == ("", 0)
    report = json.loads(out)
    assert report["errors"] == {}
    assert report["variables"] == {"txn.size": "int64:8192"}
    assert report["notifys"] > 0
    assert report["cpu_us_per_notify"] > 0
    assert len(report["load_cpu"]) == report["processes"] == processes


class LateReactor:
    """A reactor that makes delayed calls late."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def callLater(self, seconds: float, *call: Any) -> Any:
        return reactor.callLater(100 * seconds, *call)


@bounded
async def test_the_windows_of_the_processes_end_first(
    endpoint: str, listen: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The window of the process that measures ends with them, and the agent's CPU is known."""
    listen(Agent(lambda ids, n: ack(ids)))
    arguments = ["--duration=0.3", "--warm-up=0", "--connections=2", "--processes=2", "--json", f"--pid={os.getpid()}"]
    await bench.run(LateReactor(), bench.parser().parse_args(["--agent", endpoint, *arguments]))
    report = json.loads(capsys.readouterr().out)
    assert report["notifys"] > 0
    assert report["cpu_us_per_notify"] > 0
    assert report["interrupted"] is False


@pytest.mark.parametrize("processes", [1, 2])
@bounded
async def test_interrupted(processes: int, endpoint: str, listen: Any, start: Start) -> None:
    """Ctrl-C ends the window, and the command prints the figures."""
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    arguments = ["--duration=300", "--warm-up=0", "--json", f"--processes={processes}", "--connections=2"]
    command = start([*SPOACTL, "bench", "--agent", endpoint, *arguments])

    def answer(ids: bytes, n: int) -> bytes:
        if n == 1000:
            command.signal(signal.SIGINT)
        return ack(ids)

    agent.answer_with = answer
    assert await command.ended() == 0, command.describe()
    report = json.loads(command.output)
    assert report["interrupted"] is True
    assert report["errors"] == {}
    assert 900 < report["notifys"] <= agent.notifys
    assert report["seconds"] < 300


@pytest.mark.parametrize("processes", [1, 2])
@pytest_twisted.ensureDeferred
async def test_a_rate(processes: int, run_bench: Any, listen: Any) -> None:
    """All processes together send at this rate, each in proportion to its connections, and never much faster."""
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    result = await run_bench("--connections=3", f"--processes={processes}", "--rate=300", "--duration=0.5")
    assert (result.errors, result.status) == ({}, 0)
    # Each process sends its first NOTIFY at once.
    assert agent.notifys <= 300 * (result.report["seconds"] + 0.2) + processes
    assert result.report["notifys"] > 0
    assert set(result.report["late_us"]) == {"p50", "p99", "p99.9", "max"}

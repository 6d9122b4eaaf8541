"""ctl.bench.report: the figures on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import pytest_twisted

from tests.ctl.agents import Agent, ack
from tests.ctl.interrupting import interrupt


@pytest_twisted.ensureDeferred
async def test_the_cpu_of_the_agent(run_bench: Any, listen: Any) -> None:
    """Here the agent and the load are one process, so their CPU is the same. An idle process adds almost nothing."""
    listen(Agent(lambda ids, n: ack(ids)))
    result = await run_bench(f"--pid={os.getpid()}")
    (cpu,) = result.report["agent_cpu"]
    assert cpu["busy"] == pytest.approx(result.report["load_cpu"][0]["busy"], rel=0.2)
    rate = result.report["notifys_per_second"]
    assert result.report["cpu_us_per_notify"] == pytest.approx(cpu["busy"] * 1e6 / rate)

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as idle:
        result = await run_bench(f"--pid={os.getpid()}", f"--pid={idle.pid}")
        busy = sum(cpu["busy"] for cpu in result.report["agent_cpu"])
        rate = result.report["notifys_per_second"]
        assert result.report["cpu_us_per_notify"] == pytest.approx(busy * 1e6 / rate)
        idle.kill()


@pytest_twisted.ensureDeferred
async def test_a_process_of_the_agent_ends(run_bench: Any, listen: Any) -> None:
    """Its CPU is unknown, and the report has a note."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def answer(ids: bytes, n: int) -> bytes:
        if n == 20:
            child.communicate()
            interrupt()
        return ack(ids)

    listen(Agent(answer))
    result = await run_bench(f"--pid={child.pid}", "--duration=30")
    assert result.report["agent_cpu"] == [{"pid": child.pid, "seconds": None, "busy": None, "waited": None}]
    assert result.report["cpu_us_per_notify"] is None
    assert f"the process {child.pid} ended before the end of the measurement" in result.report["notes"]


@pytest_twisted.ensureDeferred
async def test_a_process_that_does_not_exist(run_bench: Any, listen: Any) -> None:
    """The command fails before it connects."""
    child = subprocess.Popen(["true"])
    child.wait()
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    with pytest.raises(ProcessLookupError, match=rf"^--pid {child.pid}: No such process$"):
        await run_bench(f"--pid={child.pid}")
    assert agent.connections == []

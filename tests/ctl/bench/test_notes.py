"""ctl.bench.notes: what the reader should know before believing the figures."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from spoa_twisted.ctl.bench.notes import cpu_notes, latency_notes, rate_notes
from spoa_twisted.spop.connection import Notify
from tests.ctl.agents import Agent, AgentSide, ack
from tests.ctl.interrupting import interrupt


@pytest.mark.parametrize(("latency", "noted"), [({"max": 499_999.0}, False), ({"max": 500_000.0}, True), (None, False)])
def test_a_long_standstill(latency: dict[str, float] | None, noted: bool) -> None:
    """There is a note from 5 % of the time measured on."""
    assert bool(latency_notes({"latency_us": latency, "seconds": 10.0})) is noted


@pytest_twisted.ensureDeferred
async def test_an_agent_that_stands_still(run_bench: Any, listen: Any) -> None:
    """The report has the note, because the percentiles hardly show the standstill."""

    class Resting(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            if self.notifys == 20:
                reactor.callLater(0.5, side.transport.write, ack(notify.ids))
            else:
                side.transport.write(ack(notify.ids))
            if self.notifys == 21:
                interrupt()

    listen(Resting())
    result = await run_bench("--connections=1", "--in-flight=1", "--duration=30")
    assert any(note.startswith("max is ") for note in result.report["notes"])


@pytest.mark.parametrize(
    ("answered", "late", "notes"),
    [
        (1000.0, 249.0, []),
        (980.0, 249.0, []),
        (979.0, 1.0, ["the agent answered 979 of 1000 a second: the latencies grow with the duration"]),
        (1000.0, 250.0, ["the load itself was up to 250 µs late (p99), which is part of the latencies"]),
        (1000.0, None, []),
    ],
)
def test_a_rate(answered: float, late: float | None, notes: list[str]) -> None:
    """There is a note when the agent did not keep up, and when the load itself was late."""
    report = {
        "rate": 1000.0,
        "notifys_per_second": answered,
        "latency_us": {"p99": 1000.0},
        "late_us": None if late is None else {"p99": late},
    }
    assert rate_notes(report) == notes


def test_a_rate_without_any_ack() -> None:
    report = {"rate": 1.0, "notifys_per_second": 1.0, "latency_us": None, "late_us": {"p99": 1.0}}
    assert rate_notes(report) == []


def notes(load_busy: float, *agents: float | None, waited: float = 0.0) -> list[str]:
    """Return the notes on a load and on an agent that used these shares of a core."""
    return cpu_notes(
        {
            "processes": 1,
            "load_cpu": [{"busy": load_busy, "waited": waited}],
            "agent_cpu": [{"pid": 1, "seconds": busy, "busy": busy, "waited": 0.0} for busy in agents],
        }
    )


def test_the_load_is_the_bottleneck() -> None:
    """The load is the bottleneck if it was busy and no process of the agent was busy."""
    assert notes(0.89, 0.5) == notes(0.95, 0.95) == notes(0.95, 0.3, 0.95) == notes(0.5) == []
    assert "it was the bottleneck; try --processes 2" in notes(0.9, 0.89)[0]
    assert "may have been" in notes(0.9)[0]


def test_a_process_waited_for_a_core() -> None:
    """There is a note from 10 % of the time on."""
    assert "waited for a core 10% of the time" in notes(0.5, 0.5, waited=0.1)[0]
    assert notes(0.5, 0.5, waited=0.09) == []


def test_a_process_used_no_cpu() -> None:
    """The pid may not be that of the agent."""
    assert notes(0.5, 0.0) == ["the process 1 used no CPU: is it the agent?"]


@pytest_twisted.ensureDeferred
async def test_more_processes_than_connections(run_bench: Any, listen: Any) -> None:
    """Processes without a connection are not started, and the report has a note."""
    listen(Agent(lambda ids, n: ack(ids)))
    result = await run_bench("--connections=1", "--processes=2")
    assert result.report["processes"] == 1
    assert "the load has no more processes than connections" in result.report["notes"]

"""ctl.bench.text: the report as text."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from spoa_twisted.ctl import bench
from spoa_twisted.ctl.bench.durations import duration
from spoa_twisted.ctl.bench.text import _load
from spoa_twisted.spop.actions import encode_actions
from tests.ctl.agents import Agent, ack


@pytest.mark.parametrize(
    ("microseconds", "text"), [(0.25, "0.25 µs"), (999, "999 µs"), (1500, "1.5 ms"), (2_500_000, "2.5 s")]
)
def test_a_duration_is_shown_in_its_unit(microseconds: float, text: str) -> None:
    """The number has few digits."""
    assert duration(microseconds) == text


@pytest_twisted.ensureDeferred
async def test_the_text(endpoint: str, listen: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Each figure is one line. The lines are aligned, and control characters from the agent are escaped."""
    agent = Agent(lambda ids, n: ack(ids, encode_actions({})))
    agent.capabilities = frozenset({"pipelining", "\x1b[31m"})
    listen(agent)
    options = bench.parser().parse_intermixed_args(
        ["--agent", endpoint, "--duration=0.1", "--warm-up=0", f"--pid={os.getpid()}"]
    )
    await bench.run(reactor, options)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[31m, pipelining" in out
    lines = out.splitlines()
    names = [line.partition(" ")[0] for line in lines]
    assert names[:9] == ["agent", "load", "NOTIFY", "measured", "answered", "latency", "agent", "load", "errors"]
    assert re.match(r"latency    p50 \S+ (µs|ms|s), p99 \S+ (µs|ms|s), p99.9 \S+ (µs|ms|s), max ", lines[5])
    assert re.match(r"agent CPU  \d+\.\d\d µs a NOTIFY, \d+% of a core ", lines[6])
    assert lines[8] == "errors     none"
    assert "note       the agent set no variables: does it have a handler for get-ip-reputation?" in lines


def test_the_load_with_a_rate() -> None:
    report: dict[str, Any] = {"connections": 8, "in_flight": 16, "rate": None, "message": "check"}
    assert _load(report) == "8 connections, 16 in flight on each, check"
    assert _load(report | {"rate": 4000.0}) == "8 connections, at most 16 in flight on each, 4000 a second, check"

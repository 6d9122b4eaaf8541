"""ctl.files: how many files the process may open."""

from __future__ import annotations

import re

import pytest
from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue

from tests.haproxy.harness import bounded
from tests.programs import ENVIRONMENT, SPOACTL

from .agents import Agent, ack


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("limit", ["-Sn", "-n"])
@bounded
async def test_more_connections_than_files(limit: str, processes: int, endpoint: str) -> None:
    """The soft limit is raised. If the hard limit is too low, the command fails before it connects."""
    agent = Agent(lambda ids, n: ack(ids))
    port = reactor.listenUNIX(endpoint.removeprefix("unix:"), agent, backlog=100)  # type: ignore[attr-defined]
    limited = ["-c", f'ulimit {limit} 45; exec "$@"', "sh", *SPOACTL]
    arguments = [
        "bench",
        "--agent",
        endpoint,
        "--connections=100",
        f"--processes={processes}",
        "--duration=0.1",
        "--json",
    ]
    out, err, status = await getProcessOutputAndValue("/bin/sh", [*limited, *arguments], env=ENVIRONMENT)
    await port.stopListening()
    if limit == "-Sn":
        assert (err, status) == (b"", 0)
        assert len(agent.connections) == 100
        for side in agent.connections:
            await side.ended
    else:
        assert (out, status) == (b"", 1)
        text = rb"spoactl: \d+ open files are needed, but the hard limit is 45: see ulimit -Hn\n"
        assert re.fullmatch(text, err)
        assert agent.connections == []

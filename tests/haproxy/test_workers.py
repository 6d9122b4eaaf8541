"""``twistd spoa --workers``: reloads, deaths and the spread of the load, under load."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import STOPPED, TWIST, TWISTD

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import AgentProcess, Load, bounded, shown
from .test_restarts import PATHS, PID, SHOW_PID

#: These tests are long: processes start and end under load, several times in each test.
pytestmark = pytest.mark.soak

CLIENTS = 20
REQUESTS_PER_STEP = 200
LISTEN = "--listen=tcp:0:interface=127.0.0.1"


async def reload(agent: AgentProcess, load: Load) -> None:
    """Reload ``agent``, and wait until the reload has ended and some more requests were answered."""
    agent.signal(signal.SIGHUP)
    await agent.says(r"reloaded: \d+ workers")
    await load.wait_for_more(REQUESTS_PER_STEP)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("path", PATHS)
@bounded
async def test_reload(
    start_agent: StartAgent, start_haproxy: StartHAProxy, path: str, threads: int, figures: list[str]
) -> None:
    """A reload loses no request, and afterwards only new processes answer."""
    agent = start_agent("--workers=2", LISTEN)
    address = await agent.address()
    for _ in range(2):
        # Start a new HAProxy each time: 2.8 and 3.0 have many connections only at the beginning.
        haproxy = start_haproxy(address, spoe=PID, web=SHOW_PID, threads=threads)
        async with haproxy.load(CLIENTS, path) as load:
            await load.wait_for_more(REQUESTS_PER_STEP)
            before = set(load.answers)
            await reload(agent, load)
            middle = load.answers.copy()
            await load.wait_for_more(REQUESTS_PER_STEP)
            assert not before & set(load.answers - middle)
        await haproxy.kill()
        figures.append(f"{dict(load.failures)} failed of {load.requests} requests")
        assert load.failures == {}

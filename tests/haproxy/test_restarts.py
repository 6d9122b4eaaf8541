"""Agents are restarted one after the other, and requests go on meanwhile."""

from __future__ import annotations

import os
import signal
from statistics import median

import pytest
from twisted.internet import reactor

from .conftest import StartAgent, StartHAProxy
from .harness import STOPPED, AgentProcess, Load, bounded, listening_socket, shown

#: How many clients request as fast as they are answered. HAProxy sends as many NOTIFYs over one connection at a time.
CLIENTS = 20

#: How many requests come between the steps of a test.
SOME = 200

RESTARTS = 4

#: An answer that is there at once, and one that takes a while.
PATHS = ["/now", "/later"]

#: What a drained agent may cost: the NOTIFY that crosses the goodbye. Once in a while it is more, on a machine so busy
#: that HAProxy reads goodbyes late.
MOST_LOST = 1

PID = """\
    messages pid-now pid-later

spoe-message pid-now
    event on-frontend-http-request if { path /now }

spoe-message pid-later
    event on-frontend-http-request if { path /later }
"""

SHOW_PID = shown("txn.spoa.pid")

#: How long HAProxy waits before it tries again is a second, or the timeout for connecting if that is less. An agent
#: that has just begun, under load, may take longer to answer a check than there is between two, above all on PyPy.
TRY_OTHER = """\
option spop-check
    option redispatch 1
    timeout connect 100ms
    timeout check 1s"""

CHECK = "check inter 100ms rise 1 fall 1"


def connections_of(agent: AgentProcess) -> int:
    """Return how many sockets the agent has open, the one that listens included."""
    folder = f"/proc/{agent.pid}/fd"
    links = [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]
    return sum(link.startswith("socket:") for link in links)


async def stop(agent: AgentProcess, number: signal.Signals, load: Load, figures: list[str]) -> int:
    """Stop an agent that is at work; return how many requests fail, from then until some more were answered."""
    at_work = load.answers[agent.pid] + CLIENTS
    await load.until(lambda: load.answers[agent.pid] >= at_work)
    failed, failures, connections = load.failed, load.failures.copy(), connections_of(agent)
    began = reactor.seconds()
    agent.signal(number)
    status = await agent.ended()
    took = reactor.seconds() - began
    assert status in (STOPPED if number is signal.SIGTERM else (-number,))
    await load.further(SOME)
    lost = load.failed - failed
    why = dict(load.failures - failures)
    figures.append(f"{number.name}: {lost} lost {why}, {connections} sockets open, {took:.2f} s to its end")
    return lost


@pytest.mark.parametrize("path", PATHS)
@bounded
async def test_overlapping_agents(
    start_agent: StartAgent, start_haproxy: StartHAProxy, path: str, figures: list[str]
) -> None:
    """When a new agent listens on the same socket before the old one is told to stop, as with systemd's, a restart
    costs one request at most.
    """
    with listening_socket() as agents_socket:
        agent = start_agent(socket=agents_socket)
        haproxy = start_haproxy(await agent.address(), spoe=PID, web=SHOW_PID)
        async with haproxy.load(CLIENTS, path) as load:
            lost = []
            for _ in range(RESTARTS):
                new = start_agent(socket=agents_socket)
                await new.address()
                lost.append(await stop(agent, signal.SIGTERM, load, figures))
                agent = new

    figures.append(f"{load.requests} requests")
    assert median(lost) <= MOST_LOST, lost
    assert load.failed == sum(lost)


@bounded
async def test_one_agent_after_the_other(
    start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]
) -> None:
    """Of two agents that HAProxy knows, one is restarted after the other: that costs one request at most, even though
    HAProxy goes on trying to connect to the one that stopped.
    """
    agents = [start_agent("--listen=tcp:0:interface=127.0.0.1") for _ in range(2)]
    addresses = [await agent.address() for agent in agents]
    haproxy = start_haproxy(
        {f"agent{i}": f"{address} {CHECK}" for i, address in enumerate(addresses)},
        backend=TRY_OTHER,
        spoe=PID,
        web=SHOW_PID,
    )
    async with haproxy.load(CLIENTS, *PATHS) as load:
        # HAProxy <= 3.0 may have given all the work to one of them.
        await load.further(SOME)
        first = max(range(2), key=lambda i: load.answers[agents[i].pid])
        lost = []
        for restart in range(RESTARTS):
            i = (first + restart) % 2
            lost.append(await stop(agents[i], signal.SIGTERM, load, figures))
            await haproxy.says(f"Server agents/agent{i} is DOWN")
            host, _, port = addresses[i].rpartition(":")
            agents[i] = start_agent(f"--listen=tcp:{port}:interface={host}")
            await haproxy.says(f"Server agents/agent{i} is UP")

    figures.append(f"{load.requests} requests")
    assert median(lost) <= MOST_LOST, lost
    assert load.failed == sum(lost)


@bounded
async def test_killed_agents(start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """An agent that is killed costs what was in flight, on each connection, and nothing after that."""
    with listening_socket() as agents_socket:
        agent = start_agent(socket=agents_socket)
        haproxy = start_haproxy(await agent.address(), spoe=PID, web=SHOW_PID)
        async with haproxy.load(CLIENTS, *PATHS) as load:
            lost = []
            for _ in range(RESTARTS):
                new = start_agent(socket=agents_socket)
                await new.address()
                lost.append(await stop(agent, signal.SIGKILL, load, figures))
                agent = new
            failed = load.failed
            await load.further(SOME)

    assert sum(lost) > RESTARTS * MOST_LOST
    assert failed == load.failed

"""HAProxy and agents on hosts of their own, with links that delay each packet by 5 ms and lose 1 % of the packets."""

from __future__ import annotations

import pytest
from twisted.internet import reactor

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import Process, bounded, several_agents
from .hosts import Hosts
from .lossy_link import DELAY, LOST
from .test_apart import (
    CLIENTS,
    FEW_REQUESTS,
    HANDLERS,
    LOAD,
    SHOW_HANDLERS,
    SHOW_LOAD,
    check_handlers,
    check_restarts,
    load,
)


def lost_packets(processes: list[Process]) -> int:
    """Return how many packets the links have lost so far."""
    return sum(process.output.count(LOST) for process in processes)


@bounded
async def test_handlers(start_agent: StartAgent, start_haproxy: StartHAProxy, lossy_hosts: Hosts) -> None:
    """Each kind of handler answers. No answer comes before two packets have crossed the link."""
    host = lossy_hosts.agents[0]
    agent = start_agent(f"--listen={host.endpoint()}", host=host)
    haproxy = start_haproxy(await agent.address(), spoe=HANDLERS, web=SHOW_HANDLERS, host=lossy_hosts.haproxy)
    for _ in range(3):
        began = reactor.seconds()
        response = await haproxy.get()
        assert reactor.seconds() - began > 2 * DELAY
        check_handlers(response, agent.pid)


@pytest.mark.soak
@pytest.mark.parametrize("size", [100, 4000, 16250])
@bounded
async def test_sizes(
    start_agent: StartAgent,
    start_haproxy: StartHAProxy,
    lossy_hosts: Hosts,
    processes: list[Process],
    figures: list[str],
    size: int,
) -> None:
    """Each request gets its answer from the first one on. It takes seconds: a lost packet takes up to 0.2 s."""
    host = lossy_hosts.agents[0]
    agent = start_agent(f"--listen={host.endpoint()}", host=host)
    haproxy = start_haproxy(await agent.address(), spoe=LOAD, web=SHOW_LOAD, host=lossy_hosts.haproxy)
    await load(haproxy, size, FEW_REQUESTS, figures)
    figures.append(f"{lost_packets(processes)} packets lost")
    assert lost_packets(processes)


@pytest.mark.soak
@bounded
async def test_restarts(
    branch: Branch,
    start_agent: StartAgent,
    start_haproxy: StartHAProxy,
    lossy_hosts: Hosts,
    processes: list[Process],
    figures: list[str],
) -> None:
    """When a restart of one of two agents is over, no request fails. It takes seconds: HAProxy has to notice it.

    A restart may lose more requests than on a fast link. AGENT-DISCONNECT is under way for 5 ms, or until its packet
    was repeated, and HAProxy loses the NOTIFYs that it sends meanwhile. And HAProxy 3.0 was seen to let all requests
    wait until ``timeout processing`` for a connection that it could not open, because its SYN had been lost.
    """
    backend = several_agents(branch)
    # The kernel repeats a lost SYN after a second. The backend in docs/howto/several_agents.rst is
    # for links that lose no packets, and has shorter timeouts: with it, HAProxy marks an agent DOWN when two checks
    # lose a packet.
    for short, long in (
        ("timeout connect 100ms", "timeout connect 5s"),
        ("timeout check 500ms", "timeout check 5s"),
        ("inter 500ms", "inter 2s"),
    ):
        assert short in backend
        backend = backend.replace(short, long)
    await check_restarts(start_agent, start_haproxy, lossy_hosts, backend, 2 * CLIENTS, figures)
    figures.append(f"{lost_packets(processes)} packets lost")
    assert lost_packets(processes)

"""Agents are restarted one after the other, and requests go on meanwhile."""

from __future__ import annotations

import signal

import pytest
from twisted.internet import reactor

from tests.programs import STOPPED

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import AgentProcess, HAProxy, Load, bounded, listening_socket, several_agents, shown

#: Agents start and end under load, several times each.
pytestmark = pytest.mark.soak

#: How many clients request as fast as they are answered. HAProxy sends as many NOTIFYs over one connection at a time.
CLIENTS = 20

#: How many requests come between the steps of a test.
SOME = 200

RESTARTS = 4

#: An answer that is there at once, and one that takes a while.
PATHS = ["/now", "/later"]

#: What a drained agent may cost: NOTIFYs that cross its DISCONNECT, of some of its connections at the worst. Of 872
#: restarts one was seen to cost 2 requests, and the others none. An agent that is killed costs CLIENTS.
MOST_LOST = CLIENTS // 4

PID = """\
    messages pid-now pid-later

spoe-message pid-now
    event on-frontend-http-request if { path /now }

spoe-message pid-later
    event on-frontend-http-request if { path /later }
"""

#: A request that the agent has no part in.
UNASKED = "/unasked"

SHOW_PID = shown("txn.spoa.pid")


async def at_work(agent: AgentProcess, load: Load) -> None:
    """Wait until ``agent`` has answered a while."""
    enough = load.answers[agent.pid] + CLIENTS
    await load.until(lambda: load.answers[agent.pid] >= enough)


async def all_in_flight(haproxy: HAProxy, load: Load) -> None:
    """Wait until HAProxy has sent all that it was asked to an agent that stands still."""
    requests = -1
    while requests != load.requests:
        requests = load.requests
        # It comes to the first one when it has done what it was asked before; until the second one is there, clients
        # that it answered meanwhile have told so.
        for _ in range(2):
            assert (await haproxy.get(UNASKED)).error is None


async def stop(agent: AgentProcess, number: signal.Signals, load: Load, figures: list[str]) -> tuple[int, int]:
    """Stop an agent that is at work; return how many requests fail, from then until some more were answered, and how
    many connections it had.
    """
    failed, failures, connections = load.failed, load.failures.copy(), agent.connections
    began = reactor.seconds()
    agent.signal(number)
    status = await agent.ended()
    took = reactor.seconds() - began
    assert status in (STOPPED if number is signal.SIGTERM else (-number,))
    await load.wait_for_more(SOME)
    lost = load.failed - failed
    why = dict(load.failures - failures)
    figures.append(f"{number.name}: {lost} lost {why}, {connections} connections, {took:.2f} s to its end")
    return lost, connections


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("path", PATHS)
@bounded
async def test_overlapping_agents(
    start_agent: StartAgent, start_haproxy: StartHAProxy, path: str, threads: int, figures: list[str]
) -> None:
    """When a new agent listens on the same socket before the old one is told to stop, as with systemd's, a restart
    costs a request now and then.
    """
    with listening_socket() as agents_socket:
        agent = start_agent(socket=agents_socket)
        address = await agent.address()
        costs = []
        for _ in range(RESTARTS):
            # HAProxy 2.8 and 3.0 have many connections at the beginning only.
            haproxy = start_haproxy(address, spoe=PID, web=SHOW_PID, threads=threads)
            async with haproxy.load(CLIENTS, path) as load:
                await at_work(agent, load)
                new = start_agent(socket=agents_socket)
                await new.address()
                lost, connections = await stop(agent, signal.SIGTERM, load, figures)
            await haproxy.kill()
            figures.append(f"{load.requests} requests")
            assert connections >= CLIENTS / 4
            assert load.failed == lost
            costs.append(lost)
            agent = new

    assert max(costs) <= MOST_LOST, costs


@bounded
async def test_one_agent_after_the_other(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]
) -> None:
    """Of two agents that HAProxy knows, as the README has it, the busier one is restarted, and then the one that is
    busier now. That costs a request now and then, though HAProxy goes on trying to connect to the one that stopped.
    """
    agents = [start_agent("--listen=tcp:0:interface=127.0.0.1") for _ in range(2)]
    addresses = [await agent.address() for agent in agents]
    servers = {f"agent{i}": address for i, address in enumerate(addresses)}
    costs = []
    for _ in range(RESTARTS // 2):
        haproxy = start_haproxy(servers, backend=several_agents(branch), spoe=PID, web=SHOW_PID)
        async with haproxy.load(CLIENTS, *PATHS) as load:
            for _ in range(2):
                # HAProxy <= 3.0 may give all the work to either.
                before = load.answers.copy()
                await load.wait_for_more(SOME)
                done = load.answers - before
                i = max(range(2), key=lambda i: done[agents[i].pid])
                lost, _ = await stop(agents[i], signal.SIGTERM, load, figures)
                costs.append(lost)
                await haproxy.says(f"Server agents/agent{i} is DOWN")
                host, _, port = addresses[i].rpartition(":")
                agents[i] = start_agent(f"--listen=tcp:{port}:interface={host}")
                await haproxy.says(f"Server agents/agent{i} is UP")
        await haproxy.kill()
        figures.append(f"{load.requests} requests")
        assert load.failed == sum(costs[-2:])

    assert max(costs) <= MOST_LOST, costs


@bounded
async def test_killed_agents(start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """An agent that is killed costs what was in flight, on each connection, and nothing after that."""
    with listening_socket() as agents_socket:
        agent = start_agent(socket=agents_socket)
        haproxy = start_haproxy(await agent.address(), spoe=PID, web=SHOW_PID)
        async with haproxy.load(CLIENTS, *PATHS) as load:
            for _ in range(RESTARTS):
                await at_work(agent, load)
                new = start_agent(socket=agents_socket)
                await new.address()
                agent.signal(signal.SIGSTOP)
                await all_in_flight(haproxy, load)
                lost, _ = await stop(agent, signal.SIGKILL, load, figures)
                # As many as there are clients, and so at least one on each connection that is busy.
                assert lost >= CLIENTS
                agent = new
            failed = load.failed
            await load.wait_for_more(SOME)

    assert failed == load.failed

"""Restarts of agents while clients send requests: how many requests fail."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.programs import STOPPED

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import AgentProcess, HAProxy, Load, bounded, listening_socket, several_agents, shown
from .test_several_agents import CLOSED, until_answering

#: These tests are long: agents start and end under load, several times in each test.
pytestmark = pytest.mark.soak

#: The number of clients. Each sends its next request as soon as it gets a response. HAProxy, too, has up to 20 NOTIFYs
#: in flight on one connection.
CLIENTS = 20

#: The number of requests between two steps of a test.
REQUESTS_PER_STEP = 200

#: The number of restarts in each test.
RESTARTS = 4

#: The handler for ``/now`` answers at once, the handler for ``/later`` after 20 ms.
PATHS = ["/now", "/later"]

#: The largest number of requests that may fail when an agent drains and stops. A NOTIFY fails if it crosses the agent's
#: AGENT-DISCONNECT, at the worst on several connections. Of 872 restarts, one lost 2 requests and the others lost none.
#: A killed agent loses CLIENTS requests.
MAX_LOST = CLIENTS // 4

PID = """\
    messages pid-now pid-later

spoe-message pid-now
    event on-frontend-http-request if { path /now }

spoe-message pid-later
    event on-frontend-http-request if { path /later }
"""

NEVER = """\
    messages never

spoe-message never
    event on-frontend-http-request
"""

#: The path of a request for which HAProxy sends no NOTIFY.
WITHOUT_AGENT = "/without-agent"

SHOW_PID = shown("txn.spoa.pid")


async def until_all_in_flight(haproxy: HAProxy, load: Load) -> None:
    """Wait until all requests of the clients are in flight to the agent, which is stopped with SIGSTOP."""
    requests = -1
    while requests != load.requests:
        requests = load.requests
        # HAProxy handles the first of these requests after the clients' earlier ones. The second request gives the
        # responses to the earlier ones time to arrive and to be counted.
        for _ in range(2):
            assert (await haproxy.get(WITHOUT_AGENT)).error is None


async def busiest(load: Load, agents: Sequence[AgentProcess]) -> int:
    """Return the index of the agent that answers most of the next requests.

    HAProxy <= 3.0 may send nearly all NOTIFYs to one agent.
    """
    before = load.answers.copy()
    await load.wait_for_more(REQUESTS_PER_STEP)
    answers = load.answers - before
    return max(range(len(agents)), key=lambda i: answers[agents[i].pid])


async def stop(agent: AgentProcess, number: signal.Signals, load: Load, figures: list[str]) -> tuple[int, int]:
    """Stop a busy agent with signal ``number``, and wait for ``REQUESTS_PER_STEP`` more requests.

    Return the number of requests that failed since the signal, and the number of connections that the agent had.
    """
    failed, failures, connections = load.failed, load.failures.copy(), agent.connections
    began = reactor.seconds()
    agent.signal(number)
    status = await agent.ended()
    took = reactor.seconds() - began
    assert status in (STOPPED if number is signal.SIGTERM else (-number,))
    await load.wait_for_more(REQUESTS_PER_STEP)
    lost = load.failed - failed
    why = dict(load.failures - failures)
    figures.append(f"{number.name}: {lost} lost {why}, {connections} connections, ended after {took:.2f} s")
    return lost, connections


async def restart_busier(
    haproxy: HAProxy, load: Load, agents: list[AgentProcess], start: Callable[[int], AgentProcess], figures: list[str]
) -> int:
    """Restart the busier of ``agents``, and return the number of requests that failed.

    :param agents: the agents that HAProxy knows as agent0 and agent1. The new agent takes the place of the old one.
    :param start: starts the agent of a number again, on its address.
    """
    i = await busiest(load, agents)
    lost, _ = await stop(agents[i], signal.SIGTERM, load, figures)
    await haproxy.says(f"Server agents/agent{i} is DOWN")
    agents[i] = start(i)
    await haproxy.says(f"Server agents/agent{i} is UP")
    return lost


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("path", PATHS)
@bounded
async def test_overlapping_agents(
    start_agent: StartAgent, start_haproxy: StartHAProxy, path: str, threads: int, figures: list[str]
) -> None:
    """A restart rarely loses a request if the new agent listens on the same socket before the old one is stopped.

    systemd can hold the socket for both agents.
    """
    with listening_socket() as agents_socket:
        agent = start_agent(socket=agents_socket)
        address = await agent.address()
        costs = []
        for _ in range(RESTARTS):
            # Start a new HAProxy each time: 2.8 and 3.0 have many connections only at the beginning.
            haproxy = start_haproxy(address, spoe=PID, web=SHOW_PID, threads=threads)
            async with haproxy.load(CLIENTS, path) as load:
                await until_answering(agent, load)
                new = start_agent(socket=agents_socket)
                await new.address()
                lost, connections = await stop(agent, signal.SIGTERM, load, figures)
            await haproxy.kill()
            figures.append(f"{load.requests} requests")
            assert connections >= CLIENTS / 4
            assert load.failed == lost
            costs.append(lost)
            agent = new

    assert max(costs) <= MAX_LOST, costs


@bounded
async def test_one_agent_after_the_other(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]
) -> None:
    """HAProxy has two agents, as in docs/howto/several_agents.rst. A restart of the busier one rarely loses a request.

    HAProxy still tries to connect to the stopped agent until its check has failed, and redispatches those requests.
    """
    agents = [start_agent("--listen=tcp:0:interface=127.0.0.1") for _ in range(2)]
    addresses = [await agent.address() for agent in agents]
    servers = {f"agent{i}": address for i, address in enumerate(addresses)}

    def start(i: int) -> AgentProcess:
        host, _, port = addresses[i].rpartition(":")
        return start_agent(f"--listen=tcp:{port}:interface={host}")

    costs = []
    for _ in range(RESTARTS // 2):
        haproxy = start_haproxy(servers, backend=several_agents(branch), spoe=PID, web=SHOW_PID)
        async with haproxy.load(CLIENTS, *PATHS) as load:
            for _ in range(2):
                costs.append(await restart_busier(haproxy, load, agents, start, figures))
        await haproxy.kill()
        figures.append(f"{load.requests} requests")
        assert load.failed == sum(costs[-2:])

    assert max(costs) <= MAX_LOST, costs


@pytest.mark.parametrize("fall", [2, 8])
@bounded
async def test_slow_handlers(branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, fall: int) -> None:
    """An agent that stops answers requests whose handlers take two seconds, if HAProxy does not close the connections.

    HAProxy <= 3.0 closes them when it marks the agent DOWN. The agent's port is closed, so the checks fail, one each
    half second. In the backend of that page, two failed checks suffice.
    """
    agents = [start_agent("--listen=tcp:0:interface=127.0.0.1", "--handler-timeout=2") for _ in range(2)]
    servers = {f"agent{i}": await agent.address() for i, agent in enumerate(agents)}
    backend = "option log-health-checks\n    " + several_agents(branch).replace("fall 2", f"fall {fall}")
    haproxy = start_haproxy(servers, backend=backend, spoe=NEVER, web=SHOW_PID)
    for name in servers:
        # Until the first check has passed, a single failed check marks the agent DOWN.
        await haproxy.said(f"Health check for server agents/{name} succeeded")
    requests = [Deferred.fromCoroutine(haproxy.get()) for _ in range(CLIENTS)]

    def pending(agent: AgentProcess) -> int:
        return agent.output.count("never: pending")

    while sum(map(pending, agents)) < CLIENTS:
        await deferLater(reactor, 0.01)
    agent = max(agents, key=pending)
    agent.signal(signal.SIGTERM)
    errors = [response.error for response in await gatherResults(requests, consumeErrors=True)]

    failed = pending(agent) if fall == 2 and not branch.rewritten else 0
    assert errors.count(CLOSED) == failed
    assert errors.count(None) == CLIENTS - failed
    assert await agent.ended() in STOPPED


@bounded
async def test_killed_agents(start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """When an agent is killed, the requests in flight on its connections fail, and no later request fails."""
    with listening_socket() as agents_socket:
        agent = start_agent(socket=agents_socket)
        haproxy = start_haproxy(await agent.address(), spoe=PID, web=SHOW_PID)
        async with haproxy.load(CLIENTS, *PATHS) as load:
            for _ in range(RESTARTS):
                await until_answering(agent, load)
                new = start_agent(socket=agents_socket)
                await new.address()
                agent.signal(signal.SIGSTOP)
                await until_all_in_flight(haproxy, load)
                lost, _ = await stop(agent, signal.SIGKILL, load, figures)
                # Each client has one request in flight, so each busy connection loses at least one.
                assert lost >= CLIENTS
                agent = new
            failed = load.failed
            await load.wait_for_more(REQUESTS_PER_STEP)

    assert failed == load.failed

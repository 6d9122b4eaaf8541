"""HAProxy with several agents, of which one starts late, is killed, or is frozen with SIGSTOP."""

from __future__ import annotations

import signal

import pytest

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import AgentProcess, Load, bound_socket, bounded, several_agents, shown

#: The number of clients. Each sends its next request as soon as it gets a response.
CLIENTS = 20

#: The number of requests between two steps of a test.
REQUESTS_PER_STEP = 200

#: How long HAProxy waits for an ACK: longer than a handler takes on a slow machine.
PROCESSING = "1s"

PID = f"""\
    messages pid-later
    timeout processing {PROCESSING}

spoe-message pid-later
    event on-frontend-http-request
"""

SHOW_PID = shown("txn.spoa.pid")

#: ``timeout check`` is longer than ``timeout processing``. So requests that wait for a frozen agent time out before the
#: agent is marked DOWN.
BACKEND = """\
balance roundrobin
    option spop-check
    option redispatch 1
    timeout connect 100ms
    timeout check 2s"""

#: HAProxy <= 3.0 keeps using its connections to a server that is DOWN, unless ``shutdown-sessions`` closes them.
SERVER = "check inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions"

#: The error that ``option set-on-error`` sets when ``timeout processing`` is over.
TIMEOUT = "1"

#: The error that ``option set-on-error`` sets when the connection to the agent has ended.
CLOSED = "257"


async def until_answering(agent: AgentProcess, load: Load) -> None:
    """Wait until ``agent`` has answered ``CLIENTS`` more requests."""
    target = load.answers[agent.pid] + CLIENTS
    await load.until(lambda: load.answers[agent.pid] >= target)


async def check_no_failures(load: Load) -> None:
    """Check that of the next requests only those that are in flight now fail, at most."""
    await load.wait_for_in_flight()
    failures = load.failures.copy()
    await load.wait_for_more(REQUESTS_PER_STEP)
    assert load.failures == failures


@pytest.mark.soak
@bounded
async def test_late_and_killed(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]
) -> None:
    """No request fails because of an agent that is not yet started or was killed, once HAProxy has marked it DOWN.

    When an agent is killed, only the requests in flight to it fail. When it is UP again, HAProxy >= 3.1 sends it
    NOTIFYs at once. HAProxy <= 3.0 keeps its connections, and sends it NOTIFYs when it opens new ones.
    """
    # If HAProxy <= 3.0 has no connection and opens one to an agent just before it marks that as DOWN, it may open no
    # other for a while, and all requests run into the timeout. A capture showed that the other agent was idle.
    lost = {CLOSED} if branch.rewritten else {CLOSED, TIMEOUT}
    with bound_socket() as late_socket:
        host, port = late_socket.getsockname()
        first = start_agent("--listen=tcp:0:interface=127.0.0.1")
        address = await first.address()
        haproxy = start_haproxy(
            {"first": f"{address} {SERVER}", "late": f"{host}:{port} {SERVER}"},
            backend=BACKEND,
            spoe=PID,
            web=SHOW_PID,
        )
        async with haproxy.load(CLIENTS, "/") as load:
            await haproxy.says("Server agents/late is DOWN")
            await check_no_failures(load)
            figures.append(f"late: {dict(load.failures)}")
            assert set(load.failures) <= lost
            late_socket.listen(128)
            late = start_agent(socket=late_socket)
            # Close this process's copy: when the agent is killed, the kernel must refuse connections to its port.
            late_socket.close()
            await haproxy.says("Server agents/late is UP")
            if branch.rewritten:
                await until_answering(late, load)
            await check_no_failures(load)

            await until_answering(first, load)
            first.signal(signal.SIGKILL)
            await haproxy.says("Server agents/first is DOWN")
            await until_answering(late, load)
            await check_no_failures(load)
            figures.append(f"killed: {dict(load.failures)}")
            # There may be no failures, if HAProxy had no request in flight to it.
            assert set(load.failures) <= lost

            back = start_agent(f"--listen=tcp:{address.rpartition(':')[2]}:interface=127.0.0.1")
            await haproxy.says("Server agents/first is UP")
            if branch.rewritten:
                await until_answering(back, load)
            await check_no_failures(load)
            late.signal(signal.SIGKILL)
            await until_answering(back, load)
            await haproxy.says("Server agents/late is DOWN")
            await check_no_failures(load)
            figures.append(f"and the other: {dict(load.failures)}; {load.requests} requests")
            assert set(load.failures) <= lost


@pytest.mark.soak
@bounded
async def test_frozen(branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """Requests to a frozen agent fail with a timeout until HAProxy has marked it DOWN. After that no request fails.

    When the agent continues, HAProxy >= 3.1 sends it NOTIFYs again at once. HAProxy <= 3.0 does so when it opens new
    connections.
    """
    agents = {f"agent{i}": start_agent("--listen=tcp:0:interface=127.0.0.1") for i in range(3)}
    servers = {name: f"{await agent.address()} {SERVER}" for name, agent in agents.items()}
    haproxy = start_haproxy(servers, backend=BACKEND, spoe=PID, web=SHOW_PID)
    async with haproxy.load(CLIENTS, "/") as load:
        await load.wait_for_more(REQUESTS_PER_STEP)
        before = load.answers.copy()
        await load.wait_for_more(REQUESTS_PER_STEP)
        assert load.failures == {}
        name = max(agents, key=lambda name: load.answers[agents[name].pid] - before[agents[name].pid])
        agents[name].signal(signal.SIGSTOP)
        await haproxy.says(f"Server agents/{name} is DOWN")
        await check_no_failures(load)
        figures.append(f"frozen: {dict(load.failures)}; {load.requests} requests")
        assert load.failures[TIMEOUT]
        assert set(load.failures) <= {TIMEOUT, CLOSED}

        agents[name].signal(signal.SIGCONT)
        await haproxy.says(f"Server agents/{name} is UP")
        frozen = agents.pop(name)
        if branch.rewritten:
            await until_answering(frozen, load)
        await check_no_failures(load)
        for name, other in agents.items():
            other.signal(signal.SIGKILL)
            await haproxy.says(f"Server agents/{name} is DOWN")
        await until_answering(frozen, load)
        await check_no_failures(load)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.soak)])
@bounded
async def test_spread(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str], count: int
) -> None:
    """With the backend of docs/howto/several_agents.rst, all agents answer about the same number of requests.

    HAProxy <= 3.0 needs ``no option pipelining`` for this: with pipelining, one agent may get nearly all requests.
    """
    agents = [start_agent("--listen=tcp:0:interface=127.0.0.1") for _ in range(count)]
    haproxy = start_haproxy(
        {f"agent{i}": await agent.address() for i, agent in enumerate(agents)},
        backend=several_agents(branch),
        spoe=PID if branch.rewritten else f"    no option pipelining\n{PID}",
        web=SHOW_PID,
    )
    async with haproxy.load(CLIENTS, "/") as load:
        await load.wait_for_more(3 * REQUESTS_PER_STEP)

    shares = [load.answers[agent.pid] / load.requests for agent in agents]
    figures.append(f"{shares} of {load.requests} requests")
    assert load.failures == {}
    # With HAProxy <= 3.0 the faster agent gets more requests, and on a busy machine the speed of the agents varies.
    assert min(shares) >= (0.9 if branch.rewritten else 0.2) / count

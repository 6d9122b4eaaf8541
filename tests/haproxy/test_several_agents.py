"""HAProxy has several agents, and one of them is killed, frozen, or late."""

from __future__ import annotations

import signal

import pytest

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import AgentProcess, Load, bound_socket, bounded, several_agents, shown

#: How many clients request as fast as they are answered.
CLIENTS = 20

#: How many requests come between the steps of a test.
SOME = 200

#: What the SPOE itself waits for an answer: longer than a handler takes on a slow machine.
PROCESSING = "1s"

PID = f"""\
    messages pid-later
    timeout processing {PROCESSING}

spoe-message pid-later
    event on-frontend-http-request
"""

SHOW_PID = shown("txn.spoa.pid")

#: A check that is not answered in time has failed: later than the requests that wait for the same agent.
BACKEND = """\
balance roundrobin
    option spop-check
    option redispatch 1
    timeout connect 100ms
    timeout check 2s"""

#: HAProxy <= 3.0 goes on using connections to an agent that is DOWN, unless it is told to shut them down.
SERVER = "check inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions"

#: With ``option set-on-error``: the agent did not answer in time.
TIMEOUT = "1"

#: The agent's connection has ended.
CLOSED = "257"


async def answers(agent: AgentProcess, load: Load) -> None:
    """Wait until ``agent`` has answered a while."""
    enough = load.answers[agent.pid] + CLIENTS
    await load.until(lambda: load.answers[agent.pid] >= enough)


async def nothing_fails(load: Load) -> None:
    """Wait until some requests were answered, none of which may fail but those under way at first."""
    await load.wait_for_more(2 * CLIENTS)
    failures = load.failures.copy()
    await load.wait_for_more(SOME)
    assert load.failures == failures


@pytest.mark.soak
@bounded
async def test_late_and_killed(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]
) -> None:
    """An agent that is not there yet costs nothing once HAProxy's check has noticed, and one that is killed nothing
    after what was in flight. When it is back, HAProxy >= 3.1 gives it work at once, HAProxy <= 3.0 when that next
    connects.
    """
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
            await nothing_fails(load)
            figures.append(f"late: {dict(load.failures)}")
            assert set(load.failures) <= {CLOSED}
            late_socket.listen(128)
            late = start_agent(socket=late_socket)
            # When this agent is killed, nobody may hold its socket open.
            late_socket.close()
            await haproxy.says("Server agents/late is UP")
            if branch.rewritten:
                await answers(late, load)
            await nothing_fails(load)

            await answers(first, load)
            first.signal(signal.SIGKILL)
            await haproxy.says("Server agents/first is DOWN")
            await answers(late, load)
            await nothing_fails(load)
            figures.append(f"killed: {dict(load.failures)}")
            # None, if HAProxy had just nothing in flight to it.
            assert set(load.failures) <= {CLOSED}

            back = start_agent(f"--listen=tcp:{address.rpartition(':')[2]}:interface=127.0.0.1")
            await haproxy.says("Server agents/first is UP")
            if branch.rewritten:
                await answers(back, load)
            await nothing_fails(load)
            late.signal(signal.SIGKILL)
            await answers(back, load)
            await haproxy.says("Server agents/late is DOWN")
            await nothing_fails(load)
            figures.append(f"and the other: {dict(load.failures)}; {load.requests} requests")
            # HAProxy 2.6 forgets some that it had not sent yet, when no connection is left.
            lost = {CLOSED, TIMEOUT} if branch.version == (2, 6) else {CLOSED}
            assert set(load.failures) <= lost


@pytest.mark.soak
@bounded
async def test_frozen(branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """An agent that stands still fails requests with a timeout until HAProxy's check has noticed, and those that
    wait for it then; after that none. When it goes on it gets work again, from HAProxy <= 3.0 when that next connects.
    """
    agents = {f"agent{i}": start_agent("--listen=tcp:0:interface=127.0.0.1") for i in range(3)}
    servers = {name: f"{await agent.address()} {SERVER}" for name, agent in agents.items()}
    haproxy = start_haproxy(servers, backend=BACKEND, spoe=PID, web=SHOW_PID)
    async with haproxy.load(CLIENTS, "/") as load:
        await load.wait_for_more(SOME)
        before = load.answers.copy()
        await load.wait_for_more(SOME)
        assert load.failures == {}
        name = max(agents, key=lambda name: load.answers[agents[name].pid] - before[agents[name].pid])
        agents[name].signal(signal.SIGSTOP)
        await haproxy.says(f"Server agents/{name} is DOWN")
        await nothing_fails(load)
        figures.append(f"frozen: {dict(load.failures)}; {load.requests} requests")
        assert load.failures[TIMEOUT]
        assert set(load.failures) <= {TIMEOUT, CLOSED}

        agents[name].signal(signal.SIGCONT)
        await haproxy.says(f"Server agents/{name} is UP")
        frozen = agents.pop(name)
        if branch.rewritten:
            await answers(frozen, load)
        await nothing_fails(load)
        for name, other in agents.items():
            other.signal(signal.SIGKILL)
            await haproxy.says(f"Server agents/{name} is DOWN")
        await answers(frozen, load)
        await nothing_fails(load)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.soak)])
@bounded
async def test_spread(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str], count: int
) -> None:
    """Behind the README's backend the agents answer about as many requests each: those of HAProxy <= 3.0 if it is told
    not to pipeline.
    """
    agents = [start_agent("--listen=tcp:0:interface=127.0.0.1") for _ in range(count)]
    haproxy = start_haproxy(
        {f"agent{i}": await agent.address() for i, agent in enumerate(agents)},
        backend=several_agents(branch),
        spoe=PID if branch.rewritten else f"    no option pipelining\n{PID}",
        web=SHOW_PID,
    )
    async with haproxy.load(CLIENTS, "/") as load:
        await load.wait_for_more(3 * SOME)

    shares = [load.answers[agent.pid] / load.requests for agent in agents]
    figures.append(f"{shares} of {load.requests} requests")
    assert load.failures == {}
    # HAProxy <= 3.0 shares by how soon the agents answer, which the rest of a busy machine decides too.
    assert min(shares) >= (0.9 if branch.rewritten else 0.2) / count

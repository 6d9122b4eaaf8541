"""HAProxy and agents on hosts of their own, as at most sites: an agent's kernel cannot tell what HAProxy has read."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.certificates import self_signed
from tests.programs import TWIST

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import AgentProcess, HAProxy, Response, bounded, several_agents, shown
from .hosts import Hosts
from .test_restarts import MAX_LOST, NEVER, PATHS, PID, SHOW_PID, busiest, restart_busier
from .test_several_agents import CLOSED, REQUESTS_PER_STEP, TIMEOUT, check_no_failures, until_answering
from .test_wedge import LONG_AND_PID, LONG_LOAD, freeze_repeatedly, soak

#: The number of clients. Each sends its next request as soon as it gets a response.
CLIENTS = 20

#: The number of requests with one size of answers, in the default run and in the run of all tests.
FEW_REQUESTS, REQUESTS = 300, 2000

#: The sizes of answers in bytes. One answer of the largest size nearly fills HAProxy's buffer.
SIZES = [100, 900, 1500, 4000, 8000, 12000, 16250]

#: The messages of :func:`load`. ``timeout processing`` is as long as at many sites.
LOAD = "    timeout processing 2s\n" + LONG_AND_PID

#: HAProxy denies a request whose answer has not the size that the client requested.
SHOW_LOAD = f"""\
    http-request set-var(txn.length) var(txn.spoa.value),length
    http-request deny unless {{ url_param(size),sub(txn.length) -m int eq 0 }}
{shown("txn.spoa.pid")}"""

#: The kinds of handlers: a function, a Deferred, a coroutine, one that raises, one that is late, and one that says what
#: the kernel tells the agent.
KINDS = ("score", "pid-later", "coroutine", "raise", "late", "receipts")

HANDLERS = f"    messages {' '.join(KINDS)}\n" + "".join(
    f"\nspoe-message {message}\n    event on-frontend-http-request\n" for message in KINDS
)

SHOW_HANDLERS = shown(*[f"txn.spoa.{name}" for name in ("score", "pid", "coroutine", "raised", "late", "receipts")])


def check_handlers(response: Response, pid: int) -> None:
    """Check that ``response`` has the variables that the handlers set, by their results or by their ``on_error``."""
    assert (response.status, response.error) == (200, None)
    assert (response["txn.spoa.score"], response["txn.spoa.pid"], response["txn.spoa.coroutine"]) == (
        "42",
        f"{pid}",
        "1",
    )
    assert (response["txn.spoa.raised"], response["txn.spoa.late"]) == ("1", "1")


async def load(haproxy: HAProxy, size: int, requests: int, figures: list[str]) -> None:
    """Send requests by :data:`CLIENTS` clients, and check that each of them gets its answer of ``size`` bytes."""
    began = reactor.seconds()
    async with haproxy.load(CLIENTS, f"/?size={size}") as load:
        await load.wait_for_more(requests)
        rate = load.requests / (reactor.seconds() - began)
    figures.append(f"{size} bytes: {load.requests} requests, {rate:.0f} in a second, {dict(load.failures)} failed")
    assert load.failures == {}


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "together"])
@bounded
async def test_handlers(start_agent: StartAgent, start_haproxy: StartHAProxy, hosts: Hosts, apart: bool) -> None:
    """Each kind of handler answers. The kernel tells the agent what HAProxy has read on the same machine only."""
    if apart:
        agent = start_agent(f"--listen={hosts.agents[0].endpoint()}", host=hosts.agents[0])
        haproxy = start_haproxy(await agent.address(), spoe=HANDLERS, web=SHOW_HANDLERS, host=hosts.haproxy)
    else:
        agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
        haproxy = start_haproxy(await agent.address(), spoe=HANDLERS, web=SHOW_HANDLERS)

    responses = [await haproxy.get() for _ in range(3)]

    for response in responses:
        check_handlers(response, agent.pid)
    # A connection whose last bytes are still on their way says MISSING in both cases.
    receipts = {word for response in responses for word in (response["txn.spoa.receipts"] or "").split()} - {"MISSING"}
    assert receipts == {"UNKNOWN" if apart else "HANDED_OUT"}


@pytest.mark.parametrize(
    ("size", "requests", "pipelining"),
    [
        (900, FEW_REQUESTS, True),
        (16250, FEW_REQUESTS, True),
        *[soak(size, REQUESTS, pipelining) for size in SIZES for pipelining in (True, False)],
    ],
)
@bounded
async def test_sizes(
    start_agent: StartAgent,
    start_haproxy: StartHAProxy,
    hosts: Hosts,
    figures: list[str],
    size: int,
    requests: int,
    pipelining: bool,
) -> None:
    """Each request gets its answer from the first one on, also if one answer nearly fills HAProxy's buffer.

    :param pipelining: false for a HAProxy that has ``no option pipelining``.
    """
    agent = start_agent(f"--listen={hosts.agents[0].endpoint()}", host=hosts.agents[0])
    spoe = LOAD if pipelining else "    no option pipelining\n" + LOAD
    haproxy = start_haproxy(await agent.address(), spoe=spoe, web=SHOW_LOAD, host=hosts.haproxy)
    await load(haproxy, size, requests, figures)


@pytest.mark.soak
@pytest.mark.parametrize("threads", [1, 2])
@bounded
async def test_sizes_that_change(
    start_agent: StartAgent, start_haproxy: StartHAProxy, hosts: Hosts, figures: list[str], threads: int
) -> None:
    """When the answers become longer, and short again, each of the 3,000 requests gets its answer."""
    agent = start_agent(f"--listen={hosts.agents[0].endpoint()}", host=hosts.agents[0])
    haproxy = start_haproxy(await agent.address(), spoe=LOAD, web=SHOW_LOAD, host=hosts.haproxy, threads=threads)
    for size in (100, 900, 1500, 4000, 16250, 100):
        await load(haproxy, size, 500, figures)


@pytest.mark.parametrize("size", [900, soak(16250)])
@bounded
async def test_tls(
    start_agent: StartAgent,
    start_haproxy: StartHAProxy,
    hosts: Hosts,
    tmp_path: Path,
    figures: list[str],
    size: int,
) -> None:
    """With TLS, too, each request gets its answer."""
    certificate, key = self_signed(tmp_path)
    endpoint = f"ssl:0:interface={hosts.agents[0].address}:privateKey={key}:certKey={certificate}"
    agent = start_agent(f"--listen={endpoint}", host=hosts.agents[0])
    haproxy = start_haproxy(
        f"{await agent.address()} ssl verify none",
        spoe=LOAD,
        web=SHOW_LOAD,
        host=hosts.haproxy,
    )
    await load(haproxy, size, FEW_REQUESTS, figures)


@bounded
async def test_haproxy_is_frozen(
    start_agent: StartAgent, start_haproxy: StartHAProxy, hosts: Hosts, figures: list[str]
) -> None:
    """While HAProxy is frozen, the agent sends no more than HAProxy's buffer holds, so no request fails."""
    agent = start_agent(f"--listen={hosts.agents[0].endpoint()}", host=hosts.agents[0])
    haproxy = start_haproxy(await agent.address(), spoe=LONG_LOAD, web=SHOW_PID, host=hosts.haproxy)
    await freeze_repeatedly(haproxy, figures)


async def check_restarts(
    start_agent: StartAgent,
    start_haproxy: StartHAProxy,
    hosts: Hosts,
    backend: str,
    max_lost: int,
    figures: list[str],
) -> None:
    """Restart the busier of two agents, twice. Check that each restart loses at most ``max_lost`` requests.

    :param backend: options of the backend of the agents.
    """
    agents = [start_agent(f"--listen={host.endpoint()}", host=host) for host in hosts.agents]
    addresses = [await agent.address() for agent in agents]

    def start(i: int) -> AgentProcess:
        port = addresses[i].rpartition(":")[2]
        return start_agent(f"--listen={hosts.agents[i].endpoint(port)}", host=hosts.agents[i])

    haproxy = start_haproxy(
        {f"agent{i}": address for i, address in enumerate(addresses)},
        backend=backend,
        spoe=PID,
        web=SHOW_PID,
        host=hosts.haproxy,
    )
    async with haproxy.load(CLIENTS, *PATHS) as load:
        costs = [await restart_busier(haproxy, load, agents, start, figures) for _ in range(2)]
    figures.append(f"{load.requests} requests")

    assert load.failed == sum(costs)
    assert max(costs) <= max_lost, costs


@pytest.mark.soak
@bounded
async def test_restarts(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, hosts: Hosts, figures: list[str]
) -> None:
    """A restart of one of two agents rarely loses a request. It takes seconds: HAProxy has to notice each restart."""
    await check_restarts(start_agent, start_haproxy, hosts, several_agents(branch), MAX_LOST, figures)


@pytest.mark.soak
@bounded
async def test_agents_host_fails(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, hosts: Hosts, figures: list[str]
) -> None:
    """When an agent's host fails, requests time out until HAProxy has marked the agent DOWN. No later request fails.

    It takes seconds until HAProxy has marked the agent DOWN, and UP again when the host is back.
    """
    agents = [start_agent(f"--listen={host.endpoint()}", host=host) for host in hosts.agents]
    haproxy = start_haproxy(
        {f"agent{i}": await agent.address() for i, agent in enumerate(agents)},
        backend=several_agents(branch),
        spoe="    timeout processing 1s\n" + PID,
        web=SHOW_PID,
        host=hosts.haproxy,
    )
    async with haproxy.load(CLIENTS, *PATHS) as load:
        await load.wait_for_more(REQUESTS_PER_STEP)
        i = await busiest(load, agents)
        assert load.failures == {}
        hosts.agents[i].fail()
        await haproxy.says(f"Server agents/agent{i} is DOWN")
        await until_answering(agents[1 - i], load)
        await check_no_failures(load)
        figures.append(f"without the host: {dict(load.failures)}; {load.requests} requests")
        # With HAProxy <= 3.0, at times all requests are on the connections to the other agent, and none fails. When it
        # marks the agent DOWN, it closes the connections to it: some of the requests on them fail before the timeout.
        assert load.failed or not branch.rewritten
        assert set(load.failures) <= ({TIMEOUT} if branch.rewritten else {TIMEOUT, CLOSED})

        hosts.agents[i].recover()
        await haproxy.says(f"Server agents/agent{i} is UP")
        if branch.rewritten:
            await until_answering(agents[i], load)
        await check_no_failures(load)
        hosts.agents[1 - i].fail()
        await haproxy.says(f"Server agents/agent{1 - i} is DOWN")
        await until_answering(agents[i], load)
        await check_no_failures(load)
        figures.append(f"without the other: {dict(load.failures)}; {load.requests} requests")


@pytest.mark.soak
@pytest.mark.parametrize("handler_timeout", [30, 1], ids=["nothing-sent", "unacknowledged"])
@bounded
async def test_haproxys_host_fails(
    start_agent: StartAgent, start_haproxy: StartHAProxy, hosts: Hosts, handler_timeout: int
) -> None:
    """When HAProxy's host fails, the agent's kernel ends the connection, also if it has sent an ACK in vain.

    It takes seconds even for this agent, which has the shortest timeouts that the kernel allows.
    """
    host = hosts.agents[0]
    agent = start_agent(
        "--debug",
        f"--handler-timeout={handler_timeout}",
        f"--listen={host.endpoint()}",
        host=host,
        handlers="impatient_handlers.py",
        program=[*TWIST, "--log-level=debug"],
    )
    spoe = "    timeout processing 5s\n" + NEVER
    haproxy = start_haproxy(await agent.address(), spoe=spoe, web=SHOW_PID, host=hosts.haproxy)
    request = Deferred.fromCoroutine(haproxy.get())
    await agent.said("never: pending")
    hosts.haproxy.fail()
    await agent.said(r"10\.0\.1\.1:\d+: ended: ")
    assert agent.connections == 0
    assert (await request).error == TIMEOUT

"""The same faults with a real HAProxy of each branch: it is killed, and it stays while the agent has its troubles."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater

from tests.conformance.rawspop import message, notify, text
from tests.haproxy.harness import HAProxy, bounded, shown

from .agent import GROWTH, SLACK, Agent
from .conftest import Launch, StartHAProxy

#: More than HAProxy sends over one connection at a time, which is 20.
MANY = 30

ECHO_AND_HOLD = """\
    messages echo hold

spoe-message echo
    args x=req.hdr(x)
    event on-frontend-http-request if { req.hdr(x) -m found }

spoe-message hold
    args x=req.hdr(hold)
    event on-frontend-http-request if { req.hdr(hold) -m found }
"""

WEB = shown("txn.spoa.x")

LONG = """\
    messages long

spoe-message long
    args size=url_param(size)
    event on-frontend-http-request
"""

SHOW_LENGTH = "    http-request return status 200 hdr length %[var(txn.spoa.long),length]\n"

#: How long answers are: HAProxy has many unread, some, or a few.
SIZES = [100, 900, 4000]

#: How many requests a round has, and how many clients send them.
ROUND = 2000
CLIENTS = 20


def start(start_haproxy: StartHAProxy, agent: Agent) -> HAProxy:
    return start_haproxy(agent.addresses[0], spoe=ECHO_AND_HOLD, web=WEB)


async def is_served(haproxy: HAProxy, x: str) -> None:
    response = await haproxy.get(x=x)
    assert (response["txn.spoa.x"], response.error) == (x, None)


@bounded
async def test_haproxy_that_is_killed(launch: Launch, start_haproxy: StartHAProxy) -> None:
    """When HAProxy is killed with many requests in flight, their handlers are cancelled without a word in the log, and
    the next HAProxy is served.
    """
    agent = launch("--handler-timeout=0")
    agent.rest()
    for generation in range(1, 4):
        haproxy = start(start_haproxy, agent)
        await is_served(haproxy, "before")
        requests = [Deferred.fromCoroutine(haproxy.get(hold=str(i))) for i in range(MANY)]
        while agent.counts()[0] < MANY:
            await deferLater(reactor, 0.01)
        haproxy.signal(signal.SIGKILL)
        await haproxy.ended()
        results = await DeferredList(requests, consumeErrors=True)
        assert [success for success, _ in results] == [False] * MANY
        agent.until(lambda generation=generation: agent.counts() == (0, generation * MANY))  # type: ignore[misc]
    await is_served(start(start_haproxy, agent), "after")
    assert agent.most_grown < SLACK
    assert agent.logged() == []


@bounded
async def test_haproxy_of_an_agent_in_trouble(launch: Launch, start_haproxy: StartHAProxy, tmp_path: Path) -> None:
    """A HAProxy whose agent is blocked for a second gets all its answers afterwards; one that cannot connect, because
    the agent has no descriptors left, is served as soon as it has.
    """
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    agent = launch()
    agent.rest()
    haproxy = start(start_haproxy, agent)
    await is_served(haproxy, "before")

    agent.greeted().send(notify(message("block", ("path", text(str(gate))))))
    agent.said("blocking the reactor")
    requests = [Deferred.fromCoroutine(is_served(haproxy, f"blocked {i}")) for i in range(MANY)]
    await deferLater(reactor, 1)
    os.close(os.open(gate, os.O_WRONLY))
    await gatherResults(requests, consumeErrors=True)
    await haproxy.kill()

    recover = agent.exhaust_descriptors()
    refused = agent.output.count("EMFILE recovery: Closed socket")
    another = start(start_haproxy, agent)
    waiting = Deferred.fromCoroutine(another.get(x="without descriptors"))
    while agent.output.count("EMFILE recovery: Closed socket") == refused:
        await deferLater(reactor, 0.01)
    for peer in agent.peers:
        peer.close()
    recover()
    # HAProxy <= 3.0 tries again until its time is up, later ones do not.
    await waiting
    await is_served(another, "after")
    assert agent.most_grown < SLACK
    assert [line for line in agent.logged() if "#info" not in line] == []


@bounded
async def test_requests_leave_nothing(launch: Launch, start_haproxy: StartHAProxy) -> None:
    """Thousands of requests, with answers of all sizes, do not let the agent grow."""
    agent = launch()
    haproxy = start_haproxy(agent.addresses[0], spoe=LONG, web=SHOW_LENGTH)

    async def one_client(number: int) -> None:
        async with haproxy.client() as client:
            for i in range(ROUND // CLIENTS):
                size = SIZES[(number + i) % len(SIZES)]
                response = await client.get(f"/?size={size}")
                assert (response.error, response["length"]) == (None, str(size))

    for number in range(3):
        clients = [Deferred.fromCoroutine(one_client(number)) for number in range(CLIENTS)]
        await gatherResults(clients, consumeErrors=True)
        if number == 0:
            agent.rest()
    assert agent.grown < GROWTH
    assert agent.logged() == []

"""Faults with a real HAProxy of each branch: HAProxy is killed, or the agent is blocked or has no free descriptors."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater

from tests.conformance.rawspop import message, notify, text
from tests.haproxy.harness import SHOW_LENGTH, HAProxy, bounded, shown, sized

from .agent import GROWTH, SLACK, Agent
from .conftest import Launch, StartHAProxy

#: Requests in flight: more than the 20 that HAProxy sends over one connection at a time.
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

#: Bytes of an answer. Of short answers, many fit into one read of HAProxy; of long answers, a few.
SIZES = [100, 900, 4000]

#: Requests of a round, and clients that send them.
ROUND = 2000
CLIENTS = 20


def start(start_haproxy: StartHAProxy, agent: Agent) -> HAProxy:
    return start_haproxy(agent.addresses[0], spoe=ECHO_AND_HOLD, web=WEB)


async def is_served(haproxy: HAProxy, x: str) -> None:
    response = await haproxy.get(x=x)
    assert (response["txn.spoa.x"], response.error) == (x, None)


@bounded
async def test_haproxy_that_is_killed(launch: Launch, start_haproxy: StartHAProxy) -> None:
    """When HAProxy is killed with many requests in flight, the agent cancels their handlers, logs nothing, and serves
    the next HAProxy.
    """
    agent = launch("--handler-timeout=0")
    agent.begin_measuring()
    for generation in range(1, 4):
        haproxy = start(start_haproxy, agent)
        await is_served(haproxy, "before")
        requests = [Deferred.fromCoroutine(haproxy.get(hold=str(i))) for i in range(MANY)]
        while agent.held_and_cancelled()[0] < MANY:
            await deferLater(reactor, 0.01)
        haproxy.signal(signal.SIGKILL)
        await haproxy.ended()
        results = await DeferredList(requests, consumeErrors=True)
        assert [success for success, _ in results] == [False] * MANY
        agent.answer_until(lambda generation=generation: agent.held_and_cancelled() == (0, generation * MANY))  # type: ignore[misc]
    await is_served(start(start_haproxy, agent), "after")
    assert agent.peak_growth < SLACK
    assert agent.logged() == []


@bounded
async def test_haproxy_of_an_agent_in_trouble(launch: Launch, start_haproxy: StartHAProxy, tmp_path: Path) -> None:
    """When the agent is blocked for a second, HAProxy gets all answers afterwards. When the agent has no free
    descriptors, HAProxy cannot connect; it is served when a descriptor is free.
    """
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    agent = launch()
    agent.begin_measuring()
    haproxy = start(start_haproxy, agent)
    await is_served(haproxy, "before")

    agent.connect_with_hello().send(notify(message("block", ("path", text(str(gate))))))
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
    # Its result does not matter: HAProxy <= 3.0 tries again until "timeout processing", HAProxy >= 3.1 does not.
    await waiting
    await is_served(another, "after")
    assert agent.peak_growth < SLACK
    (line,) = [line for line in agent.logged() if "#info" not in line]
    assert "the handler of the message 'block' held the agent up for" in line


@bounded
async def test_requests_leave_nothing(launch: Launch, start_haproxy: StartHAProxy) -> None:
    """The agent does not grow during thousands of requests with answers of several sizes."""
    agent = launch()
    haproxy = start_haproxy(agent.addresses[0], spoe=sized("long"), web=SHOW_LENGTH)

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
            agent.begin_measuring()
    assert agent.growth < GROWTH
    # A HAProxy >= 3.1 gets no pipelining, because answers are long.
    assert [line for line in agent.logged() if "no pipelining" not in line] == []

"""HAProxy's health checks of the agent."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint

from spoa_twisted import Handlers, Message, SPOAFactory, SPOAService

from .branches import Branch
from .conftest import Serve, StartHAProxy
from .harness import HAProxy, bound_socket, bounded, shown

#: Without ``timeout check``, a check must end within ``inter`` (100 ms here), which is too short on a busy machine.
CHECK_TIMEOUT = "timeout check 10s"

SPOE = """\
    messages score

spoe-message score
    event on-frontend-http-request
"""


def start_with_check(start_haproxy: StartHAProxy, server: str, check: str = "option spop-check") -> HAProxy:
    """Start a HAProxy that checks the agent, and that shows the score of each request."""
    backend = f"{check}\n    {CHECK_TIMEOUT}"
    return start_haproxy(server, backend=backend, spoe=SPOE, web=shown("txn.spoa.score"))


@bounded
async def test_health_check(branch: Branch, serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """``option spop-check`` finds an agent that starts later. The check calls no handler and logs nothing.

    As long as the server is DOWN, HAProxy does not wait for an agent: the request continues at once with an error.
    """
    received: list[Message] = []
    handlers = Handlers()

    @handlers.message("score")
    def score(message: Message) -> dict[str, int]:
        received.append(message)
        return {"txn.score": 42}

    with bound_socket() as agents_socket:
        address = f"127.0.0.1:{agents_socket.getsockname()[1]}"
        haproxy = start_with_check(start_haproxy, f"{address} check inter 100ms rise 3 fall 1")
        await haproxy.said("Server agents/agent is DOWN")
        without_agent = await haproxy.get()

        agents_socket.listen()
        serve(handlers, AdoptedStreamServerEndpoint(reactor, agents_socket.detach(), socket.AF_INET))
    await haproxy.said("Server agents/agent is UP")
    assert received == []
    with_agent = await haproxy.get()

    assert (without_agent.status, without_agent["txn.spoa.score"]) == (200, None)
    # HAProxy <= 3.0 sets 2 when no server is up. HAProxy >= 3.1 sets 257, as for a closed connection.
    assert without_agent.error == ("257" if branch.rewritten else "2")
    assert (with_agent.status, with_agent.error, with_agent["txn.spoa.score"]) == (200, None, "42")
    assert len(received) == 1
    assert agent_log == []


@bounded
async def test_the_check_waits_for_startup(branch: Branch, start_haproxy: StartHAProxy, tmp_path: Path) -> None:
    """HAProxy marks the agent UP only when its startup functions are done: before, the agent does not listen."""
    loaded: Deferred[None] = Deferred()
    scores: list[int] = []
    handlers = Handlers({"score": lambda: {"txn.score": scores[0]}})

    @handlers.startup
    async def load() -> None:
        await loaded
        scores.append(42)

    service = SPOAService(SPOAFactory(handlers), f"unix:{tmp_path}/spoa.sock")
    service.startService()
    try:
        haproxy = start_with_check(start_haproxy, f"unix@{tmp_path}/spoa.sock check inter 100ms rise 2 fall 1")
        await haproxy.said("Server agents/agent is DOWN")
        assert (await haproxy.get())["txn.spoa.score"] is None
        loaded.callback(None)
        await haproxy.said("Server agents/agent is UP")
        response = await haproxy.get()
    finally:
        await service.stopService()
    assert (response.error, response["txn.spoa.score"]) == (None, "42")


@pytest.mark.parametrize("check", ["option spop-check", ""], ids=["spop-check", "connect"])
@bounded
async def test_down_and_up_again(start_haproxy: StartHAProxy, tmp_path: Path, agent_log: list[str], check: str) -> None:
    """HAProxy marks the agent UP when it starts, DOWN when it stops, and UP when it starts again. Nothing is logged."""
    handlers = Handlers({"score": lambda: {"txn.score": 42}})
    haproxy = start_with_check(start_haproxy, f"unix@{tmp_path}/spoa.sock check inter 100ms rise 2 fall 1", check)
    states = "(?s).*agents/agent is DOWN"
    for _ in range(2):
        await haproxy.said(states)
        assert (await haproxy.get())["txn.spoa.score"] is None
        service = SPOAService(SPOAFactory(handlers), f"unix:{tmp_path}/spoa.sock")
        service.startService()
        try:
            states += ".*agents/agent is UP"
            await haproxy.said(states)
            response = await haproxy.get()
        finally:
            await service.stopService()
        assert (response.error, response["txn.spoa.score"]) == (None, "42")
        states += ".*agents/agent is DOWN"
    await haproxy.said(states)
    assert agent_log == []

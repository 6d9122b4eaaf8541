"""HAProxy asks whether the agent is alive."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import AdoptedStreamServerEndpoint

from spoa_twisted import Handlers, Message, SPOAFactory, SPOAService

from .branches import Branch
from .conftest import Serve, StartHAProxy
from .harness import bound_socket, bounded, shown

#: Without this a check may take no longer than the interval between two of them, which is too short on a busy machine.
PATIENT = "timeout check 10s"


@bounded
async def test_health_check(branch: Branch, serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """Without an agent requests go on at once with an error; ``option spop-check`` finds the agent when it comes,
    calls no handler and leaves nothing in its log.
    """
    received: list[Message] = []
    handlers = Handlers()

    @handlers.message("score")
    def score(message: Message) -> dict[str, int]:
        received.append(message)
        return {"txn.score": 42}

    with bound_socket() as agents_socket:
        haproxy = start_haproxy(
            f"127.0.0.1:{agents_socket.getsockname()[1]} check inter 100ms rise 3 fall 1",
            backend=f"option spop-check\n    {PATIENT}",
            spoe="""\
    messages score

spoe-message score
    event on-frontend-http-request
""",
            web=shown("txn.spoa.score"),
        )
        await haproxy.said("Server agents/agent is DOWN")
        without_agent = await haproxy.get()

        agents_socket.listen()
        serve(handlers, AdoptedStreamServerEndpoint(reactor, agents_socket.detach(), socket.AF_INET))
    await haproxy.said("Server agents/agent is UP")
    assert received == []
    with_agent = await haproxy.get()

    assert (without_agent.status, without_agent["txn.spoa.score"]) == (200, None)
    # "No server is up" for the old, "connection closed" for the new.
    assert without_agent.error == ("257" if branch.rewritten else "2")
    assert (with_agent.status, with_agent.error, with_agent["txn.spoa.score"]) == (200, None, "42")
    assert len(received) == 1
    assert agent_log == []


@pytest.mark.parametrize("check", ["option spop-check", ""], ids=["spop-check", "connect"])
@bounded
async def test_down_and_up_again(start_haproxy: StartHAProxy, tmp_path: Path, agent_log: list[str], check: str) -> None:
    """The agent is found when it comes, missed when it is stopped, and found when it comes again."""
    handlers = Handlers({"score": lambda: {"txn.score": 42}})
    haproxy = start_haproxy(
        f"unix@{tmp_path}/spoa.sock check inter 100ms rise 2 fall 1",
        backend=f"{check}\n    {PATIENT}",
        spoe="""\
    messages score

spoe-message score
    event on-frontend-http-request
""",
        web=shown("txn.spoa.score"),
    )
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

"""HAProxy or the agent ends while a NOTIFY is pending."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost

from spoa_twisted import Handlers, Variables
from tests.programs import STOPPED

from .conftest import Serve, StartAgent, StartHAProxy
from .harness import bounded, listening_socket, shown

SCORE = """\
    messages score

spoe-message score
    event on-frontend-http-request
"""

SHOW_SCORE = shown("txn.spoa.score")


class Pending:
    """A handler whose first call returns a Deferred that the test fires. All later calls answer at once."""

    def __init__(self) -> None:
        self.called: Deferred[None] = Deferred()
        self.cancelled: Deferred[None] = Deferred()
        self.result: Deferred[Variables] = Deferred(lambda result: self.cancelled.callback(None))

    def __call__(self) -> Deferred[Variables] | Variables:
        if self.called.called:
            return {"txn.score": 2}
        self.called.callback(None)
        return self.result


@bounded
async def test_haproxy_stops_softly(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """After a soft stop (SIGUSR1), HAProxy still gets the pending answer, and the agent logs nothing."""
    score = Pending()
    haproxy = start_haproxy(serve(Handlers({"score": score})), spoe=SCORE, web=SHOW_SCORE)
    request = Deferred.fromCoroutine(haproxy.get())
    await score.called

    haproxy.signal(signal.SIGUSR1)
    await haproxy.said("Proxy web stopped")
    score.result.callback({"txn.score": 1})
    response = await request

    assert (response.status, response.error, response["txn.spoa.score"]) == (200, None, "1")
    assert await haproxy.ended() == 0
    assert agent_log == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@bounded
async def test_haproxy_ends(
    serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str], number: signal.Signals
) -> None:
    """When HAProxy ends, the agent cancels the pending handler, logs nothing, and serves the next HAProxy."""
    score = Pending()
    server = serve(Handlers({"score": score}))
    haproxy = start_haproxy(server, spoe=SCORE, web=SHOW_SCORE)
    request = Deferred.fromCoroutine(haproxy.get())
    await score.called

    haproxy.signal(number)
    with pytest.raises((ConnectionDone, ConnectionLost)):
        await request
    await haproxy.ended()
    await score.cancelled
    response = await start_haproxy(server, spoe=SCORE, web=SHOW_SCORE).get()

    assert (response.status, response.error, response["txn.spoa.score"]) == (200, None, "2")
    assert agent_log == []


@bounded
async def test_agent_stops(start_agent: StartAgent, start_haproxy: StartHAProxy) -> None:
    """On SIGTERM, the agent answers the NOTIFY in flight, and then ends without an error."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
    haproxy = start_haproxy(
        await agent.address(),
        spoe="""\
    messages after-stop

spoe-message after-stop
    event on-frontend-http-request
""",
        web=SHOW_SCORE,
    )
    request = Deferred.fromCoroutine(haproxy.get())
    await agent.said("after-stop: pending")

    agent.signal(signal.SIGTERM)
    response = await request

    assert (response.status, response.error, response["txn.spoa.score"]) == (200, None, "42")
    assert await agent.ended() in STOPPED
    assert "Traceback" not in agent.output


@pytest.fixture(params=["tcp", "unix"])
def start_at_same_address(
    request: pytest.FixtureRequest, tmp_path: Path, start_agent: StartAgent
) -> Iterator[StartAgent]:
    """Starts agents one after the other, all at the same address."""
    if request.param == "unix":
        yield lambda: start_agent(f"--listen=unix:{tmp_path}/spoa.sock")
        return
    # While no agent runs, connections wait in the socket's queue, as with systemd.
    with listening_socket() as agents_socket:
        yield lambda: start_agent(socket=agents_socket)


@bounded
async def test_agent_restarts(start_at_same_address: StartAgent, start_haproxy: StartHAProxy) -> None:
    """When the agent is killed, the request in flight gets error 257. The next agent answers the next request."""
    agent = start_at_same_address()
    haproxy = start_haproxy(
        await agent.address(),
        spoe="""\
    messages never score

spoe-message never
    event on-frontend-http-request if { path /never }

spoe-message score
    event on-frontend-http-request
""",
        web=SHOW_SCORE,
    )
    before = await haproxy.get()
    request = Deferred.fromCoroutine(haproxy.get("/never"))
    await agent.said("never: pending")

    agent.signal(signal.SIGKILL)
    in_flight = await request
    await agent.ended()
    await start_at_same_address().address()
    after = await haproxy.get()

    assert (before.status, before.error, before["txn.spoa.score"]) == (200, None, "42")
    assert (in_flight.status, in_flight.error, in_flight["txn.spoa.score"]) == (200, "257", None)
    assert (after.status, after.error, after["txn.spoa.score"]) == (200, None, "42")

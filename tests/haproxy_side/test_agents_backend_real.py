"""What HAProxy does with the backends of agents on which the checks of checks/agents_backend.py speak."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from zope.interface import implementer

from spoa_twisted import Handlers, Variables
from spoa_twisted.observer import ConnectionMade, Event, IObserver
from tests.conftest import Logged
from tests.haproxy.branches import Branch
from tests.haproxy.conftest import Serve, StartHAProxy
from tests.haproxy.harness import bounded, listening_socket, shown

from .configurations import GOOD

SPOE = """\
    messages score

spoe-message score
    event on-frontend-http-request
"""

#: In front of SPOE: replaces the timeouts of the harness, because the last one counts.
SHORT_IDLE = "    timeout idle 200ms\n" + SPOE

WEB = shown("txn.spoa.score")


@implementer(IObserver)
class Opened:
    """Counts the connections to an agent."""

    def __init__(self) -> None:
        self.connections = 0

    def on_event(self, event: Event) -> None:
        self.connections += isinstance(event, ConnectionMade)

    def on_notify(self, *arguments: object) -> None:
        pass


@pytest.fixture
def handlers() -> Handlers:
    return Handlers({"score": lambda: {"txn.score": 42}})


@pytest.fixture
def slow() -> Handlers:
    """Answers after 0.5 s."""

    def score() -> Deferred[Variables]:
        answer: Deferred[Variables] = Deferred()
        reactor.callLater(0.5, answer.callback, {"txn.score": 42})
        return answer

    return Handlers({"score": score})


def test_the_good_configuration_has_no_warning(branch: Branch, tmp_path: Path) -> None:
    """``haproxy -c`` accepts the configuration of which the tests make variants, and says nothing but that."""
    _, haproxy_cfg = GOOD.write(tmp_path)
    run = subprocess.run(
        [branch.executable, "-c", "-f", haproxy_cfg], capture_output=True, text=True, timeout=20, check=True
    )
    assert (run.stdout + run.stderr).strip() in ("", "Configuration file is valid")


@bounded
async def test_a_backend_in_mode_tcp_above_the_frontend(
    branch: Branch, handlers: Handlers, serve: Serve, start_haproxy: StartHAProxy
) -> None:
    """HAProxy >= 3.1 opens a connection for each NOTIFY; ``http-reuse`` changes nothing, ``mode spop`` does."""
    for lines, one_each in (("mode tcp", True), ("mode tcp\n    http-reuse always", True), ("mode spop", False)):
        if "spop" in lines and not branch.rewritten:
            continue
        opened = Opened()
        server = serve(handlers, observer=opened)
        haproxy = start_haproxy(
            server,
            # The harness writes it below "global", above the frontend.
            process=f"\nbackend above\n    {lines}\n    timeout connect 5s\n    server a {server}",
            spoe=f"    use-backend above\n{SPOE}",
            web=WEB,
        )
        for _ in range(4):
            assert (await haproxy.get())["txn.spoa.score"] == "42"
        assert (opened.connections == 4) == (one_each and branch.rewritten)
        await haproxy.kill()


@bounded
async def test_a_proxy_header(
    branch: Branch, handlers: Handlers, serve: Serve, start_haproxy: StartHAProxy, logged: Logged
) -> None:
    """No agent reads it. HAProxy 3.4 was seen to send none."""
    haproxy = start_haproxy(f"{serve(handlers)} send-proxy-v2", spoe=f"    timeout processing 300ms\n{SPOE}", web=WEB)
    response = await haproxy.get()
    works = branch.version >= (3, 4)
    assert (response.error, response["txn.spoa.score"]) == ((None, "42") if works else ("1", None))
    await haproxy.kill()
    # The agent warns about a frame that is too big.
    assert bool(logged.take()) != works


@pytest.mark.parametrize("check", ["option httpchk", "option spop-check\n    option httpchk", "option redis-check"])
@bounded
async def test_a_check_of_another_kind(
    branch: Branch, handlers: Handlers, serve: Serve, start_haproxy: StartHAProxy, check: str, logged: Logged
) -> None:
    """It marks an agent down that works. The last option counts."""
    haproxy = start_haproxy(f"{serve(handlers)} check inter 100ms fall 1", backend=check, spoe=SPOE, web=WEB)
    await haproxy.said("Server agents/agent is DOWN")
    assert (await haproxy.get()).error == ("257" if branch.rewritten else "2")
    await haproxy.kill()
    logged.take()


@bounded
async def test_a_check_with_a_proxy_header(
    branch: Branch, handlers: Handlers, serve: Serve, start_haproxy: StartHAProxy, logged: Logged
) -> None:
    """It marks an agent down that works."""
    haproxy = start_haproxy(
        f"{serve(handlers)} check-send-proxy check inter 100ms fall 1",
        backend="option spop-check",
        spoe=SPOE,
        web=WEB,
    )
    await haproxy.said("Server agents/agent is DOWN, reason: Layer7 invalid response")
    await haproxy.kill()
    logged.take()


@bounded
async def test_a_check_that_only_connects(branch: Branch, start_haproxy: StartHAProxy) -> None:
    """It finds no fault with a program that accepts connections and answers nothing: ``option spop-check`` does."""
    with listening_socket() as silent:
        server = f"127.0.0.1:{silent.getsockname()[1]} check inter 100ms fall 1"
        haproxy = start_haproxy(server, backend="option spop-check\n    timeout check 100ms", spoe=SPOE, web=WEB)
        await haproxy.said("Server agents/agent is DOWN, reason: Layer7 timeout")
        await haproxy.kill()
        haproxy = start_haproxy(server, spoe=f"    timeout processing 500ms\n{SPOE}", web=WEB)
        # It has been checked several times when HAProxy gives up the request.
        assert (await haproxy.get()).error == "1"
    assert "DOWN" not in haproxy.output


@bounded
async def test_timeouts_that_are_too_short(
    branch: Branch, slow: Handlers, serve: Serve, start_haproxy: StartHAProxy
) -> None:
    """``timeout server`` ends the connection with 257. ``timeout idle`` does with 256, up to HAProxy 3.0."""
    server = serve(slow)
    short = start_haproxy(server, backend="timeout server 200ms", spoe=SPOE, web=WEB)
    assert (await short.get()).error == "257"
    idle = start_haproxy(server, spoe=SHORT_IDLE, web=WEB)
    assert (await idle.get()).error == (None if branch.rewritten else "256")

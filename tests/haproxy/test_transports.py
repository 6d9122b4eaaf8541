"""HAProxy's rules act on the variables that a handler sets, over TCP, Unix sockets and TLS, and with many requests."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from spoa_twisted import Handlers, Variables
from tests.certificates import self_signed

from .conftest import Serve, StartHAProxy
from .harness import bounded

#: More requests than HAProxy has in flight on one connection, which is at most 20.
MANY = 60

CHECK_IP = """\
    messages check-ip

spoe-message check-ip
    args ip=src user=req.hdr(user)
    event on-frontend-http-request
"""

DENY_BY_SCORE = """\
    http-request deny if { var(sess.spoa.score) -m int gt 50 }
    http-request return status 200 hdr score %[var(sess.spoa.score)] hdr client-port %[src_port]
"""


@pytest.fixture(params=["tcp", "unix", "tls"])
def endpoint(request: pytest.FixtureRequest) -> tuple[Callable[[Path], str], str]:
    """A function that returns the agent's endpoint for a folder, and the options that the ``server`` line needs."""
    return {
        "tcp": (lambda folder: "tcp:0:interface=127.0.0.1", ""),
        "unix": (lambda folder: f"unix:{folder}/spoa.sock:mode=660", ""),
        "tls": (tls_endpoint, "ssl verify none"),
    }[request.param]


def tls_endpoint(folder: Path) -> str:
    certificate, key = self_signed(folder)
    return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"


# Twisted still makes calls that newer pyOpenSSL releases warn about.
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@bounded
async def test_handler_decides(
    serve: Serve,
    start_haproxy: StartHAProxy,
    tmp_path: Path,
    endpoint: tuple[Callable[[Path], str], str],
    agent_log: list[str],
) -> None:
    """By a handler's variable HAProxy allows one request and denies another one. The agent logs nothing."""
    describe, options = endpoint

    def check_ip(ip: IPv4Address, user: str) -> Variables:
        assert ip == IPv4Address("127.0.0.1")
        return {"sess.score": 90 if user == "mallory" else 10}

    server = serve(Handlers({"check-ip": check_ip}), describe(tmp_path))
    haproxy = start_haproxy(f"{server} {options}", spoe=CHECK_IP, web=DENY_BY_SCORE)

    allowed = await haproxy.get(user="alice")
    denied = await haproxy.get(user="mallory")

    assert (allowed.status, allowed["score"], allowed.error) == (200, "10", None)
    assert (denied.status, denied.error) == (403, None)
    assert agent_log == []


@bounded
async def test_keep_alive(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """On a kept-alive client connection, HAProxy sends a NOTIFY for each request."""
    scores = iter([1, 2, 3, 4])
    server = serve(Handlers({"check-ip": lambda: {"sess.score": next(scores)}}))
    haproxy = start_haproxy(server, spoe=CHECK_IP, web=DENY_BY_SCORE)

    async with haproxy.client() as client:
        responses = [await client.get() for _ in range(4)]

    assert [response["score"] for response in responses] == ["1", "2", "3", "4"]
    assert len({response["client-port"] for response in responses}) == 1
    assert {response.error for response in responses} == {None}


@pytest.mark.parametrize("async_", [False, True], ids=["pipelining", "async"])
@bounded
async def test_many_in_flight(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str], async_: bool) -> None:
    """Each of many pending requests gets the variables of its own handler, although the last one is answered first.

    With async, HAProxy <= 3.0 accepts an ACK over any connection. HAProxy >= 3.1 has no async.
    """
    waiting: list[tuple[str, Deferred[Variables]]] = []

    def check_ip(user: str) -> Deferred[Variables] | Variables:
        if user == "first":
            return {}
        answer: Deferred[Variables] = Deferred()
        waiting.append((user, answer))
        if len(waiting) == MANY:
            reactor.callLater(0.1, answer_all)
        return answer

    def answer_all() -> None:
        while waiting:
            user, answer = waiting.pop()
            answer.callback({"sess.score": -int(user)})

    server = serve(Handlers({"check-ip": check_ip}), async_=async_)
    haproxy = start_haproxy(server, spoe=CHECK_IP, web=DENY_BY_SCORE)

    # HAProxy >= 3.1 shares only a connection that is already established, so open one first.
    await haproxy.get(user="first")
    requests = [Deferred.fromCoroutine(haproxy.get(user=str(number))) for number in range(MANY)]
    responses = await gatherResults(requests, consumeErrors=True)

    assert [response.error for response in responses] == [None] * MANY
    assert [response["score"] for response in responses] == [str(-number) for number in range(MANY)]
    assert agent_log == []

"""What a handler sets decides what HAProxy does, however HAProxy reaches the agent."""

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

#: More requests than HAProxy sends over one connection at a time, which is 20.
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
    """How to describe the endpoint of an agent, and what HAProxy's ``server`` needs to connect to it."""
    return {
        "tcp": (lambda folder: "tcp:0:interface=127.0.0.1", ""),
        "unix": (lambda folder: f"unix:{folder}/spoa.sock:mode=660", ""),
        "tls": (tls_endpoint, "ssl verify none"),
    }[request.param]


def tls_endpoint(folder: Path) -> str:
    certificate, key = self_signed(folder)
    return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"


# Twisted itself still gives pyOpenSSL what newer releases of that warn about.
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@bounded
async def test_handler_decides(
    serve: Serve,
    start_haproxy: StartHAProxy,
    tmp_path: Path,
    endpoint: tuple[Callable[[Path], str], str],
    agent_log: list[str],
) -> None:
    """The variable that a handler sets lets one request pass and another not, and nothing is logged for it."""
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
    """Each request on one client connection has its own NOTIFY."""
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
    """Many requests wait at a time, and each gets what its own handler returned, although the last to come is the
    first to be answered. HAProxy <= 3.0 takes an ACK from any connection with async; later ones do not know it.
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

    # HAProxy >= 3.1 shares a connection when it is there before the requests.
    await haproxy.get(user="first")
    requests = [Deferred.fromCoroutine(haproxy.get(user=str(number))) for number in range(MANY)]
    responses = await gatherResults(requests, consumeErrors=True)

    assert [response.error for response in responses] == [None] * MANY
    assert [response["score"] for response in responses] == [str(-number) for number in range(MANY)]
    assert agent_log == []

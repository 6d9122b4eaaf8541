"""``spoactl proxy`` between HAProxy and an agent: the answers are the same, and each NOTIFY is printed with its ACK."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from spoa_twisted import Handlers, Variables
from spoa_twisted.ctl.proxy.relay import Relay
from spoa_twisted.ctl.proxy.report import Report
from spoa_twisted.spop.frames import encode_frame
from tests.ctl.agents import Agent, ack

from .branches import Branch
from .conftest import Serve, StartHAProxy
from .harness import Process, as_server, bounded

#: More requests than HAProxy has in flight on one connection.
MANY = 60

TWO_MESSAGES = """\
    messages check-user check-path
{options}
spoe-message check-user
    args ip=src user=req.hdr(user) missing=req.hdr(missing)
    event on-frontend-http-request

spoe-message check-path
    args path=path
    event on-frontend-http-request
"""

SHOW = """\
    http-request return status 200 hdr score %[var(txn.spoa.score)] hdr path %[var(txn.spoa.path)]
"""


class Proxy:
    """A proxy in this process, and the JSON objects that it prints."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.report = Report(
            lambda line: self.lines.append(json.loads(line)),
            time.monotonic,
            values=True,
            as_json=True,
            count=None,
            on_count=lambda: None,
        )
        self.port: IListeningPort | None = None
        self.relay: Relay | None = None

    async def start(self, agent: str) -> str:
        """Listen, and return the address in the syntax of HAProxy's ``server`` line."""
        host, port = agent.split(":")
        self.relay = Relay(TCP4ClientEndpoint(reactor, host, int(port)), self.report.connected)
        self.port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.relay)
        return as_server(self.port.getHost())

    def frames(self, name: str) -> list[dict[str, Any]]:
        """Return the frames of a type."""
        return [line for line in self.lines if line.get("frame") == name]

    @property
    def faults(self) -> list[dict[str, Any]]:
        return [fault for line in self.lines for fault in line.get("faults", [])]


StartProxy = Callable[[str], Awaitable[tuple[Proxy, str]]]


@pytest_twisted.async_yield_fixture
async def start_proxy(serve: Serve, processes: list[Process]) -> AsyncIterator[StartProxy]:
    """Starts a proxy to an agent, and returns the proxy and its address for HAProxy's ``server`` line."""
    proxies: list[Proxy] = []

    async def start(agent: str) -> tuple[Proxy, str]:
        proxies.append(Proxy())
        return proxies[-1], await proxies[-1].start(agent)

    yield start
    for process in processes:
        await process.kill()
    for proxy in proxies:
        assert proxy.port is not None
        assert proxy.relay is not None
        await maybeDeferred(proxy.port.stopListening)
        for connection in list(proxy.relay.connections):
            connection.abort()


def check_user(ip: object, user: str, missing: str | None) -> Deferred[Variables]:
    assert missing is None
    return deferLater(reactor, 0.01, lambda: {"txn.score": len(user), "sess.old": None})


def check_path(path: str) -> Variables:
    return {"txn.path": path}


HANDLERS = Handlers({"check-user": check_user, "check-path": check_path})


@pytest.mark.parametrize("async_", [False, True], ids=["pipelining", "async"])
@bounded
async def test_the_answers_are_the_same(
    serve: Serve, start_haproxy: StartHAProxy, start_proxy: StartProxy, async_: bool, branch: Branch
) -> None:
    """HAProxy gets the same answers with the proxy and without, and each NOTIFY is printed with its ACK."""
    agent = serve(HANDLERS, async_=async_)
    proxy, through = await start_proxy(agent)
    spoe = TWO_MESSAGES.format(options="")
    answers = []
    for server in (agent, through):
        haproxy = start_haproxy(server, spoe=spoe, web=SHOW)
        first = await haproxy.get(user="first")
        requests = [Deferred.fromCoroutine(haproxy.get(f"/{n}", user="u" * (n + 1))) for n in range(MANY)]
        responses = [first, *await gatherResults(requests, consumeErrors=True)]
        answers.append(
            [(response.status, response["score"], response["path"], response.error) for response in responses]
        )
        await haproxy.kill()
    assert answers[0] == answers[1]
    assert answers[1] == [(200, "5", "/", None), *[(200, str(n + 1), f"/{n}", None) for n in range(MANY)]]

    notifies, acks = proxy.frames("NOTIFY"), proxy.frames("ACK")
    assert len(notifies) == len(acks) == MANY + 1
    assert proxy.faults == []
    # Each ACK has its time, and says what the NOTIFY with the same ids asked for.
    assert all(0.005 < line["seconds"] < 5 for line in acks)
    if branch.rewritten or not async_:
        paths = {identity(line): line["messages"][1]["arguments"][0]["value"] for line in notifies}
        assert paths == {identity(line): line["actions"][-1]["value"] for line in acks}
    assert notifies[0]["messages"][0]["arguments"][2] == {"name": "missing", "type": "null", "value": None}


def identity(line: dict[str, Any]) -> tuple[int, int, int]:
    return line["connection"], line["stream_id"], line["frame_id"]


@bounded
async def test_fragments(serve: Serve, start_haproxy: StartHAProxy, start_proxy: StartProxy, branch: Branch) -> None:
    """HAProxy <= 3.0 sends a long NOTIFY in fragments. The last one shows the messages, and the ACK has its time."""
    proxy, through = await start_proxy(serve(HANDLERS))
    haproxy = start_haproxy(through, spoe=TWO_MESSAGES.format(options="    max-frame-size 256"), web=SHOW)
    response = await haproxy.get("/" + "p" * 150, user="u" * 200)
    if branch.rewritten:
        # It sends no payload that does not fit in a frame.
        assert response.error is not None
        assert proxy.frames("NOTIFY") == []
        return
    assert (response.status, response["score"]) == (200, "200")
    fragments = [*proxy.frames("NOTIFY"), *proxy.frames("UNSET")]
    assert [line["notes"][0].partition(",")[0] for line in fragments] == ["fragment 1", "last of 2 fragments"]
    assert [message["name"] for message in fragments[-1]["messages"]] == ["check-user", "check-path"]
    (acked,) = proxy.frames("ACK")
    assert acked["seconds"] > 0
    assert proxy.faults == []


BROKEN: dict[str, tuple[Callable[[bytes, int], bytes], str]] = {
    "an unknown NOTIFY": (lambda ids, number: ack(b"\xfb\x7f\x01"), "unknown NOTIFY: none with this stream-id"),
    "too long": (lambda ids, number: ack(ids, bytes(20_000)), "a length of 20007 bytes exceeds the max-frame-size"),
    "an unknown action": (lambda ids, number: ack(ids, b"\x07\x01\x02\x01a"), "action 1: HAProxy drops it"),
    "no FIN": (lambda ids, number: ack(ids, flags=0), "an ACK without the flag FIN"),
    "HAProxy's type": (lambda ids, number: encode_frame(3, 1, ids, b""), "only HAProxy sends NOTIFY"),
}


@pytest.mark.parametrize("fault", BROKEN)
@bounded
async def test_a_broken_agent(start_haproxy: StartHAProxy, start_proxy: StartProxy, serve: Serve, fault: str) -> None:
    """The proxy names the fault of an agent that HAProxy does not understand; HAProxy fails as without the proxy."""
    answer, text = BROKEN[fault]
    port: IListeningPort = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(agent_with(answer))
    proxy, through = await start_proxy(as_server(port.getHost()))
    spoe = TWO_MESSAGES.format(options="    timeout processing 300ms")
    errors = []
    for server in (as_server(port.getHost()), through):
        haproxy = start_haproxy(server, spoe=spoe, web=SHOW)
        errors.append((await haproxy.get(user="u")).error)
        await haproxy.kill()
    await maybeDeferred(port.stopListening)
    assert errors[0] == errors[1]
    assert any(found["text"].startswith(text) for found in proxy.faults)


def agent_with(answer: Callable[[bytes, int], bytes]) -> Factory:
    return Agent(answer)

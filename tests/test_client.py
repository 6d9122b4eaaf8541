"""Tests of SPOEClient, with real agents over sockets, and with a reactor in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from spoa_twisted import Handlers, Message, SPOAFactory, SPOEClient
from spoa_twisted.client import AgentDisconnected, PayloadRefused
from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.frames import AgentHello, HAProxyHello
from tests.conftest import Logged

reactor: Any = default_reactor

#: The HELLO of HAProxy <= 3.0.
OLD = HAProxyHello(capabilities=frozenset({"pipelining", "async"}), engine_id="engine")


@pytest_twisted.async_yield_fixture
async def listen() -> AsyncIterator[Callable[[Factory], str]]:
    """A function that listens with a factory, and returns the client endpoint to connect to it."""
    ports: list[Any] = []

    def listen(factory: Factory) -> str:
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        ports.append(port)
        return f"tcp:127.0.0.1:{port.getHost().port}"

    yield listen
    for port in ports:
        await port.stopListening()


class Canned(Protocol):
    """An agent that answers any bytes with the next of its answers. After the last answer it closes the connection."""

    answers: list[bytes]

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if not self.answers:
            self.transport.loseConnection()
            return
        self.transport.write(self.answers.pop(0))


def canned(*answers: bytes) -> Factory[Canned]:
    factory = Factory.forProtocol(Canned)
    Canned.answers = list(answers)
    return factory


HELLO = AgentHello().encode()
HELLO_FRAME = (len(HELLO) + 7).to_bytes(4, "big") + b"\x65\x00\x00\x00\x01\x00\x00" + HELLO


@pytest_twisted.ensureDeferred
async def test_requests_and_answers(listen: Any) -> None:
    """Concurrent requests share one connection. Arguments may be unnamed, and a request may have several messages."""
    handlers = Handlers({"ip": lambda ip: {"sess.ip": ip}}, default=lambda message: {"txn.first": message[0]})
    factory = SPOAFactory(handlers)
    client = SPOEClient(listen(factory), hello=OLD)
    answers = [
        client.notify("ip", ip=IPv4Address("192.0.2.1")),
        client.notify("other", "unnamed", name=1),
        client.send(Message("ip", [("ip", None)]), Message("other", [("", b"x")])),
    ]
    assert [await answer for answer in answers] == [
        {"sess.ip": IPv4Address("192.0.2.1")},
        {"txn.first": "unnamed"},
        {"sess.ip": None, "txn.first": b"x"},
    ]
    assert len(factory.connections) == 1
    await client.disconnect()
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_it_connects_again(listen: Any, logged: Logged) -> None:
    """After AGENT-DISCONNECT, the next request opens another connection."""
    asked: list[Deferred[Any]] = [Deferred() for _ in range(3)]

    def wait(number: int) -> Deferred[Any]:
        asked[number].callback(None)
        return Deferred()

    factory = SPOAFactory(Handlers({"wait": wait, "m": lambda: {"sess.a": 1}}))
    client = SPOEClient(listen(factory))
    for number in range(3):
        assert await client.notify("m") == {"sess.a": 1}
        pending = client.notify("wait", number=number)
        await asked[number]
        drained = factory.drain(0.01)
        with pytest.raises(AgentDisconnected):
            await pending
        await drained
    await client.disconnect()
    assert len(logged.take()) == 3


@pytest_twisted.ensureDeferred
async def test_a_health_check(listen: Any) -> None:
    """ping() returns the agent's HELLO."""
    hello = await SPOEClient(listen(SPOAFactory(Handlers()))).ping()
    assert hello == AgentHello("2.0", 16380, frozenset({"pipelining", "fragmentation"}))


@pytest_twisted.ensureDeferred
async def test_a_long_payload_is_fragmented(listen: Any, logged: Logged) -> None:
    """A long payload is sent in fragments. If it is too long for the agent, the request fails with PayloadRefused."""
    factory = SPOAFactory(
        Handlers({"m": lambda body: {"sess.size": len(body), "sess.end": body[-3:]}}), max_payload_size=50_000
    )
    client = SPOEClient(listen(factory), hello=OLD)
    assert await client.notify("m", body=b"x" * 40_000 + b"end") == {"sess.size": 40_003, "sess.end": b"end"}
    with pytest.raises(PayloadRefused):
        await client.notify("m", body=b"x" * 60_000)
    assert await client.notify("m", body=b"abc") == {"sess.size": 3, "sess.end": b"abc"}
    await client.disconnect()
    assert len(logged.take()) == 1


@pytest_twisted.ensureDeferred
async def test_an_agent_that_does_not_answer_in_time(listen: Any) -> None:
    """A timeout fails only its own request. The next request is served on the same connection.

    The client's timeouts have a clock of their own: no answer is late because this process stood still.
    """
    clock = Clock()
    asked: Deferred[None] = Deferred()
    never: Deferred[Any] = Deferred()

    def wait() -> Deferred[Any]:
        asked.callback(None)
        return never

    factory = SPOAFactory(Handlers({"never": wait, "m": lambda: {"sess.a": 1}}))
    client = SPOEClient(clientFromString(reactor, listen(factory)), timeout=0.05, reactor=clock)
    answer = client.notify("never")
    await asked
    clock.advance(0.04)
    assert not answer.called
    clock.advance(0.02)
    with pytest.raises(TimeoutError, match=r"no answer within 0.05 s"):
        await answer
    never.callback({"sess.late": 1})
    assert await client.notify("m") == {"sess.a": 1}
    assert len(factory.connections) == 1
    await client.disconnect()


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([], ConnectionDone),
        ([HELLO_FRAME], ConnectionDone),
        ([HELLO_FRAME, b"\x00\x00\x00\x03abc"], InvalidFrame),
        ([b"\x00\x00\x00\x07\x66\x00\x00\x00\x01\x00\x00"], AgentDisconnected),
        ([HELLO_FRAME, b"\x00\x00\x00\x07\x66\x00\x00\x00\x01\x00\x00"], AgentDisconnected),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], Exception),
    ],
    ids=["closes", "closes later", "breaks the protocol", "refuses", "disconnects", "is no agent"],
)
@pytest_twisted.ensureDeferred
async def test_errors_of_the_agent(listen: Any, answers: list[bytes], error: type[Exception]) -> None:
    """When the agent closes, disconnects or breaks the protocol, the request fails with the matching error."""
    client = SPOEClient(listen(canned(*answers)))
    with pytest.raises(error):
        await client.notify("m")
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_no_agent(listen: Any) -> None:
    """If nothing listens at the endpoint, requests fail with Twisted's ConnectionRefusedError."""
    endpoint = listen(Factory())
    client = SPOEClient("tcp:127.0.0.1:1")
    with pytest.raises(ConnectionRefusedError):
        await client.notify("m")
    with pytest.raises(ConnectionRefusedError):
        await client.ping()
    assert endpoint


def test_a_connection_that_is_not_made_in_time() -> None:
    """A request fails with TimeoutError, not with the endpoint's error for the cancelled attempt."""
    memory = MemoryReactorClock()
    client = SPOEClient("tcp:127.0.0.1:1", timeout=2, reactor=memory)
    failures: list[Any] = []
    client.notify("m").addErrback(failures.append)
    client.ping().addErrback(failures.append)
    memory.advance(1.9)
    assert failures == []
    memory.advance(0.1)
    assert [repr(failure.value) for failure in failures] == ["TimeoutError('no answer within 2 s')"] * 2


def test_cancelling_while_connecting() -> None:
    """Cancelling one request does not affect the others. disconnect() cancels the attempt, and so all requests."""
    memory = MemoryReactorClock()
    client = SPOEClient("tcp:127.0.0.1:1", reactor=memory)
    failures: list[Any] = []
    cancelled, *waiting = [client.notify("m").addErrback(failures.append) for _ in range(3)]
    cancelled.cancel()
    assert [failure.type for failure in failures] == [CancelledError]
    assert client.disconnect().called
    assert [failure.type for failure in failures[1:]] == [ConnectingCancelledError] * len(waiting)
    assert len(memory.tcpClients) == 1
    assert memory.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_values_that_cannot_be_encoded(listen: Any) -> None:
    """A value of a type that SPOP does not have fails its request. The connection stays usable."""
    client = SPOEClient(listen(SPOAFactory(Handlers({"m": lambda: {"sess.a": 1}}))))
    with pytest.raises(TypeError, match="float"):
        await client.notify("m", a=1.5)  # type: ignore[arg-type]
    assert await client.notify("m") == {"sess.a": 1}
    await client.disconnect()


def test_the_text_of_a_disconnect() -> None:
    """The text of AgentDisconnected has the agent's message and the status code."""
    assert str(AgentDisconnected(3, "frame is too big")) == "the agent disconnected: frame is too big (status code 3)"
    assert str(AgentDisconnected(3, "no")) == "the agent disconnected: no (status code 3, frame is too big)"
    assert str(AgentDisconnected(200, "no")) == "the agent disconnected: no (status code 200)"

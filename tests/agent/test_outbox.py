"""Bytes -> the peer, at once: through real sockets, with a peer that blocks."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from traceback import walk_stack
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from spoa_twisted import Handlers, Message, SPOAFactory
from spoa_twisted.agent.drain import QUIET_INTERVAL, REST
from spoa_twisted.agent.outbox import Sender
from spoa_twisted.agent.protocol import ABORT_TIMEOUT, LEAVE_TIMEOUT
from spoa_twisted.spop.connection import Ack, EngineConnection
from spoa_twisted.spop.frames import AgentHello, Disconnect, HAProxyHello
from tests.certificates import self_signed, skip_without_tls

reactor: Any = default_reactor

#: Seconds that a peer waits for bytes; only a test that fails takes so long.
PATIENCE = 10

#: Layers above the socket, from its side, and of what kind it is.
KINDS = ["tcp", "unix", "tls", "proxy", "proxy-tls"]

#: What a descriptor gives the kernel at a time, at most.
SEND_LIMIT = FileDescriptor.SEND_LIMIT

#: More than the kernel and the transport keep for a peer that does not read.
MUCH = 2**24


class Sending(Protocol):
    """Has a sender, and nothing to say by itself."""

    transport: Any

    def __init__(self) -> None:
        self.made: Deferred[Sending] = Deferred()
        self.losses: list[Failure] = []
        self.lost: Deferred[None] = Deferred()
        self.noticed_when_resumed: Callable[[], None] = lambda: None
        self.pauses = 0

    def connectionMade(self) -> None:
        self.sender = Sender(self.transport)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        if not self.made.called:
            self.made.callback(self)

    def pauseProducing(self) -> None:
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.noticed_when_resumed()

    def stopProducing(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.losses.append(reason)
        if not self.lost.called:
            self.lost.callback(None)


def lowest(transport: Any) -> Any:
    """Return the transport that has the socket."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def turn() -> Deferred[None]:
    """Fire in the reactor's next turn."""
    return deferLater(reactor, 0)


class Peer:
    """The other end's socket, which blocks: what it takes while the reactor waits for it has left before."""

    def __init__(self, kind: str, address: Any) -> None:
        raw = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        raw.settimeout(PATIENCE)
        # A small window, so that little is on its way to one who does not read.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        raw.connect(address)
        if kind.startswith("proxy"):
            raw.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n")
        self.socket = raw
        if kind.endswith("tls"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.socket = context.wrap_socket(raw)

    def read(self, size: int) -> bytes:
        """Return so many bytes, or fewer when the connection ends first."""
        data = b""
        while len(data) < size and (some := self.socket.recv(min(size - len(data), 2**16))):
            data += some
        return data

    def read_all(self) -> bytes:
        """Return what comes until the end."""
        data = bytearray()
        while some := self.socket.recv(2**16):
            data += some
        return bytes(data)

    def reset(self) -> None:
        """End the connection, and what is on its way with it."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def certified(folder: Path) -> Any:
    certificate, key = self_signed(folder)
    from twisted.internet.ssl import DefaultOpenSSLContextFactory

    return DefaultOpenSSLContextFactory(str(key), str(certificate))


Connect = Callable[[str, Any], Awaitable[Peer]]


@pytest_twisted.async_yield_fixture
async def connect(tmp_path: Path) -> AsyncIterator[Connect]:
    """Listen in one of the ways with a factory, and connect to it."""
    ports: list[Any] = []
    peers: list[Peer] = []

    async def connect(kind: str, factory: Any) -> Peer:
        if kind in ("tls", "proxy-tls"):
            context = certified(tmp_path)
            from twisted.protocols.tls import TLSMemoryBIOFactory

            factory = TLSMemoryBIOFactory(context, False, factory)
        if kind.startswith("proxy"):
            factory = HAProxyWrappingFactory(factory)
        if kind == "unix":
            port = reactor.listenUNIX(str(tmp_path / "socket"), factory)
            address: Any = str(tmp_path / "socket")
        else:
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
            address = ("127.0.0.1", port.getHost().port)
        ports.append(port)
        peer = await deferToThread(Peer, kind, address)
        peers.append(peer)
        return peer

    yield connect
    for peer in peers:
        peer.socket.close()
    for port in ports:
        await port.stopListening()


async def pair(connect: Connect, kind: str, send_buffer: int | None = None) -> tuple[Sending, Peer]:
    """Return both ends of a connection, of which the sending one has a small buffer in the kernel."""
    sending = Sending()
    factory = Factory.forProtocol(lambda: sending)
    factory.noisy = False
    peer = await connect(kind, factory)
    peer.socket.sendall(b"hello")
    await sending.made
    # TLS may have something to say after its handshake: that has left.
    await turn()
    if send_buffer is not None:
        lowest(sending.transport).socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    return sending, peer


async def finish(sending: Sending, peer: Peer) -> bytes:
    """Close, and return all that the peer has not read before."""
    sending.transport.unregisterProducer()
    sending.transport.loseConnection()
    rest = await deferToThread(peer.read_all)
    peer.socket.close()
    await sending.lost
    assert len(sending.losses) == 1
    return rest


def numbered(count: int, size: int) -> bytes:
    """Return chunks of bytes, no two alike."""
    return b"".join([f"{number:08d}".encode().ljust(size, b".") for number in range(count)])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unix"])
@pytest_twisted.ensureDeferred
async def test_the_kernel_sends_at_once(kind: str, connect: Connect) -> None:
    """An ACK that leaves soon after another does not wait until the peer's kernel has acknowledged that one."""
    factory = SPOAFactory(Handlers())
    peer = await connect(kind, factory)
    peer.socket.sendall(EngineConnection().data_to_send())
    assert await deferToThread(peer.socket.recv, 2**16)
    (agent,) = factory.connections
    assert lowest(agent.transport).socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("kind", KINDS)
class TestAtOnce:
    @pytest_twisted.ensureDeferred
    async def test_an_ack_has_left_when_the_read_is_over(self, kind: str, connect: Connect) -> None:
        """While the reactor waits inside dataReceived, the peer gets it; with each of several reads."""
        factory = SPOAFactory(Handlers({"m": lambda n: {"sess.n": n}}))
        peer = await connect(kind, factory)
        engine = EngineConnection()
        peer.socket.sendall(engine.data_to_send())
        engine.receive_data(await deferToThread(peer.socket.recv, 2**16))
        assert isinstance(engine.next_event(), AgentHello)
        (agent,) = factory.connections
        received = agent.dataReceived
        served: Deferred[None] = Deferred()
        answers: list[Any] = []

        def dataReceived(data: bytes) -> None:
            received(data)
            try:
                engine.receive_data(peer.socket.recv(2**16))
                answers.extend(iter(engine.next_event, None))
            except BaseException:
                served.errback()
            else:
                served.callback(None)

        agent.dataReceived = dataReceived  # type: ignore[method-assign]
        for number in range(3):
            served = Deferred()
            ids = engine.send_notify([Message("m", [("n", number)])])
            peer.socket.sendall(engine.data_to_send())
            await served
            assert answers.pop() == Ack(ids, {"sess.n": number}, aborted=False)
        peer.socket.close()
        while factory.connections:
            await turn()

    @pytest_twisted.ensureDeferred
    async def test_what_waits_goes_first(self, kind: str, connect: Connect) -> None:
        """What is sent at once takes with it what was to be sent later in the same turn; the order stays."""
        sending, peer = await pair(connect, kind)
        sending.sender.send(b"a")
        sending.sender.send_later(b"b")
        sending.sender.send_later(b"c")
        sending.sender.send(b"d")
        assert peer.read(4) == b"abcd"
        sending.sender.send(b"e")
        assert peer.read(1) == b"e"
        sending.sender.send_later(b"f")
        assert await finish(sending, peer) == b"f"

    @pytest_twisted.ensureDeferred
    async def test_a_producer_that_writes_when_it_is_resumed_keeps_its_place(self, kind: str, connect: Connect) -> None:
        """The transport resumes it in the middle of doWrite: what is sent at once then must not overtake that."""
        sending, peer = await pair(connect, kind)
        sending.noticed_when_resumed = lambda: sending.sender.send_later(b"resumed")
        sending.sender.send_later(b"x")
        lowest(sending.transport).socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        sending.sender.send(b"y" * 100_000)
        assert sending.pauses == 1
        sending.noticed_when_resumed = lambda: None
        sending.sender.send(b"after")
        assert await finish(sending, peer) == b"x" + b"y" * 100_000 + b"resumedafter"


@pytest.mark.parametrize("kind", KINDS)
class TestFullKernel:
    @pytest.mark.parametrize("size", [2**16 - 1, 2**16 + 1, SEND_LIMIT, SEND_LIMIT + 1, 3 * SEND_LIMIT + 7])
    @pytest_twisted.ensureDeferred
    async def test_much_at_once_arrives_whole(self, kind: str, size: int, connect: Connect) -> None:
        """However little of it the kernel takes at a time, and whatever follows."""
        sending, peer = await pair(connect, kind, send_buffer=4096)
        much = numbered(size // 16 + 1, 16)[:size]
        sending.sender.send(much)
        sending.sender.send(b"now")
        sending.sender.send_later(b"later")
        sending.sender.send(b"and now")
        assert await finish(sending, peer) == much + b"nowlaterand now"

    @pytest_twisted.ensureDeferred
    async def test_a_kernel_that_takes_nothing(self, kind: str, connect: Connect) -> None:
        """What is sent meanwhile, at once and later, comes in its order when the peer reads."""
        sending, peer = await pair(connect, kind, send_buffer=4096)
        expected = bytearray()
        while not lowest(sending.transport).dataBuffer:
            expected += b"f" * 10_000
            sending.sender.send(b"f" * 10_000)
        assert len(expected) < MUCH
        for number in range(1000):
            some = f"{number:08d}".encode()
            expected += some
            (sending.sender.send_later if number % 3 == 1 else sending.sender.send)(some)
            if number % 100 == 0:
                await turn()
        assert await finish(sending, peer) == expected

    @pytest.mark.parametrize("seed", range(3))
    @pytest_twisted.ensureDeferred
    async def test_any_order_of_writes(self, kind: str, seed: int, connect: Connect) -> None:
        """Of all sizes, with turns of the reactor between, a producer that writes, a peer that reads by and by."""
        chance = random.Random(seed)
        sending, peer = await pair(connect, kind, send_buffer=chance.choice([4096, 2**15, 2**18]))
        expected = bytearray()
        received = bytearray()
        count = 0

        def write(at_once: bool, size: int) -> None:
            nonlocal count
            count += 1
            some = f"<{count}>".encode() * (size // 4 + 1)
            expected.extend(some)
            (sending.sender.send if at_once else sending.sender.send_later)(some)

        def resumed() -> None:
            # As the protocol does: much at once, what remains later.
            if chance.random() < 0.5:
                write(chance.random() < 0.3, chance.choice([10, 1000, 70_000]))

        sending.noticed_when_resumed = resumed
        for _ in range(120):
            write(chance.random() < 0.6, chance.choice([10, 100, 1000, 20_000, 66_000, 140_000]))
            if chance.random() < 0.3:
                await turn()
            if chance.random() < 0.5 and len(received) < len(expected):
                size = chance.randrange(1, len(expected) - len(received) + 1)
                received += await deferToThread(peer.read, size)
        sending.noticed_when_resumed = lambda: None
        received += await finish(sending, peer)
        assert len(received) == len(expected)
        assert received == expected


@pytest.mark.parametrize("kind", KINDS)
class TestLostConnections:
    @pytest.mark.parametrize("full", [False, True])
    @pytest_twisted.ensureDeferred
    async def test_a_peer_that_resets(self, kind: str, full: bool, connect: Connect) -> None:
        """What is sent then is for nobody, and does no harm: the connection is lost once, by the reactor."""
        sending, peer = await pair(connect, kind, send_buffer=4096)
        if full:
            sending.sender.send(b"x" * 2**18)
        peer.reset()
        for _ in range(3):
            sending.sender.send(b"y" * 1000)
            sending.sender.send_later(b"z" * 1000)
            sending.sender.send(b"y" * 200_000)
        assert sending.losses == []
        await sending.lost
        for _ in range(3):
            sending.sender.send(b"y")
            sending.sender.send_later(b"z")
            sending.sender.send(b"y")
            await turn()
        assert len(sending.losses) == 1

    @pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
    @pytest_twisted.ensureDeferred
    async def test_a_transport_that_closes(self, kind: str, end: str, connect: Connect) -> None:
        """What was sent before arrives when it is closed in order, and no traceback comes of what is sent after."""
        sending, peer = await pair(connect, kind, send_buffer=4096)
        sending.sender.send(b"x" * 2**18)
        sending.transport.unregisterProducer()
        getattr(sending.transport, end)()
        for _ in range(3):
            sending.sender.send(b"y")
            sending.sender.send_later(b"z")
        if end == "loseConnection":
            received = await deferToThread(peer.read_all)
            assert received[: 2**18] == b"x" * 2**18
            peer.socket.close()
        await sending.lost
        assert len(sending.losses) == 1


@pytest_twisted.ensureDeferred
async def test_tls_that_was_started_later(connect: Connect, tmp_path: Path) -> None:
    """The transport is the socket's own then, and nothing of what is sent leaves it in clear."""
    skip_without_tls()

    class Starting(Sending):
        def connectionMade(self) -> None:
            self.transport.startTLS(certified(tmp_path))
            super().connectionMade()

    sending = Starting()
    peer = await connect("starttls", Factory.forProtocol(lambda: sending))
    peer.socket.sendall(b"hello")
    await sending.made
    sending.sender.send(b"a")
    assert await deferToThread(peer.read, 1) == b"a"
    sending.sender.send_later(b"b")
    sending.sender.send(b"c")
    assert await finish(sending, peer) == b"bc"


class Blob(StringTransport):
    """A transport unknown, that notes each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


def test_a_transport_of_an_unknown_kind_is_written_to() -> None:
    """At once and later are the same to it."""
    transport = Blob()
    sender = Sender(transport)
    sender.send(b"a")
    sender.send_later(b"b")
    sender.send(b"c")
    assert transport.writes == [b"a", b"b", b"c"]


class Agent:
    """An agent behind a socket, and the engine at the other end of it."""

    def __init__(self, peer: Peer, hello: HAProxyHello | None) -> None:
        self.peer = peer
        self.engine = EngineConnection(hello)

    def send(self) -> None:
        self.peer.socket.sendall(self.engine.data_to_send())

    async def events(self, count: int) -> list[Any]:
        """Return the next events, when so many have come."""
        events: list[Any] = list(iter(self.engine.next_event, None))
        while len(events) < count:
            data = await deferToThread(self.peer.socket.recv, 2**16)
            assert data, f"the agent closed after {events}"
            self.engine.receive_data(data)
            events += iter(self.engine.next_event, None)
        return events


def now(size: int = 1) -> dict[str, Any]:
    return {"sess.a": b"x" * size}


# One that may send its NOTIFYs while it reads no ACK.
OLD = HAProxyHello(max_frame_size=2**20, capabilities=frozenset({"pipelining"}))


@pytest.mark.parametrize("kind", KINDS)
class TestAgents:
    @pytest_twisted.ensureDeferred
    async def test_large_answers_to_a_peer_that_reads_late(self, kind: str, connect: Connect) -> None:
        """All arrive, each once, those that come at once in their order, and the goodbye behind them."""
        sizes = [10, 70_000, 10, 140_000, 300_000, 10, 70_000, 10, 10]
        factory = SPOAFactory(
            Handlers({"now": now, "wait": lambda size: deferLater(reactor, 0, now, size)}), max_frame_size=2**20
        )
        agent = Agent(await connect(kind, factory), OLD)
        agent.send()
        await agent.events(1)
        names = ["now", "wait", "now"] * 3
        asked = [
            (agent.engine.send_notify([Message(name, [("size", size)])]), name, size)
            for name, size in zip(names, sizes, strict=True)
        ]
        agent.send()
        acks = await agent.events(len(asked))
        assert {ack.ids: len(ack.variables["sess.a"]) for ack in acks} == {ids: size for ids, _, size in asked}
        assert len(acks) == len(asked)
        at_once = [ids for ids, name, _ in asked if name == "now"]
        assert [ack.ids for ack in acks if ack.ids in at_once] == at_once
        drained = factory.drain(5)
        assert await agent.events(1) == [Disconnect(0, "normal")]
        agent.peer.socket.close()
        await drained

    @pytest_twisted.ensureDeferred
    async def test_a_late_answer_is_not_overtaken(self, kind: str, connect: Connect) -> None:
        """By one that is there at once, in the same turn of the reactor; the goodbye comes last."""
        waiting: list[Deferred[Any]] = [Deferred(), Deferred()]
        factory = SPOAFactory(Handlers({"wait": lambda i: waiting[i], "now": now}))
        agent = Agent(await connect(kind, factory), OLD)
        agent.send()
        await agent.events(1)
        first, _ = (agent.engine.send_notify([Message("wait", [("i", i)])]) for i in range(2))
        agent.send()
        (protocol,) = factory.connections
        while len(protocol._pending) < 2:
            await turn()
        second = agent.engine.send_notify([Message("now")])
        notify = agent.engine.data_to_send()
        waiting[0].callback(None)
        protocol.dataReceived(notify)
        protocol.abort()
        assert [getattr(event, "ids", None) for event in await agent.events(3)] == [first, second, None]
        agent.peer.socket.close()
        while factory.connections:
            await turn()

    @pytest_twisted.ensureDeferred
    async def test_who_has_something_to_take_gets_its_time(self, kind: str, connect: Connect) -> None:
        """When the agent drains, however little that is: it is not taken for a peer that says nothing."""
        clock = Clock()
        answered: list[bytes] = []

        def long() -> dict[str, Any]:
            answered.append(b"x" * 10_000)
            return {"sess.a": answered[-1]}

        factory = SPOAFactory(Handlers({"long": long}), reactor=clock)
        agent = Agent(await connect(kind, factory), HAProxyHello(capabilities=frozenset({"pipelining", "async"})))
        agent.send()
        await agent.events(1)
        (protocol,) = factory.connections
        transport = lowest(protocol.transport)
        asked = 0
        while not transport.dataBuffer:
            agent.engine.send_notify([Message("long")])
            agent.send()
            asked += 1
            while len(answered) < asked:
                await turn()
        assert not protocol._clogged
        factory.drain(60)
        clock.pump([0, *[QUIET_INTERVAL] * REST, LEAVE_TIMEOUT, ABORT_TIMEOUT])
        assert protocol in factory.connections
        *acks, goodbye = await agent.events(asked + 1)
        assert len(acks) == asked
        assert goodbye == Disconnect()
        agent.peer.socket.close()
        while factory.connections:
            await turn()

    @pytest_twisted.ensureDeferred
    async def test_the_last_late_answer_has_left(self, kind: str, connect: Connect) -> None:
        """When nothing else is pending, before the call that fires it returns, with those that were fired before."""
        waiting: list[Deferred[Any]] = [Deferred(), Deferred()]
        factory = SPOAFactory(Handlers({"wait": lambda i: waiting[i]}))
        agent = Agent(await connect(kind, factory), OLD)
        agent.send()
        await agent.events(1)
        ids = [agent.engine.send_notify([Message("wait", [("i", i)])]) for i in range(2)]
        agent.send()
        (protocol,) = factory.connections
        while len(protocol._pending) < 2:
            await turn()
        for one in waiting:
            one.callback(None)
        acks: list[Any] = []
        while len(acks) < 2:
            # No turn of the reactor passes: the socket blocks.
            agent.engine.receive_data(agent.peer.socket.recv(2**16))
            acks += iter(agent.engine.next_event, None)
        assert [ack.ids for ack in acks] == ids
        agent.peer.socket.close()
        while factory.connections:
            await turn()

    @pytest_twisted.ensureDeferred
    async def test_the_transport_resumes_within_the_write(self, kind: str, connect: Connect) -> None:
        """Again and again: what waits is answered without the stack growing with it."""
        depths: list[int] = []

        def big() -> dict[str, Any]:
            depths.append(sum(1 for _ in walk_stack(None)))
            return now(100_000)

        factory = SPOAFactory(Handlers({"big": big}), max_frame_size=2**20)
        agent = Agent(await connect(kind, factory), OLD)
        agent.send()
        await agent.events(1)
        (protocol,) = factory.connections
        lowest(protocol.transport).socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        for _ in range(50):
            agent.engine.send_notify([Message("big")])
        agent.send()
        assert len(await agent.events(50)) == 50
        assert max(depths) - min(depths) < 40
        agent.peer.socket.close()
        while factory.connections:
            await turn()

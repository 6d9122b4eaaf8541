"""Both ends of a connection through a real socket. The peer blocks, in a thread or while the reactor stands still."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from spoa_twisted.agent.outbox import Sender
from spoa_twisted.spop.connection import EngineConnection
from spoa_twisted.spop.frames import HAProxyHello
from tests.certificates import self_signed

reactor: Any = default_reactor

#: Seconds that a peer waits for bytes. Only a test that fails takes that long.
TIMEOUT = 10

#: The kinds of transports: the kind of socket, or the layers above a TCP socket.
KINDS = ["tcp", "unix", "tls", "proxy", "proxy-tls"]


class SendingProtocol(Protocol):
    """A protocol with a Sender that the test uses."""

    transport: Any

    def __init__(self) -> None:
        self.made: Deferred[SendingProtocol] = Deferred()
        self.losses: list[Failure] = []
        self.lost: Deferred[None] = Deferred()
        self.on_resume: Callable[[], None] = lambda: None
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
        self.on_resume()

    def stopProducing(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.losses.append(reason)
        if not self.lost.called:
            self.lost.callback(None)


def lose(transport: Any, reason: type[Exception] = ConnectionLost) -> None:
    """End the connection of ``transport`` in this turn, as the reactor does when the peer has reset it."""
    descriptor = lowest(transport)
    descriptor.stopReading()
    descriptor.stopWriting()
    descriptor.connectionLost(Failure(reason()))


def lowest(transport: Any) -> Any:
    """Return the transport that has the socket."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def turn() -> Deferred[None]:
    """Return a Deferred that fires in the reactor's next turn."""
    return deferLater(reactor, 0)


class Peer:
    """A blocking socket. If it receives bytes while the reactor stands still, the agent sent them before that."""

    def __init__(self, kind: str, address: Any) -> None:
        raw = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        raw.settimeout(TIMEOUT)
        # A small window: the kernel takes few bytes for a peer that does not read.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        try:
            raw.connect(address)
        except OSError:
            raw.close()
            raise
        if kind.startswith("proxy"):
            raw.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n")
        self.socket = raw
        if kind.endswith("tls"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.socket = context.wrap_socket(raw)

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, or fewer if the connection ends first."""
        data = b""
        while len(data) < size and (some := self.socket.recv(min(size - len(data), 2**16))):
            data += some
        return data

    def read_all(self) -> bytes:
        """Return all bytes until the end of the connection."""
        data = bytearray()
        while some := self.socket.recv(2**16):
            data += some
        return bytes(data)

    def reset(self) -> None:
        """End the connection with a reset. Bytes that the peer has not read are lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def tls_context(folder: Path) -> Any:
    """Return a server's TLS context. Its certificate is written into ``folder``."""
    certificate, key = self_signed(folder)
    from twisted.internet.ssl import DefaultOpenSSLContextFactory

    return DefaultOpenSSLContextFactory(str(key), str(certificate))


Connect = Callable[[str, Any], Awaitable[Peer]]


async def pair(connect: Connect, kind: str, send_buffer: int | None = None) -> tuple[SendingProtocol, Peer]:
    """Return both ends of a connection.

    :param send_buffer: the size of the kernel's buffer for the sending end, in bytes.
    """
    sending = SendingProtocol()
    factory = Factory.forProtocol(lambda: sending)
    factory.noisy = False
    peer = await connect(kind, factory)
    peer.socket.sendall(b"hello")
    await sending.made
    # TLS may send more after its handshake. Those bytes leave in this turn.
    await turn()
    if send_buffer is not None:
        lowest(sending.transport).socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    return sending, peer


async def finish(sending: SendingProtocol, peer: Peer) -> bytes:
    """Close the connection, and return the bytes that the peer had not read before."""
    sending.transport.unregisterProducer()
    sending.transport.loseConnection()
    rest = await deferToThread(peer.read_all)
    peer.socket.close()
    await sending.lost
    assert len(sending.losses) == 1
    return rest


class SocketEngine:
    """HAProxy's end of a connection to an agent behind a socket."""

    def __init__(self, peer: Peer, hello: HAProxyHello | None) -> None:
        self.peer = peer
        self.engine = EngineConnection(hello)

    def send(self) -> None:
        """Send the bytes that the engine has queued."""
        self.peer.socket.sendall(self.engine.data_to_send())

    async def events(self, count: int) -> list[Any]:
        """Return the next events, as soon as at least ``count`` have arrived."""
        events: list[Any] = list(iter(self.engine.next_event, None))
        while len(events) < count:
            data = await deferToThread(self.peer.socket.recv, 2**16)
            assert data, f"the agent closed the connection after {events}"
            self.engine.receive_data(data)
            events += iter(self.engine.next_event, None)
        return events

"""A relay between HAProxy and the agent. It records every frame, and can pause or close a connection."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from spoa_twisted.spop.frames import Flags, FrameBuffer, FrameType, HAProxyHello
from tests.frames import Frame, next_frames

from .harness import bound_socket

#: SO_RCVBUF, in bytes, for connections from HAProxy. It is small, so that a paused connection soon blocks HAProxy. The
#: kernel buffers somewhat more than this.
RECEIVE_BUFFER = 4096


class Relayed(Protocol):
    """The relay's connection from HAProxy."""

    transport: Connection

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._agent = _AgentConnection(self)
        # What HAProxy sent before the connection to the agent was established.
        self._pending: list[bytes] = []
        self._frames = FrameBuffer(2**24)
        #: The frames that HAProxy sent.
        self.sent: list[Frame] = []
        #: The frames that the agent sent.
        self.received: list[Frame] = []
        #: The largest number of NOTIFYs that were in flight at the same time.
        self.max_in_flight = 0
        #: True from the first call of :meth:`hold` on, also after :meth:`release`.
        self.held = False
        self.closed = False

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities in HAPROXY-HELLO."""
        return HAProxyHello.decode(self.sent[0].payload).capabilities

    @property
    def engine_id(self) -> str:
        """The engine-id in HAPROXY-HELLO."""
        return HAProxyHello.decode(self.sent[0].payload).engine_id

    def sent_types(self) -> list[str]:
        return [FrameType(frame.type).name for frame in self.sent]

    @property
    def in_flight(self) -> int:
        """The number of complete NOTIFYs without an ACK. An UNSET with FIN is the last fragment of a NOTIFY."""
        complete = [f for f in self.sent if f.type in (FrameType.NOTIFY, FrameType.UNSET) and f.flags == Flags.FIN]
        return len(complete) - [f.type for f in self.received].count(FrameType.ACK)

    def connectionMade(self) -> None:
        self._relay.connections.append(self)
        endpoint = TCP4ClientEndpoint(reactor, *self._relay.agent)
        connectProtocol(endpoint, self._agent).addErrback(lambda failure: self.cut())

    def dataReceived(self, data: bytes) -> None:
        self._frames.feed(data)
        for frame in next_frames(self._frames):
            self.sent.append(frame)
            if self._relay.holding and frame.type == FrameType.NOTIFY and not frame.flags & Flags.FIN:
                self.hold()
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if self._agent.connected:
            self._agent.transport.write(data)
        else:
            self._pending.append(data)
        self._relay.changed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True
        if self._agent.connected:
            self._agent.transport.loseConnection()
        self._relay.changed()

    def agent_connected(self) -> None:
        for data in self._pending:
            self._agent.transport.write(data)
        if self.closed:
            self._agent.transport.loseConnection()

    def agent_sent(self, data: bytes, frames: list[Frame]) -> None:
        self.received += frames
        self.transport.write(data)
        self._relay.changed()

    def agent_lost(self) -> None:
        self.transport.loseConnection()

    def hold(self) -> None:
        """Stop reading from HAProxy."""
        self.held = True
        self.transport.pauseProducing()

    def release(self) -> None:
        """Read from HAProxy again."""
        self.transport.resumeProducing()

    def cut(self, *, reset: bool = False) -> None:
        """Close both connections at once. HAProxy sees a FIN, as when an agent ends, or an RST if ``reset`` is true."""
        if reset:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()
        if self._agent.connected:
            self._agent.transport.abortConnection()


class _AgentConnection(Protocol):
    """The relay's connection to the agent."""

    transport: Connection

    def __init__(self, relayed: Relayed) -> None:
        self._relayed = relayed
        self._frames = FrameBuffer(2**24)

    def connectionMade(self) -> None:
        self._relayed.agent_connected()

    def dataReceived(self, data: bytes) -> None:
        self._frames.feed(data)
        self._relayed.agent_sent(data, next_frames(self._frames))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._relayed.agent_lost()


class Relay(Factory):
    """Listens for HAProxy, and opens a connection to the agent for each connection from HAProxy.

    :param agent: the agent's address, ``host:port``.
    """

    noisy = False

    def __init__(self, agent: str) -> None:
        host, _, port = agent.partition(":")
        self.agent = (host, int(port))
        #: All connections from HAProxy, open and closed, in the order in which HAProxy opened them.
        self.connections: list[Relayed] = []
        #: If true, a connection is paused when the first fragment of a fragmented NOTIFY has come.
        self.holding = False
        self._waiting: list[Deferred[None]] = []
        self._port: Any = None

    def buildProtocol(self, addr: IAddress | None) -> Relayed:
        return Relayed(self)

    async def listen(self) -> str:
        """Listen on a free port, and return the address in the syntax of HAProxy's ``server`` line."""
        listening = bound_socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listening.listen(128)
        # The endpoint closes the descriptor, so the socket object must not close it too.
        endpoint = AdoptedStreamServerEndpoint(reactor, listening.detach(), socket.AF_INET)
        self._port = await endpoint.listen(self)
        return f"127.0.0.1:{self._port.getHost().port}"

    async def stop(self) -> None:
        """Close the listening port and all connections."""
        if self._port is not None:
            await self._port.stopListening()
        for connection in self.connections:
            if not connection.closed:
                connection.cut()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` is true. It is checked now, after each read, and when a connection is lost."""
        while not condition():
            change: Deferred[None] = Deferred()
            self._waiting.append(change)
            await change

    def changed(self) -> None:
        """Let :meth:`until` check its condition again."""
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            change.callback(None)

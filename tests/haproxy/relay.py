"""A relay between HAProxy and the agent, which sees every frame, and can hold a connection or cut it."""

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

#: What the kernel is asked to keep, at most, for a connection that is not read, in bytes. It keeps some more.
RECEIVE_BUFFER = 4096


class Relayed(Protocol):
    """HAProxy's end of a connection."""

    transport: Connection

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._agent = _AgentsEnd(self)
        self._before: list[bytes] = []
        self._frames = FrameBuffer(2**24)
        #: The frames that HAProxy sent.
        self.sent: list[Frame] = []
        #: The frames that the agent sent.
        self.received: list[Frame] = []
        #: The largest number of NOTIFYs without an ACK that there was at a time.
        self.most_in_flight = 0
        #: Whether it was held.
        self.held = False
        self.closed = False

    @property
    def capabilities(self) -> frozenset[str]:
        """What HAProxy said in its HELLO that it can."""
        return HAProxyHello.decode(self.sent[0].payload).capabilities

    @property
    def engine_id(self) -> str:
        return HAProxyHello.decode(self.sent[0].payload).engine_id

    def sent_types(self) -> list[str]:
        return [FrameType(frame.type).name for frame in self.sent]

    @property
    def in_flight(self) -> int:
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
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self._agent.connected:
            self._agent.transport.write(data)
        else:
            self._before.append(data)
        self._relay.changed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True
        if self._agent.connected:
            self._agent.transport.loseConnection()
        self._relay.changed()

    def agent_connected(self) -> None:
        for data in self._before:
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
        """Read no more of what HAProxy sends."""
        self.held = True
        self.transport.pauseProducing()

    def let_go(self) -> None:
        self.transport.resumeProducing()

    def cut(self, *, reset: bool = False) -> None:
        """End both sides at once: for HAProxy as a process does that ends, or with a reset."""
        if reset:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()
        if self._agent.connected:
            self._agent.transport.abortConnection()


class _AgentsEnd(Protocol):
    """The agent's end of a connection."""

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
    """Listens for HAProxy, and connects to the agent for each of its connections.

    :param agent: where the agent is, as HAProxy writes it.
    """

    noisy = False

    def __init__(self, agent: str) -> None:
        host, _, port = agent.partition(":")
        self.agent = (host, int(port))
        #: Those that are open and those that were, in the order in which they came.
        self.connections: list[Relayed] = []
        #: Whether a connection is held when the first of several fragments has come.
        self.holding = False
        self._waiting: list[Deferred[None]] = []
        self._port: Any = None

    def buildProtocol(self, addr: IAddress | None) -> Relayed:
        return Relayed(self)

    async def listen(self) -> str:
        """Listen, and return where, as HAProxy writes it."""
        listening = bound_socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listening.listen(128)
        # Twisted makes it its own.
        endpoint = AdoptedStreamServerEndpoint(reactor, listening.detach(), socket.AF_INET)
        self._port = await endpoint.listen(self)
        return f"127.0.0.1:{self._port.getHost().port}"

    async def stop(self) -> None:
        if self._port is not None:
            await self._port.stopListening()
        for connection in self.connections:
            if not connection.closed:
                connection.cut()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds, which it may begin to when frames have come or a connection is lost."""
        while not condition():
            change: Deferred[None] = Deferred()
            self._waiting.append(change)
            await change

    def changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            change.callback(None)

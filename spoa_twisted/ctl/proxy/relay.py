"""Relay bytes between HAProxy and an agent, unchanged and at once. A :class:`Relayed` is one connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer


class Listener(Interface):
    """Receives the traffic of one connection, to show it."""

    def received(self, data: bytes, *, from_agent: bool) -> None:
        """Show ``data``, which the relay has already passed on."""

    def half_closed(self, *, from_agent: bool) -> None:
        """One side sends no more."""

    def ended(self, reason: str) -> None:
        """The connection has ended."""


@final
@implementer(IHalfCloseableProtocol)
class Side(Protocol):
    """One of the two transports of a relayed connection: HAProxy's or the agent's."""

    transport: Any

    def __init__(self, relayed: Relayed, *, is_agent: bool) -> None:
        self.is_agent = is_agent
        self._relayed = relayed

    def __str__(self) -> str:
        return "the agent" if self.is_agent else "HAProxy"

    def connectionMade(self) -> None:
        """Connect to the agent, or begin to relay."""
        self._relayed.made(self)

    def dataReceived(self, data: bytes) -> None:
        """Pass ``data`` on."""
        self._relayed.received(self, data)

    def readConnectionLost(self) -> None:
        """Pass on that this side sends no more."""
        self._relayed.half_closed(self)

    def writeConnectionLost(self) -> None:
        """Do nothing: the other side has asked for it."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Pass on that this side has closed or reset the connection."""
        self._relayed.lost(self, reason)


@final
class Relayed:
    """A connection from HAProxy, and the one to the agent that belongs to it.

    Neither direction buffers more than Twisted's transports do: while one side does not read, the other one is paused.
    """

    def __init__(self, relay: Relay, listener: Listener) -> None:
        self.haproxy = Side(self, is_agent=False)
        self.agent = Side(self, is_agent=True)
        self._relay = relay
        self._listener = listener
        self._connecting: Deferred[Any] | None = None
        self._is_over = False
        # The sides that send no more, and those that are closed.
        self._half_closed: set[Side] = set()
        self._lost: set[Side] = set()

    def made(self, side: Side) -> None:
        """Handle a new transport."""
        if side is self.haproxy:
            # Read nothing before there is an agent to take it.
            side.transport.pauseProducing()
            self._connecting = connectProtocol(self._relay.agent, self.agent)
            self._connecting.addCallbacks(self._on_connected, self._on_no_agent)
        else:
            # Each transport pauses the other one while its own buffer is full. If HAProxy has gone meanwhile, its
            # transport closes the agent's here.
            self.agent.transport.registerProducer(self.haproxy.transport, True)
            self.haproxy.transport.registerProducer(self.agent.transport, True)
            self.haproxy.transport.resumeProducing()

    def _on_connected(self, agent: object) -> None:
        self._connecting = None

    def _on_no_agent(self, failure: Failure) -> None:
        self._connecting = None
        # Nothing more is reported if HAProxy has gone meanwhile.
        self._end(f"cannot connect to the agent: {failure.getErrorMessage().rstrip('.')}")
        self.abort()

    def received(self, side: Side, data: bytes) -> None:
        """Write ``data`` to the other side. Then show it."""
        self._other(side).transport.write(data)
        self._listener.received(data, from_agent=side.is_agent)

    def half_closed(self, side: Side) -> None:
        """Close the other side for writing. Close both if both send no more."""
        other = self._other(side).transport
        self._half_closed.add(side)
        if len(self._half_closed) == 2:
            # Twisted closes neither by itself. The transports write their buffers first.
            self._end(f"{side} closed too")
            self._lose()
            return
        self._listener.half_closed(from_agent=side.is_agent)
        # A producer that has ended must not be resumed: it would read the end again.
        other.unregisterProducer()
        if isinstance(other, Connection):
            other.loseWriteConnection()
        else:
            # TLS cannot be closed for writing only.
            other.loseConnection()

    def lost(self, side: Side, reason: Failure) -> None:
        """Close the other side, or reset it if this side was reset."""
        self._lost.add(side)
        clean = reason.check(ConnectionDone) is not None
        if clean:
            self._end(f"{side} closed")
        elif reason.check(ConnectionLost):
            self._end(f"{side} reset the connection (RST)")
        else:
            self._end(f"the connection of {side} was lost: {reason.getErrorMessage().rstrip('.')}")
        if self._connecting is not None:
            self._connecting.cancel()
        if clean:
            self._lose()
        else:
            for other in self._open():
                other.transport.unregisterProducer()
            self.abort()

    @property
    def is_closed(self) -> bool:
        """Whether both transports are closed."""
        return not self._open()

    def pause(self) -> None:
        """Read nothing more from HAProxy."""
        if self.agent.transport is not None:
            # Otherwise the agent's transport would resume it.
            self.agent.transport.unregisterProducer()
        self.haproxy.transport.pauseProducing()

    def close(self) -> None:
        """Close both transports, after they have written their buffers."""
        self._end("spoactl ends")
        self._lose()

    def abort(self) -> None:
        """Close both transports at once."""
        for side in self._open():
            side.transport.abortConnection()

    def _lose(self) -> None:
        for side in self._open():
            side.transport.unregisterProducer()
            side.transport.loseConnection()

    def _open(self) -> list[Side]:
        """Return the sides that have a transport which is not closed. Twisted's TLS cannot be closed again."""
        return [side for side in (self.haproxy, self.agent) if side.transport is not None and side not in self._lost]

    def _other(self, side: Side) -> Side:
        return self.agent if side is self.haproxy else self.haproxy

    def _end(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._listener.ended(reason)
            self._relay.connections.discard(self)


@final
class Relay(Factory):
    """Accepts HAProxy's connections, and opens one to the agent for each.

    :param agent: the agent's endpoint.
    :param listener: called with HAProxy's address; returns the :class:`Listener` of the connection.
    """

    def __init__(self, agent: IStreamClientEndpoint, listener: Callable[[IAddress | None], Listener]) -> None:
        self.agent = agent
        #: The open connections.
        self.connections: set[Relayed] = set()
        self._listener = listener
        # Twisted would log a line for each start and stop.
        self.noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return HAProxy's side of a new connection."""
        relayed = Relayed(self, self._listener(addr))
        self.connections.add(relayed)
        return relayed.haproxy

"""Stand-ins for the reactor, which the endpoints of ``--listen`` get.

An endpoint calls ``listenTCP`` or a similar method of its reactor, and passes a factory, which it may have wrapped: for
TLS, or for the PROXY protocol. With these stand-ins, the same text of an endpoint does two things:

- In the master, it binds the port. The master accepts connections, and reads nothing from them.
- In a worker, it binds nothing. The worker keeps the wrapped factory, and passes it the connections from the master.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any, final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorSocket,
    IReactorSSL,
    IReactorTCP,
    IReactorUNIX,
)
from twisted.internet.protocol import Factory, Protocol
from zope.interface import directlyProvides, implementer, providedBy

# "systemd:domain=INET:index=0", also behind the name of a wrapper, as in "haproxy:systemd:domain=INET:index=0".
_SYSTEMD = re.compile(r"(^|(?<!\\):)systemd:.*\Z", re.DOTALL)


def without_inherited(text: str) -> str:
    """Return the text of an endpoint for a worker: without a socket that only the master inherits from systemd."""
    return _SYSTEMD.sub(r"\1tcp:0", text)


class _StandIn:
    """A reactor whose methods that listen are replaced. All other attributes are those of the real reactor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        # Endpoints and plugins may check which interfaces their reactor provides.
        directlyProvides(self, providedBy(reactor), IReactorTCP, IReactorUNIX, IReactorSSL, IReactorSocket)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


class MasterFactory(Factory):
    """The factory of a port of the master. Its name is in Twisted's log when the port opens and closes."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return a protocol that does nothing, because ``Port.doRead`` needs one."""
        return _Ignored()


class _Ignored(Protocol):
    def makeConnection(self, transport: object) -> None:
        """Do nothing: the socket is on its way to a worker."""


@final
class AcceptingReactor(_StandIn):
    """Binds real ports. A connection that a port accepts goes to ``on_accepted``, and not to the endpoint's factory."""

    def __init__(self, reactor: Any, on_accepted: Callable[[socket.socket], None]) -> None:
        super().__init__(reactor)
        #: False if an endpoint listens without this object: its connections cannot be handed over.
        self.used = False
        self._on_accepted = on_accepted

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> IListeningPort:
        """Bind a TCP port."""
        return self._accept(self._reactor.listenTCP(port, MasterFactory(), backlog, interface))

    def listenSSL(
        self, port: int, factory: object, contextFactory: object, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Bind a TCP port: a worker does the TLS handshake."""
        return self.listenTCP(port, factory, backlog, interface)

    def listenUNIX(
        self, address: str, factory: object, backlog: int = 50, mode: int = 0o666, wantPID: int = 0
    ) -> IListeningPort:
        """Bind a Unix socket."""
        return self._accept(self._reactor.listenUNIX(address, MasterFactory(), backlog, mode, wantPID))

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: object) -> IListeningPort:
        """Use a port that is bound already."""
        return self._accept(self._reactor.adoptStreamPort(fileDescriptor, addressFamily, MasterFactory()))

    def _accept(self, port: Any) -> IListeningPort:
        # Port.doRead calls this attribute for each connection that it has accepted: see the docstring of tcp.Port.
        def transport(accepted: socket.socket, *others: object) -> None:
            self._on_accepted(accepted)

        port.transport = transport
        self.used = True
        result: IListeningPort = port
        return result


@implementer(IListeningPort)
class TakenOver:
    """The port of an endpoint in a worker: it passes connections from the master to the endpoint's factory."""

    def __init__(self, reactor: Any, factory: Any) -> None:
        self._reactor = reactor
        self._factory = factory
        self.startListening()

    def startListening(self) -> None:
        """Start the factory."""
        self._factory.doStart()

    def stopListening(self) -> Deferred[None]:
        """Stop the factory."""
        self._factory.doStop()
        return succeed(None)

    def getHost(self) -> IAddress:
        """Return an address that stands for none: the master has the port."""
        return IPv4Address("TCP", "0.0.0.0", 0)  # noqa: S104 - nothing listens there

    def adopt(self, connection: socket.socket, on_closed: Callable[[], None]) -> None:
        """Make a transport and a protocol for ``connection``, and close ``connection``: the transport has a copy.

        :param on_closed: called when the transport is closed.
        """
        with connection:
            connection.setblocking(False)
            try:
                transport = self._reactor.adoptStreamConnection(connection.fileno(), connection.family, self._factory)
            except OSError:
                # The peer has reset the connection already, so it has no address any more.
                transport = None
        if transport is None:
            on_closed()
            return
        connection_lost = transport.connectionLost

        # A wrapper around the protocol would cost time for each read.
        def closed(*reason: object) -> None:
            # Without this line, transport and this function would refer to each other for ever.
            del transport.connectionLost
            connection_lost(*reason)
            on_closed()

        transport.connectionLost = closed


@final
class CatchingReactor(_StandIn):
    """Binds nothing. ``listen`` methods return a :class:`TakenOver` with the factory of the endpoint."""

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> IListeningPort:
        """Keep the factory."""
        return TakenOver(self._reactor, factory)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Keep the factory, and wrap it for TLS, as the real ``listenSSL`` does."""
        from twisted.protocols.tls import TLSMemoryBIOFactory

        return TakenOver(self._reactor, TLSMemoryBIOFactory(contextFactory, False, factory))

    def listenUNIX(
        self, address: str, factory: object, backlog: int = 50, mode: int = 0o666, wantPID: int = 0
    ) -> IListeningPort:
        """Keep the factory."""
        return TakenOver(self._reactor, factory)

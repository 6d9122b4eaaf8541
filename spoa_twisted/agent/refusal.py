"""Closing a connection that exceeds ``max_connections``."""

from __future__ import annotations

from typing import final

from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure


@final
class Refusal(Protocol):
    """Closes its connection at once.

    ``buildProtocol`` cannot return ``None`` instead: Twisted's TLS layer does not support that.
    """

    transport: Connection

    def connectionMade(self) -> None:
        """Close the connection."""
        self.transport.abortConnection()
        # abortConnection closes the file descriptor in the reactor's next turn. Until then, Twisted may accept more
        # connections, and use up all descriptors. So connectionLost closes it now. With TLS, the transport that has
        # the descriptor is one layer below.
        connection = getattr(self.transport, "transport", self.transport)
        if isinstance(connection, Connection):
            connection.connectionLost(Failure(ConnectionAborted()))

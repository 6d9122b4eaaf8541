"""A connection that is one too many."""

from __future__ import annotations

from typing import final

from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure


@final
class Refusal(Protocol):
    """Closes its connection at once.

    A factory whose ``buildProtocol`` returns ``None`` would do the same, but not with TLS.
    """

    transport: Connection

    def connectionMade(self) -> None:
        """Close the connection."""
        self.transport.abortConnection()
        # abortConnection closes the file descriptor in the reactor's next turn. Before that, Twisted may accept more
        # connections than there are descriptors left. So it is closed now. With TLS, the descriptor is one layer below.
        connection = getattr(self.transport, "transport", self.transport)
        if isinstance(connection, Connection):
            connection.connectionLost(Failure(ConnectionAborted()))

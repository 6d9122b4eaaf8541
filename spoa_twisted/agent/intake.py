"""When the agent reads from a peer, and when it handles the NOTIFYs that it has read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from twisted.internet.interfaces import IReactorTime, ISSLTransport
from twisted.internet.tcp import Connection

from spoa_twisted.agent.closing import ignore
from spoa_twisted.agent.in_flight import InFlight
from spoa_twisted.agent.outbox import Outbox
from spoa_twisted.agent.peers import set_read_size
from spoa_twisted.agent.records import Records
from spoa_twisted.spop.connection import AgentConnection
from spoa_twisted.spop.unread import HAPROXY_IN_FLIGHT

#: Bytes. The agent sends all ACKs of one read in one write, unless they are longer than this together.
WRITE_SIZE: Final = 2**16

# Bytes. More than 20 of the longest ACKs, with the usual frame size: HAProxy >= 3.1 has no more NOTIFYs in flight.
_MAX_HELD: Final = 2**19

# Read this many bytes beyond the in-flight limit, so that EOF is still noticed.
_READ_AHEAD: Final = 2**16


@final
class Intake:
    """Decides when one connection handles NOTIFYs, and pauses its transport while a limit is reached.

    :param on_read: called after each read, when the connection has its bytes.
    """

    __slots__ = ("_connection", "_in_flight", "_on_read", "_outbox", "_records", "_transport", "reading")

    def __init__(
        self,
        transport: Connection,
        connection: AgentConnection,
        in_flight: InFlight,
        outbox: Outbox,
        reactor: IReactorTime,
        on_read: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._in_flight = in_flight
        self._outbox = outbox
        self._on_read = on_read
        set_read_size(transport)
        # Only a TLS transport passes a read on in parts.
        self._records = (
            Records(transport, reactor, connection, on_read) if ISSLTransport.providedBy(transport) else None
        )
        #: False while the transport is paused: it then does not call dataReceived.
        self.reading = True

    def receive(self, data: bytes) -> None:
        """Take what the transport received: a read, or with TLS one of its records."""
        if self._records is None:
            self._connection.receive_data(data)
            self._on_read()
        else:
            self._records.add(data)

    def end_read(self) -> None:
        """Handle the last read now: the connection ends in this turn of the reactor."""
        if self._records is not None:
            self._records.end_read()

    def end(self) -> None:
        """Call ``on_read`` never again: the connection has ended."""
        self._on_read = ignore
        if self._records is not None:
            self._records.end()
            # Twisted passes records on until the peer ends TLS too. The connection, which is closed, ignores them.
            self._records = None

    def may_answer(self) -> bool:
        """Return whether the next NOTIFY may be handled now."""
        connection = self._connection
        size = connection.bytes_to_send
        # The agent must count the NOTIFYs in flight of a HAProxy >= 3.1, so it handles all of them while ACKs wait.
        too_long = size >= WRITE_SIZE and (
            size >= _MAX_HELD or connection.unanswered >= HAPROXY_IN_FLIGHT or not connection.held_back
        )
        return not (too_long or self._outbox.clogged or self._in_flight.full)

    def read_or_pause(self) -> None:
        """Pause the transport if a limit is reached, or resume it.

        A paused transport does not notice EOF. So the agent reads ahead, unless the transport still has bytes to write:
        then the next write notices that the connection has ended.
        """
        reading = self.may_answer() or (not self._outbox.clogged and self._connection.bytes_received < _READ_AHEAD)
        if reading is self.reading:
            return
        self.reading = reading
        if reading:
            self._transport.resumeProducing()
        else:
            self._transport.pauseProducing()

"""When the agent reads from a peer, and when it handles the NOTIFYs that it has read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from twisted.internet.interfaces import IReactorTime, ISSLTransport
from twisted.internet.tcp import Connection

from spoa_twisted.agent.closing import ignore
from spoa_twisted.agent.in_flight import InFlight
from spoa_twisted.agent.outbox import Outbox
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

    :param on_read_end: called after the last record of a TLS read if ACKs are queued, which may have waited for this.
    """

    __slots__ = (
        "_connection",
        "_in_flight",
        "_on_read_end",
        "_outbox",
        "_reactor",
        "_transport",
        "reading",
        "receive",
    )

    def __init__(
        self,
        transport: Connection,
        connection: AgentConnection,
        in_flight: InFlight,
        outbox: Outbox,
        reactor: IReactorTime,
        on_read_end: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._in_flight = in_flight
        self._outbox = outbox
        self._reactor = reactor
        self._on_read_end = on_read_end
        #: False while the transport is paused: it then does not call dataReceived.
        self.reading = True
        #: Passes what the transport received to the connection.
        self.receive = self._receive_record if ISSLTransport.providedBy(transport) else connection.receive_data

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

    def end(self) -> None:
        """Call ``on_read_end`` never again: the connection has ended."""
        self._on_read_end = ignore
        # A method of its own, kept as an attribute, would keep this object alive.
        self.receive = self._connection.receive_data

    def _receive_record(self, data: bytes) -> None:
        # A TLS transport delivers one read in pieces, all in one reactor turn.
        if not self._connection.in_read:
            self._reactor.callLater(0, self._end_read)
        self._connection.receive_part(data)

    def _end_read(self) -> None:
        self._connection.end_read()
        if self._connection.bytes_to_send:
            self._on_read_end()

"""The records of one TLS read.

A TLS transport calls ``dataReceived`` for each record of a read, and a record may hold one NOTIFY only. The agent
handles all records of a read together, as it handles a read of TCP: their ACKs leave in one write, and it notices a
HAProxy >= 3.1 that has given up NOTIFYs. If the peer ends TLS in the same read, it gets no ACKs: its last NOTIFYs only
call their handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from twisted.internet.interfaces import IReactorTime
from twisted.protocols.policies import ProtocolWrapper

from spoa_twisted.agent.closing import ignore
from spoa_twisted.agent.next_turn import NextTurn
from spoa_twisted.spop.connection import AgentConnection


@final
class Records:
    """Joins the records of one read. At its end, ``connection`` receives them.

    :param transport: the transport, which provides ISSLTransport.
    :param on_read: called after each read, when ``connection`` has its bytes.
    """

    __slots__ = ("_connection", "_in_read", "_next_turn", "_on_read", "_parts", "_pass_on", "_tls")

    def __init__(
        self, transport: Any, reactor: IReactorTime, connection: AgentConnection, on_read: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._on_read = on_read
        self._parts: list[bytes] = []
        # Without a TLS layer of its own, for example after startTLS, the end of a read is not known. But all its
        # records come in one turn of the reactor.
        self._next_turn = NextTurn(reactor, self.end_read)
        # True while the TLS layer handles a read: _read calls end_read after that.
        self._in_read = False
        self._tls = tls = _tls_layer(transport)
        self._pass_on: Callable[[bytes], object] = ignore
        if tls is not None:
            # Twisted has no call for the end of a read. So the agent takes the place of the method that gets the read
            # and passes on its records.
            self._pass_on = tls.dataReceived
            tls.dataReceived = self._read

    def add(self, data: bytes) -> None:
        """Add a record."""
        if not (self._in_read or self._parts):
            self._next_turn.schedule()
        self._parts.append(data)

    def end_read(self) -> None:
        """Pass the records on now, if there are any: no other one follows."""
        self._next_turn.cancel()
        parts, self._parts = self._parts, []
        if parts:
            self._connection.receive_data(b"".join(parts))
            self._on_read()

    def end(self) -> None:
        """Call ``on_read`` never again: the connection has ended."""
        self._next_turn.end()
        self._on_read = ignore
        self._parts = []
        if self._tls is not None:
            # Not "= self._pass_on": a layer that has its own method as an attribute is only freed by the collector.
            vars(self._tls).pop("dataReceived", None)
            self._tls, self._pass_on = None, ignore

    def _read(self, data: bytes) -> None:
        self._in_read = True
        self._pass_on(data)
        self._in_read = False
        self.end_read()


def _tls_layer(transport: Any) -> Any:
    """Return the TLS layer below the agent, or ``None`` if the transport has none."""
    while isinstance(transport, ProtocolWrapper):
        # Not at the top of the file: the extra "tls" may not be installed.
        from twisted.protocols.tls import TLSMemoryBIOProtocol

        if isinstance(transport, TLSMemoryBIOProtocol):
            return transport
        transport = transport.transport
    return None

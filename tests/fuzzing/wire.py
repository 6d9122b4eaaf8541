"""A transport in memory that behaves like TCP with a slow peer: the test decides when the peer reads."""

from __future__ import annotations

from typing import final

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

# Bytes that may be unread before the producer is paused: the buffer size of Twisted's sockets.
CAPACITY = 2**16


@final
class SlowWire(StringTransport):
    """Holds written bytes until the test reads them with :meth:`take`, as the peer.

    After ``loseConnection``, the connection ends when all bytes are read. After ``abortConnection``, it ends in the
    next :meth:`turn`.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._unread = bytearray()
        self._producer_paused = False
        self.aborted = False
        #: Whether ``connectionLost`` was called.
        self.lost = False

    @property
    def reading(self) -> bool:
        """Whether the transport would read from the peer now, and call ``dataReceived``."""
        return self.producerState == "producing" and not self.disconnecting and not self.lost

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        assert not self.disconnecting, "the protocol called write after loseConnection or abortConnection"
        if self.lost:
            return
        self._unread += data
        if len(self._unread) > CAPACITY and not self._producer_paused and self.producer is not None:
            self._producer_paused = True
            self.producer.pauseProducing()

    def take(self, size: int) -> bytes:
        """Read up to ``size`` bytes as the peer. When all are read, resume the producer or end a closing connection."""
        data = bytes(self._unread[:size])
        del self._unread[:size]
        if not self._unread:
            if self._producer_paused and self.producer is not None:
                self._producer_paused = False
                self.producer.resumeProducing()
            # Checked again: resumeProducing() may have written.
            if self.disconnecting and not self._unread and not self.aborted:
                self.lose(ConnectionDone)
        return data

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def lose(self, reason: type[Exception]) -> None:
        """End the connection with this reason. Do nothing if it has ended."""
        if not self.lost:
            self.lost = True
            self.disconnecting = True
            self._protocol.connectionLost(Failure(reason()))

    def turn(self) -> None:
        """Do what the reactor does in its next turn: end the connection if it was aborted."""
        if self.aborted:
            self.lose(ConnectionAborted)

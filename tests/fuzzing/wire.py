"""A transport in memory that fills up, empties and closes when the test says so, in the way of TCP."""

from __future__ import annotations

from typing import final

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

# As those of Twisted's sockets.
CAPACITY = 2**16


@final
class SlowWire(StringTransport):
    """What is written stays here until the peer takes it; the end comes when it took all, or at an abort."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._untaken = bytearray()
        self._clogged = False
        self.aborted = False
        #: Whether ``connectionLost`` was called.
        self.lost = False

    @property
    def reading(self) -> bool:
        """Whether the protocol is to be given what the peer sent."""
        return self.producerState == "producing" and not self.disconnecting and not self.lost

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        assert not self.disconnecting, "it wrote after it closed"
        if self.lost:
            return
        self._untaken += data
        if len(self._untaken) > CAPACITY and not self._clogged and self.producer is not None:
            self._clogged = True
            self.producer.pauseProducing()

    def take(self, size: int) -> bytes:
        """Return what the peer reads, which may let the protocol go on or the connection end."""
        data = bytes(self._untaken[:size])
        del self._untaken[:size]
        if not self._untaken:
            if self._clogged and self.producer is not None:
                self._clogged = False
                self.producer.resumeProducing()
            if self.disconnecting and not self._untaken and not self.aborted:
                self.lose(ConnectionDone)
        return data

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def lose(self, reason: type[Exception]) -> None:
        """End the connection, once."""
        if not self.lost:
            self.lost = True
            self.disconnecting = True
            self._protocol.connectionLost(Failure(reason()))

    def turn(self) -> None:
        """Let the reactor do what it does next: end what was aborted."""
        if self.aborted:
            self.lose(ConnectionAborted)

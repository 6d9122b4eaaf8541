"""Writing to the peer without delay, and dropping a peer that does not read.

``transport.write`` does not call the kernel before the reactor's next turn, and newer versions of Twisted delay small
TLS writes by one more turn. With one NOTIFY in flight, this delay is as long as the answer itself takes. So
:class:`Sender` calls the kernel at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from socket import socket
from typing import Any, Final, final

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISSLTransport

from spoa_twisted.agent.closing import ignore
from spoa_twisted.agent.peers import lowest_transport

#: Seconds that a peer has to take all unsent bytes, from the time when they exceed ``max_unsent``.
UNSENT_TIMEOUT: Final = 5.0

# Above this many unsent bytes (or max_unsent, if larger) the connection is dropped at once. It is more than 256 ACKs of
# HAProxy's usual frame size.
_MAX_BACKLOG: Final = 2**22


@final
class Outbox:
    """Writes to a peer, counts the unsent bytes, and calls ``on_overflow`` when they are too many.

    :param max_unsent: the largest number of bytes that may stay unsent for longer than :data:`UNSENT_TIMEOUT`.
    :param on_overflow: drops the connection.
    """

    __slots__ = ("_max_unsent", "_on_overflow", "_reactor", "_sender", "_timer", "_unsent", "clogged", "send")

    def __init__(self, transport: Any, reactor: IReactorTime, max_unsent: int, on_overflow: Callable[[], None]) -> None:
        self._sender: Sender | ReportingSender = Sender(transport)
        #: Sends bytes now, and counts nothing. Only for a transport that is not clogged; see :meth:`Sender.send`.
        self.send = self._sender.send
        self._reactor = reactor
        self._max_unsent = max_unsent
        self._on_overflow = on_overflow
        #: True between pauseProducing and resumeProducing: the transport's buffer is full. Bytes written then count as
        #: unsent.
        self.clogged = False
        self._unsent = 0
        self._timer: IDelayedCall | None = None

    def report(self, on_sent: Callable[[int], None]) -> None:
        """Call ``on_sent`` after each write from now on, with the number of bytes."""
        self._sender = reporting = ReportingSender(self._sender, on_sent)
        self.send = reporting.send

    def write(self, data: bytes, at_once: bool, held_back: int) -> None:
        """Send ``data``, which may be empty.

        :param at_once: call the kernel now, not in the reactor's next turn.
        :param held_back: the number of bytes that the caller still holds back for this peer. They count as backlog too.
        """
        if self.clogged:
            self._unsent += len(data)
            if self._unsent > self._max_unsent and self._timer is None:
                self._timer = self._reactor.callLater(UNSENT_TIMEOUT, self._on_timer)
        if data:
            if at_once:
                self._sender.send(data)
            else:
                self._sender.send_later(data)
        backlog = self._unsent + held_back
        if backlog and backlog > max(_MAX_BACKLOG, self._max_unsent):
            self._on_overflow()

    def resume(self) -> None:
        """Count no byte as unsent any more: the transport's buffer is empty."""
        self.clogged = False
        self._unsent = 0
        self._stop_timer()

    @property
    def is_empty(self) -> bool:
        """Whether the kernel has all bytes. It may be true too early with TLS, whose layer may still hold bytes."""
        return not self.clogged and self._sender.written

    def end(self) -> None:
        """Report no overflow from now on: the connection has ended."""
        self._stop_timer()
        self._on_overflow = ignore

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _on_timer(self) -> None:
        # If the reactor was blocked, the peer may have been ready in time. The reactor writes before it makes this
        # call.
        self._timer = self._reactor.callLater(0, self._on_timeout)

    def _on_timeout(self) -> None:
        self._timer = None
        self._on_overflow()


@final
class Sender:
    """Writes to ``transport``. Nothing else may write to it."""

    __slots__ = ("_descriptor", "_queued", "_socket", "_write")

    def __init__(self, transport: Any) -> None:
        lowest = lowest_transport(transport)
        self._descriptor = lowest if isinstance(lowest, FileDescriptor) else None
        # A transport whose startTLS was called is its own TLS layer.
        plain = lowest is transport and not ISSLTransport.providedBy(transport)
        self._socket: socket | None = getattr(self._descriptor, "socket", None) if plain else None
        self._write = _write_method(transport)
        # Whether the transport may have bytes queued. Later bytes must not overtake them.
        self._queued = False

    def send(self, data: bytes) -> None:
        """Send ``data`` now, or as soon as the kernel takes it."""
        if self._socket is not None and not self._queued:
            try:
                sent = self._socket.send(data)
            except OSError:
                # The kernel's buffer is full, or the connection is broken. The transport's own write handles both.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._write(data)
        self._queued = True
        descriptor = self._descriptor
        if descriptor is not None and descriptor.connected and not descriptor.disconnecting:
            # Set before doWrite, which may resume the producer when it has written all bytes. The producer then calls
            # send again, and needs the new value.
            self._queued = False
            descriptor.doWrite()
            # doWrite leaves the bytes that the kernel did not take in dataBuffer.
            if descriptor.dataBuffer:
                self._queued = True

    @property
    def written(self) -> bool:
        """Whether the kernel has all bytes of the lowest transport; true if that is unknown."""
        return self._descriptor is None or not self._descriptor.dataBuffer

    def send_later(self, data: bytes) -> None:
        """Send ``data`` in the reactor's next turn, in one write with all other bytes that are sent until then."""
        self._write(data)
        self._queued = True


@final
class ReportingSender:
    """Writes as ``sender`` does, and calls ``on_sent`` with the number of bytes."""

    __slots__ = ("_on_sent", "_sender")

    def __init__(self, sender: Sender | ReportingSender, on_sent: Callable[[int], None]) -> None:
        self._sender = sender
        self._on_sent = on_sent

    def send(self, data: bytes) -> None:
        """See :meth:`Sender.send`."""
        self._sender.send(data)
        self._on_sent(len(data))

    def send_later(self, data: bytes) -> None:
        """See :meth:`Sender.send_later`."""
        self._sender.send_later(data)
        self._on_sent(len(data))

    @property
    def written(self) -> bool:
        """See :attr:`Sender.written`."""
        return self._sender.written


def _write_method(transport: Any) -> Callable[[bytes], None]:
    if ISSLTransport.providedBy(transport):
        from twisted.protocols.tls import TLSMemoryBIOProtocol

        if isinstance(transport, TLSMemoryBIOProtocol):
            # The subclass that newer versions of Twisted use delays small writes.
            return partial(TLSMemoryBIOProtocol.write, transport)
    write: Callable[[bytes], None] = transport.write
    return write

"""Bytes -> the peer, at once.

``transport.write`` leaves them to the reactor's next turn, and with newer Twisteds TLS puts off what is small for one
turn more. With one NOTIFY in flight on a connection that costs as much again as answering it. What is sent here has
reached the kernel before the call returns, unless the kernel takes no more, or the transport is of a kind unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from socket import socket
from typing import Any, final

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.policies import ProtocolWrapper


@final
class Sender:
    """The only one who writes to ``transport``."""

    __slots__ = ("_descriptor", "_queued", "_socket", "_write")

    def __init__(self, transport: Any) -> None:
        # TLS and the PROXY protocol are layers above the one that has the socket.
        lowest = transport
        while isinstance(lowest, ProtocolWrapper):
            lowest = lowest.transport
        self._descriptor = lowest if isinstance(lowest, FileDescriptor) else None
        # One whose TLS was started later is its own layer.
        bare = lowest is transport and not ISSLTransport.providedBy(transport)
        self._socket: socket | None = getattr(self._descriptor, "socket", None) if bare else None
        self._write = _writer(transport)
        # Whether something may wait in the transport, which what follows must not overtake.
        self._queued = False

    def send(self, data: bytes) -> None:
        """Send ``data`` now, or as soon as the kernel takes it."""
        if self._socket is not None and not self._queued:
            try:
                sent = self._socket.send(data)
            except OSError:
                # It takes nothing now, or never again: the transport finds out.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._write(data)
        self._queued = True
        descriptor = self._descriptor
        if descriptor is not None and descriptor.connected and not descriptor.disconnecting:
            # It may resume the producer, when all is written, and that may send more.
            self._queued = False
            descriptor.doWrite()
            # From its first attempt on, what the kernel does not take is kept here.
            if descriptor.dataBuffer:
                self._queued = True

    @property
    def written(self) -> bool:
        """Whether the kernel was given all that was sent, as far as is known."""
        return self._descriptor is None or not self._descriptor.dataBuffer

    def send_later(self, data: bytes) -> None:
        """Send ``data`` with all else that is sent before the reactor's next turn."""
        self._write(data)
        self._queued = True


def _writer(transport: Any) -> Callable[[bytes], None]:
    if ISSLTransport.providedBy(transport):
        from twisted.protocols.tls import TLSMemoryBIOProtocol

        if isinstance(transport, TLSMemoryBIOProtocol):
            # Newer Twisteds' own subclass puts small writes off.
            return partial(TLSMemoryBIOProtocol.write, transport)
    write: Callable[[bytes], None] = transport.write
    return write

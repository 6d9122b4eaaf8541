"""The address of a peer as text, and the options of its socket."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.tcp import Connection
from twisted.protocols.policies import ProtocolWrapper

# HAProxy keeps idle connections open for a long time. If its machine fails, the agent is not notified, and would keep
# the connection for ever. So after 60 seconds without packets, the kernel sends a probe every 15 seconds. It ends the
# connection after 4 probes without an answer.
KEEPALIVE_IDLE: Final = 60
KEEPALIVE_INTERVAL: Final = 15
KEEPALIVE_COUNT: Final = 4

# Milliseconds. The kernel sends no probes while the peer has not acknowledged all bytes: it repeats the bytes, by
# default for about 15 minutes. With this option, it ends the connection after the same time as an idle one.
USER_TIMEOUT: Final = 1000 * (KEEPALIVE_IDLE + KEEPALIVE_COUNT * KEEPALIVE_INTERVAL)

# Without TCP_NODELAY, the kernel sends the second of two ACKs only after the peer's kernel has acknowledged the first,
# which takes 40 ms and more. Not every operating system has all of these options.
_TCP_OPTIONS: Final = tuple(
    (int(getattr(socket, name)), value)
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT),
    )
    if hasattr(socket, name)
)

# Bytes. Twisted reads up to 64 KiB from a socket at once. With 20 bodies of 8 KiB in flight, more have often arrived.
# It stays below 128 KiB, from which on malloc gets and returns the memory of each read with calls of the kernel.
READ_SIZE: Final = 120 * 1024


def set_read_size(transport: Any) -> None:
    """Read up to :data:`READ_SIZE` bytes from the socket of ``transport`` at once.

    Twisted has one attribute for this and for the number of unsent bytes above which it pauses the producer.
    """
    lowest_transport(transport).bufferSize = READ_SIZE


def lowest_transport(transport: Any) -> Any:
    """Return the transport that has the socket: TLS and the PROXY protocol are layers above it."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def set_tcp_options(transport: Connection) -> None:
    """Let the kernel send small segments at once, and end a TCP connection whose peer does not answer."""
    # Twisted's transport for Unix sockets provides ITCPTransport too.
    if not ITCPTransport.providedBy(transport) or isinstance(transport.getPeer(), UNIXAddress):
        return
    # Setting an option fails if the peer has already reset the connection.
    with suppress(OSError):
        transport.setTcpKeepAlive(True)
        handle: socket.socket = transport.socket
        for option, value in _TCP_OPTIONS:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


def describe(address: IAddress) -> str:
    """Return ``address`` as text: ``127.0.0.1:12345``, ``[::1]:12345`` or a path."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, UNIXAddress):
        # The peer chooses the name of its end. repr() escapes control characters, which could damage the log.
        return repr(address.name.decode("utf-8", "surrogateescape"))[1:-1] if address.name else "unix socket"
    return str(address)


def host_of(peer: str) -> str:
    """Return the host of a peer without its port, which is another one for each connection.

    :param peer: a text of :func:`describe`.
    """
    host, colon, port = peer.rpartition(":")
    return host if colon and port.isdecimal() else peer

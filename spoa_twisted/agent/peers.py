"""The other end of a connection: its address as text, and the TCP options that suit it."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.tcp import Connection

# HAProxy keeps idle connections for long. When its machine is gone, nothing says so, and the connection would stay. So
# after 60 seconds of silence the kernel asks the peer, every 15 seconds, and ends the connection after 4 questions
# without an answer.
KEEPALIVE_IDLE: Final = 60
KEEPALIVE_INTERVAL: Final = 15
KEEPALIVE_COUNT: Final = 4

# Without TCP_NODELAY, an ACK that follows another waits until the peer's kernel has acknowledged the first one, 40 ms
# and more. Not every system has all of the options.
_TCP_OPTIONS: Final = tuple(
    (int(getattr(socket, name)), value)
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    )
    if hasattr(socket, name)
)


def set_tcp_options(transport: Connection) -> None:
    """Let the kernel send small segments at once, and notice when the machine of a TCP peer is gone."""
    # Twisted's transport for Unix sockets provides ITCPTransport too.
    if not ITCPTransport.providedBy(transport) or isinstance(transport.getPeer(), UNIXAddress):
        return
    # A connection that the peer has reset already takes no options.
    with suppress(OSError):
        transport.setTcpKeepAlive(True)
        handle: socket.socket = transport.socket
        for option, value in _TCP_OPTIONS:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


def describe(address: IAddress) -> str:
    """Return ``address`` as a person writes it: ``127.0.0.1:12345``, ``[::1]:12345`` or a path."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, UNIXAddress):
        # A peer may bind its end to a name of its choice: control characters in it are escaped for log and terminal.
        return repr(address.name.decode("utf-8", "surrogateescape"))[1:-1] if address.name else "unix socket"
    return str(address)

"""Whether a peer has read all bytes that were sent to it. On Linux, the kernel knows this of a peer on this machine.

:mod:`spoa_twisted.spop.unread` explains why the agent must know this of a HAProxy >= 3.1. Each question to the kernel
takes a few microseconds, and needs no privileges. Of any TCP connection, the kernel also knows the round-trip time.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import Any, Final

from twisted.internet.interfaces import ISSLTransport

from spoa_twisted.spop.unread import Receipt

# The tests run on Linux. On other systems, receipt() returns UNKNOWN before it needs these modules.
if sys.platform == "linux":  # pragma: no branch
    import fcntl
    import termios

# netlink(7), sock_diag(7): the families and messages of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_INET_DIAG_INFO: Final = 2
_TCP_LISTEN: Final = 10
_ANY_COOKIE: Final = 0xFFFFFFFF
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBxI2s2s16s16sIII")
# The kernel's answer, struct inet_diag_msg. Two of its fields are read: idiag_state and idiag_rqueue, the unread bytes.
_ANSWER: Final = struct.Struct("=xB2x48x4xI12x")
_ATTRIBUTE: Final = struct.Struct("=HH")
# Fields of struct tcp_info. _RECEIVED: tcpi_bytes_received. _SENT: tcpi_unacked, tcpi_notsent_bytes, tcpi_bytes_sent
# and tcpi_bytes_retrans.
_RECEIVED: Final = struct.Struct("=128xQ")
_SENT: Final = struct.Struct("=24xI116xI52xQQ")
# _MIN_RTT: tcpi_min_rtt, in microseconds. It is the largest number before the first measurement.
_MIN_RTT: Final = struct.Struct("=148xI")
_UNKNOWN_RTT: Final = 2**32 - 1
_TCP_INFO_SIZE: Final = 512
_LARGEST_ANSWER: Final = 4096


def receipt(transport: Any) -> Receipt:
    """Return what this machine's kernel knows about the bytes that ``transport`` has given to it.

    Bytes that are still in the buffer of ``transport`` do not count.
    """
    connection = getattr(transport, "socket", None)
    if sys.platform != "linux" or connection is None:
        return Receipt.UNKNOWN
    try:
        if connection.family == socket.AF_UNIX:
            read = _unix_unread(connection) == 0
        else:
            sent, unsent, unacknowledged = _tcp_sent(connection)
            try:
                received, unread = _tcp_received(connection)
            except OSError:
                # The peer is on another machine. This kernel knows only which bytes have arrived there.
                return Receipt.MISSING if unsent or unacknowledged else Receipt.UNKNOWN
            read = unsent == 0 and unread == 0 and received == sent
    except (OSError, ValueError, struct.error):
        # This kernel does not support the question, or a sandbox forbids it.
        return Receipt.UNKNOWN
    if not read:
        return Receipt.MISSING
    # With TLS, the reader decrypts one record after the other. Meanwhile, the same read may also fetch newer bytes.
    return Receipt.HANDED_OUT_CIPHERED if ISSLTransport.providedBy(transport) else Receipt.HANDED_OUT


def round_trip_time(transport: Any) -> float:
    """Return the shortest time, in seconds, in which the peer's kernel has acknowledged bytes lately.

    0 if the connection is not TCP, or this system does not tell.
    """
    if sys.platform != "linux":
        return 0.0
    try:
        (microseconds,) = _MIN_RTT.unpack_from(_tcp_info(transport.socket))
    except (AttributeError, OSError, struct.error):
        return 0.0
    return 0.0 if microseconds == _UNKNOWN_RTT else float(microseconds) / 1e6


def _tcp_info(connection: socket.socket) -> bytes:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)


def _unix_unread(connection: socket.socket) -> int:
    """Return the size of the memory of the unread data of a Unix socket's peer, in bytes; 0 if all is read."""
    (size,) = struct.unpack("=i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))
    return int(size)


def _tcp_sent(connection: socket.socket) -> tuple[int, int, int]:
    """Return the number of bytes sent (without repetitions), of bytes still to send, and of unacknowledged segments."""
    unacknowledged, unsent, sent, repeated = _SENT.unpack_from(_tcp_info(connection))
    return sent - repeated, unsent, unacknowledged


def _tcp_received(connection: socket.socket) -> tuple[int, int]:
    """Return how many bytes the socket at the other end has received, and how many of these its process has not read.

    :raises OSError: if that socket is not on this machine, or the kernel does not answer the question.
    """
    family = connection.family
    # The local address of the other end's socket is the remote address of ours, and vice versa.
    (local, local_port), (remote, remote_port) = connection.getpeername()[:2], connection.getsockname()[:2]
    request = _REQUEST.pack(
        family,
        socket.IPPROTO_TCP,
        1 << (_INET_DIAG_INFO - 1),
        0xFFFFFFFF,
        local_port.to_bytes(2, "big"),
        remote_port.to_bytes(2, "big"),
        socket.inet_pton(family, local),
        socket.inet_pton(family, remote),
        0,
        _ANY_COOKIE,
        _ANY_COOKIE,
    )
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(header + request)
        answer = kernel.recv(_LARGEST_ANSWER, socket.MSG_DONTWAIT)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        raise OSError(errno.ENOENT, "no such socket on this machine")
    state, unread = _ANSWER.unpack_from(answer, _HEADER.size)
    if state == _TCP_LISTEN:
        # The kernel found no such connection, and returned the socket that listens on this port instead.
        raise OSError(errno.ENOENT, "no such socket on this machine")
    offset = _HEADER.size + _ANSWER.size
    while offset < len(answer):
        size, kind = _ATTRIBUTE.unpack_from(answer, offset)
        if kind == _INET_DIAG_INFO:
            (received,) = _RECEIVED.unpack_from(answer, offset + _ATTRIBUTE.size)
            return received, unread
        offset += -size // 4 * -4
    raise OSError(errno.ENODATA, "the kernel does not report the number of received bytes")

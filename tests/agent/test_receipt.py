"""What the kernel says that a peer has read: asked about real sockets."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import StringTransport
from zope.interface import directlyProvides

from spoa_twisted.agent.receipt import receipt
from spoa_twisted.spop.unread import Receipt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")

Ends = tuple[SimpleNamespace, socket.socket]


def listening(kind: str, folder: Path) -> socket.socket:
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "socket"))
    elif kind == "tcp":
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::1" if kind == "tcp6" else "::", 0))
    listener.listen()
    return listener


@pytest.fixture(params=["tcp", "tcp6", "mapped", "unix"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    """An agent's transport, as far as it matters, and its peer's socket. ``mapped`` is IPv4 on an IPv6 port."""
    with listening(request.param, tmp_path) as listener:
        if request.param == "unix":
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(listener.getsockname())
        else:
            host = "127.0.0.1" if request.param == "mapped" else listener.getsockname()[0]
            peer = socket.create_connection((host, listener.getsockname()[1]))
        accepted, _ = listener.accept()
    with peer, accepted:
        yield SimpleNamespace(socket=accepted), peer


def test_all_is_read_when_the_peer_has_read_all(ends: Ends) -> None:
    """Not when it has read a part."""
    transport, peer = ends
    assert receipt(transport) is Receipt.HANDED_OUT
    transport.socket.sendall(b"x" * 1000)
    assert receipt(transport) is Receipt.MISSING
    peer.recv(600)
    assert receipt(transport) is Receipt.MISSING
    peer.recv(400)
    assert receipt(transport) is Receipt.HANDED_OUT


def test_what_the_peer_has_no_room_for_is_not_read(ends: Ends) -> None:
    """It is still to be sent."""
    transport, peer = ends
    transport.socket.setblocking(False)
    sent = received = 0
    with suppress(BlockingIOError):
        while True:
            sent += transport.socket.send(b"x" * 65536)
    while received < sent:
        assert receipt(transport) is Receipt.MISSING
        received += len(peer.recv(65536))
    assert receipt(transport) is Receipt.HANDED_OUT


def test_what_is_read_may_not_have_been_returned(ends: Ends) -> None:
    """The call that reads it may take what comes next as well. This one is told to wait for more; others come to it
    when they are held up, however shortly.
    """
    transport, peer = ends
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(peer.recv, 20, socket.MSG_WAITALL)
        transport.socket.sendall(b"x" * 10)
        until = time.monotonic() + 10
        while (read := receipt(transport)) is Receipt.MISSING and time.monotonic() < until:
            pass
        assert read is Receipt.HANDED_OUT
        assert not received.done()
        transport.socket.sendall(b"y" * 10)
        assert received.result(10) == b"x" * 10 + b"y" * 10


@pytest.mark.parametrize("ends", ["tcp", "tcp6", "mapped"], indirect=True)
def test_what_is_read_may_not_have_been_deciphered(ends: Ends) -> None:
    """With TLS a reader reads more as long as there is more: that all is read says no more than that it may be."""
    transport, peer = ends
    directlyProvides(transport, ISSLTransport)
    transport.socket.sendall(b"x" * 1000)
    assert receipt(transport) is Receipt.MISSING
    peer.recv(1000)
    assert receipt(transport) is Receipt.HANDED_OUT_CIPHERED


def not_here(transport: SimpleNamespace, peer: socket.socket, **counts: int) -> SimpleNamespace:
    """Return the transport as if its peer were on another machine, where so much has not arrived."""

    def getsockopt(*what: int) -> bytes:
        info = bytearray(transport.socket.getsockopt(*what))
        # struct tcp_info of linux/tcp.h.
        struct.pack_into("=I", info, 24, counts.get("tcpi_unacked", 0))
        struct.pack_into("=I", info, 144, counts.get("tcpi_notsent_bytes", 0))
        return bytes(info)

    elsewhere = SimpleNamespace(
        family=transport.socket.family,
        getsockname=transport.socket.getsockname,
        getpeername=lambda: (peer.getsockname()[0], 1),
        getsockopt=getsockopt,
    )
    return SimpleNamespace(socket=elsewhere)


@pytest.mark.parametrize("ends", ["tcp", "tcp6", "mapped"], indirect=True)
def test_a_peer_that_is_not_on_this_machine(ends: Ends) -> None:
    """Of a socket that is not there, as one of another machine, the kernel knows what arrives, no more."""
    assert receipt(not_here(*ends)) is Receipt.UNKNOWN
    assert receipt(not_here(*ends, tcpi_unacked=1)) is Receipt.MISSING
    assert receipt(not_here(*ends, tcpi_notsent_bytes=1)) is Receipt.MISSING


@pytest.mark.parametrize("ends", ["tcp"], indirect=True)
def test_a_port_is_no_peer(ends: Ends) -> None:
    """A peer on another machine may have the number of a port here."""
    transport, _ = ends
    with socket.create_server(("0.0.0.0", 0)) as listener:
        elsewhere = SimpleNamespace(
            family=socket.AF_INET,
            getsockname=transport.socket.getsockname,
            getpeername=lambda: ("192.0.2.1", listener.getsockname()[1]),
            getsockopt=transport.socket.getsockopt,
        )
        assert receipt(SimpleNamespace(socket=elsewhere)) is Receipt.UNKNOWN


@pytest.mark.parametrize("ends", ["tcp"], indirect=True)
def test_a_kernel_that_does_not_tell(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers with a socket's addresses and state, and no struct tcp_info."""

    class Silent(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            # struct nlmsghdr and struct inet_diag_msg.
            return super().recv(size, flags)[: 16 + 72]

    transport, _ = ends
    assert receipt(transport) is Receipt.HANDED_OUT
    monkeypatch.setattr(socket, "socket", Silent)
    assert receipt(transport) is Receipt.UNKNOWN


def test_an_ended_connection(ends: Ends) -> None:
    """Asking does no harm."""
    transport, _ = ends
    transport.socket.close()
    assert receipt(transport) is Receipt.UNKNOWN


def test_no_socket() -> None:
    """A transport in memory has none."""
    assert receipt(StringTransport()) is Receipt.UNKNOWN

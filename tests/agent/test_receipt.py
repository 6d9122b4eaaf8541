"""receipt: the kernel says whether a peer has read all bytes. The sockets are real."""

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

from spoa_twisted.agent.receipt import receipt, round_trip_time
from spoa_twisted.spop.unread import Receipt

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
    """An object with the socket of an agent's transport, and the peer's socket. ``mapped`` is IPv4 on an IPv6 port."""
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


def test_bytes_are_missing_until_the_peer_has_read_all(ends: Ends) -> None:
    """A part is not enough."""
    transport, peer = ends
    assert receipt(transport) is Receipt.HANDED_OUT
    transport.socket.sendall(b"x" * 1000)
    assert receipt(transport) is Receipt.MISSING
    peer.recv(600)
    assert receipt(transport) is Receipt.MISSING
    peer.recv(400)
    assert receipt(transport) is Receipt.HANDED_OUT


def test_bytes_that_the_peer_has_no_room_for_are_missing(ends: Ends) -> None:
    """They are still in the kernel of the sender."""
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


def test_bytes_that_were_read_may_not_have_been_returned(ends: Ends) -> None:
    """The call that has read them may read later bytes too. The flag MSG_WAITALL makes it wait for them; without the
    flag it happens if the kernel interrupts the call for a moment.
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
def test_bytes_that_were_read_may_not_have_been_decrypted(ends: Ends) -> None:
    """A reader with TLS decrypts one record after the other, and reads more bytes meanwhile."""
    transport, peer = ends
    directlyProvides(transport, ISSLTransport)
    transport.socket.sendall(b"x" * 1000)
    assert receipt(transport) is Receipt.MISSING
    peer.recv(1000)
    assert receipt(transport) is Receipt.HANDED_OUT_CIPHERED


def elsewhere(transport: SimpleNamespace, peer: socket.socket, **counts: int) -> SimpleNamespace:
    """Return the transport as if its peer were on another machine. ``counts`` are fields of struct tcp_info."""

    def getsockopt(*what: int) -> bytes:
        info = bytearray(transport.socket.getsockopt(*what))
        # struct tcp_info of linux/tcp.h.
        struct.pack_into("=I", info, 24, counts.get("tcpi_unacked", 0))
        struct.pack_into("=I", info, 144, counts.get("tcpi_notsent_bytes", 0))
        return bytes(info)

    connection = SimpleNamespace(
        family=transport.socket.family,
        getsockname=transport.socket.getsockname,
        getpeername=lambda: (peer.getsockname()[0], 1),
        getsockopt=getsockopt,
    )
    return SimpleNamespace(socket=connection)


@pytest.mark.parametrize("ends", ["tcp", "tcp6", "mapped"], indirect=True)
def test_a_peer_that_is_not_on_this_machine(ends: Ends) -> None:
    """The kernel knows which bytes have arrived there, but not which bytes the peer has read."""
    assert receipt(elsewhere(*ends)) is Receipt.UNKNOWN
    assert receipt(elsewhere(*ends, tcpi_unacked=1)) is Receipt.MISSING
    assert receipt(elsewhere(*ends, tcpi_notsent_bytes=1)) is Receipt.MISSING


@pytest.mark.parametrize("ends", ["tcp"], indirect=True)
def test_a_listening_port_is_no_peer(ends: Ends) -> None:
    """A process on this machine may listen on the port that a peer on another machine has."""
    transport, _ = ends
    with socket.create_server(("0.0.0.0", 0)) as listener:
        connection = SimpleNamespace(
            family=socket.AF_INET,
            getsockname=transport.socket.getsockname,
            getpeername=lambda: ("192.0.2.1", listener.getsockname()[1]),
            getsockopt=transport.socket.getsockopt,
        )
        assert receipt(SimpleNamespace(socket=connection)) is Receipt.UNKNOWN


@pytest.mark.parametrize("ends", ["tcp"], indirect=True)
def test_a_kernel_without_the_byte_counts(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers with the addresses and the state of a socket, but without struct tcp_info."""

    class Silent(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            # struct nlmsghdr and struct inet_diag_msg.
            return super().recv(size, flags)[: 16 + 72]

    transport, _ = ends
    assert receipt(transport) is Receipt.HANDED_OUT
    monkeypatch.setattr(socket, "socket", Silent)
    assert receipt(transport) is Receipt.UNKNOWN


def test_a_closed_socket(ends: Ends) -> None:
    """receipt raises no exception."""
    transport, _ = ends
    transport.socket.close()
    assert receipt(transport) is Receipt.UNKNOWN


def test_a_transport_without_a_socket() -> None:
    """For example, a transport in memory."""
    assert receipt(StringTransport()) is Receipt.UNKNOWN


def test_the_round_trip_time(ends: Ends) -> None:
    """The kernel measures it when the peer acknowledges bytes. A transport without TCP has none."""
    transport, peer = ends
    transport.socket.sendall(b"x")
    peer.recv(1)
    peer.sendall(b"x")
    transport.socket.recv(1)
    is_tcp = transport.socket.family != socket.AF_UNIX
    assert (0 < round_trip_time(transport) < 1) is is_tcp
    assert round_trip_time(StringTransport()) == 0


@pytest.mark.parametrize("ends", ["tcp"], indirect=True)
def test_another_system(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Linux tells what the peer has read, and the round-trip time."""
    monkeypatch.setattr(sys, "platform", "darwin")
    transport, _ = ends
    assert receipt(transport) is Receipt.UNKNOWN
    assert round_trip_time(transport) == 0

"""The peer's address as text, and the options of its socket."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.testing import StringTransport
from zope.interface import directlyProvides

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.agent.peers import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    READ_SIZE,
    USER_TIMEOUT,
    describe,
    set_tcp_options,
)
from tests.agent.sockets import KINDS, Connect, SocketEngine, lowest


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (IPv4Address("TCP", "127.0.0.1", 12345), "127.0.0.1:12345"),
        (IPv6Address("TCP", "::1", 12345), "[::1]:12345"),
        (UNIXAddress(b"/run/spoa.sock"), "/run/spoa.sock"),
        (UNIXAddress(b"/run/a\nb\x1b"), "/run/a\\nb\\x1b"),
        (UNIXAddress(None), "unix socket"),
        (HostnameAddress(b"a.test", 12345), str(HostnameAddress(b"a.test", 12345))),
    ],
)
def test_addresses_look_as_in_a_configuration_of_haproxy(address: Any, text: str) -> None:
    """An address of another kind looks as Twisted shows it."""
    assert describe(address) == text


async def lowest_of_an_agent(kind: str, connect: Connect) -> Any:
    """Return the transport that has the socket of an agent's connection, after the HELLOs."""
    factory = SPOAFactory(Handlers())
    peer = SocketEngine(await connect(kind, factory), None)
    peer.send()
    await peer.events(1)
    (agent,) = factory.connections
    return lowest(agent.transport)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_many_bytes_are_read_at_once(kind: str, connect: Connect) -> None:
    """Each read has its cost, and the ACKs of one read leave together."""
    transport = await lowest_of_an_agent(kind, connect)
    assert transport.bufferSize == READ_SIZE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unix"])
@pytest_twisted.ensureDeferred
async def test_the_kernel_sends_at_once_and_notices_a_lost_machine(kind: str, connect: Connect) -> None:
    """Without TCP_NODELAY, an ACK would wait until the peer's kernel has acknowledged the ACK before it."""
    connection = (await lowest_of_an_agent(kind, connect)).socket
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT),
    ):
        if hasattr(socket, name):
            assert connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


class TCPTransport(StringTransport):
    """A transport whose connection the peer has reset, so that the kernel refuses options."""

    def __init__(self, address: Any) -> None:
        super().__init__(peerAddress=address)
        directlyProvides(self, ITCPTransport)
        self.calls = 0

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.calls += 1
        raise OSError("Invalid argument")


def test_a_connection_that_was_reset() -> None:
    """The error is ignored: the reactor will report the end of the connection."""
    transport = TCPTransport(IPv4Address("TCP", "127.0.0.1", 12345))
    set_tcp_options(transport)  # type: ignore[arg-type]
    assert transport.calls == 1


def test_a_unix_socket_has_no_tcp_options() -> None:
    """Twisted's transport for it provides ITCPTransport all the same."""
    transport = TCPTransport(UNIXAddress(None))
    set_tcp_options(transport)  # type: ignore[arg-type]
    assert transport.calls == 0


def test_a_transport_in_memory_has_no_tcp_options() -> None:
    """It does not provide ITCPTransport."""
    set_tcp_options(StringTransport())  # type: ignore[arg-type]

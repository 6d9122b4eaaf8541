"""Refusal: closes a connection that is one too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.python.failure import Failure

from spoa_twisted.agent.refusal import Refusal
from tests.agent.memory import Wire
from tests.agent.sockets import Connect, lowest, tls_context


class RefusedProtocol(Protocol):
    """Refuses its connection, and looks whether the descriptor is closed at once."""

    transport: Any

    def __init__(self) -> None:
        self.closed_at_once = False
        self.losses: list[Failure] = []
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport = lowest(self.transport)
        descriptor = transport.socket
        Refusal().makeConnection(self.transport)
        self.closed_at_once = descriptor.fileno() == -1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.losses.append(reason)
        if not self.lost.called:
            self.lost.callback(None)


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls", "proxy"])
@pytest_twisted.ensureDeferred
async def test_the_descriptor_is_closed_at_once(kind: str, connect: Connect, tmp_path: Path) -> None:
    """Twisted may accept more connections in the same turn than there are descriptors left."""
    protocol = RefusedProtocol()
    factory: Any = Factory.forProtocol(lambda: protocol)
    factory.noisy = False
    if kind == "tls":
        context = tls_context(tmp_path)
        from twisted.protocols.tls import TLSMemoryBIOFactory

        factory = TLSMemoryBIOFactory(context, False, factory)
    elif kind == "proxy":
        factory = HAProxyWrappingFactory(factory)
    # The peer sends nothing, so it speaks neither TLS nor the PROXY protocol.
    try:
        peer = await connect("unix" if kind == "unix" else "tcp", factory)
        received = await deferToThread(peer.read_all)
    except ConnectionResetError:
        received = b""
    assert received == b""
    await protocol.lost
    assert protocol.closed_at_once
    assert len(protocol.losses) == 1


def test_a_transport_of_another_kind_is_aborted() -> None:
    """It closes in its own time."""
    wire = Wire()
    Refusal().makeConnection(wire)
    assert wire.aborted
    assert wire.writes == []

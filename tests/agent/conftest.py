"""Fixtures for agents in memory and behind real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory

from spoa_twisted import SPOAFactory
from tests.agent.memory import TurnClock, Waiting
from tests.agent.sockets import Connect, Peer, tls_context

reactor: Any = default_reactor


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns() -> TurnClock:
    return TurnClock()


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
def factory(clock: Clock, waiting: Waiting) -> SPOAFactory:
    return SPOAFactory(waiting.handlers, reactor=clock)


@pytest_twisted.async_yield_fixture
async def connect(tmp_path: Path) -> AsyncIterator[Connect]:
    """A function that listens with a factory on a transport of one kind, connects to it, and returns the peer."""
    ports: list[Any] = []
    peers: list[Peer] = []

    async def connect(kind: str, factory: Any) -> Peer:
        if kind in ("tls", "proxy-tls"):
            context = tls_context(tmp_path)
            from twisted.protocols.tls import TLSMemoryBIOFactory

            factory = TLSMemoryBIOFactory(context, False, factory)
        if kind.startswith("proxy"):
            factory = HAProxyWrappingFactory(factory)
        if kind == "unix":
            port = reactor.listenUNIX(str(tmp_path / "socket"), factory)
            address: Any = str(tmp_path / "socket")
        else:
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
            address = ("127.0.0.1", port.getHost().port)
        ports.append(port)
        peer = await deferToThread(Peer, kind, address)
        peers.append(peer)
        return peer

    yield connect
    for peer in peers:
        peer.socket.close()
    for port in ports:
        await port.stopListening()

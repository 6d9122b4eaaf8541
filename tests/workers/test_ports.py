"""The ports of the master, and the stand-ins for the reactor."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock

from spoa_twisted.endpoints import server_endpoint
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.workers import ports as ports_module
from spoa_twisted.workers.binding import AcceptingReactor, CatchingReactor, MasterFactory, TakenOver
from spoa_twisted.workers.ports import Ports
from tests.agent.sockets import tls_context
from tests.certificates import skip_without_tls

reactor: Any = default_reactor


class Endpoint:
    """An endpoint that binds a port when the test fires ``bound``."""

    def __init__(self, stand_in: Any) -> None:
        self._stand_in = stand_in
        self.bound: Deferred[Any] = Deferred()

    def listen(self, factory: Factory) -> Deferred[Any]:
        return self.bound.addCallback(lambda _: self._stand_in.listenTCP(1, factory))


class Listening:
    """Ports on a reactor in memory."""

    def __init__(self, *texts: str) -> None:
        self.memory: Any = MemoryReactorClock()
        self.failed: list[str] = []
        self.ports = Ports(self.memory, [(text, 0) for text in texts], lambda *_: None, self.failed.append)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Endpoint]:
    """The endpoints that are made in this test. Those of texts that begin with ``late`` listen later."""
    endpoints: list[Endpoint] = []

    def make(stand_in: Any, text: str) -> Any:
        if not text.startswith("late"):
            return server_endpoint(stand_in, text)
        endpoints.append(Endpoint(stand_in))
        return endpoints[-1]

    monkeypatch.setattr(ports_module, "server_endpoint", make)
    return endpoints


def closing(memory: Any) -> list[int]:
    """Let the ports of ``memory`` tell when they are closed, by their numbers."""
    closed: list[int] = []
    listen = memory.listenTCP

    def listen_and_tell(port: int, *arguments: Any) -> Any:
        if port == 2:
            raise CannotListenError("", port, OSError("in use"))
        opened = listen(port, *arguments)
        opened.stopListening = lambda: closed.append(port)
        return opened

    memory.listenTCP = listen_and_tell
    return closed


def test_they_listen_once() -> None:
    """twistd calls ``privilegedStartService``, and then ``startService``: both listen."""
    listening = Listening("tcp:1", "unix:agent")
    for _ in range(2):
        listening.ports.listen()
    assert (len(listening.memory.tcpServers), len(listening.memory.unixServers)) == (1, 1)
    assert len(listening.ports.ports) == 2


def test_one_endpoint_that_cannot_listen_closes_all() -> None:
    """The error names it."""
    listening = Listening("tcp:1", "tcp:2", "tcp:3")
    closed = closing(listening.memory)
    with pytest.raises(CannotStart, match=r"spoa: cannot listen on tcp:2: .*in use"):
        listening.ports.listen()
    assert (closed, listening.ports.ports, listening.failed) == ([1, 3], [], [])


def test_an_endpoint_that_fails_later(late: list[Endpoint]) -> None:
    """The error cannot be raised any more, so the master is told. The other ports stay open."""
    listening = Listening("late:1", "tcp:1")
    listening.ports.listen()
    late[0].bound.errback(OSError("too late"))
    assert listening.failed == ["cannot listen on late:1: too late"]
    assert len(listening.ports.ports) == 1


def test_an_endpoint_that_listens_too_late(late: list[Endpoint]) -> None:
    """It is closed at once if the agent was stopped before."""
    listening = Listening("late:1")
    closed = closing(listening.memory)
    listening.ports.listen()
    listening.ports.close()
    late[0].bound.callback(None)
    assert (closed, listening.ports.ports, listening.failed) == ([1], [], [])


def test_an_endpoint_that_listens_in_another_way(late: list[Endpoint]) -> None:
    """The master could not hand its connections on: the agent does not start."""
    listening = Listening("late:1")
    closed = closing(listening.memory)
    late[0]._stand_in = listening.memory
    late[0].bound.callback(None)
    with pytest.raises(CannotStart, match="with --workers, an endpoint must be one of tcp, tcp6, unix, ssl or systemd"):
        listening.ports.listen()
    assert (closed, listening.ports.ports) == ([1], [])


def test_a_port_that_cannot_pause() -> None:
    """A port of another package may have no ``stopReading``. It goes on."""
    listening = Listening("tcp:1")
    listening.ports.listen()
    listening.ports.pause(True)
    assert not hasattr(listening.ports.ports[0], "stopReading")


@pytest_twisted.ensureDeferred
async def test_the_lock_of_a_killed_agent_is_removed(tmp_path: Path) -> None:
    """As without workers; see tests/test_unix_lock.py."""
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    (tmp_path / "agent.lock").symlink_to(str(os.getpid()))
    accepted: list[int] = []

    def on_accepted(connection: socket.socket, endpoint: int, owner: int) -> None:
        connection.close()
        accepted.append(endpoint)

    ports = Ports(reactor, [(f"unix:{path}", 0)], on_accepted, lambda text: None)
    ports.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        await ports.close()
    assert accepted == [0]
    assert list(tmp_path.iterdir()) == []


def test_the_stand_in_of_the_master() -> None:
    """It binds the ports of TLS and of systemd without the factory of the endpoint. All else is the real reactor's."""
    memory: Any = MemoryReactorClock()
    stand_in = AcceptingReactor(memory, lambda connection: None)
    endpoint_factory = Factory()
    stand_in.listenSSL(1, endpoint_factory, object(), 7, "127.0.0.1")
    ((port, factory, backlog, interface),) = memory.tcpServers
    assert (port, type(factory), backlog, interface) == (1, MasterFactory, 7, "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stand_in.adoptStreamPort(listener.fileno(), socket.AF_INET, endpoint_factory)
        assert [(each[0], type(each[2])) for each in memory.adoptedPorts] == [(listener.fileno(), MasterFactory)]
    assert stand_in.used
    memory.advance(5)
    assert stand_in.seconds() == 5


def test_the_stand_in_of_a_worker(tmp_path: Path) -> None:
    """It binds nothing. TLS is done here: the factory is wrapped, as the real ``listenSSL`` does it."""
    skip_without_tls()
    from twisted.protocols.tls import TLSMemoryBIOFactory

    factory = Factory()
    memory: Any = MemoryReactorClock()
    stand_in = CatchingReactor(memory)
    for plain in (stand_in.listenTCP(1, factory), stand_in.listenUNIX("agent", factory)):
        assert isinstance(plain, TakenOver)
        assert plain._factory is factory
        plain.stopListening()
    port = stand_in.listenSSL(1, factory, tls_context(tmp_path))
    assert isinstance(port, TakenOver)
    assert isinstance(port._factory, TLSMemoryBIOFactory)
    assert port._factory.wrappedFactory is factory
    assert factory.numPorts == 1
    assert memory.tcpServers == memory.unixServers == memory.sslServers == []


def adopting(adopt: Callable[..., Any]) -> list[str]:
    """Take over a connection with a reactor that has the function ``adopt``. Return what happened."""
    events: list[str] = []
    memory: Any = MemoryReactorClock()
    memory.adoptStreamConnection = adopt
    ours, peer = socket.socketpair()
    with peer:
        TakenOver(memory, Factory.forProtocol(Protocol)).adopt(ours, lambda: events.append("closed"))
        assert ours.fileno() == -1
    return events


def test_a_connection_that_the_peer_has_reset() -> None:
    """It is closed, and the master is told."""

    def adopt(*arguments: object) -> None:
        raise OSError("not connected")

    assert adopting(adopt) == ["closed"]


def test_a_connection_that_the_factory_refuses() -> None:
    """The reactor returns no transport then."""
    assert adopting(lambda *arguments: None) == ["closed"]

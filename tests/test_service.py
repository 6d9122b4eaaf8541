"""``SPOAService``: an agent as a Twisted service."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.application.service import Application, IServiceCollection
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import CannotListenError, ConnectionRefusedError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger
from zope.interface import implementer

from spoa_twisted import Handlers, SPOAFactory, SPOAService, SPOEClient
from spoa_twisted.client import AgentDisconnected
from tests.agent.memory import OtherHandlers
from tests.certificates import self_signed
from tests.conftest import Logged
from tests.lines import Lines


def factory(handlers: Handlers | None = None, clock: Any = None) -> SPOAFactory:
    return SPOAFactory(handlers or Handlers({"m": lambda: {"sess.a": 1}}), reactor=clock or Clock())


@implementer(IStreamServerEndpoint)
class SlowEndpoint:
    """An endpoint whose ``listen`` returns a Deferred that the test fires."""

    def __init__(self) -> None:
        self.listening: Deferred[Any] = Deferred()

    def listen(self, factory: object) -> Deferred[Any]:
        return self.listening


class TestListening:
    def test_it_listens_on_every_endpoint_once(self) -> None:
        """``privilegedStartService`` listens, while twistd may be root. ``startService`` does not listen again."""
        memory = MemoryReactorClock()
        service = SPOAService(factory(), ["tcp:1234:interface=127.0.0.1", "unix:/run/a:mode=660"], reactor=memory)
        service.privilegedStartService()
        service.startService()
        assert [(server[0], server[3]) for server in memory.tcpServers] == [(1234, "127.0.0.1")]
        assert [server[0] for server in memory.unixServers] == ["/run/a"]

    def test_without_twistd_it_listens_when_it_starts(self) -> None:
        """twist and applications call only ``startService``: then it listens there."""
        memory = MemoryReactorClock()
        SPOAService(factory(), reactor=memory).startService()
        assert [(server[0], server[3]) for server in memory.tcpServers] == [(12345, "127.0.0.1")]

    def test_it_goes_into_an_application(self) -> None:
        """An application, as in a .tac file, finds the service under the name spoa."""
        application = Application("test")
        service = SPOAService(factory(), [TCP4ServerEndpoint(MemoryReactorClock(), 1)], reactor=MemoryReactorClock())
        service.setServiceParent(application)
        assert IServiceCollection(application).getServiceNamed("spoa") is service

    @pytest.mark.parametrize(
        ("endpoints", "options", "text"),
        [
            ([], {}, "needs an endpoint"),
            (["nonsense:1"], {}, "nonsense"),
            ("nonsense:1", {}, "bad endpoint .nonsense:1.: .nonsense. is not a kind of endpoint"),
            (["tcp"], {}, "bad endpoint .tcp.: tcp needs a port"),
            (["ssl:1:privateKey=missing.pem"], {}, "bad endpoint .*: (privateKey=missing.pem cannot|TLS needs)"),
            (["tcp:1"], {"drain_timeout": -1}, "drain_timeout is -1"),
        ],
    )
    def test_invalid_arguments_are_refused(self, endpoints: list[str], options: dict[str, Any], text: str) -> None:
        """The constructor raises ValueError for a bad endpoint or option; it does not wait for the start."""
        with pytest.raises(ValueError, match=text):
            SPOAService(factory(), endpoints, reactor=MemoryReactorClock(), **options)

    # Twisted before 23 does not close a socket that it could not bind, so the garbage collector warns about it.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest_twisted.ensureDeferred
    async def test_one_endpoint_that_cannot_listen_closes_all(self) -> None:
        """If one endpoint cannot listen, ``startService`` raises its error, and the other endpoints are closed.

        When the port is free, the service can be started.
        """
        taken = SPOAService(factory(), ["tcp:0:interface=127.0.0.1"])
        taken.startService()
        port = taken.addresses[0].port
        service = SPOAService(factory(), ["tcp:0:interface=127.0.0.1", f"tcp:{port}:interface=127.0.0.1"])
        with pytest.raises(CannotListenError):
            service.startService()
        assert service.addresses == []
        await taken.stopService()
        # This start also forgets the failure of the first one, whose frames refer to the socket: so the socket is
        # collected at the end of this test, and not in a later test, which has no filter for the warning.
        service.startService()
        assert [address.port for address in service.addresses][1:] == [port]
        await service.stopService()

    def test_a_drain_timeout_that_is_not_a_number_is_refused(self) -> None:
        """The constructor checks it like the limit of the same name."""
        with pytest.raises(TypeError, match="drain_timeout is '1', which is not a number of seconds"):
            SPOAService(factory(), drain_timeout="1", reactor=MemoryReactorClock())  # type: ignore[arg-type]

    def test_the_drain_timeout(self) -> None:
        """It is the factory's limit, also after that was replaced, unless the service has its own."""
        agent = SPOAFactory(Handlers(), drain_timeout=3, reactor=Clock())
        shared = SPOAService(agent, reactor=MemoryReactorClock())
        own = SPOAService(agent, drain_timeout=0, reactor=MemoryReactorClock())
        assert (shared.drain_timeout, own.drain_timeout) == (3, 0)
        agent.limits = dataclasses.replace(agent.limits, drain_timeout=4)
        assert (shared.drain_timeout, own.drain_timeout) == (4, 0)

    def test_a_wrong_type_of_endpoint_is_refused(self) -> None:
        """The constructor raises TypeError for an object that is not an endpoint."""
        with pytest.raises(TypeError, match="an endpoint is a string or an IStreamServerEndpoint, not an int"):
            SPOAService(factory(), [5], reactor=MemoryReactorClock())  # type: ignore[list-item]

    def test_an_endpoint_that_fails_later_is_logged(self, logged: Logged) -> None:
        """An error after ``startService`` has returned is logged, because it cannot be raised any more."""
        endpoint = SlowEndpoint()
        SPOAService(factory(), [endpoint], reactor=MemoryReactorClock()).startService()
        endpoint.listening.errback(OSError("too late"))
        (line,) = logged.take()
        assert line.startswith("critical: cannot listen on ")
        assert "too late" in line

    def test_an_endpoint_that_listens_too_late_is_closed(self) -> None:
        """If an endpoint begins to listen after the service was stopped, its port is closed at once."""
        memory = MemoryReactorClock()
        endpoint = SlowEndpoint()
        service = SPOAService(factory(), [endpoint], reactor=memory)
        service.startService()
        service.stopService()
        port = memory.listenTCP(1, factory())
        stopped: list[bool] = []
        port.stopListening = lambda: stopped.append(True)
        endpoint.listening.callback(port)
        assert stopped == [True]
        assert service.addresses == []

    def test_a_port_that_the_application_has_closed(self) -> None:
        """A port without a file descriptor does not keep the service from stopping."""
        service = SPOAService(factory(), "tcp:0:interface=127.0.0.1", reactor=MemoryReactorClock())
        service.startService()
        service._ports.append(Port(0, factory()))
        stopped = service.stopService()
        assert stopped.called

    def test_the_log_names_the_messages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those that have a handler. Another implementation of IHandlers has no names of messages."""

        lines = Lines()
        monkeypatch.setattr(SPOAService, "_log", Logger(observer=lines))
        port = IPv4Address("TCP", "127.0.0.1", 12345)
        for handlers, text in [
            (Handlers({"scan": lambda: None, "check-ip": lambda: None}), " for the messages check-ip, scan"),
            (Handlers(), " for no messages: no handlers are registered yet"),
            (OtherHandlers(b""), ""),
        ]:
            memory = MemoryReactorClock()
            memory.listenTCP = lambda *arguments, **options: SimpleNamespace(getHost=lambda: port)  # type: ignore[method-assign]
            SPOAService(SPOAFactory(handlers, reactor=memory), reactor=memory).startService()
            assert lines.take() == [f"info: SPOA listening on 127.0.0.1:12345{text}"]

    def test_any_error_of_an_endpoint_is_raised(self) -> None:
        """``startService`` also raises an error that is not a CannotListenError."""

        @implementer(IStreamServerEndpoint)
        class Failing:
            def listen(self, factory: object) -> Deferred[Any]:
                return fail(LookupError("no"))

        with pytest.raises(LookupError):
            SPOAService(factory(), [Failing()], reactor=MemoryReactorClock()).startService()


class TestServing:
    @pytest_twisted.ensureDeferred
    async def test_every_endpoint_serves(self, tmp_path: Path) -> None:
        """One service serves a TCP port and a Unix socket at the same time."""
        service = SPOAService(factory(clock=reactor), ["tcp:0:interface=127.0.0.1", f"unix:{tmp_path}/agent"])
        service.startService()
        tcp, unix = service.addresses
        for endpoint in (f"tcp:127.0.0.1:{tcp.port}", f"unix:{unix.name.decode()}"):
            client = SPOEClient(endpoint)
            assert await client.notify("m") == {"sess.a": 1}
            await client.disconnect()
        await service.stopService()

    @pytest_twisted.ensureDeferred
    async def test_stopping_drains(self, tmp_path: Path) -> None:
        """``stopService`` refuses new connections, and waits for the ACK of the NOTIFY in flight."""
        asked: Deferred[None] = Deferred()
        waits: Deferred[Any] = Deferred()

        def handler() -> Deferred[Any]:
            asked.callback(None)
            return waits

        service = SPOAService(factory(Handlers({"m": handler}), reactor), ["tcp:0:interface=127.0.0.1"])
        service.startService()
        client = SPOEClient(f"tcp:127.0.0.1:{service.addresses[0].port}")
        answer = client.notify("m")
        ping = SPOEClient(f"tcp:127.0.0.1:{service.addresses[0].port}")
        await asked
        results: list[object] = []
        stopped = service.stopService().addCallback(results.append)
        with pytest.raises(ConnectionRefusedError):
            await ping.ping()
        assert results == []
        waits.callback({"sess.b": 2})
        assert await answer == {"sess.b": 2}
        await stopped

    @pytest_twisted.ensureDeferred
    async def test_draining_ends_in_time(self, logged: Logged) -> None:
        """After ``drain_timeout``, ``stopService`` sends AGENT-DISCONNECT although a NOTIFY is still pending."""
        asked: Deferred[None] = Deferred()

        def handler() -> Deferred[Any]:
            asked.callback(None)
            return Deferred()

        service = SPOAService(
            factory(Handlers({"m": handler}), reactor), ["tcp:0:interface=127.0.0.1"], drain_timeout=0.05
        )
        service.startService()
        client = SPOEClient(f"tcp:127.0.0.1:{service.addresses[0].port}")
        answer = client.notify("m")
        await asked
        stopped = service.stopService()
        with pytest.raises(AgentDisconnected, match="normal"):
            await answer
        await stopped
        assert logged.take() == [
            "warn: closing 1 connections that were not drained in time; if handlers need longer, raise --drain-timeout"
        ]

    @pytest_twisted.ensureDeferred
    async def test_it_can_be_started_again(self) -> None:
        """After ``stopService``, ``startService`` makes it listen and serve again."""
        service = SPOAService(factory(clock=reactor), ["tcp:0:interface=127.0.0.1"])
        for _ in range(2):
            service.startService()
            client = SPOEClient(f"tcp:127.0.0.1:{service.addresses[0].port}")
            assert await client.notify("m") == {"sess.a": 1}
            await service.stopService()
            await client.disconnect()

    @pytest_twisted.ensureDeferred
    async def test_handlers_can_be_replaced(self) -> None:
        """After ``reload``, the new handlers answer, also on connections that are already open."""
        service = SPOAService(factory(clock=reactor), ["tcp:0:interface=127.0.0.1"])
        service.startService()
        client = SPOEClient(f"tcp:127.0.0.1:{service.addresses[0].port}")
        assert await client.notify("m") == {"sess.a": 1}
        service.reload(Handlers({"m": lambda: {"sess.a": 2}}))
        assert await client.notify("m") == {"sess.a": 2}
        await client.disconnect()
        await service.stopService()


# Twisted still makes calls that newer pyOpenSSL releases warn about.
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
class TestTLS:
    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> str:
        certificate, key = self_signed(tmp_path)
        return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"

    @staticmethod
    def client(service: SPOAService) -> SPOEClient:
        from twisted.internet import ssl

        port = service.addresses[0].port
        return SPOEClient(wrapClientTLS(ssl.CertificateOptions(), TCP4ClientEndpoint(reactor, "127.0.0.1", port)))

    @pytest_twisted.ensureDeferred
    async def test_it_serves_and_limits_connections(self, endpoint: str, logged: Logged) -> None:
        """Over TLS, too, the agent closes a connection above ``max_connections``, and still serves the others."""
        agent = SPOAFactory(Handlers({"m": lambda: {"sess.a": 1}}), max_connections=1)
        service = SPOAService(agent, [endpoint])
        service.startService()
        first, second = self.client(service), self.client(service)
        assert await first.notify("m") == {"sess.a": 1}
        with pytest.raises(Exception, match=r"(?i)connection"):
            await second.notify("m")
        assert await first.notify("m") == {"sess.a": 1}
        assert len(logged.take()) == 1
        await first.disconnect()
        await service.stopService()

    @pytest_twisted.ensureDeferred
    async def test_a_connection_without_handshake_does_not_delay_the_stop(self, endpoint: str) -> None:
        """``stopService`` closes a connection without a TLS handshake at once, not after ``drain_timeout``."""
        service = SPOAService(factory(clock=reactor), [endpoint], drain_timeout=60)
        service.startService()
        without_handshake = Protocol()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", service.addresses[0].port), without_handshake)
        client = self.client(service)
        assert await client.notify("m") == {"sess.a": 1}
        assert len(service.factory.connections) == 2
        await service.stopService().addTimeout(5, reactor)

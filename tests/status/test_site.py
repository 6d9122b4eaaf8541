"""The status by HTTP, from a port."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.application.service import MultiService
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from spoa_twisted import Handlers, SPOAFactory, SPOAService
from spoa_twisted.status import service as service_module
from spoa_twisted.status import site as site_module
from spoa_twisted.status.local import LocalSource
from spoa_twisted.status.rebinding import is_loopback
from spoa_twisted.status.report import Status
from spoa_twisted.status.service import StatusService, check_interface
from spoa_twisted.status.site import LONGEST_CONNECTION, MAX_CONNECTIONS, PATIENCE, StatusResource, site
from tests.agent.memory import OLD, Session
from tests.conftest import Logged
from tests.status.reports import report, status
from tests.test_service import SlowEndpoint

reactor: Any = default_reactor

TCP = "tcp:0:interface=127.0.0.1"


class Answer:
    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.code = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def exchange(address: Any, data: bytes) -> bytes:
    """Send ``data``, and return all that comes until the server closes the connection."""
    kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(kind) as connection:
        connection.settimeout(10)
        connection.connect(address)
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


class Source:
    """A source whose status the test sets."""

    def __init__(self) -> None:
        self.answer: Any = status()
        self.asked = 0

    def status(self) -> Status | Deferred[Status]:
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        answer: Status | Deferred[Status] = self.answer
        return answer


class Served:
    """A port that serves a source."""

    def __init__(self) -> None:
        self.source = Source()
        self.resource = StatusResource(self.source)
        self.port = reactor.listenTCP(0, site(self.resource, reactor), interface="127.0.0.1")

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port.getHost().port)

    async def ask(self, path: str = "/", method: str = "GET", more: str = "") -> Answer:
        request = f"{method} {path} HTTP/1.1\r\nHost: status\r\n{more}\r\n"
        return Answer(await deferToThread(exchange, self.address, request.encode()))


@pytest_twisted.async_yield_fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    yield served
    await served.port.stopListening()


@pytest_twisted.ensureDeferred
async def test_json(served: Served) -> None:
    answer = await served.ask("/status.json")
    assert (answer.code, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == served.source.answer


@pytest_twisted.ensureDeferred
async def test_a_source_that_takes_its_time(served: Served) -> None:
    """The master asks its workers first."""
    served.source.answer = deferLater(reactor, 0.01, status)
    assert json.loads((await served.ask("/status.json")).body) == status()


@pytest_twisted.ensureDeferred
async def test_the_page(served: Served) -> None:
    """An application may have a page of its own."""
    answer = await served.ask("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.body.startswith(b"<!DOCTYPE html>")
    served.resource._page = lambda made: f"<p>{made['state']}"
    answer = await served.ask("/")
    assert (answer.headers["content-type"], answer.body) == ("text/html; charset=utf-8", b"<p>ready")


@pytest_twisted.ensureDeferred
async def test_health(served: Served) -> None:
    """It says why the agent is not ready. The process lives meanwhile, and must not be killed."""
    assert (await served.ask("/health")).body == b"ready\n"
    for state in ("starting", "draining"):
        served.source.answer = status(report(state=state))
        answer = await served.ask("/health")
        assert (answer.code, answer.body) == (503, f"{state}\n".encode())
        assert (await served.ask("/live")).code == 200


@pytest_twisted.ensureDeferred
async def test_metrics(served: Served) -> None:
    answer = await served.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert b'spoa_messages_total{message="m",result="ok"} 1.0' in answer.body
    answer = await served.ask("/metrics", more="Accept: application/openmetrics-text; version=1.0.0\r\n")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith(b"# EOF\n")


@pytest_twisted.ensureDeferred
async def test_metrics_without_the_extra(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "find_spec", lambda name: None)
    answer = await served.ask("/metrics")
    assert (answer.code, answer.body) == (
        501,
        b'metrics need the package prometheus-client: pip install "spoa_twisted[metrics]"\n',
    )


@pytest.mark.parametrize("path", ["/nothing", "/status.json/more", "/%00", "/metrics/"])
@pytest_twisted.ensureDeferred
async def test_other_paths(served: Served, path: str) -> None:
    answer = await served.ask(path)
    assert (answer.code, answer.body) == (404, b"no such page; see /\n")


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "HEAD"])
@pytest_twisted.ensureDeferred
async def test_the_path_with_a_star(method: str, served: Served) -> None:
    """Twisted would answer OPTIONS * itself, and tell its version."""
    answer = await served.ask("*", method)
    assert (answer.code, answer.headers["server"]) == (405 if method == "OPTIONS" else 404, "spoa_twisted")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest_twisted.ensureDeferred
async def test_other_methods(served: Served, method: str) -> None:
    """A body, of any length, is dropped."""
    answer = await served.ask("/status.json", method, "Content-Length: 1000000000\r\n")
    assert (answer.code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest_twisted.ensureDeferred
async def test_head(served: Served) -> None:
    """The headers of GET, without its body."""
    for path in ("/", "/status.json", "/health", "/live"):
        head, get = await served.ask(path, "HEAD"), await served.ask(path)
        assert (head.code, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(get.body))


@pytest_twisted.ensureDeferred
async def test_headers(served: Served) -> None:
    """No version, no cache, no script. The server closes the connection after each answer."""
    for path in ("/", "/status.json", "/metrics", "/health", "/live", "/nothing"):
        headers = (await served.ask(path)).headers
        assert headers["server"] == "spoa_twisted"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["connection"].lower() == "close"


@pytest_twisted.ensureDeferred
async def test_a_source_that_fails(served: Served, logged: Any) -> None:
    """The answer says nothing about the reason: the log does."""
    served.source.answer = LookupError("secret")
    answer = await served.ask("/status.json")
    assert (answer.code, answer.body) == (500, b"the status cannot be made: the log says why\n")
    assert "LookupError: secret" in logged.take()[0]


@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_away(served: Served) -> None:
    """Nothing is written to its connection, and nothing is logged."""
    served.source.answer = Deferred()
    with socket.create_connection(served.address) as connection:
        connection.sendall(b"GET /status.json HTTP/1.1\r\nHost: status\r\n\r\n")
        while not served.source.asked:
            await deferLater(reactor, 0.001)
    factory = served.port.factory
    while factory.protocols:
        await deferLater(reactor, 0.001)
    served.source.answer.callback(status())


class TestBounds:
    def connections(self, clock: Clock) -> Any:
        return site(StatusResource(Source(), reactor=reactor), clock)

    def test_the_number_of_connections(self) -> None:
        """More are closed at once."""
        from twisted.internet.testing import StringTransport

        factory = self.connections(Clock())
        protocols = []
        for _ in range(MAX_CONNECTIONS):
            protocols.append(factory.buildProtocol(None))
            protocols[-1].makeConnection(StringTransport())
        assert factory.buildProtocol(None) is None
        protocols[0].connectionLost(None)
        assert factory.buildProtocol(None) is not None

    def test_slow_clients_give_way(self) -> None:
        """They have taken all places. After two seconds, the oldest one ends for each new one, but not a watcher."""
        from twisted.internet.testing import StringTransport

        clock = Clock()
        factory = self.connections(clock)
        aborted: list[int] = []
        protocols = []
        for number in range(MAX_CONNECTIONS):
            transport: Any = StringTransport()
            transport.abortConnection = lambda number=number: aborted.append(number)
            protocols.append(factory.buildProtocol(None))
            protocols[-1].makeConnection(transport)
        protocols[0].extend(100.0)
        clock.advance(PATIENCE - 0.1)
        assert factory.buildProtocol(None) is None
        clock.advance(0.1)
        for _ in range(2):
            # A transport says only in the reactor's next turn that it is closed.
            factory.buildProtocol(None).makeConnection(StringTransport())
        assert aborted == [1, 2]

    def test_a_connection_is_short(self) -> None:
        """Also if the client sends a header byte by byte, or reads nothing."""
        from twisted.internet.testing import StringTransport

        clock = Clock()
        protocol = self.connections(clock).buildProtocol(None)
        transport: Any = StringTransport()
        aborted: list[bool] = []
        transport.abortConnection = lambda: aborted.append(True)
        protocol.makeConnection(transport)
        for _ in range(int(LONGEST_CONNECTION) - 1):
            protocol.dataReceived(b"G")
            clock.advance(1)
        assert not aborted
        clock.advance(1)
        assert aborted
        # Until the transport says that it is closed, a watcher may ask for more time.
        kept = protocol.keeps_until
        protocol.extend(100)
        assert protocol.keeps_until == kept
        protocol.connectionLost(None)
        assert clock.getDelayedCalls() == []

    def test_a_connection_that_ends_leaves_no_timer(self) -> None:
        from twisted.internet.testing import StringTransport

        clock = Clock()
        protocol = self.connections(clock).buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.connectionLost(None)
        clock.advance(100)
        assert clock.getDelayedCalls() == []


class TestEmbedding:
    """In a site of the application's own."""

    @pytest_twisted.ensureDeferred
    async def test_below_a_path(self) -> None:
        factory = SPOAFactory(Handlers({"m": lambda: None}), reactor=reactor)
        Session(factory, OLD).notify("m")
        root = Resource()
        root.putChild(b"agent", StatusResource(factory))
        port = reactor.listenTCP(0, Site(root), interface="127.0.0.1")
        try:
            address = ("127.0.0.1", port.getHost().port)

            async def ask(path: str) -> Answer:
                request = f"GET {path} HTTP/1.1\r\nHost: status\r\nConnection: close\r\n\r\n"
                return Answer(await deferToThread(exchange, address, request.encode()))

            made = json.loads((await ask("/agent/status.json")).body)
            assert made["totals"]["messages"]["m"]["results"] == {"ok": 1}
            assert (await ask("/agent/")).code == 200
            answer = await ask("/agent")
            assert (answer.code, answer.headers["location"]) == (302, "agent/")
        finally:
            await port.stopListening()
        factory.connections.clear()

    def test_another_object_than_an_agent(self) -> None:
        with pytest.raises(TypeError, match="the agent is a SPOAFactory or a SPOAService, not Handlers"):
            LocalSource(Handlers())


class TestInterface:
    @pytest.mark.parametrize(
        "endpoint",
        [
            "tcp:8404:interface=127.0.0.1",
            "tcp:8404:127.0.0.1",
            "tcp:8404:interface=0.0.0.0",
            r"tcp6:8404:interface=\:\:1",
            "unix:/run/spoa/status:mode=660",
            "systemd:domain=INET:index=0",
            "haproxy:tcp:8404:interface=127.0.0.1",
        ],
    )
    def test_allowed(self, endpoint: str) -> None:
        check_interface(endpoint)

    @pytest.mark.parametrize(
        ("endpoint", "advice"),
        [
            ("tcp:8404", "write tcp:8404:interface=127.0.0.1,"),
            ("tcp:8404:interface=", ""),
            ("tcp6:8404", r"write tcp6:8404:interface=\:\:1,"),
            ("ssl:8404:privateKey=k", "write ssl:8404:privateKey=k:interface=127.0.0.1,"),
            ("haproxy:tcp:8404", "write haproxy:tcp:8404:interface=127.0.0.1,"),
        ],
    )
    def test_refused(self, endpoint: str, advice: str) -> None:
        """Twisted would listen on all interfaces."""
        with pytest.raises(ValueError, match="the status has no password") as caught:
            check_interface(endpoint)
        assert advice in str(caught.value)

    def test_no_endpoint(self) -> None:
        factory = SPOAFactory(Handlers(), reactor=reactor)
        with pytest.raises(ValueError, match="bad endpoint '8404': write tcp:8404:interface=127"):
            StatusService(factory, "8404")
        with pytest.raises(ValueError, match="no password"):
            StatusService(factory, "tcp:8404")


class TestService:
    @pytest_twisted.ensureDeferred
    async def test_it_serves_while_the_agent_drains(self) -> None:
        """Both are stopped together, whichever was added first."""
        waiting: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        for status_first in (True, False):
            waiting.clear()
            agent = SPOAService(SPOAFactory(Handlers({"m": wait}), reactor=reactor), TCP)
            service = StatusService(agent, TCP)
            top = MultiService()
            for child in (service, agent) if status_first else (agent, service):
                child.setServiceParent(top)
            top.privilegedStartService()
            top.startService()
            address = (service.address.host, service.address.port)

            async def ask(path: str, address: Any = address) -> Answer:
                request = f"GET {path} HTTP/1.1\r\nHost: status\r\n\r\n"
                return Answer(await deferToThread(exchange, address, request.encode()))

            assert (await ask("/health")).code == 200
            session = Session(agent.factory, OLD)
            session.notify("m")
            stopped = top.stopService()
            answer = await ask("/health")
            assert (answer.code, answer.body) == (503, b"draining\n")
            assert (await ask("/live")).code == 200
            waiting[0].callback({})
            while not session.agent.has_disconnected():
                await deferLater(reactor, 0.001)
            session.agent.connectionLost()
            await stopped
            with pytest.raises(ConnectionRefusedError):
                await ask("/live")

    @pytest_twisted.ensureDeferred
    async def test_names_that_resolve_to_the_loopback(self) -> None:
        """Prometheus and probes may ask by any name. A web page that rebinds its name cannot read the page and JSON."""
        service = StatusService(SPOAFactory(Handlers(), reactor=reactor), TCP)
        service.startService()
        address = (service.address.host, service.address.port)

        async def code(path: str, host: str) -> int:
            request = f"GET {path} HTTP/1.1\r\n{host}\r\n"
            return Answer(await deferToThread(exchange, address, request.encode())).code

        hosts = ("localhost:8404", "LOCALHOST", "127.0.0.1:8404", "192.0.2.1", "[::1]:8404")
        for path in ("/", "/status.json"):
            for host in hosts:
                assert await code(path, f"Host: {host}\r\n") == 200
            for host in ("evil.example", "evil.example:8404", "127.0.0.1.evil.example", "localhost.evil.example"):
                assert await code(path, f"Host: {host}\r\n") == 403
        # No browser asks without a name.
        assert await code("/", "") == 200
        for path in ("/health", "/live"):
            assert await code(path, "Host: agent.example:8404\r\n") in (200, 503)
        assert await code("/metrics", "Host: agent.example:8404\r\n") in (200, 501)
        await service.stopService()

    @pytest_twisted.ensureDeferred
    async def test_it_may_stop_alone(self) -> None:
        """The agent goes on."""
        agent = SPOAService(SPOAFactory(Handlers(), reactor=reactor), TCP)
        agent.startService()
        service = StatusService(agent, TCP)
        service.startService()
        service.startService()
        await service.stopService()
        assert service.address is None
        assert agent.state == "ready"
        await agent.stopService()

    @pytest_twisted.ensureDeferred
    async def test_it_may_stop_before_it_has_started(self) -> None:
        """If another service fails after ``privilegedStartService``, the port is closed."""
        service = StatusService(SPOAFactory(Handlers(), reactor=reactor), TCP)
        service.privilegedStartService()
        assert service.address.port
        await service.stopService()
        assert service.address is None

    def test_an_endpoint_that_fails_later(self, monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
        """The agent goes on without its status. The log says why."""
        endpoint = SlowEndpoint()
        monkeypatch.setattr(service_module, "server_endpoint", lambda reactor, text: endpoint)
        memory = MemoryReactorClock()
        service = StatusService(SPOAFactory(Handlers(), reactor=memory), TCP, reactor=memory)
        service.startService()
        endpoint.listening.errback(OSError("too late"))
        assert logged.take() == [f"critical: the status cannot listen on {TCP}: too late"]
        assert service.address is None

    def test_an_endpoint_that_listens_too_late(self, monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
        """Its port is closed at once."""
        endpoint = SlowEndpoint()
        monkeypatch.setattr(service_module, "server_endpoint", lambda reactor, text: endpoint)
        memory: Any = MemoryReactorClock()
        service = StatusService(SPOAFactory(Handlers(), reactor=memory), TCP, reactor=memory)
        service.startService()
        service.stopService()
        memory.advance(0)
        port = memory.listenTCP(1, Site(Resource()))
        stopped: list[bool] = []
        port.stopListening = lambda: stopped.append(True)
        endpoint.listening.callback(port)
        assert stopped == [True]
        assert service.address is None
        assert logged.take() == []

    # Old versions of Twisted leave the socket that cannot be bound to the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest_twisted.ensureDeferred
    async def test_a_port_in_use(self) -> None:
        """The error comes at once, and the service may be started again."""
        from twisted.internet.error import CannotListenError

        factory = SPOAFactory(Handlers(), reactor=reactor)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        service = StatusService(factory, f"tcp:{port.getHost().port}:interface=127.0.0.1")
        with pytest.raises(CannotListenError):
            service.privilegedStartService()
        await port.stopListening()
        service.startService()
        assert service.address.port
        await service.stopService()

    @pytest_twisted.ensureDeferred
    async def test_a_unix_socket(self, tmp_path: Path) -> None:
        factory = SPOAFactory(Handlers(), reactor=reactor)
        service = StatusService(factory, f"unix:{tmp_path}/status:mode=660")
        service.startService()
        assert (tmp_path / "status").stat().st_mode & 0o777 == 0o660
        answer = Answer(
            await deferToThread(exchange, f"{tmp_path}/status", b"GET /live HTTP/1.1\r\nHost: status\r\n\r\n")
        )
        assert answer.body == b"live\n"
        await service.stopService()

    @pytest_twisted.ensureDeferred
    async def test_the_last_minute(self) -> None:
        """It needs earlier numbers, which the service keeps, also if nobody asks."""
        clock_reactor = reactor
        factory = SPOAFactory(Handlers(), reactor=clock_reactor)
        asked: list[bool] = []

        class Counting:
            def status(self) -> Status:
                asked.append(True)
                return status()

        service = StatusService(factory, TCP, source=Counting())
        service.startService()
        assert asked
        await service.stopService()


def loaded_by(code: str) -> set[str]:
    """Return the modules that are loaded after ``code`` in a new interpreter."""
    program = f"{code}\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_twisted_web_is_loaded_only_for_a_status() -> None:
    """It takes memory, and time at the start."""
    loaded = loaded_by("import spoa_twisted, spoa_twisted.tap")
    assert not {"twisted.web", "prometheus_client", "spoa_twisted.status.site"} & loaded
    loaded = loaded_by("import spoa_twisted.status.service")
    assert "twisted.web" in loaded
    assert "prometheus_client" not in loaded


def test_a_unix_socket_is_not_the_loopback() -> None:
    """It has no host."""
    assert not is_loopback("")
    assert is_loopback("::ffff:127.0.0.1")

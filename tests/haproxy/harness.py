"""The processes of the tests: HAProxy with its configuration, agents in processes of their own, and web clients.

Nothing here sleeps or guesses a port. HAProxy inherits its listening sockets from the test, so the kernel queues
connections that come before HAProxy has started. An agent listens on port 0, and the test reads the port from the
service or from the agent's log. To wait for anything else, a test waits for a line in the output of a process.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from tests.docs.pages import Page
from tests.programs import LISTENING, TWIST, Program, spoa

from .branches import Branch
from .hosts import Host

AsyncTest = Callable[..., Coroutine[Deferred[Any], Any, None]]

HERE = Path(__file__).parent

#: Seconds for a whole test, to end a test that hangs.
TEST_LIMIT = 40.0

#: Seconds for a process to end after SIGKILL.
KILL_LIMIT = 10.0

# The frontend origin-web is the web server behind the backend origin. It asks no agent.
HAPROXY_CFG = """\
global
    maxconn 500
    nbthread {threads}
    {process}

defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend web
    mode {web_mode}
    bind fd@{web_fd}
    filter spoe engine test config {spoe_conf}
{show_error}
{web}

backend origin
    mode {web_mode}
    server origin 127.0.0.1:{origin_port}

frontend origin-web
    bind fd@{origin_fd}
{origin}

backend agents
    mode {mode}
    {backend}
{servers}
"""

# With "option set-on-error error", HAProxy sets this variable when the agent did not answer. See Response.error.
SHOW_ERROR = """\
    http-after-response set-header spoe-error %[var(txn.spoa.error)] if { var(txn.spoa.error) -m found }
"""

# "timeout processing" is long enough for an agent on a slow machine, and shorter than TEST_LIMIT.
SPOE_CONF = """\
[test]
spoe-agent test
    use-backend agents
    option var-prefix spoa
    option set-on-error error
    timeout hello 10s
    timeout idle 30s
    timeout processing 15s
{spoe}
"""

#: A rule that answers with the length of ``txn.value``.
SHOW_LENGTH = "    http-request return status 200 hdr length %[var(txn.spoa.value),length]"


def bounded(test: AsyncTest) -> AsyncTest:
    """Run an async test on the reactor, and fail it after ``TEST_LIMIT``: pytest-twisted has no limit of its own."""

    @pytest_twisted.ensureDeferred
    @functools.wraps(test)
    async def run(**fixtures: Any) -> None:
        await Deferred.fromCoroutine(test(**fixtures)).addTimeout(TEST_LIMIT, reactor)

    return run


def bound_socket() -> socket.socket:
    """Return a socket that is bound to a free port. The kernel refuses connections until ``listen`` is called."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def listening_socket() -> socket.socket:
    """Return a socket that listens on a free port. The kernel queues connections until a process accepts them."""
    listening = bound_socket()
    listening.listen(128)
    return listening


def as_server(address: IAddress) -> str:
    """Return ``address`` in the syntax of HAProxy's ``server`` line."""
    if isinstance(address, UNIXAddress):
        assert address.name is not None
        return f"unix@{os.fsdecode(address.name)}"
    assert isinstance(address, IPv4Address | IPv6Address)
    return f"{address.host}:{address.port}"


def several_agents(branch: Branch) -> str:
    """Return the options of the backend for two agents, changed for ``branch`` as the page says."""
    _, _, options = Page("howto/several_agents").blocks["haproxy.cfg, two agents"].partition("    mode tcp\n")
    options, _, _ = options.partition("    server ")
    if branch.rewritten:
        options = options.replace(" on-marked-down shutdown-sessions", "")
    return options.strip()


def shown(*variables: str) -> str:
    """Return rules that answer with one header for each of ``variables`` that is set, even if its value is empty."""
    show = "    http-after-response set-header {0} %[var({0})] if {{ var({0}) -m found }}\n"
    return "".join(show.format(variable) for variable in variables) + "    http-request return status 200\n"


def sized(message: str) -> str:
    """Return the lines of spoe.conf for ``message``. Its argument ``size`` is the parameter ``size`` of the URL."""
    return f"""\
    messages {message}

spoe-message {message}
    args size=url_param(size)
    event on-frontend-http-request
"""


class Process:
    """A :class:`Program` for tests on the reactor. A test waits without blocking the reactor, which may run an agent.

    :param host: the host on which the program runs, instead of this machine.
    :param keywords: see :class:`Program`.
    """

    def __init__(self, command: Sequence[str], *, host: Host | None = None, **keywords: Any) -> None:
        #: Both are copied from the program in the reactor's thread only, so they do not change between two awaits.
        self.output = ""
        self.status: int | None = None
        self._waiting: list[Deferred[None]] = []
        self._matched: dict[str, int] = {}
        command = command if host is None else [*host.inside, *command]
        self._program = Program(command, on_change=lambda: reactor.callFromThread(self._changed), **keywords)  # type: ignore[attr-defined]
        self.pid = self._program.pid

    def describe(self) -> str:
        """Return the exit status and the output, for the report of a failed test."""
        return self._program.describe()

    def signal(self, number: signal.Signals) -> None:
        self._program.signal(number)

    async def said(self, pattern: str | re.Pattern[str], since: int = 0) -> re.Match[str]:
        """Wait until the output matches ``pattern``. If the process ends without a match, the test fails.

        :param since: the number of characters at the beginning of the output that are not searched.
        """
        while (match := re.compile(pattern).search(self.output, since)) is None:
            assert self.status is None, f"it ended without {pattern!r}"
            await self._change()
        return match

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait as :meth:`said` does, for a match after the one that the last call with this pattern returned."""
        match = await self.said(pattern, self._matched.get(pattern, 0))
        self._matched[pattern] = match.end()
        return match

    async def ended(self) -> int:
        """Wait for the end of the process, and return the exit status."""
        while self.status is None:
            await self._change()
        return self.status

    async def kill(self) -> None:
        self._program.send(signal.SIGKILL)
        await Deferred.fromCoroutine(self.ended()).addTimeout(KILL_LIMIT, reactor)

    def _change(self) -> Deferred[None]:
        change: Deferred[None] = Deferred()
        self._waiting.append(change)
        return change

    def _changed(self) -> None:
        # The output is complete once the status is set. So read the status first, or the last output could be missed.
        self.status = self._program.status
        self.output = self._program.output
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            change.callback(None)


class AgentProcess(Process):
    """An agent that the command line starts.

    :param options: options of ``spoa``, with the endpoints as ``--listen``.
    :param socket: a listening socket. The agent inherits it as from systemd, instead of listening on endpoints.
    :param host: the host on which the agent runs, instead of this machine.
    :param handlers: the name of the file with the handlers.
    :param program: the command that ``spoa`` is a subcommand of.
    """

    def __init__(
        self,
        *options: str,
        socket: socket.socket | None = None,
        host: Host | None = None,
        handlers: str = "handlers.py",
        program: Sequence[str] = TWIST,
    ) -> None:
        command = spoa(*options, handlers=HERE / handlers, listen=[], program=program, inherited=socket)
        super().__init__(command, sockets=[] if socket is None else [socket], host=host)

    async def address(self) -> str:
        """Wait until the agent listens, and return its address in the syntax of HAProxy's ``server`` line."""
        address = (await self.said(LISTENING))[1]
        return f"unix@{address}" if address.startswith("/") else address

    @property
    def connections(self) -> int:
        """The number of open connections. The agent must listen on exactly one socket, which is not counted."""
        folder = f"/proc/{self.pid}/fd"
        files = set()
        for number in os.listdir(folder):
            # The agent may close the descriptor between listdir and readlink.
            with suppress(FileNotFoundError):
                files.add(os.readlink(f"{folder}/{number}"))
        return sum(file.startswith("socket:") for file in files) - 1


@dataclass(frozen=True)
class Response:
    """HAProxy's response to a web client."""

    status: int
    headers: dict[str, str]

    def __getitem__(self, header: str) -> str | None:
        """Return a header's value, or ``None`` if the response has no such header."""
        return self.headers.get(header)

    @property
    def error(self) -> str | None:
        """The number that HAProxy set by ``option set-on-error``, or ``None`` if HAProxy saw no error."""
        return self["spoe-error"]


class Client(Protocol):
    """A web client's connection, which sends one request after the other."""

    transport: Connection

    def __init__(self) -> None:
        self._received = b""
        self._answer: Deferred[Response] | None = None

    async def get(self, path: str = "/", **headers: str) -> Response:
        return await self._request("GET", path, headers, b"")

    async def post(self, path: str, body: bytes, **headers: str) -> Response:
        return await self._request("POST", path, {"content-length": str(len(body)), **headers}, body)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._answer is None:
            return
        status_line, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers["content-length"])
        if len(body) < length:
            return
        self._received = body[length:]
        answer, self._answer = self._answer, None
        answer.callback(Response(int(status_line.split()[1]), headers))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._answer is not None:
            self._answer.errback(reason)

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Deferred[Response]:
        lines = [f"{method} {path} HTTP/1.1", "host: web", *[f"{name}: {value}" for name, value in headers.items()]]
        self._answer = Deferred()
        self.transport.write("\r\n".join([*lines, "\r\n"]).encode("utf-8", "surrogateescape") + body)
        return self._answer


class Load:
    """The results of clients that send their next request as soon as they get a response. See :meth:`HAProxy.load`."""

    def __init__(self) -> None:
        #: The number of requests that each agent answered, by its process id, which its handlers set as ``txn.pid``.
        self.answers: Counter[int] = Counter()
        #: The number of other requests, by the error that HAProxy set, or by the HTTP status if it set none.
        self.failures: Counter[str] = Counter()
        # The number of responses to each client.
        self._responses: list[int] = []
        self._waiting: list[Deferred[None]] = []
        self._stopped = False
        self._ended = False

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def requests(self) -> int:
        return sum(self.answers.values()) + self.failed

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` is true. It is checked now and after each response."""
        while not condition():
            assert not self._ended, "a client lost its connection"
            change: Deferred[None] = Deferred()
            self._waiting.append(change)
            await change

    async def wait_for_more(self, requests: int) -> None:
        """Wait until ``requests`` more requests were answered or failed."""
        target = self.requests + requests
        await self.until(lambda: self.requests >= target)

    async def wait_for_in_flight(self) -> None:
        """Wait until all requests that are in flight now were answered or failed."""
        before = list(self._responses)
        await self.until(lambda: all(now > then for now, then in zip(self._responses, before, strict=True)))

    async def _run(self, haproxy: HAProxy, path: str) -> None:
        client_number = len(self._responses)
        self._responses.append(0)
        try:
            async with haproxy.client() as client:
                while not self._stopped:
                    self._count(await client.get(path))
                    self._responses[client_number] += 1
                    self._changed()
        finally:
            self._ended = True
            self._changed()

    def _count(self, response: Response) -> None:
        pid = response["txn.spoa.pid"]
        if response.status == 200 and response.error is None and pid is not None:
            self.answers[int(pid)] += 1
        else:
            self.failures[response.error or f"status {response.status}"] += 1

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            change.callback(None)


class HAProxy(Process):
    """A HAProxy of ``branch`` between web clients and one or more agents.

    :param folder: the folder into which the configuration is written.
    :param server: the agent's address and further options of HAProxy's ``server`` line. For several agents, a mapping
        from the server's name to these.
    :param spoe: the rest of the section spoe-agent, and the sections spoe-message and spoe-group.
    :param web: the rules of the frontend that the web clients connect to.
    :param origin: the rules of the web server behind HAProxy.
    :param backend: options of the backend of the agents.
    :param process: settings of the section global.
    :param threads: the number of HAProxy's threads. Each thread has its own connections to the agent. Without
        ``nbthread``, HAProxy would start one thread for each core.
    :param web_mode: the mode of the web clients' frontend, ``http`` or ``tcp``. With ``tcp``, :attr:`Response.error`
        is always ``None``.
    :param listeners: the sockets of the web clients' frontend and of the web server, if other processes listen on them
        too. The caller closes them. By default HAProxy gets two sockets of its own.
    :param options: more options of the command line.
    :param host: the host on which HAProxy runs, instead of this machine. There it cannot connect to the web server.
    """

    def __init__(
        self,
        branch: Branch,
        folder: Path,
        server: str | Mapping[str, str],
        *,
        spoe: str,
        web: str,
        origin: str = "    http-request return status 200",
        backend: str = "",
        process: str = "",
        threads: int = 1,
        web_mode: str = "http",
        listeners: tuple[socket.socket, socket.socket] | None = None,
        options: Sequence[str] = (),
        host: Host | None = None,
    ) -> None:
        web_socket, origin_socket = listeners or (listening_socket(), listening_socket())
        spoe_conf, haproxy_cfg = folder / "spoe.conf", folder / "haproxy.cfg"
        spoe_conf.write_text(SPOE_CONF.format(spoe=spoe))
        servers = {"agent": server} if isinstance(server, str) else server
        self.configuration = HAPROXY_CFG.format(
            web_fd=web_socket.fileno(),
            origin_fd=origin_socket.fileno(),
            origin_port=origin_socket.getsockname()[1],
            spoe_conf=spoe_conf,
            web_mode=web_mode,
            show_error=SHOW_ERROR if web_mode == "http" else "",
            mode="spop" if branch.rewritten else "tcp",
            servers="\n".join(f"    server {name} {where}" for name, where in servers.items()),
            web=web,
            origin=origin,
            backend=backend,
            process=process,
            threads=threads,
        )
        haproxy_cfg.write_text(self.configuration)
        self.configuration += "\n" + spoe_conf.read_text()
        self._port: int = web_socket.getsockname()[1]
        command = [str(branch.executable), "-db", "-f", str(haproxy_cfg), *options]
        super().__init__(command, sockets=[web_socket, origin_socket], host=host)
        if listeners is None:
            # HAProxy has inherited both sockets. This process closes its copies, so that the kernel refuses clients
            # once HAProxy has ended. Otherwise the clients would wait in the queue.
            web_socket.close()
            origin_socket.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect a client that can send several requests over its connection."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        client = await connectProtocol(endpoint, Client())
        try:
            yield client
        finally:
            client.transport.loseConnection()

    @asynccontextmanager
    async def load(self, clients: int, *paths: str, load: Load | None = None) -> AsyncIterator[Load]:
        """Run ``clients`` clients. Each requests one of ``paths`` over and over, as soon as it gets a response.

        :param load: collects the results. A subclass of :class:`Load` can send the requests in another way.
        """
        load = load or Load()
        running = gatherResults(
            [Deferred.fromCoroutine(load._run(self, paths[i % len(paths)])) for i in range(clients)], True
        )
        try:
            yield load
        finally:
            load._stopped = True
            await running

    async def get(self, path: str = "/", **headers: str) -> Response:
        """Send a GET request over a new connection."""
        async with self.client() as client:
            return await client.get(path, **headers)

    async def post(self, path: str, body: bytes, **headers: str) -> Response:
        """Send a POST request over a new connection."""
        async with self.client() as client:
            return await client.post(path, body, **headers)

    def describe(self) -> str:
        return f"{self.configuration}\n{super().describe()}"

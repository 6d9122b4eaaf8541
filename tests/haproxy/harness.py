"""What the tests are made of: processes, a HAProxy with its configuration, an agent in a process of its own.

Nothing here sleeps or guesses a port. HAProxy takes its listeners from sockets that listen before it starts, so the
kernel queues what comes too early; an agent on port 0 is asked, or says, which port it got; and whatever else has to
have happened before a test may go on is read from what the processes print.
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

from tests.programs import LISTENING, Program, spoa
from tests.readme_commands import blocks

from .branches import Branch

AsyncTest = Callable[..., Coroutine[Deferred[Any], Any, None]]

HERE = Path(__file__).parent

#: Seconds for a whole test.
TEST_LIMIT = 40.0

#: Seconds for a process that was killed.
KILL_LIMIT = 10.0

# The frontend origin-web is the web server: HAProxy itself. HAProxy needs no agent for it.
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

SHOW_ERROR = """\
    http-after-response set-header spoe-error %[var(txn.spoa.error)] if { var(txn.spoa.error) -m found }
"""

# The time for processing is long enough for a slow machine, and shorter than a test may take.
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


def bounded(test: AsyncTest) -> AsyncTest:
    """Run an async test on the reactor, and let it fail when it takes too long: pytest-twisted has no limit."""

    @pytest_twisted.ensureDeferred
    @functools.wraps(test)
    async def run(**fixtures: Any) -> None:
        await Deferred.fromCoroutine(test(**fixtures)).addTimeout(TEST_LIMIT, reactor)

    return run


def bound_socket() -> socket.socket:
    """Return a socket on a port of its own, which refuses connections until it listens."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def listening_socket() -> socket.socket:
    """Return a socket on a port of its own, whose connections are queued until somebody accepts them."""
    listening = bound_socket()
    listening.listen(128)
    return listening


def as_server(address: IAddress) -> str:
    """Return ``address`` as the line ``server`` of HAProxy writes it."""
    if isinstance(address, UNIXAddress):
        assert address.name is not None
        return f"unix@{os.fsdecode(address.name)}"
    assert isinstance(address, IPv4Address | IPv6Address)
    return f"{address.host}:{address.port}"


def several_agents(branch: Branch) -> str:
    """Return the options of the README's backend for two agents, as it stands there."""
    (text,) = [block.text for block in blocks() if block.text.startswith("# haproxy.cfg, two agents\n")]
    _, _, options = text.partition("    mode tcp\n")
    options, _, _ = options.partition("    server ")
    if branch.rewritten:
        options = options.replace(" on-marked-down shutdown-sessions", "")
    return options.strip()


def shown(*variables: str) -> str:
    """Return rules that answer with a header for each of ``variables`` that is set, even if it is empty."""
    show = "    http-after-response set-header {0} %[var({0})] if {{ var({0}) -m found }}\n"
    return "".join(show.format(variable) for variable in variables) + "    http-request return status 200\n"


class Process:
    """A :class:`Program` for tests on the reactor. They wait without blocking it: an agent may be in this process.

    :param keywords: see :class:`Program`.
    """

    def __init__(self, command: Sequence[str], **keywords: Any) -> None:
        #: Copied from the program in the reactor's thread only: they do not change between two awaits of a test.
        self.output = ""
        self.status: int | None = None
        self._waiting: list[Deferred[None]] = []
        self._matched: dict[str, int] = {}
        self._program = Program(command, on_change=lambda: reactor.callFromThread(self._changed), **keywords)  # type: ignore[attr-defined]
        self.pid = self._program.pid

    def describe(self) -> str:
        """Return what a reader of a failed test wants to know of it."""
        return self._program.describe()

    def signal(self, number: signal.Signals) -> None:
        self._program.signal(number)

    async def said(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Wait until it has printed what matches ``pattern``, which it cannot do any more when it has ended."""
        while (match := re.search(pattern, self.output)) is None:
            assert self.status is None, f"it ended without {pattern!r}"
            await self._change()
        return match

    async def says(self, pattern: str) -> re.Match[str]:
        """As :meth:`said`, but what this found before does not count again."""
        seen = self._matched.get(pattern, 0)
        while (match := re.compile(pattern).search(self.output, seen)) is None:
            assert self.status is None, f"it ended without {pattern!r}"
            await self._change()
        self._matched[pattern] = match.end()
        return match

    async def ended(self) -> int:
        """Wait for its end, and return the exit status."""
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
        # In this order: the output is complete when there is a status.
        self.status = self._program.status
        self.output = self._program.output
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            change.callback(None)


class AgentProcess(Process):
    """An agent on the command line, with the handlers of ``handlers.py``.

    :param options: options of ``spoa``, with the endpoints as ``--listen``.
    :param socket: a listening socket, which is passed on as systemd does, and replaces the endpoints.
    """

    def __init__(self, *options: str, socket: socket.socket | None = None) -> None:
        command = spoa(*options, handlers=HERE / "handlers.py", listen=[], inherited=socket)
        super().__init__(command, sockets=[] if socket is None else [socket])

    async def address(self) -> str:
        """Wait until it listens, and return where, as the line ``server`` of HAProxy writes it."""
        address = (await self.said(LISTENING))[1]
        return f"unix@{address}" if address.startswith("/") else address

    @property
    def connections(self) -> int:
        """How many connections it has open, when it listens on one socket."""
        folder = f"/proc/{self.pid}/fd"
        files = set()
        for number in os.listdir(folder):
            # What is open now may be closed before it is looked at.
            with suppress(FileNotFoundError):
                files.add(os.readlink(f"{folder}/{number}"))
        return sum(file.startswith("socket:") for file in files) - 1


@dataclass(frozen=True)
class Response:
    """HAProxy's answer to a client."""

    status: int
    headers: dict[str, str]

    def __getitem__(self, header: str) -> str | None:
        """Return a header's value, ``None`` for none."""
        return self.headers.get(header)

    @property
    def error(self) -> str | None:
        """What HAProxy set the variable of ``option set-on-error`` to: ``None`` when nothing failed."""
        return self["spoe-error"]


class Client(Protocol):
    """A web client's connection: one request after the other."""

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
    """What clients that request as fast as they are answered were told. :meth:`HAProxy.load` makes it."""

    def __init__(self) -> None:
        #: How many requests were answered by the agent of each process, whose handlers set ``txn.pid``.
        self.answers: Counter[int] = Counter()
        #: How many were not, by the error that HAProxy told, else by the status.
        self.failures: Counter[str] = Counter()
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
        """Wait until ``condition`` holds after a request."""
        while not condition():
            assert not self._ended, "a client lost its connection"
            change: Deferred[None] = Deferred()
            self._waiting.append(change)
            await change

    async def further(self, requests: int) -> None:
        """Wait until so many more requests were answered or have failed."""
        enough = self.requests + requests
        await self.until(lambda: self.requests >= enough)

    async def _run(self, haproxy: HAProxy, path: str) -> None:
        try:
            async with haproxy.client() as client:
                while not self._stopped:
                    self._count(await client.get(path))
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
    """A HAProxy of ``branch`` between a client and an agent, or several.

    :param folder: where its configuration is written.
    :param server: where the agent is, with the options of HAProxy's ``server``; for several, by their names.
    :param spoe: the rest of the section spoe-agent, and the sections spoe-message and spoe-group.
    :param web: the rules of the frontend that the client talks to.
    :param origin: the rules of the web server.
    :param backend: options of the agent's backend.
    :param process: settings of the section global.
    :param threads: each has connections of its own to the agent. Unless told so, HAProxy has one for each of the
        machine's cores.
    :param web_mode: what the client's frontend speaks: with ``tcp``, a response has no ``error``.
    :param listeners: the sockets of the client's frontend and of the web server, when others listen on them too; the
        caller closes them.
    :param options: more options of the command line.
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
        super().__init__(command, sockets=[web_socket, origin_socket])
        if listeners is None:
            # Passed on and closed here: a HAProxy that has ended refuses its clients instead of letting them wait.
            web_socket.close()
            origin_socket.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client with a connection for several requests."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        client = await connectProtocol(endpoint, Client())
        try:
            yield client
        finally:
            client.transport.loseConnection()

    @asynccontextmanager
    async def load(self, clients: int, *paths: str) -> AsyncIterator[Load]:
        """So many clients, each of which gets one of ``paths`` over its one connection as fast as it is answered."""
        load = Load()
        running = gatherResults(
            [Deferred.fromCoroutine(load._run(self, paths[i % len(paths)])) for i in range(clients)], True
        )
        try:
            yield load
        finally:
            load._stopped = True
            await running

    async def get(self, path: str = "/", **headers: str) -> Response:
        """Get ``path`` over a connection of its own."""
        async with self.client() as client:
            return await client.get(path, **headers)

    async def post(self, path: str, body: bytes, **headers: str) -> Response:
        """Post ``body`` over a connection of its own."""
        async with self.client() as client:
            return await client.post(path, body, **headers)

    def describe(self) -> str:
        return f"{self.configuration}\n{super().describe()}"

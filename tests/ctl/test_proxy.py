"""ctl.proxy: bytes pass unchanged, so do closes and backpressure, and each frame is printed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.error import ConnectionDone, ConnectionLost, TCPTimedOutError
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.client import SPOEClient
from spoa_twisted.ctl.proxy import parser
from spoa_twisted.ctl.proxy.output import Output
from spoa_twisted.ctl.proxy.relay import Relay, Relayed
from spoa_twisted.ctl.proxy.report import Report
from tests.agent.sockets import lose
from tests.certificates import self_signed
from tests.programs import ENVIRONMENT, SPOACTL

from .agents import Agent, ack

reactor: Any = default_reactor

#: Seconds; it only ends a test that hangs.
LIMIT = 20.0


@implementer(IHalfCloseableProtocol)
class End(Protocol):
    """One end of a relayed connection: HAProxy or the agent."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.made: Deferred[None] = Deferred()
        self.half_closed: Deferred[None] = Deferred()
        self.lost: Deferred[Any] = Deferred()
        self._awaited: list[tuple[int, Deferred[None]]] = []

    def connectionMade(self) -> None:
        self.made.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        for entry in [entry for entry in self._awaited if len(self.received) >= entry[0]]:
            self._awaited.remove(entry)
            entry[1].callback(None)

    def readConnectionLost(self) -> None:
        self.half_closed.callback(None)

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.type)

    def has(self, size: int) -> Deferred[None]:
        """Return a Deferred that fires when ``size`` bytes have arrived."""
        arrived: Deferred[None] = Deferred()
        self._awaited.append((size, arrived))
        self.dataReceived(b"")
        return arrived.addTimeout(LIMIT, reactor)


class Proxy:
    """A relay to the agent at the fixture ``endpoint``, and the lines that it prints."""

    def __init__(self, folder: Path, agent: str, **options: Any) -> None:
        self.lines: list[str] = []
        self.complete: Deferred[None] = Deferred()
        settings = {"values": False, "as_json": False, "count": None, **options}
        self.report = Report(
            self.lines.append, time.monotonic, on_count=lambda: self.complete.callback(None), **settings
        )
        self.relay = Relay(clientFromString(reactor, agent), self.report.connected)
        self.where = f"{folder}/proxy"
        self.port = reactor.listenUNIX(self.where, self.relay)

    @property
    def endpoint(self) -> str:
        return f"unix:{self.where}"

    @property
    def frames(self) -> list[str]:
        """The lines of frames and faults, without their time."""
        return [line[11:] for line in self.lines if line[13:].lstrip("0123456789")[1:2] in "<>!"]

    @property
    def events(self) -> list[str]:
        return [line[11:] for line in self.lines if line[11:] not in self.frames]

    @property
    def connection(self) -> Relayed:
        (connection,) = self.relay.connections
        return connection


StartProxy = Callable[..., Proxy]


@pytest.fixture
def start_proxy(tmp_path: Path, endpoint: str) -> Iterator[StartProxy]:
    """A function that starts a proxy in this process. The fixture stops it."""
    proxies = []

    def start(**options: Any) -> Proxy:
        proxies.append(Proxy(tmp_path, endpoint, **options))
        return proxies[-1]

    yield start
    for proxy in proxies:
        pytest_twisted.blockon(proxy.port.stopListening())
        for connection in list(proxy.relay.connections):
            connection.abort()


class Ends:
    """Both ends of a relayed connection."""

    def __init__(self, haproxy: End, agent: End) -> None:
        self.haproxy = haproxy
        self.agent = agent

    def close(self) -> None:
        for end in (self.haproxy, self.agent):
            end.transport.abortConnection()


class AgentFactory(Factory):
    """Accepts one connection."""

    def __init__(self) -> None:
        self.end = End()

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self.end


async def connect(proxy: Proxy, listen: Any) -> Ends:
    """Connect through the proxy."""
    factory = AgentFactory()
    listen(factory)
    haproxy = End()
    await connectProtocol(clientFromString(reactor, proxy.endpoint), haproxy)
    await factory.end.made.addTimeout(LIMIT, reactor)
    return Ends(haproxy, factory.end)


@pytest_twisted.ensureDeferred
async def test_each_frame_is_printed(endpoint: str, listen: Any, start_proxy: StartProxy) -> None:
    """Both directions have a line for each frame, and each ACK has its time."""
    listen(SPOAFactory(Handlers({"check": lambda ip: {"txn.score": 4}})))
    proxy = start_proxy()
    client = SPOEClient(proxy.endpoint)
    assert await client.notify("check", ip=True) == {"txn.score": 4}
    await client.disconnect()
    lines = proxy.frames
    assert [line.split(":")[0] for line in lines[:4]] == [
        "#1 > HAPROXY-HELLO 0",
        "#1 < AGENT-HELLO 0",
        "#1 > NOTIFY 1",
        "#1 < ACK 1",
    ]
    assert lines[2] == "#1 > NOTIFY 1:1 FIN, 18 bytes: check(ip=bool)"
    assert lines[3].startswith("#1 < ACK 1:1 FIN, 18 bytes, after ")
    assert lines[3].endswith(" ms: txn.score=int64") or lines[3].endswith(" s: txn.score=int64")
    assert proxy.events[0] == "#1 HAProxy connected from a Unix socket"
    assert proxy.report.faults == 0


@pytest_twisted.ensureDeferred
async def test_json(listen: Any, start_proxy: StartProxy) -> None:
    """Each line is an object, and so is each event."""
    listen(SPOAFactory(Handlers({"check": lambda token: {"txn.user": token}})))
    proxy = start_proxy(as_json=True, values=True)
    client = SPOEClient(proxy.endpoint)
    await client.notify("check", token="\udcff swordfish")
    await client.disconnect()
    objects = [json.loads(line) for line in proxy.lines]
    assert objects[0]["event"] == "connected"
    (notify,) = [line for line in objects if line.get("frame") == "NOTIFY"]
    (acked,) = [line for line in objects if line.get("frame") == "ACK"]
    assert (notify["connection"], notify["from"], acked["from"]) == (1, "haproxy", "agent")
    assert notify["messages"] == [
        {
            "name": "check",
            "arguments": [
                {
                    "name": "token",
                    "type": "str",
                    "size": 11,
                    "value": "\ufffd swordfish",
                    "hex": "ff2073776f726466697368",
                }
            ],
        }
    ]
    assert acked["seconds"] > 0
    assert acked["actions"][0]["set"] == "txn.user"


@pytest_twisted.ensureDeferred
async def test_bytes_pass_unchanged(listen: Any, start_proxy: StartProxy) -> None:
    """They need not be frames, and come in pieces of any size."""
    source = random.Random(3)
    proxy = start_proxy()
    ends = await connect(proxy, listen)
    sent = {True: b"", False: b""}
    for _ in range(200):
        from_agent = source.random() < 0.5
        data = source.randbytes(source.choice((1, 2, 7, 100, 5000)))
        sent[from_agent] += data
        (ends.agent if from_agent else ends.haproxy).transport.write(data)
    await ends.agent.has(len(sent[False]))
    await ends.haproxy.has(len(sent[True]))
    assert ends.agent.received == sent[False]
    assert ends.haproxy.received == sent[True]
    ends.close()


@pytest_twisted.ensureDeferred
async def test_a_half_close_passes(listen: Any, start_proxy: StartProxy) -> None:
    """HAProxy sends no more, and still gets the agent's answer. Then the agent closes, and all is closed."""
    proxy = start_proxy()
    ends = await connect(proxy, listen)
    ends.haproxy.transport.write(b"question")
    ends.haproxy.transport.loseWriteConnection()
    await ends.agent.half_closed.addTimeout(LIMIT, reactor)
    assert ends.agent.received == b"question"
    ends.agent.transport.write(b"answer" * 100_000)
    ends.agent.transport.loseConnection()
    await ends.haproxy.has(600_000)
    await ends.haproxy.half_closed.addTimeout(LIMIT, reactor)
    ends.haproxy.transport.loseConnection()
    assert await ends.agent.lost.addTimeout(LIMIT, reactor) is ConnectionDone
    assert await ends.haproxy.lost.addTimeout(LIMIT, reactor) is ConnectionDone
    assert proxy.events[1] == "#1 HAProxy closed (FIN)"
    assert proxy.events[-1] == "#1 the agent closed too"
    assert not proxy.relay.connections
    assert not proxy.report.open


@pytest.mark.parametrize("who", ["haproxy", "agent"])
@pytest_twisted.ensureDeferred
async def test_a_reset_passes(who: str, tmp_path: Path, start_proxy: StartProxy) -> None:
    """HAProxy >= 3.1 ends all connections so."""
    factory = AgentFactory()
    agent_port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    report = Report(list[str]().append, time.monotonic, values=False, as_json=False, count=None, on_count=lambda: None)
    relay = Relay(clientFromString(reactor, f"tcp:127.0.0.1:{agent_port.getHost().port}"), report.connected)
    port = reactor.listenTCP(0, relay, interface="127.0.0.1")
    haproxy = End()
    await connectProtocol(clientFromString(reactor, f"tcp:127.0.0.1:{port.getHost().port}"), haproxy)
    await factory.end.made
    haproxy.transport.write(b"x")
    await factory.end.has(1)
    first, second = (haproxy, factory.end) if who == "haproxy" else (factory.end, haproxy)
    first.transport.abortConnection()
    assert await second.lost.addTimeout(LIMIT, reactor) is ConnectionLost
    assert not relay.connections
    await port.stopListening()
    await agent_port.stopListening()


@pytest_twisted.ensureDeferred
async def test_no_agent_listens(start_proxy: StartProxy) -> None:
    """HAProxy's connection is closed, and a line says why."""
    proxy = start_proxy()
    haproxy = End()
    await connectProtocol(clientFromString(reactor, proxy.endpoint), haproxy)
    await haproxy.half_closed.addTimeout(LIMIT, reactor)
    haproxy.transport.loseConnection()
    assert proxy.events[1].startswith("#1 cannot connect to the agent: ")
    assert not proxy.relay.connections


@dataclass
class Connecting:
    """A proxy with one connection of HAProxy, whose connection to the agent is never made."""

    relay: Relay
    port: Any
    haproxy: End
    #: The attempt to connect to the agent.
    attempt: Deferred[Any]
    #: What the proxy has printed.
    lines: list[str]

    @property
    def connection(self) -> Relayed:
        (connection,) = self.relay.connections
        return connection

    async def end(self) -> None:
        """Wait until the proxy closes the connection; then close the side of HAProxy, and the port."""
        await self.haproxy.half_closed.addTimeout(LIMIT, reactor)
        self.haproxy.transport.loseConnection()
        await self.haproxy.lost.addTimeout(LIMIT, reactor)
        await self.port.stopListening()


async def connect_without_an_agent(folder: Path) -> Connecting:
    attempt: Deferred[Any] = Deferred()

    class Never:
        def connect(self, factory: Any) -> Deferred[Any]:
            return attempt

    lines: list[str] = []
    report = Report(lines.append, time.monotonic, values=False, as_json=False, count=None, on_count=lambda: None)
    relay = Relay(Never(), report.connected)  # type: ignore[arg-type]
    port = reactor.listenUNIX(f"{folder}/proxy", relay)
    haproxy = End()
    await connectProtocol(clientFromString(reactor, f"unix:{folder}/proxy"), haproxy)
    while not relay.connections:
        await turn()
    return Connecting(relay, port, haproxy, attempt, lines)


@pytest_twisted.ensureDeferred
async def test_haproxy_goes_before_the_agent_is_there(tmp_path: Path) -> None:
    """The attempt to connect is cancelled."""
    connecting = await connect_without_an_agent(tmp_path)
    connection = connecting.connection
    connection.pause()
    assert not connection.is_closed
    connection.haproxy.transport.abortConnection()
    while connecting.relay.connections:
        await turn()
    assert connecting.attempt.called
    assert len(connecting.lines) == 2
    await connecting.end()


def turn() -> Deferred[None]:
    """Return a Deferred that fires in another turn of the reactor."""
    turned: Deferred[None] = Deferred()
    reactor.callLater(0.001, turned.callback, None)
    return turned


@pytest.mark.parametrize("who", ["haproxy", "agent"])
@pytest_twisted.ensureDeferred
async def test_a_side_that_does_not_read(who: str, listen: Any, start_proxy: StartProxy) -> None:
    """The other side is paused, and the proxy holds a little. When the side reads again, all has come."""
    proxy = start_proxy()
    ends = await connect(proxy, listen)
    await ends.haproxy.made
    slow, fast = (ends.haproxy, ends.agent) if who == "haproxy" else (ends.agent, ends.haproxy)
    from_fast = proxy.connection.agent if who == "haproxy" else proxy.connection.haproxy
    to_slow = proxy.connection.haproxy if who == "haproxy" else proxy.connection.agent
    slow.transport.pauseProducing()
    data = random.Random(5).randbytes(2**20) * 8
    fast.transport.write(data)
    while from_fast.transport in reactor.getReaders():
        await turn()
    transport = to_slow.transport
    held = len(transport.dataBuffer) + sum(map(len, transport._tempDataBuffer)) - transport.offset
    assert 0 < held < 2**18
    slow.transport.resumeProducing()
    await slow.has(len(data))
    assert slow.received == data
    ends.close()


@pytest_twisted.ensureDeferred
async def test_a_broken_agent(listen: Any, start_proxy: StartProxy) -> None:
    """The proxy prints what is wrong with a frame, and passes it on: HAProxy's error is that without the proxy."""
    listen(Agent(lambda ids, number: ack(ids, b"\x01\x03\x02\x05sc") if number == 2 else ack(ids)))
    proxy = start_proxy()
    client = SPOEClient(proxy.endpoint)
    assert await client.notify("m") == {"sess.score": 20}
    with pytest.raises(Exception, match="a STRING of 5 bytes is cut off"):
        await client.notify("m")
    faults = [line for line in proxy.frames if line.startswith("#1 !")]
    text = "action 1: HAProxy drops it and all behind it: a STRING of 5 bytes is cut off: 2 bytes follow its length"
    assert faults == [
        f"#1 ! {text} (byte 15 of the frame, SPOE.txt 3.4)",
        "#1 ! bytes 0 to 10: 00 00 00 0d 67 00 00 00 01 03 01",
    ]
    assert proxy.report.faults == 1


@pytest_twisted.ensureDeferred
async def test_an_ack_of_no_notify(listen: Any, start_proxy: StartProxy) -> None:
    """No connection has it."""
    listen(Agent(lambda ids, number: ack(b"\x09\x09") + ack(ids)))
    proxy = start_proxy()
    client = SPOEClient(proxy.endpoint)
    await client.notify("m")
    await client.disconnect()
    (fault,) = [line for line in proxy.frames if "unknown NOTIFY" in line]
    assert fault.startswith("#1 ! unknown NOTIFY: none with this stream-id and frame-id is pending")


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest_twisted.ensureDeferred
async def test_an_end_while_it_connects(end: str, tmp_path: Path) -> None:
    """There is no transport to the agent yet."""
    connecting = await connect_without_an_agent(tmp_path)
    connection = connecting.connection
    getattr(connection, end)()
    await connecting.end()
    while not connection.is_closed:
        await turn()
    assert not connecting.relay.connections


@pytest_twisted.ensureDeferred
async def test_a_connection_that_times_out(listen: Any, start_proxy: StartProxy) -> None:
    """The reason is said."""
    proxy = start_proxy()
    ends = await connect(proxy, listen)
    lose(proxy.connection.agent.transport, TCPTimedOutError)
    assert proxy.events[-1].startswith("#1 the connection of the agent was lost: TCP connection timed out")
    ends.close()


@asynccontextmanager
async def proxy_to_a_tls_agent(folder: Path) -> AsyncIterator[tuple[Proxy, SPOEClient]]:
    """Yield a proxy to an agent with TLS, and a client that has asked it once. Both have ended at the end."""
    certificate, key = self_signed(folder)
    factory = SPOAFactory(Handlers({"check": lambda: {"txn.a": 1}}))
    server = serverFromString(reactor, f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}")
    port: Any = await server.listen(factory)
    proxy = Proxy(folder, f"ssl:127.0.0.1:{port.getHost().port}")
    client = SPOEClient(proxy.endpoint)
    assert await client.notify("check") == {"txn.a": 1}
    yield proxy, client
    await client.disconnect()
    while proxy.relay.connections or factory.connections:
        await turn()
    await proxy.port.stopListening()
    await port.stopListening()


# Twisted still makes calls that newer pyOpenSSL releases warn about.
with_pyopenssl = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


@with_pyopenssl
@pytest_twisted.ensureDeferred
async def test_tls_to_the_agent(tmp_path: Path) -> None:
    """The proxy may take TLS off: a half-close then closes the side that has TLS."""
    async with proxy_to_a_tls_agent(tmp_path) as (proxy, _):
        pass
    assert [line.split()[2] for line in proxy.frames[:4]] == ["HAPROXY-HELLO", "AGENT-HELLO", "NOTIFY", "ACK"]


@with_pyopenssl
@pytest_twisted.ensureDeferred
async def test_tls_to_an_agent_that_is_lost_first(tmp_path: Path) -> None:
    """HAProxy's side is closed after it. Twisted's TLS cannot be aborted then."""
    async with proxy_to_a_tls_agent(tmp_path) as (proxy, client):
        relayed = proxy.connection
        lose(relayed.agent.transport)
        while not relayed.is_closed:
            await turn()
        assert proxy.events[-1].startswith("#1 the agent reset the connection")
        assert await client.notify("check") == {"txn.a": 1}


@pytest_twisted.ensureDeferred
async def test_a_frame_that_the_end_cuts_off(listen: Any, start_proxy: StartProxy) -> None:
    """An agent whose length counts itself never completes a frame."""
    proxy = start_proxy()
    ends = await connect(proxy, listen)
    ends.agent.transport.write(b"\x00\x00\x00\x0b\x67\x00\x00\x00\x01\x01\x01")
    ends.agent.transport.loseConnection()
    await ends.haproxy.half_closed.addTimeout(LIMIT, reactor)
    assert [line.partition(" (")[0] for line in proxy.frames] == [
        "#1 < no frame, 11 bytes",
        "#1 ! the frame is cut off: its length is 11 bytes, and 7 of them are here",
        "#1 ! 4 bytes are missing: does the length count its own 4 bytes? It must not",
        "#1 ! bytes 0 to 10: 00 00 00 0b 67 00 00 00 01 01 01",
    ]
    ends.close()


@pytest_twisted.ensureDeferred
async def test_count(listen: Any, start_proxy: StartProxy) -> None:
    """After so many frames nothing is printed, though the connection goes on."""
    listen(SPOAFactory(Handlers({"check": lambda: None})))
    proxy = start_proxy(count=3)
    client = SPOEClient(proxy.endpoint)
    await client.notify("check")
    await proxy.complete
    assert [line.split()[2] for line in proxy.frames] == ["HAPROXY-HELLO", "AGENT-HELLO", "NOTIFY"]
    await client.disconnect()
    assert len(proxy.lines) == 4


def test_a_slow_terminal() -> None:
    """Lines that it cannot take are dropped, counted, and never waited for."""
    reader, writer = os.pipe()
    # The pipe is full before the first line. Otherwise a part of the lines might fit at any time.
    os.set_blocking(writer, False)
    full = 0
    with suppress(BlockingIOError):
        while True:
            full += os.write(writer, b"-" * 4096)
    os.set_blocking(writer, True)
    output = Output(writer, lambda lines: f"dropped {lines}", lambda: None, max_waiting=100_000)
    for number in range(10_000):
        output.write(f"{number:0100}")
    assert output._size > 99_000
    assert len(os.read(reader, full)) == full
    os.set_blocking(reader, False)
    first = b""
    while output._size:
        with suppress(BlockingIOError):
            first += os.read(reader, 2**20)
    output.write("last")
    output.close(LIMIT)
    os.close(writer)
    with os.fdopen(reader, "rb") as terminal:
        lines = (first + terminal.read()).decode().splitlines()
    (dropped,) = [line for line in lines if line.startswith("dropped ")]
    assert lines[-2:] == [dropped, "last"]
    assert len(lines) - 2 + int(dropped.split()[1]) == 10_000
    assert lines[:-2] == [f"{number:0100}" for number in range(len(lines) - 2)]


def test_nobody_reads_any_more() -> None:
    """The output says so once, and takes no more lines."""
    reader, writer = os.pipe()
    broken = Event()
    output = Output(writer, str, broken.set)
    os.close(reader)
    output.write("a line")
    assert broken.wait(LIMIT)
    output.write("another")
    output.close(LIMIT)
    os.close(writer)


def test_a_terminal_that_does_not_block() -> None:
    """Another program may have made it so."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = Output(writer, str, lambda: None)
    for _ in range(3000):
        output.write("x" * 99)
    with os.fdopen(reader, "rb") as terminal:
        assert len(terminal.read(300_000)) == 300_000
    output.close(LIMIT)
    os.close(writer)


class Program:
    """``spoactl proxy`` as a process, in front of an agent in this process."""

    def __init__(self, agent: str, folder: Path, *options: str, stdout: int = subprocess.PIPE) -> None:
        self.endpoint = f"unix:{folder}/proxy"
        command = [*SPOACTL, "proxy", "--listen", self.endpoint, "--agent", agent, *options]
        self.process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert self.process.stderr is not None
        self.first = self.process.stderr.readline()

    async def end(self) -> tuple[list[str], list[str]]:
        """Return the lines of stdout and stderr, when the process has ended."""
        waiting = reactor.seconds() + LIMIT
        while self.process.poll() is None and reactor.seconds() < waiting:
            await turn()
        out, err = self.process.communicate(timeout=LIMIT)
        return (out or "").splitlines(), err.splitlines()


@pytest.fixture
def program(endpoint: str, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """A function that starts the proxy as a process. The fixture kills it."""
    programs = []

    def start(*options: str, **keywords: Any) -> Program:
        programs.append(Program(endpoint, tmp_path, *options, **keywords))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()


@pytest_twisted.ensureDeferred
async def test_the_program_ends_by_itself(listen: Any, endpoint: str, program: Callable[..., Program]) -> None:
    """After N frames it ends, with status 0; before that it says where it listens, and at the end what it has seen."""
    listen(SPOAFactory(Handlers({"check": lambda: None})))
    proxy = program("--count", "4", "--seconds", "60", "--json")
    assert proxy.first == (f"spoactl: listening on {proxy.endpoint}; frames go to {endpoint}; Ctrl-C ends it\n")
    await SPOEClient(proxy.endpoint).notify("check")
    out, err = await proxy.end()
    assert proxy.process.returncode == 0
    frames = [json.loads(line)["frame"] for line in out[1:]]
    assert frames == ["HAPROXY-HELLO", "AGENT-HELLO", "NOTIFY", "ACK"]
    assert err == ["spoactl: 4 frames on 1 connections, 0 faults"]


@pytest_twisted.ensureDeferred
async def test_ctrl_c_waits_for_pending_acks(listen: Any, program: Callable[..., Program]) -> None:
    """The request that is in flight gets its answer."""
    answer: Deferred[Any] = Deferred()
    called: Deferred[None] = Deferred()

    def check() -> Deferred[Any]:
        called.callback(None)
        return answer

    listen(SPOAFactory(Handlers({"check": check}, timeout=0)))
    proxy = program()
    pending = SPOEClient(proxy.endpoint).notify("check")
    await called
    proxy.process.send_signal(signal.SIGINT)
    reactor.callLater(0.2, answer.callback, {"txn.a": 1})
    assert await pending == {"txn.a": 1}
    await proxy.end()
    assert proxy.process.returncode == 0


@pytest_twisted.ensureDeferred
async def test_the_reader_of_a_pipe_ends(listen: Any, program: Callable[..., Program]) -> None:
    """As in ``spoactl proxy | head -1``: it ends without a traceback."""
    listen(SPOAFactory(Handlers({"check": lambda: None})))
    proxy = program()
    assert proxy.process.stdout is not None
    proxy.process.stdout.close()
    proxy.process.stdout = None
    # The first line ends the proxy, and with it the connection.
    with suppress(ConnectionDone, ConnectionLost):
        await SPOEClient(proxy.endpoint).notify("check")
    _, err = await proxy.end()
    assert proxy.process.returncode == 0
    assert len(err) == 1


@pytest_twisted.ensureDeferred
async def test_it_cannot_listen(tmp_path: Path, endpoint: str) -> None:
    """The error says where and why."""
    command = [*SPOACTL, "proxy", "--listen", f"unix:{tmp_path}/missing/proxy", "--agent", endpoint]
    run = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"spoactl: cannot listen on unix:{tmp_path}/missing/proxy: ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--listen", "12346"], "argument --listen: bad endpoint '12346': write tcp:12346:interface=127.0.0.1"),
        (["--count", "0"], "argument --count: '0' is below 1"),
        (["tcp:127.0.0.1:1"], "argument ENDPOINT: 'tcp:127.0.0.1:1' is an endpoint; write --agent"),
    ],
)
def test_a_wrong_option(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says what to write."""
    with pytest.raises(SystemExit):
        parser().parse_intermixed_args(arguments)
    assert error in capsys.readouterr().err


def test_the_help_tells_what_the_proxy_hides() -> None:
    """With HAProxy >= 3.1, the agent does not see what HAProxy has read."""
    printed = " ".join(parser().format_help().split())
    assert "With HAProxy >= 3.1, the agent cannot see through the proxy what HAProxy has read" in printed

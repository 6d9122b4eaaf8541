"""Many connections at the same time, or one after the other, and peers that send nothing but HELLO."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress

import pytest

from tests.conformance.rawspop import HELLO, Status, boolean, hello, message, notify, read_status
from tests.programs import STOPPED

from .agent import ECHO, ECHOED, GROWTH, PYPY, SLACK, TLS_SIZE
from .conftest import Launch

#: Bytes of memory that an idle connection may cost. CPython was measured to use 2600 to 3600 for its Python objects.
IDLE_SIZE = 8 * 1024

#: Connections in the listen queue. Every Linux allows at least this number; Twisted's default is smaller.
CROWD = 100

# The places of the endpoints in the fixture of that name.
TCP, UNIX, TLS = range(3)

#: PyPy needs more rounds than CPython, by this factor, until it has compiled the busy code and stops growing.
WARM_UP = 20 if PYPY else 1


@pytest.mark.soak
@pytest.mark.parametrize("kind", [0, 1], ids=["tcp", "unix"])
def test_thousand_idle_connections(launch: Launch, endpoints: list[str], kind: int) -> None:
    """1,000 idle connections cost little memory, and other connections are answered. When the agent is stopped, all get
    AGENT-DISCONNECT.
    """
    agent = launch(listen=endpoints[:2])
    # The first connections make the allocators reserve memory that all connections share: do not measure them.
    first = [agent.connect_with_hello(kind) for _ in range(100)]
    agent.begin_measuring()
    idle = [agent.connect_with_hello(kind) for _ in range(1000)]
    agent.check_answers(1000)
    assert agent.growth < 1000 * IDLE_SIZE + (SLACK if PYPY else 0)
    assert idle[500].request(ECHO) == ECHOED
    agent.signal(signal.SIGTERM)
    for peer in (*first, *idle):
        assert [read_status(disconnect) for disconnect in peer.frames_to_end()] == [Status.NORMAL]
    assert agent.stop() in STOPPED
    assert agent.logged()[0].endswith("Received SIGTERM, shutting down.")


def test_idle_connections_with_tls(launch: Launch, endpoints: list[str]) -> None:
    """An idle connection with TLS costs little memory too, besides the memory of OpenSSL."""
    agent = launch(listen=endpoints)
    agent.begin_measuring()
    for _ in range(200):
        agent.connect_with_hello(2)
    agent.check_answers(200, to=2)
    assert agent.growth < 200 * (IDLE_SIZE + TLS_SIZE) + SLACK
    assert agent.logged() == []


@pytest.mark.parametrize(
    "data", [b"", hello(), hello({**HELLO, "healthcheck": boolean(True)})], ids=["", "hello", "check"]
)
def test_connections_that_come_and_go(launch: Launch, data: bytes) -> None:
    """Thousands of connections that send nothing, or HELLO, and close at once leave no memory, files or log lines."""
    agent = launch("--hello-timeout=60")

    def flood(times: int) -> None:
        for i in range(times * CROWD):
            peer = agent.connect()
            peer.send(data)
            if i % 2:
                peer.reset()
            else:
                peer.close()
            if i % CROWD == 0:
                agent.check_answers()
                agent.peers.clear()

    flood(2)
    agent.begin_measuring()
    opened = agent.descriptors
    flood(10)
    agent.answer_until(lambda: agent.descriptors <= opened + 1)
    assert agent.peak_growth < SLACK
    assert agent.logged() == []


def test_hello_after_hello(launch: Launch) -> None:
    """A second HELLO ends its own connection only, also among a thousand HELLOs in one write. It is logged once."""
    agent = launch()
    agent.begin_measuring()
    for _ in range(100):
        peer = agent.connect_with_hello()
        peer.send(hello())
        peer.expect_disconnect(Status.INVALID)
        peer = agent.connect()
        peer.offer(hello() * 1000)
        peer.agent_hello()
        peer.expect_disconnect(Status.INVALID)
        agent.close_peers()
    assert agent.peak_growth < SLACK
    (line,) = agent.logged()
    assert "HAPROXY_HELLO is not legal in the state running" in line


def test_maximum_of_connections_under_a_flood(launch: Launch) -> None:
    """In a flood of connections, the agent keeps max_connections and closes the others at once. It logs that once. When
    a connection ends, the agent accepts another.
    """
    agent = launch("--max-connections=100")
    agent.begin_measuring()
    kept = [agent.connect_with_hello() for _ in range(100)]
    for _ in range(20):
        for _ in range(50):
            with suppress(ConnectionResetError):
                refused = agent.connect()
                refused.offer(hello())
                assert refused.frames_to_end() == []
        kept.pop().close()
        # After two exchanges on another connection, the agent has noticed the end: it reads sockets in turn.
        assert kept[0].request(ECHO) == ECHOED
        assert kept[0].request(ECHO) == ECHOED
        kept.append(agent.connect_with_hello())
    assert agent.descriptors < 100 + 50
    assert agent.peak_growth < 100 * IDLE_SIZE + SLACK
    (line,) = agent.logged()
    assert "100 connections are open, as many as max_connections allows: new ones are refused" in line
    agent.close_peers()


@pytest.mark.parametrize("kind", [TCP, UNIX, TLS], ids=["tcp", "unix", "tls"])
def test_crowd_that_comes_at_once(launch: Launch, endpoints: list[str], kind: int) -> None:
    """Connections that arrive together while the agent is busy wait in the listen queue. The kernel drops none of them,
    so no peer must try again.
    """
    agent = launch(listen=endpoints)
    agent.begin_measuring()
    agent.signal(signal.SIGSTOP)
    address = agent.addresses[kind]
    host, _, port = address.rpartition(":")
    peers = []
    try:
        for _ in range(CROWD):
            connecting = socket.socket(socket.AF_INET if host else socket.AF_UNIX)
            peers.append(connecting)
            # A local kernel completes the connection at once if the queue has room. A second try comes after 1 s.
            connecting.settimeout(0.5)
            connecting.connect((host, int(port)) if host else address)
    finally:
        agent.signal(signal.SIGCONT)
        for peer in peers:
            peer.close()
    assert len(peers) == CROWD
    agent.check_answers()
    size = IDLE_SIZE + TLS_SIZE if kind == TLS else IDLE_SIZE
    assert agent.peak_growth < CROWD * size + SLACK
    assert agent.logged() == []


@pytest.mark.soak
def test_crowd_that_says_nothing(launch: Launch) -> None:
    """1,000 connections that send nothing are closed after the HELLO timeout, and nothing is logged."""
    agent = launch("--hello-timeout=1")
    agent.begin_measuring()
    opened = agent.descriptors
    peers = []
    for _ in range(1000 // CROWD):
        peers += [agent.connect() for _ in range(CROWD)]
        agent.check_answers()
    for peer in peers:
        assert peer.frames_to_end() == []
    agent.answer_until(lambda: agent.descriptors <= opened + 1)
    assert agent.peak_growth < 1000 * IDLE_SIZE + SLACK
    assert agent.logged() == []


@pytest.mark.soak
def test_200000_notifies_on_a_connection(launch: Launch) -> None:
    """The agent does not grow while one connection carries 200,000 NOTIFYs, some with handlers that wait."""
    agent = launch()
    peer = agent.connect_with_hello()
    big_later = message("big-later", ("size", b"\x04\x05"))
    batch = b"".join(notify(big_later if i % 10 == 0 else ECHO, stream_id=i, frame_id=1) for i in range(100))

    def exchange(batches: int) -> None:
        for _ in range(batches):
            peer.send(batch)
            for _ in range(100):
                assert peer.body() is not None

    exchange(100 * WARM_UP)
    agent.begin_measuring()
    exchange(1900)
    assert agent.growth < GROWTH
    assert agent.logged() == []


@pytest.mark.soak
def test_5000_connections_one_after_the_other(launch: Launch, endpoints: list[str]) -> None:
    """5,000 connections, one after the other, leave no memory or files. They use TCP, Unix sockets and TLS."""
    agent = launch(listen=endpoints)

    def exchange(count: int) -> None:
        for i in range(count):
            agent.check_answers(to=2 if i % 20 == 0 else i % 2)
            agent.peers.clear()

    # First reach the steady state: TLS leaves objects to the garbage collector, so memory rises and falls.
    exchange(max(5000, 500 * WARM_UP))
    agent.begin_measuring()
    opened = agent.descriptors
    exchange(5000)
    agent.answer_until(lambda: agent.descriptors <= opened + 1)
    assert agent.growth < GROWTH
    assert agent.logged() == []


def test_crowd_when_the_agent_is_stopped(launch: Launch) -> None:
    """Connections that the kernel has accepted, and the agent has not, are served before the agent closes its port.

    The kernel would reset them, and HAProxy loses a request if its connection is reset after it was established.
    """
    agent = launch()
    # Twisted accepts one connection at a time if there was only one to accept the last time.
    agent.check_answers()
    agent.signal(signal.SIGSTOP)
    crowd = [agent.connect() for _ in range(CROWD)]
    for peer in crowd:
        peer.send(hello(), notify(ECHO))
    agent.signal(signal.SIGTERM)
    agent.signal(signal.SIGCONT)
    for peer in crowd:
        peer.agent_hello()
        assert peer.actions() == ECHOED
        peer.expect_disconnect(Status.NORMAL)
        peer.close()
    assert agent.stop() in STOPPED

"""Many connections at a time, or one after the other, and peers that say HELLO and nothing else."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress

import pytest

from tests.conformance.rawspop import HELLO, Status, boolean, hello, message, notify, read_status
from tests.programs import STOPPED

from .agent import ECHO, ECHOED, GROWTH, PYPY, SLACK, TLS_SIZE
from .conftest import Launch

#: A connection may cost so much memory when it is idle, in bytes: what Python objects there are for it. CPython took
#: 2600 to 3600 of them.
IDLE_SIZE = 8 * 1024

#: So many connections may wait to be accepted: fewer than any Linux lets wait, more than Twisted asks for.
CROWD = 100

#: So many times as many rounds as CPython PyPy needs until it has compiled what is busy, and does not grow any more.
WARM_UP = 20 if PYPY else 1


@pytest.mark.soak
@pytest.mark.parametrize("kind", [0, 1], ids=["tcp", "unix"])
def test_thousand_idle_connections(launch: Launch, endpoints: list[str], kind: int) -> None:
    """1,000 connections that are idle cost little memory and no other connection its answers, and all of them get a
    goodbye when the agent is stopped.
    """
    agent = launch(listen=endpoints[:2])
    # What the first ones take of the allocators' reserve is none of the others'.
    first = [agent.greeted(kind) for _ in range(100)]
    agent.rest()
    idle = [agent.greeted(kind) for _ in range(1000)]
    agent.answers(1000)
    assert agent.grown < 1000 * IDLE_SIZE + (SLACK if PYPY else 0)
    assert idle[500].request(ECHO) == ECHOED
    agent.signal(signal.SIGTERM)
    for peer in (*first, *idle):
        assert [read_status(goodbye) for goodbye in peer.frames_to_end()] == [Status.NORMAL]
    assert agent.stop() in STOPPED
    assert agent.logged()[0].endswith("Received SIGTERM, shutting down.")


def test_idle_connections_with_tls(launch: Launch, endpoints: list[str]) -> None:
    """So does a connection with TLS, apart from what OpenSSL takes."""
    agent = launch(listen=endpoints)
    agent.rest()
    for _ in range(200):
        agent.greeted(2)
    agent.answers(200, to=2)
    assert agent.grown < 200 * (IDLE_SIZE + TLS_SIZE) + SLACK
    assert agent.logged() == []


@pytest.mark.parametrize(
    "said", [b"", hello(), hello({**HELLO, "healthcheck": boolean(True)})], ids=["", "hello", "check"]
)
def test_connections_that_come_and_go(launch: Launch, said: bytes) -> None:
    """Thousands of connections that say no word, or HELLO, and close at once leave nothing."""
    agent = launch("--hello-timeout=60")

    def flood(times: int) -> None:
        for i in range(times * CROWD):
            peer = agent.connect()
            peer.send(said)
            if i % 2:
                peer.reset()
            else:
                peer.close()
            if i % CROWD == 0:
                agent.answers()
                agent.peers.clear()

    flood(2)
    agent.rest()
    opened = agent.descriptors
    flood(10)
    agent.until(lambda: agent.descriptors <= opened + 1)
    assert agent.most_grown < SLACK
    assert agent.logged() == []


def test_hello_after_hello(launch: Launch) -> None:
    """A second HELLO ends its own connection, a thousand HELLOs in one write no other, and the log says so once."""
    agent = launch()
    agent.rest()
    for _ in range(100):
        peer = agent.greeted()
        peer.send(hello())
        peer.expect_disconnect(Status.INVALID)
        peer = agent.connect()
        peer.offer(hello() * 1000)
        peer.agent_hello()
        peer.expect_disconnect(Status.INVALID)
        agent.drop_peers()
    assert agent.most_grown < SLACK
    (line,) = agent.logged()
    assert "HAPROXY_HELLO is not legal in the state running" in line


def test_maximum_of_connections_under_a_flood(launch: Launch) -> None:
    """Of a flood of connections so many stay as may, the others are closed at once; the log says so once, and when
    one goes another may come.
    """
    agent = launch("--max-connections=100")
    agent.rest()
    kept = [agent.greeted() for _ in range(100)]
    for _ in range(20):
        for _ in range(50):
            with suppress(ConnectionResetError):
                refused = agent.connect()
                refused.offer(hello())
                assert refused.frames_to_end() == []
        kept.pop().close()
        # The agent has noticed the end when it has answered a connection that it noticed before.
        assert kept[0].request(ECHO) == ECHOED
        assert kept[0].request(ECHO) == ECHOED
        kept.append(agent.greeted())
    assert agent.descriptors < 100 + 50
    assert agent.most_grown < 100 * IDLE_SIZE + SLACK
    (line,) = agent.logged()
    assert "max_connections, 100, are open: new ones are refused" in line
    agent.drop_peers()


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["tcp", "unix", "tls"])
def test_crowd_that_comes_at_once(launch: Launch, endpoints: list[str], kind: int) -> None:
    """Connections that come together, while the agent is busy, wait to be accepted: none is refused or has to try
    again.
    """
    agent = launch(listen=endpoints)
    agent.rest()
    agent.signal(signal.SIGSTOP)
    address = agent.addresses[kind]
    host, _, port = address.rpartition(":")
    peers = []
    try:
        for _ in range(CROWD):
            connecting = socket.socket(socket.AF_INET if host else socket.AF_UNIX)
            peers.append(connecting)
            # What the kernel of the same machine lets in it lets in at once.
            connecting.settimeout(0.5)
            connecting.connect((host, int(port)) if host else address)
    finally:
        agent.signal(signal.SIGCONT)
        for peer in peers:
            peer.close()
    assert len(peers) == CROWD
    agent.answers()
    assert agent.most_grown < CROWD * IDLE_SIZE + SLACK
    assert agent.logged() == []


@pytest.mark.soak
def test_crowd_that_says_nothing(launch: Launch) -> None:
    """1,000 connections that say no word are ended by the HELLO's time limit, without a word in the log."""
    agent = launch("--hello-timeout=1")
    agent.rest()
    opened = agent.descriptors
    peers = []
    for _ in range(1000 // CROWD):
        peers += [agent.connect() for _ in range(CROWD)]
        agent.answers()
    for peer in peers:
        assert peer.frames_to_end() == []
    agent.until(lambda: agent.descriptors <= opened + 1)
    assert agent.most_grown < 1000 * IDLE_SIZE + SLACK
    assert agent.logged() == []


@pytest.mark.soak
def test_200000_notifies_on_a_connection(launch: Launch) -> None:
    """A connection that lives for 200,000 NOTIFYs has not grown, whether their handlers wait or not."""
    agent = launch()
    peer = agent.greeted()
    big_later = message("big-later", ("size", b"\x04\x05"))
    batch = b"".join(notify(big_later if i % 10 == 0 else ECHO, stream_id=i, frame_id=1) for i in range(100))

    def exchange(batches: int) -> None:
        for _ in range(batches):
            peer.send(batch)
            for _ in range(100):
                assert peer.body() is not None

    exchange(100 * WARM_UP)
    agent.rest()
    exchange(1900)
    assert agent.grown < GROWTH
    assert agent.logged() == []


@pytest.mark.soak
def test_5000_connections_one_after_the_other(launch: Launch, endpoints: list[str]) -> None:
    """5,000 connections that come, are answered and go leave nothing, of whatever kind they are."""
    agent = launch(listen=endpoints)

    def exchange(count: int) -> None:
        for i in range(count):
            agent.answers(to=2 if i % 20 == 0 else i % 2)
            agent.peers.clear()

    # What TLS leaves to the garbage collector is gone, and comes again.
    exchange(max(5000, 500 * WARM_UP))
    agent.rest()
    opened = agent.descriptors
    exchange(5000)
    agent.until(lambda: agent.descriptors <= opened + 1)
    assert agent.grown < GROWTH
    assert agent.logged() == []

"""Peers that send one byte at a time, stop in the middle of a frame, or vanish without closing the connection."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conformance.rawspop import (
    HELLO,
    binary,
    fragments,
    hello,
    message,
    notify,
    uint32,
)

from .agent import ECHO, ECHOED, MIB, SLACK, TLS_SIZE, Peer
from .conftest import Launch

TCP, UNIX, TLS = range(3)


@pytest.mark.parametrize("kind", [TCP, UNIX, TLS], ids=["tcp", "unix", "tls"])
def test_byte_by_byte(launch: Launch, endpoints: list[str], kind: int) -> None:
    """Peers that send HELLO, NOTIFY and fragments one byte at a time get the same answers as others."""
    agent = launch(listen=endpoints)
    agent.begin_measuring()
    peers = [agent.connect(kind) for _ in range(20)]
    data = hello() + notify(ECHO, stream_id=3) + b"".join(fragments([ECHO[:3], ECHO[3:8], ECHO[8:]], stream_id=5))
    for i in range(len(data)):
        for peer in peers:
            peer.send(data[i : i + 1])
    for peer in peers:
        peer.agent_hello()
        assert peer.actions(stream_id=3) == ECHOED
        assert peer.actions(stream_id=5) == ECHOED
    assert agent.peak_growth < SLACK
    assert agent.logged() == []


def test_hello_that_never_ends(launch: Launch) -> None:
    """The HELLO timeout also ends peers that send their HELLO byte by byte: a byte does not restart it."""
    agent = launch("--hello-timeout=1")
    agent.begin_measuring()
    peers = [agent.connect() for _ in range(200)]
    data = iter(hello()[:-1])
    ended = set[Peer]()

    def drip() -> bool:
        """Send the next byte of HELLO, if any, on each connection; return whether the agent has closed all of them."""
        byte = next(data, None)
        for peer in set(peers) - ended:
            if byte is not None:
                peer.offer(bytes([byte]))
            peer.socket.setblocking(False)
            with suppress(BlockingIOError):
                try:
                    if not peer.socket.recv(4096):
                        ended.add(peer)
                except ConnectionResetError:
                    ended.add(peer)
        return len(ended) == len(peers)

    agent.answer_until(drip)
    assert agent.peak_growth < SLACK
    assert agent.logged() == []


def test_notify_that_never_ends(launch: Launch) -> None:
    """A peer that stops in the middle of a frame of maximum size, or of a payload, costs only what it has sent."""
    agent = launch()
    agent.begin_measuring()
    half = message("echo", ("x", binary(bytes(MIB // 2))))
    half_a_frame = struct.pack(">I", MIB) + notify(half)[4:]
    half_a_payload, _ = fragments([half, half])
    sent = 10 * (len(half_a_frame) + len(half_a_payload)) + 20 * 1024
    grown = []
    for _ in range(3):
        for i in range(40):
            peer = agent.connect()
            peer.handshake({**HELLO, "max-frame-size": uint32(MIB)})
            data = (half_a_frame, half_a_payload)[i % 2]
            peer.send(data if i < 20 else data[:1024])
        agent.check_answers()
        grown.append(agent.peak_growth)
        for peer in agent.peers:
            peer.close()
        agent.check_answers(10)
    # A growing bytearray reserves an eighth more, and exists twice while it is moved. Later rounds must reuse the freed
    # memory.
    assert grown[0] < sent * 9 / 8 + MIB + SLACK
    assert grown[-1] < grown[0] + SLACK
    assert agent.logged() == []


STOPPED_PEER = """\
import socket, sys
peers = []
for data in sys.argv[2:]:
    peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
    peer.sendall(bytes.fromhex(data))
    peers.append(peer)
print("sent", flush=True)
sys.stdin.read()
"""


def test_peer_that_stops(launch: Launch) -> None:
    """The process of a peer is stopped by a signal. Its connections (idle, within a frame, with a pending NOTIFY) stay
    open, and delay no other peer. When the process is killed, the agent cancels the pending handler.
    """
    agent = launch("--handler-timeout=0")
    agent.begin_measuring()
    idle, partial, pending = hello(), hello() + notify(ECHO)[:-3], hello() + notify(message("hold"))
    _, _, port = agent.addresses[0].rpartition(":")
    command = [sys.executable, "-c", STOPPED_PEER, port, idle.hex(), partial.hex(), pending.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stopped:
        try:
            assert stopped.stdout is not None
            assert stopped.stdout.readline() == "sent\n"
            agent.answer_until(lambda: agent.held_and_cancelled() == (1, 0))
            stopped.send_signal(signal.SIGSTOP)
            open_with_it = agent.descriptors
            agent.check_answers(100)
            assert agent.held_and_cancelled() == (1, 0)
        finally:
            stopped.kill()
    agent.answer_until(lambda: agent.held_and_cancelled() == (0, 1))
    agent.answer_until(lambda: agent.descriptors <= open_with_it - 3 + 1)
    assert agent.peak_growth < SLACK
    assert agent.logged() == []


def test_half_closed(launch: Launch, endpoints: list[str]) -> None:
    """When a peer shuts down its writing side, the agent closes the connection, also with pending NOTIFYs. When a peer
    shuts down its reading side, other peers are not affected.
    """
    agent = launch("--handler-timeout=0", listen=endpoints)
    agent.begin_measuring()
    for kind in (TCP, UNIX):
        for how in (socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR):
            for data in (b"", notify(ECHO)[:9], notify(message("hold")), notify(ECHO[:4], flags=0)):
                peer = agent.connect_with_hello(kind)
                peer.send(data)
                peer.socket.shutdown(how)
                if how == socket.SHUT_WR:
                    assert peer.frames_to_end() == []
                elif how == socket.SHUT_RD:
                    if data in (b"", notify(message("hold"))):
                        peer.offer(notify(ECHO, stream_id=3) * 100)
                    agent.check_answers()
                    peer.close()
    agent.answer_until(lambda: agent.held_and_cancelled()[0] == 0)
    assert agent.peak_growth < SLACK
    assert agent.logged() == []


def timer(peer: Peer) -> tuple[str, float]:
    """Return the kernel's timer for the agent's end of the connection, and the seconds until it expires.

    The timer is a code of /proc/net/tcp: "00" for none, "01" for retransmission, "02" for keepalive.
    """
    ends = (peer.socket.getpeername()[1], peer.socket.getsockname()[1])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        row = line.split()
        # The state "01" is ESTABLISHED.
        if row[3] == "01" and tuple([int(end.partition(":")[2], 16) for end in row[1:3]]) == ends:
            kind, _, ticks = row[5].partition(":")
            return kind, int(ticks, 16) / os.sysconf("SC_CLK_TCK")
    raise AssertionError("/proc/net/tcp does not list the connection")


@pytest.mark.parametrize("kind", [TCP, TLS], ids=["tcp", "tls"])
def test_peer_whose_machine_is_gone(launch: Launch, endpoints: list[str], kind: int) -> None:
    """The agent's sockets have TCP keepalive after a minute. So a connection ends when the machine of its peer is gone,
    instead of staying open for ever.
    """
    agent = launch(listen=endpoints)
    agent.begin_measuring()
    peer = agent.connect_with_hello(kind)
    # While a byte is not acknowledged, the retransmission timer is shown instead.
    agent.answer_until(lambda: timer(peer)[0] != "01")
    running, seconds = timer(peer)
    assert running == "02", "no keepalive"
    assert 0 < seconds <= 60
    assert agent.peak_growth < SLACK


@pytest.mark.parametrize("kind", [TCP, UNIX, TLS], ids=["tcp", "unix", "tls"])
def test_reset_in_the_middle(launch: Launch, endpoints: list[str], kind: int) -> None:
    """A connection that is reset at any point of a frame leaves no memory and no files. The agent cancels the pending
    handlers, and logs nothing.
    """
    agent = launch("--handler-timeout=0", listen=endpoints)
    agent.begin_measuring()
    opened = agent.descriptors
    pieces = fragments([ECHO[:4], ECHO[4:]], stream_id=3)
    partials = [b"", hello()[:2], hello()[:50]]
    partials += [hello() + data for data in (b"", notify(ECHO)[:3], notify(ECHO)[:9], notify(ECHO), pieces[0])]
    partials += [hello() + pieces[0] + pieces[1][:7], hello() + notify(message("hold")) * 3]
    for _ in range(20):
        peers = [agent.connect(kind) for _ in partials]
        for peer, data in zip(peers, partials, strict=True):
            peer.send(data)
        agent.held_and_cancelled()
        for peer in peers:
            peer.reset()
    agent.answer_until(lambda: agent.held_and_cancelled() == (0, 60))
    agent.answer_until(lambda: agent.descriptors <= opened + 1)
    assert agent.peak_growth < (len(partials) * TLS_SIZE if kind == TLS else 0) + SLACK
    assert agent.logged() == []

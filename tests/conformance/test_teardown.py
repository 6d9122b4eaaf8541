"""The end of a connection, and of the agent (SPOE.txt 3.2.3, 3.2.8, 3.2.9)."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.programs import STOPPED

from .agent import ECHO, ECHOED, Agent, Connect, Launch
from .rawspop import (
    ABORT,
    HELLO,
    FrameType,
    Items,
    Peer,
    SetVar,
    Status,
    disconnect,
    fragments,
    frame,
    hello,
    int64,
    kv_list,
    length_and,
    message,
    notify,
    read_status,
    text,
    uint32,
    unset,
)

LONG_DRAIN = "--drain-timeout=60"
"""Longer than a test waits: who needs it, fails."""
SHORT_DRAIN = "--drain-timeout=0.3"


def hold(key: str) -> bytes:
    return message("hold", ("key", text(key)))


@pytest.mark.parametrize("status", [*range(14), 99, 200, 2**32 - 1])
def test_disconnect(peer: Peer, status: int) -> None:
    """HAPROXY-DISCONNECT, whatever its reason, gets AGENT-DISCONNECT 0 (3.2.3)."""
    peer.send(disconnect(status, "reason"))
    peer.expect_disconnect(Status.NORMAL)


def test_disconnect_before_hello(stranger: Peer) -> None:
    """HAPROXY-DISCONNECT may come at any time, even as the first frame (3.2.8)."""
    stranger.send(disconnect())
    stranger.expect_disconnect(Status.NORMAL, Status.INVALID)


@pytest.mark.parametrize(
    "items",
    [
        {},
        {"status-code": uint32(0)},
        {"message": text("normal")},
        {"status-code": text("0"), "message": uint32(0)},
        {"status-code": uint32(0), "message": text("m" * 5000)},
    ],
    ids=["nothing", "status-code", "message", "other types", "long message"],
)
def test_disconnect_with_other_items(peer: Peer, items: Items) -> None:
    """A DISCONNECT ends the connection even if its items are wrong (3.2.8)."""
    peer.send(frame(FrameType.HAPROXY_DISCONNECT, kv_list(items)))
    peer.expect_disconnect(Status.NORMAL, Status.INVALID)


def test_disconnect_that_does_not_parse(peer: Peer) -> None:
    """A DISCONNECT ends the connection even if it is garbage (3.2.8)."""
    peer.send(frame(FrameType.HAPROXY_DISCONNECT, b"\xff\xff\xff"))
    peer.expect_disconnect(Status.NORMAL, Status.INVALID)


def test_frames_after_disconnect(peer: Peer) -> None:
    """After HAPROXY-DISCONNECT nothing is answered but itself (3.2.8)."""
    peer.send(disconnect(), notify(ECHO), disconnect(), b"\xff" * 8)
    peer.expect_disconnect(Status.NORMAL)


def test_frames_after_an_error(peer: Peer) -> None:
    """After AGENT-DISCONNECT nothing is answered (3.2.9)."""
    peer.send(notify(b"\xff"), notify(ECHO), disconnect())
    peer.expect_disconnect(Status.INVALID)


def test_acks_before_disconnect(peer: Peer) -> None:
    """What came before HAPROXY-DISCONNECT in its segment is answered first (3.2.6)."""
    peer.send(notify(ECHO), notify(ECHO, stream_id=3), disconnect())
    assert peer.actions() == ECHOED
    assert peer.actions(stream_id=3) == ECHOED
    peer.expect_disconnect(Status.NORMAL)


def test_disconnect_with_pending_notify(peer: Peer, other: Peer, key: str) -> None:
    """HAPROXY-DISCONNECT does not wait for handlers, and cancels them (3.2.8)."""
    peer.send(notify(hold(key)), disconnect())
    peer.expect_disconnect(Status.NORMAL)
    expect_dropped(other, key)


def expect_dropped(other: Peer, key: str) -> None:
    actions = other.request(message("dropped", ("key", text(key))))
    assert actions == [SetVar("txn.dropped", text(key))]


def test_fin(peer: Peer) -> None:
    """A bare FIN is answered by the close, without a frame (3.2.3)."""
    assert peer.request(ECHO) == ECHOED
    peer.half_close()
    peer.expect_eof()


@pytest.mark.parametrize("part", [notify(ECHO)[:2], notify(ECHO)[:9], notify(ECHO[:5], flags=0)])
def test_fin_inside_a_payload(peer: Peer, part: bytes) -> None:
    """A FIN in the middle of a frame, or between two pieces, is a FIN (3.2.3)."""
    peer.send(part)
    peer.half_close()
    peer.expect_eof()


def test_fin_behind_notify(peer: Peer) -> None:
    """A FIN behind a NOTIFY is answered by the close, after the ACK if any (3.2.3)."""
    peer.send(notify(ECHO))
    peer.half_close()
    assert [received.type for received in peer.frames_to_end()] in (
        [],
        [FrameType.ACK],
    )


def test_fin_with_pending_notify(peer: Peer, other: Peer, key: str) -> None:
    """A FIN ends a connection whose NOTIFYs are still being handled (3.2.3)."""
    peer.send(notify(hold(key)))
    assert peer.request(ECHO, stream_id=3) == ECHOED
    peer.half_close()
    assert other.request(ECHO) == ECHOED
    other.request(message("release", ("key", text(key))))
    assert [received.type for received in peer.frames_to_end()] in (
        [],
        [FrameType.ACK],
    )


@pytest.mark.parametrize("pending", [1, 50])
def test_reset_with_pending_notify(peer: Peer, other: Peer, key: str, pending: int) -> None:
    """An RST cancels what its connection waits for, and nothing else (3.2.3)."""
    peer.send(*(notify(hold(key), stream_id=number) for number in range(pending)))
    assert peer.request(ECHO, stream_id=99) == ECHOED
    peer.reset()
    expect_dropped(other, key)
    actions = other.request(message("release", ("key", text(key))))
    assert actions == [SetVar("txn.count", int64(0))]


def test_reset_with_acks_on_their_way(connect: Connect, other: Peer) -> None:
    """An RST that crosses the ACKs is no error of the agent's (3.2.3)."""
    for _ in range(20):
        peer = connect()
        peer.handshake()
        peer.send(*(notify(ECHO, stream_id=number) for number in range(100)))
        peer.reset()
    assert other.request(ECHO) == ECHOED


ABUSES = {
    "length 0": length_and(b""),
    "length 0xffffffff": b"\xff\xff\xff\xff",
    "cut header": length_and(b"\x03\x00\x00\x00\x01\xf0\x80"),
    "second HELLO": hello(),
    "garbage": notify(b"\xff" * 40),
    "Traceback": notify(b"\x09Traceback\x01\x09Traceback\x0f"),
    "long names": notify(message("n" * 2000, ("n" * 2000, b"\x0a"))),
    "bytes": notify(message(b"\xff" * 300, (b"\xfe" * 300, b"\x0a"))),
    "interlaced": notify(ECHO, flags=0) + notify(ECHO, stream_id=3),
    "malformed pieces": b"".join(fragments([ECHO, b"\xff"])),
}


@pytest.mark.parametrize("abuse", ABUSES.values(), ids=ABUSES)
def test_error_ends_its_own_connection(peer: Peer, other: Peer, abuse: bytes) -> None:
    """An error gets a well-formed AGENT-DISCONNECT, and others get none (3.2.9)."""
    peer.send(abuse)
    peer.expect_disconnect(Status.TOO_BIG, Status.INVALID, Status.INTERLACED)
    assert other.request(ECHO) == ECHOED


def test_error_with_much_behind_it(peer: Peer) -> None:
    """AGENT-DISCONNECT reaches a peer that is still sending (3.2.9)."""
    peer.offer(notify(b"\xff"), notify(ECHO) * 50_000)
    peer.expect_disconnect(Status.INVALID)


def test_error_in_hello_is_short(stranger: Peer) -> None:
    """A long item of the peer's does not make a long message of the agent's (3.2.9)."""
    stranger.send(hello({**HELLO, "supported-versions": text("9.9," * 2000)}))
    stranger.expect_disconnect(Status.BAD_VERSION)


def test_error_with_pending_notify(peer: Peer, other: Peer, key: str) -> None:
    """AGENT-DISCONNECT goes at once, and cancels what is pending (3.2.9)."""
    peer.send(notify(hold(key)), notify(b"\xff", stream_id=3))
    peer.expect_disconnect(Status.INVALID)
    expect_dropped(other, key)


SEEDS = [
    hello(),
    notify(ECHO),
    notify(message("echo", ("a", text("text")), ("b", int64(-1))), ECHO),
    disconnect(),
    *fragments([ECHO[:6], ECHO[6:]]),
    unset(flags=ABORT),
]


def mutated(chance: random.Random) -> bytes:
    """A few frames with a few bytes changed, lost or put in, their lengths right."""
    stream = b""
    for original in chance.choices(SEEDS, k=chance.randint(1, 4)):
        body = bytearray(original[4:])
        for _ in range(chance.randint(0, 3)):
            place = chance.randrange(len(body))
            body[place : place + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
        stream += length_and(bytes(body))
    return stream


@pytest.mark.parametrize("greeted", [False, True], ids=["stranger", "peer"])
def test_mutated_frames(connect: Connect, other: Peer, greeted: bool) -> None:
    """Any bytes get ACKs and at most one AGENT-DISCONNECT, the last frame (3.2.9)."""
    chance = random.Random(f"SPOP {greeted}")
    for _ in range(300):
        peer = connect()
        if greeted:
            peer.handshake()
        stream = mutated(chance)
        peer.offer(stream)
        peer.half_close()
        answers = peer.frames_to_end()
        peer.close()
        if answers and answers[-1].type == FrameType.AGENT_DISCONNECT:
            read_status(answers.pop())
        for answer in answers:
            assert answer.type in (FrameType.AGENT_HELLO, FrameType.ACK), stream
    assert other.request(ECHO) == ECHOED


def test_end_of_the_agent(launch: Launch, connect: Connect, tmp_path: Path) -> None:
    """At SIGTERM a pending NOTIFY is acknowledged, then come DISCONNECT and close.

    An idle connection gets them at once (3.2.3: "Connection closed by agent").
    """
    agent = launch()
    idle, busy = connect(agent), connect(agent)
    idle.handshake()
    busy.handshake()
    path = tmp_path / "go"
    busy.send(notify(message("hold-until", ("path", text(str(path))))))
    assert busy.request(ECHO, stream_id=3) == ECHOED
    agent.signal(signal.SIGTERM)
    idle.expect_disconnect(Status.NORMAL)
    with pytest.raises(ConnectionRefusedError):
        agent.connect()
    path.touch()
    assert busy.actions() == [SetVar("txn.released", text(str(path)))]
    busy.expect_disconnect(Status.NORMAL)
    assert agent.ended() in STOPPED


def test_end_of_the_agent_does_not_wait_for_ever(launch: Launch, connect: Connect, key: str) -> None:
    """A handler that never answers delays the end by the drain's limit only (3.2.9)."""
    agent = launch(SHORT_DRAIN)
    peer = connect(agent)
    peer.handshake()
    peer.send(notify(hold(key)))
    assert peer.request(ECHO, stream_id=3) == ECHOED
    agent.signal(signal.SIGTERM)
    assert [received.type for received in peer.frames_to_end()] in (
        [],
        [FrameType.AGENT_DISCONNECT],
        [FrameType.ACK, FrameType.AGENT_DISCONNECT],
    )
    assert agent.ended() in STOPPED


def test_end_of_the_agent_without_its_peer(launch: Launch, connect: Connect, key: str) -> None:
    """What a closed connection had pending does not delay the end (3.2.9)."""
    agent = launch(LONG_DRAIN)
    peer, idle = connect(agent), connect(agent)
    peer.handshake()
    idle.handshake()
    peer.send(notify(hold(key)))
    assert peer.request(ECHO, stream_id=3) == ECHOED
    agent.signal(signal.SIGTERM)
    idle.expect_disconnect(Status.NORMAL)
    peer.reset()
    assert agent.ended() in STOPPED


@pytest.mark.parametrize("said", [b"", hello()[:20]], ids=["nothing", "half a HELLO"])
def test_end_of_the_agent_with_a_stranger(launch: Launch, connect: Connect, said: bytes) -> None:
    """A connection that does not say HELLO delays the end by the drain's limit at most (3.2.3)."""
    agent = launch(SHORT_DRAIN)
    peer = connect(agent)
    peer.send(said)
    agent.catch_up()
    agent.signal(signal.SIGTERM)
    assert [read_status(received) for received in peer.frames_to_end()] in ([], [Status.NORMAL])
    assert agent.ended() in STOPPED


def test_end_of_the_agent_between_pieces(launch: Launch, connect: Connect) -> None:
    """A NOTIFY of which the agent has a piece is acknowledged whole or let go, and does not delay the end (3.2.9)."""
    agent = launch(LONG_DRAIN)
    peer = connect(agent)
    peer.handshake()
    first, *rest = fragments([ECHO[:4], ECHO[4:8], ECHO[8:]])
    peer.send(first)
    agent.catch_up()
    agent.signal(signal.SIGTERM)
    peer.offer(*rest)
    *acks, goodbye = peer.frames_to_end()
    assert [ack.type for ack in acks] in ([], [FrameType.ACK])
    assert read_status(goodbye) == Status.NORMAL
    assert agent.ended() in STOPPED


def test_end_of_the_agent_with_a_piece_that_stays_alone(launch: Launch, connect: Connect) -> None:
    """Pieces that do not come delay the end by the drain's limit at most (3.2.9)."""
    agent = launch(SHORT_DRAIN)
    peer = connect(agent)
    peer.handshake()
    peer.send(notify(ECHO[:4], flags=0))
    agent.catch_up()
    agent.signal(signal.SIGTERM)
    assert [read_status(received) for received in peer.frames_to_end()] in ([], [Status.NORMAL])
    assert agent.ended() in STOPPED


def test_agent_after_all_this(agent: Agent, connect: Connect) -> None:
    """After all that was done to it, the agent answers on a new connection (3.2.6)."""
    peer = connect(agent)
    peer.handshake()
    assert peer.request(ECHO) == ECHOED
    peer.send(disconnect())
    peer.expect_disconnect(Status.NORMAL)
    assert agent.status is None

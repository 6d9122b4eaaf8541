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
"""A drain timeout that is longer than a test waits: a test fails if the agent needs all of it."""
SHORT_DRAIN = "--drain-timeout=0.3"


def hold(key: str) -> bytes:
    return message("hold", ("key", text(key)))


@pytest.mark.parametrize("status", [*range(14), 99, 200, 2**32 - 1])
def test_disconnect(peer: Peer, status: int) -> None:
    """The agent answers HAPROXY-DISCONNECT of any status code with AGENT-DISCONNECT 0 (3.2.3)."""
    peer.send(disconnect(status, "reason"))
    peer.expect_disconnect(Status.NORMAL)


def test_disconnect_before_hello(new_peer: Peer) -> None:
    """HAPROXY-DISCONNECT may be the first frame (3.2.8)."""
    new_peer.send(disconnect())
    new_peer.expect_disconnect(Status.NORMAL, Status.INVALID)


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
    """A HAPROXY-DISCONNECT with missing or wrong items ends the connection (3.2.8)."""
    peer.send(frame(FrameType.HAPROXY_DISCONNECT, kv_list(items)))
    peer.expect_disconnect(Status.NORMAL, Status.INVALID)


def test_malformed_disconnect(peer: Peer) -> None:
    """A HAPROXY-DISCONNECT that cannot be decoded ends the connection (3.2.8)."""
    peer.send(frame(FrameType.HAPROXY_DISCONNECT, b"\xff\xff\xff"))
    peer.expect_disconnect(Status.NORMAL, Status.INVALID)


def test_frames_after_disconnect(peer: Peer) -> None:
    """The agent ignores all frames behind a HAPROXY-DISCONNECT (3.2.8)."""
    peer.send(disconnect(), notify(ECHO), disconnect(), b"\xff" * 8)
    peer.expect_disconnect(Status.NORMAL)


def test_frames_after_an_error(peer: Peer) -> None:
    """The agent ignores all frames behind a frame that it answered with AGENT-DISCONNECT (3.2.9)."""
    peer.send(notify(b"\xff"), notify(ECHO), disconnect())
    peer.expect_disconnect(Status.INVALID)


def test_acks_before_disconnect(peer: Peer) -> None:
    """NOTIFYs before a HAPROXY-DISCONNECT in the same segment get their ACKs first (3.2.6)."""
    peer.send(notify(ECHO), notify(ECHO, stream_id=3), disconnect())
    assert peer.actions() == ECHOED
    assert peer.actions(stream_id=3) == ECHOED
    peer.expect_disconnect(Status.NORMAL)


def test_disconnect_with_pending_notify(peer: Peer, other: Peer, key: str) -> None:
    """The agent answers HAPROXY-DISCONNECT at once, and cancels the pending handlers (3.2.8)."""
    peer.send(notify(hold(key)), disconnect())
    peer.expect_disconnect(Status.NORMAL)
    expect_dropped(other, key)


def expect_dropped(other: Peer, key: str) -> None:
    actions = other.request(message("dropped", ("key", text(key))))
    assert actions == [SetVar("txn.dropped", text(key))]


def test_fin(peer: Peer) -> None:
    """After a FIN without HAPROXY-DISCONNECT, the agent closes the connection and sends no frame (3.2.3)."""
    assert peer.request(ECHO) == ECHOED
    peer.half_close()
    peer.expect_eof()


@pytest.mark.parametrize("part", [notify(ECHO)[:2], notify(ECHO)[:9], notify(ECHO[:5], flags=0)])
def test_fin_inside_a_payload(peer: Peer, part: bytes) -> None:
    """After a FIN inside a frame or between two fragments, the agent closes and sends no frame (3.2.3)."""
    peer.send(part)
    peer.half_close()
    peer.expect_eof()


def test_fin_behind_notify(peer: Peer) -> None:
    """After a NOTIFY and a FIN, the agent closes, with or without the ACK (3.2.3)."""
    peer.send(notify(ECHO))
    peer.half_close()
    assert [received.type for received in peer.frames_to_end()] in (
        [],
        [FrameType.ACK],
    )


def test_fin_with_pending_notify(peer: Peer, other: Peer, key: str) -> None:
    """After a FIN, the agent closes a connection whose NOTIFY is pending (3.2.3)."""
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
    """An RST cancels the pending handlers of its connection, and the other connection is served (3.2.3)."""
    peer.send(*(notify(hold(key), stream_id=number) for number in range(pending)))
    assert peer.request(ECHO, stream_id=99) == ECHOED
    peer.reset()
    expect_dropped(other, key)
    actions = other.request(message("release", ("key", text(key))))
    assert actions == [SetVar("txn.count", int64(0))]


def test_reset_with_acks_in_flight(connect: Connect, other: Peer) -> None:
    """An RST that arrives while the agent sends ACKs causes no error in the agent (3.2.3)."""
    for _ in range(20):
        peer = connect()
        peer.handshake()
        peer.send(*(notify(ECHO, stream_id=number) for number in range(100)))
        peer.reset()
    assert other.request(ECHO) == ECHOED


PROTOCOL_ERRORS = {
    "length 0": length_and(b""),
    "length 0xffffffff": b"\xff\xff\xff\xff",
    "cut header": length_and(b"\x03\x00\x00\x00\x01\xf0\x80"),
    "second HELLO": hello(),
    "garbage": notify(b"\xff" * 40),
    "Traceback": notify(b"\x09Traceback\x01\x09Traceback\x0f"),
    "long names": notify(message("n" * 2000, ("n" * 2000, b"\x0a"))),
    "bytes": notify(message(b"\xff" * 300, (b"\xfe" * 300, b"\x0a"))),
    "interlaced": notify(ECHO, flags=0) + notify(ECHO, stream_id=3),
    "malformed fragments": b"".join(fragments([ECHO, b"\xff"])),
}


@pytest.mark.parametrize("error", PROTOCOL_ERRORS.values(), ids=PROTOCOL_ERRORS)
def test_error_ends_its_own_connection(peer: Peer, other: Peer, error: bytes) -> None:
    """A protocol error gets a valid AGENT-DISCONNECT, and other connections are not affected (3.2.9)."""
    peer.send(error)
    peer.expect_disconnect(Status.TOO_BIG, Status.INVALID, Status.INTERLACED)
    assert other.request(ECHO) == ECHOED


def test_error_with_many_frames_behind_it(peer: Peer) -> None:
    """AGENT-DISCONNECT arrives at a peer that is still sending (3.2.9)."""
    peer.offer(notify(b"\xff"), notify(ECHO) * 50_000)
    peer.expect_disconnect(Status.INVALID)


def test_error_in_hello_is_short(new_peer: Peer) -> None:
    """The message of AGENT-DISCONNECT has at most 255 bytes, also if it quotes a long item (3.2.9)."""
    new_peer.send(hello({**HELLO, "supported-versions": text("9.9," * 2000)}))
    new_peer.expect_disconnect(Status.BAD_VERSION)


def test_error_with_pending_notify(peer: Peer, other: Peer, key: str) -> None:
    """After a protocol error, AGENT-DISCONNECT is sent at once, and the pending handlers are cancelled (3.2.9)."""
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


def mutated(randomness: random.Random) -> bytes:
    """Return some frames with bytes changed, deleted or inserted. Their FRAME-LENGTHs are correct."""
    stream = b""
    for original in randomness.choices(SEEDS, k=randomness.randint(1, 4)):
        body = bytearray(original[4:])
        for _ in range(randomness.randint(0, 3)):
            place = randomness.randrange(len(body))
            body[place : place + randomness.randint(0, 2)] = randomness.randbytes(randomness.randint(0, 2))
        stream += length_and(bytes(body))
    return stream


@pytest.mark.parametrize("greeted", [False, True], ids=["before HELLO", "after HELLO"])
def test_mutated_frames(connect: Connect, other: Peer, greeted: bool) -> None:
    """The agent answers random frames with ACKs, and at most one AGENT-DISCONNECT as the last frame (3.2.9)."""
    randomness = random.Random(f"SPOP {greeted}")
    for _ in range(300):
        peer = connect()
        if greeted:
            peer.handshake()
        stream = mutated(randomness)
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
    """After SIGTERM, the agent answers a pending NOTIFY, sends AGENT-DISCONNECT, and closes.

    It disconnects an idle connection at once (3.2.3: "Connection closed by agent").
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


def test_end_of_the_agent_after_the_drain_timeout(launch: Launch, connect: Connect, key: str) -> None:
    """If a handler never answers, the agent ends after the drain timeout (3.2.9)."""
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


def test_end_of_the_agent_after_a_reset(launch: Launch, connect: Connect, key: str) -> None:
    """The agent does not wait for the pending NOTIFY of a connection that was reset (3.2.9)."""
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
def test_end_of_the_agent_before_a_hello(launch: Launch, connect: Connect, said: bytes) -> None:
    """The agent waits for a missing HELLO no longer than the drain timeout (3.2.3)."""
    agent = launch(SHORT_DRAIN)
    peer = connect(agent)
    peer.send(said)
    agent.catch_up()
    agent.signal(signal.SIGTERM)
    assert [read_status(received) for received in peer.frames_to_end()] in ([], [Status.NORMAL])
    assert agent.ended() in STOPPED


def test_end_of_the_agent_between_fragments(launch: Launch, connect: Connect) -> None:
    """A NOTIFY whose first fragment has arrived gets its ACK or is dropped, and the agent ends (3.2.9)."""
    agent = launch(LONG_DRAIN)
    peer = connect(agent)
    peer.handshake()
    first, *rest = fragments([ECHO[:4], ECHO[4:8], ECHO[8:]])
    peer.send(first)
    agent.catch_up()
    agent.signal(signal.SIGTERM)
    peer.offer(*rest)
    *acks, last = peer.frames_to_end()
    assert [ack.type for ack in acks] in ([], [FrameType.ACK])
    assert read_status(last) == Status.NORMAL
    assert agent.ended() in STOPPED


def test_end_of_the_agent_with_a_missing_fragment(launch: Launch, connect: Connect) -> None:
    """The agent waits for missing fragments no longer than the drain timeout (3.2.9)."""
    agent = launch(SHORT_DRAIN)
    peer = connect(agent)
    peer.handshake()
    peer.send(notify(ECHO[:4], flags=0))
    agent.catch_up()
    agent.signal(signal.SIGTERM)
    assert [read_status(received) for received in peer.frames_to_end()] in ([], [Status.NORMAL])
    assert agent.ended() in STOPPED


def test_agent_after_all_other_tests(agent: Agent, connect: Connect) -> None:
    """After all other tests, the agent is running and serves a new connection (3.2.6)."""
    peer = connect(agent)
    peer.handshake()
    assert peer.request(ECHO) == ECHOED
    peer.send(disconnect())
    peer.expect_disconnect(Status.NORMAL)
    assert agent.status is None

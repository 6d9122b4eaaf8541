"""Payloads in fragments, which HAProxy <= 3.0 sends (SPOE.txt 3.2 of these versions)."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest

from .agent import ECHO, ECHOED, SMALL_PAYLOAD, Agent, Connect, Launch
from .rawspop import (
    ABORT,
    FIN,
    FrameType,
    Peer,
    SetVar,
    Status,
    binary,
    disconnect,
    fragments,
    frame,
    int64,
    ipv6,
    message,
    notify,
    read_actions,
    read_status,
    text,
    unset,
)

FIRST = notify(ECHO[:3], flags=0)
"""The first fragment of a NOTIFY with stream-id 1 and frame-id 1. LAST is the other one."""

LAST = unset(ECHO[3:])


def cut_evenly(payload: bytes, count: int) -> list[bytes]:
    edges = [len(payload) * index // count for index in range(count + 1)]
    return [payload[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("count", [2, 3, 100])
def test_fragments(peer: Peer, count: int) -> None:
    """A NOTIFY and its UNSETs are reassembled to one payload, and get one ACK (3.2.3)."""
    content = bytes(range(256)) * 4
    payload = message("echo", ("x", binary(content)), ("y", int64(7)))
    peer.send(*fragments(cut_evenly(payload, count), stream_id=300, frame_id=2))
    assert peer.actions(300, 2) == [
        SetVar("txn.x", binary(content)),
        SetVar("txn.y", int64(7)),
    ]
    peer.send(disconnect())
    peer.expect_disconnect(Status.NORMAL)


def test_cut_at_every_byte(peer: Peer) -> None:
    """The payload may be cut at any byte: inside a value, before the first byte and behind the last one (3.2)."""
    values = {"a": text("text"), "b": ipv6("2001:db8::1"), "c": int64(-1)}
    payload = message("echo", *values.items()) + ECHO
    expected = [*(SetVar(f"txn.{name}", value) for name, value in values.items())]
    for cut in range(len(payload) + 1):
        peer.send(*fragments([payload[:cut], payload[cut:]], frame_id=cut))
        assert peer.actions(1, cut) == expected + ECHOED, cut


def test_empty_fragments(peer: Peer) -> None:
    """Some or all of the fragments may be empty (3.2)."""
    peer.send(*fragments([b"", ECHO[:5], b"", b"", ECHO[5:], b""]))
    assert peer.actions() == ECHOED
    peer.send(*fragments([b"", b"", b""]))
    assert peer.actions() == []


def test_one_after_another(peer: Peer) -> None:
    """Fragmented and unfragmented payloads may follow each other on one connection (3.2)."""
    peer.send(
        notify(ECHO, frame_id=1),
        *fragments([ECHO[:1], ECHO[1:]], frame_id=2),
        *fragments([ECHO[:9], ECHO[9:]], frame_id=3),
        notify(ECHO, frame_id=4),
    )
    for frame_id in range(1, 5):
        assert peer.actions(1, frame_id) == ECHOED


@pytest.mark.parametrize("rest", [b"", ECHO[3:]], ids=["empty", "with the rest"])
def test_abort(peer: Peer, rest: bytes) -> None:
    """ABORT cancels the NOTIFY: it gets no ACK, and a later NOTIFY may have the same ids (3.2)."""
    peer.send(
        FIRST,
        unset(rest, flags=FIN | ABORT),
        notify(ECHO, stream_id=3),
        *fragments([ECHO[:4], ECHO[4:]]),
        disconnect(),
    )
    assert peer.actions(stream_id=3) == ECHOED
    assert peer.actions() == ECHOED
    peer.expect_disconnect(Status.NORMAL)


def test_abort_without_fin(peer: Peer) -> None:
    """SPOE.txt demands FIN with ABORT. Without FIN, the frame aborts the NOTIFY, or is invalid (3.2).

    In both cases the NOTIFY gets no ACK.
    """
    peer.send(FIRST, unset(flags=ABORT), LAST, notify(ECHO, stream_id=3), disconnect())
    *acks, last = peer.frames_to_end()
    assert [ack.stream_id for ack in acks] in ([], [3])
    assert read_status(last) == (Status.NORMAL if acks else Status.INVALID)


def test_abort_of_a_whole_notify(peer: Peer) -> None:
    """On an unfragmented payload, the agent may ignore ABORT, or cancel the NOTIFY (3.2)."""
    peer.send(notify(ECHO, flags=FIN | ABORT), notify(ECHO, stream_id=3), disconnect())
    *acks, last = peer.frames_to_end()
    assert [ack.stream_id for ack in acks] in ([1, 3], [3])
    assert read_status(last) == Status.NORMAL


@pytest.mark.parametrize(
    "interloper",
    [
        notify(ECHO, stream_id=3),
        notify(ECHO, stream_id=1, frame_id=2),
        notify(ECHO[:5], stream_id=3, flags=0),
    ],
    ids=["another stream", "another frame", "another fragmented"],
)
def test_interlaced_notify(peer: Peer, interloper: bytes) -> None:
    """A NOTIFY between the fragments of another one gets status code 11 (3.2, 3.5)."""
    peer.send(FIRST, interloper)
    peer.expect_disconnect(Status.INTERLACED)


@pytest.mark.parametrize("flags", [0, FIN, FIN | ABORT], ids=["none", "FIN", "ABORT"])
def test_fragment_without_a_beginning(peer: Peer, flags: int) -> None:
    """An UNSET of an ended or unknown payload is skipped: it may have crossed an ACK with ABORT (3.2.3)."""
    peer.send(
        unset(b"fragment", flags=flags),
        notify(ECHO),
        unset(b"fragment", flags=flags),
        unset(b"fragment", stream_id=99, flags=flags),
        notify(ECHO, stream_id=3),
    )
    assert peer.actions() == ECHOED
    assert peer.actions(stream_id=3) == ECHOED


@pytest.mark.parametrize("ids", [(1, 2), (3, 1)], ids=["frame-id", "stream-id"])
def test_fragment_of_another_payload(peer: Peer, ids: tuple[int, int]) -> None:
    """An UNSET with other ids is skipped or refused, but is never added to the payload (3.2, 3.5)."""
    stray = unset(message("echo", ("y", int64(8))), stream_id=ids[0], frame_id=ids[1], flags=0)
    peer.send(notify(ECHO, flags=0), stray, unset(), disconnect())
    *acks, last = peer.frames_to_end()
    assert [read_actions(ack.payload) for ack in acks] in ([], [ECHOED])
    refusals = (Status.INVALID, Status.INTERLACED, Status.FRAME_ID_NOT_FOUND)
    assert read_status(last) in ((Status.NORMAL,) if acks else refusals)


def test_unknown_frame_between_fragments(peer: Peer) -> None:
    """A frame of unknown type between two fragments is skipped (3.2.2)."""
    peer.send(FIRST, frame(77, b"unknown", flags=0), LAST)
    assert peer.actions() == ECHOED


def test_ack_between_fragments(peer: Peer, other: Peer, key: str) -> None:
    """The ACK of an earlier NOTIFY may be sent before the last fragment of a later one has arrived (3.2.1)."""
    peer.send(notify(message("hold", ("key", text(key))), stream_id=3))
    assert peer.request(ECHO, stream_id=5) == ECHOED
    peer.send(FIRST)
    released = other.request(message("release", ("key", text(key))))
    assert released == [SetVar("txn.count", int64(1))]
    assert peer.actions(stream_id=3) == [SetVar("txn.released", text(key))]
    peer.send(LAST)
    assert peer.actions() == ECHOED


def test_disconnect_between_fragments(peer: Peer) -> None:
    """HAPROXY-DISCONNECT ends the connection, also between two fragments (3.2.8)."""
    peer.send(FIRST, disconnect())
    peer.expect_disconnect(Status.NORMAL)


@pytest.mark.parametrize(
    "pieces",
    [[ECHO[:5], ECHO[5:-1]], [ECHO, b"\x05"], [b"\xff", b"\xff"]],
    ids=["truncated", "trailing byte", "garbage"],
)
def test_malformed_payload_in_fragments(peer: Peer, pieces: list[bytes]) -> None:
    """A reassembled payload that is malformed is invalid, as in one frame (3.2, 3.5)."""
    peer.send(*fragments(pieces))
    peer.expect_disconnect(Status.INVALID)


def long_message(length: int) -> tuple[int, bytes]:
    """Return a message of exactly ``length`` bytes, and the size of its argument."""
    size = length - len(message("length", ("content", binary(bytes(2288))))) + 2288
    payload = message("length", ("content", binary(bytes(size))))
    assert len(payload) == length
    return size, payload


def cut_every_900(payload: bytes) -> list[bytes]:
    return [payload[start : start + 900] for start in range(0, len(payload), 900)]


def test_largest_payload(small_agent: Agent, connect: Connect) -> None:
    """A payload of exactly the agent's limit is reassembled (3.2)."""
    peer = connect(small_agent)
    peer.handshake()
    size, payload = long_message(SMALL_PAYLOAD)
    peer.send(*fragments(cut_every_900(payload)))
    assert peer.actions() == [SetVar("txn.length", int64(size))]


def test_payload_above_the_limit(small_agent: Agent, connect: Connect) -> None:
    """A payload of one byte more is refused, by an ACK with ABORT or by status code 3 (3.2.3)."""
    peer = connect(small_agent)
    peer.handshake()
    _, payload = long_message(SMALL_PAYLOAD + 1)
    *opening, end = fragments(cut_every_900(payload))
    peer.send(*opening, end)
    received = peer.frame()
    if received.type == FrameType.ACK:
        assert received[1:4] == (FIN | ABORT, 1, 1)
        assert peer.request(ECHO, stream_id=3) == ECHOED
    else:
        assert read_status(received) == Status.TOO_BIG
        assert peer.frames_to_end() == []


def resident(agent: Agent) -> int:
    """Return the resident memory of the agent, in bytes."""
    with open(f"/proc/{agent.pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def test_endless_payload(agent: Agent, peer: Peer, other: Peer) -> None:
    """A payload without a last fragment does not take more memory than the agent's limit allows (3.2)."""
    before = resident(agent)
    piece = unset(bytes(16000), flags=0)
    peer.send(FIRST)
    for _ in range(64):
        peer.offer(piece * 64)
    assert other.request(ECHO) == ECHOED
    assert resident(agent) - before < 32 << 20


def test_incomplete_payloads_on_many_connections(launch: Launch, connect: Connect) -> None:
    """The agent keeps as many of them as its limit allows, and refuses the others. Other requests are served (3.2)."""
    limit, size = 8 << 20, 960_000
    agent = launch(f"--max-reassembly-size={limit}")
    peers = [connect(agent) for _ in range(64)]
    for peer in peers:
        peer.handshake()
    before = resident(agent)
    payload = message("length", ("content", binary(bytes(size))))
    *opening, end = fragments([*cut_evenly(payload, 60), b""])
    # The agent reads the four fragments of one connection at once, so it has read all when catch_up() returns.
    for start in range(0, len(opening), 4):
        for peer in peers:
            peer.send(*opening[start : start + 4])
        agent.catch_up()
    # PyPy does not free the memory of the reads at once: 93 MiB were seen, more than all payloads have together.
    if sys.implementation.name == "cpython":
        assert resident(agent) - before < 24 << 20
    kept = 0
    for peer in peers:
        peer.send(end, notify(ECHO, stream_id=3))
        ack = peer.frame()
        if ack.flags == FIN:
            assert read_actions(ack.payload) == [SetVar("txn.length", int64(size))]
            kept += 1
        else:
            assert ack[:4] == (FrameType.ACK, FIN | ABORT, 1, 1)
        assert peer.actions(stream_id=3) == ECHOED
    assert kept == limit // len(payload)

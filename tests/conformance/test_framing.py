"""Frames: their length, their metadata, their types (SPOE.txt 3.2)."""

from __future__ import annotations

import struct

import pytest

from .agent import ECHO, ECHOED, Agent, Connect
from .rawspop import (
    ABORT,
    FIN,
    HELLO,
    FrameType,
    Peer,
    Status,
    binary,
    disconnect,
    frame,
    hello,
    length_and,
    message,
    notify,
    read_frame,
    read_status,
    text,
    uint32,
    varint,
)


def notify_of(length: int) -> bytes:
    """Return a NOTIFY whose frame has exactly this length. Its answer is short."""
    # The length of the content is a varint of 2 or 3 bytes, so the overhead varies: try several sizes.
    for size in (length - overhead for overhead in range(20, 40)):
        built = notify(message("length", ("content", binary(bytes(size)))))
        if len(built) == 4 + length:
            return built
    raise AssertionError(f"no content makes a NOTIFY of {length} bytes")


@pytest.mark.parametrize("length", range(7))
def test_length_below_a_header(peer: Peer, length: int) -> None:
    """A length below 7 is invalid: type, flags and two ids take at least 7 bytes (3.2)."""
    peer.send(length_and(b"\x03\x00\x00\x00\x01\x01"[:length]))
    peer.expect_disconnect(Status.INVALID)


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("greeted", [False, True], ids=["before HELLO", "after HELLO"])
def test_length_of_gigabytes(connect: Connect, length: int, greeted: bool) -> None:
    """The agent refuses a length of gigabytes before the first byte of the frame arrives (3.2, 3.5)."""
    peer = connect()
    if greeted:
        peer.handshake()
    peer.send(struct.pack(">I", length))
    peer.expect_disconnect(Status.TOO_BIG)


@pytest.mark.parametrize("size", [256, 16380, 65532])
def test_frame_of_the_agreed_size(new_peer: Peer, size: int) -> None:
    """A frame of exactly max-frame-size is served (3.2)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(size)})
    new_peer.send(notify_of(size))
    (action,) = new_peer.actions()
    assert action.variable == "txn.length"


@pytest.mark.parametrize("size", [256, 16380, 65532])
def test_frame_above_the_agreed_size(new_peer: Peer, size: int) -> None:
    """A frame of one byte more than max-frame-size is too big (3.2, 3.5)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(size)})
    new_peer.send(struct.pack(">I", size + 1))
    new_peer.expect_disconnect(Status.TOO_BIG)


def test_one_byte_at_a_time(agent: Agent, new_peer: Peer) -> None:
    """HELLO, NOTIFY and DISCONNECT are served if they arrive byte by byte (3.2)."""
    for byte in hello() + notify(ECHO, stream_id=300) + disconnect():
        new_peer.send(bytes([byte]))
        agent.catch_up()
    new_peer.agent_hello()
    assert new_peer.actions(stream_id=300) == ECHOED
    new_peer.expect_disconnect(Status.NORMAL)


def test_many_frames_at_once(peer: Peer) -> None:
    """One segment may hold 200 frames, with a part of the last one (3.2)."""
    wanted = range(200)
    stream = b"".join(notify(ECHO, stream_id=number) for number in wanted)
    peer.send(stream[:-5])
    for number in wanted[:-1]:
        assert peer.actions(stream_id=number) == ECHOED
    peer.send(stream[-5:])
    assert peer.actions(stream_id=wanted[-1]) == ECHOED


@pytest.mark.parametrize("kind", [4, 50, 100, 104, 255])
def test_unknown_type(peer: Peer, kind: int) -> None:
    """Frames of unknown types are skipped, with any ids, flags and payload (3.2.2)."""
    for flags in (0, FIN, ABORT, FIN | ABORT):
        peer.send(frame(kind, b"\xff" * 9, flags=flags, stream_id=1, frame_id=1))
        peer.send(frame(kind, flags=flags, stream_id=2**64 - 1, frame_id=0))
    assert peer.request(ECHO) == ECHOED


@pytest.mark.parametrize("kind", [101, 102, 103])
def test_type_that_only_agents_send(connect: Connect, kind: int) -> None:
    """A frame type that only agents send is skipped as unknown, or is invalid (3.2.2, 3.5)."""
    peer = connect()
    peer.handshake()
    peer.send(frame(kind, stream_id=1, frame_id=1), notify(ECHO), disconnect())
    *acks, last = peer.frames_to_end()
    assert [ack.type for ack in acks] in ([], [FrameType.ACK])
    assert read_status(last) == (Status.NORMAL if acks else Status.INVALID)
    successor = connect()
    successor.handshake()
    assert successor.request(ECHO) == ECHOED


@pytest.mark.parametrize("bit", [2, 7, 8, 16, 31])
def test_reserved_flag(peer: Peer, bit: int) -> None:
    """Reserved flags are ignored (3.2)."""
    peer.send(notify(ECHO, flags=FIN | 1 << bit))
    assert peer.actions() == ECHOED


OVERLONG = b"\xf0" + b"\x80" * 10 + b"\x00"


@pytest.mark.parametrize(
    "ids",
    [OVERLONG + b"\x01", b"\x01" + OVERLONG, b"\xff" * 40],
    ids=["stream-id", "frame-id", "endless"],
)
def test_overlong_id(peer: Peer, ids: bytes) -> None:
    """An id of more than 10 bytes is invalid: a varint has at most 64 bits (3.1)."""
    peer.send(length_and(b"\x03\x00\x00\x00\x01" + ids + ECHO))
    peer.expect_disconnect(Status.INVALID)


@pytest.mark.parametrize("ids", [b"\xf0\x80", b"\x01\xf0", b"\x01\xf0\x80\x80"], ids=bytes.hex)
def test_header_cut_inside_an_id(peer: Peer, ids: bytes) -> None:
    """A frame that ends inside its ids is invalid (3.2)."""
    peer.send(length_and(b"\x03\x00\x00\x00\x01" + ids))
    peer.expect_disconnect(Status.INVALID)


@pytest.mark.parametrize("number", [0, 239, 240, 2287, 2288, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_ids_come_back(peer: Peer, number: int) -> None:
    """An ACK has the same ids as its NOTIFY, byte for byte (3.2.7)."""
    for stream_id, frame_id in ((number, 1), (1, number), (number, number)):
        peer.send(notify(ECHO, stream_id=stream_id, frame_id=frame_id))
        body = peer.body()
        assert body is not None
        header = b"\x67\x00\x00\x00\x01" + varint(stream_id) + varint(frame_id)
        assert body.startswith(header), body
        assert read_frame(body)[2:4] == (stream_id, frame_id)


def test_notify_of_nothing(peer: Peer) -> None:
    """A NOTIFY without messages gets an ACK (3.2.6). HAProxy 3.1 sends NOTIFYs without messages."""
    assert peer.request() == []
    assert peer.request(ECHO) == ECHOED


def test_ack_without_actions(new_peer: Peer) -> None:
    """An ACK without actions has a payload.

    3.2.7 allows an empty payload, but HAProxy 3.1.0 then waits until its
    `timeout processing`.
    """
    new_peer.handshake({**HELLO, "capabilities": text("pipelining")})
    for payload in (b"", message("nothing"), message("no-such-message")):
        new_peer.send(notify(payload))
        received = new_peer.frame()
        assert received[:4] == (FrameType.ACK, FIN, 1, 1)
        assert received.payload, received

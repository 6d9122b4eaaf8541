"""What one connection, or a crowd of them, can cost the agent."""

from __future__ import annotations

import select
import struct
from time import monotonic

import pytest

from .agent import ECHO, ECHOED, SMALL_FRAME, Agent, Connect, Launch
from .rawspop import (
    ANSWER_LIMIT,
    HELLO,
    FrameType,
    Peer,
    SetVar,
    Status,
    binary,
    frame_body,
    hello,
    int64,
    message,
    notify,
    read_status,
    string,
    text,
    typed,
    uint32,
)


def test_agents_own_frame_size(small_agent: Agent, connect: Connect) -> None:
    """The agent's own limit is agreed on when it is the lower one (3.2.4)."""
    peer = connect(small_agent)
    items = peer.handshake({**HELLO, "max-frame-size": uint32(16380)})
    assert items["max-frame-size"] == uint32(SMALL_FRAME)
    peer.send(struct.pack(">I", SMALL_FRAME + 1))
    peer.expect_disconnect(Status.TOO_BIG)


def test_hello_above_the_agents_limit(small_agent: Agent, connect: Connect) -> None:
    """Before a size is agreed on the agent's own limit holds (3.2, 3.5)."""
    peer = connect(small_agent)
    peer.send(struct.pack(">I", SMALL_FRAME + 1))
    peer.expect_disconnect(Status.TOO_BIG)


def test_default_limit_of_a_hello(stranger: Peer) -> None:
    """The agent's limit is 1 MiB unless it is told otherwise (3.2, 3.5)."""
    stranger.send(struct.pack(">I", (1 << 20) + 1))
    stranger.expect_disconnect(Status.TOO_BIG)


@pytest.mark.parametrize("said", [b"", hello()[:3], hello()[:-1]], ids=["nothing", "length", "most"])
def test_hello_that_does_not_come(small_agent: Agent, connect: Connect, said: bytes) -> None:
    """A connection without HELLO is closed in time, with code 2 if any (3.5)."""
    peer = connect(small_agent)
    peer.send(said)
    statuses = [read_status(received) for received in peer.frames_to_end()]
    assert statuses in ([], [Status.TIMEOUT])


def test_hello_timeout_ends_with_hello(small_agent: Agent, connect: Connect) -> None:
    """A connection may be idle after its HELLO for longer than it had for it (3.5)."""
    peer = connect(small_agent)
    peer.handshake()
    later = connect(small_agent)
    later.frames_to_end()
    assert peer.request(ECHO) == ECHOED


def test_handler_that_never_answers(small_agent: Agent, connect: Connect, key: str) -> None:
    """A NOTIFY is acknowledged even if a handler never answers it (3.2.6)."""
    peer = connect(small_agent)
    peer.handshake()
    hold = message("hold", ("key", text(key)))
    assert peer.request(ECHO, hold, ECHO) == ECHOED * 2
    assert peer.request(message("dropped", ("key", text(key)))) == [SetVar("txn.dropped", text(key))]


def test_maximum_of_connections(launch: Launch, connect: Connect) -> None:
    """A connection too many waits or is closed, and the others go on (3.2.3)."""
    agent = launch("--max-connections=2")
    first, second, third = (connect(agent) for _ in range(3))
    first.handshake()
    second.handshake()
    third.offer(hello())

    def turns() -> None:
        for _ in range(3):
            assert second.request(ECHO) == ECHOED

    turns()
    refused, _, _ = select.select([third.socket], [], [], 0)
    if refused:
        assert FrameType.AGENT_HELLO not in [received.type for received in third.frames_to_end()]
    first.close()
    turns()
    if refused:
        third = connect(agent)
        third.send(hello())
    third.agent_hello()
    assert third.request(ECHO) == ECHOED


def test_thousands_in_flight(peer: Peer, other: Peer, key: str) -> None:
    """All NOTIFYs get their ACK, though the agent holds only so many at once (3.2.6)."""
    pending = set(range(3000))
    hold = message("hold", ("key", text(key)))
    peer.send(*(notify(hold, stream_id=number) for number in pending))
    deadline = monotonic() + ANSWER_LIMIT
    while pending:
        assert monotonic() < deadline, f"{len(pending)} NOTIFYs without ACK"
        (counted,) = other.request(message("release", ("key", text(key))))
        assert isinstance(counted, SetVar)
        assert isinstance(counted.value.data, int)
        for _ in range(counted.value.data):
            stream_id, _, actions = peer.acknowledgement()
            assert actions == [SetVar("txn.released", text(key))]
            pending.remove(stream_id)


def test_peer_that_does_not_read(connect: Connect) -> None:
    """Who does not read its ACKs is not read from, and loses none of them (3.2.6)."""
    peer = connect(receive_buffer=1 << 16)
    peer.handshake()
    value = binary(bytes(8000))
    one = notify(message("echo", ("x", value)))
    flood = memoryview(one * 8000)
    sent = 0
    peer.socket.setblocking(False)
    while sent < len(flood):
        try:
            sent += peer.socket.send(flood[sent : sent + (1 << 16)])
        except BlockingIOError:
            if not select.select([], [peer.socket], [], 0.5)[1]:
                break
    assert sent < len(flood), "the agent took 64 MB of requests and kept the ACKs"
    whole, part = divmod(sent, len(one))
    for _ in range(whole):
        assert peer.actions() == [SetVar("txn.x", value)]
    peer.send(one[part:])
    assert peer.actions() == [SetVar("txn.x", value)]


@pytest.mark.parametrize("capabilities", ["pipelining,async", "pipelining", ""])
def test_many_long_acks(stranger: Peer, capabilities: str) -> None:
    """More ACKs than fit one frame's size all come, whoever the HAProxy is (3.2.6)."""
    stranger.handshake({**HELLO, "capabilities": text(capabilities)})
    big = message("big", ("size", int64(1000)))
    pending = set(range(50))
    stranger.send(*(notify(big, stream_id=number) for number in pending))
    while pending:
        stream_id, _, actions = stranger.acknowledgement()
        assert actions == [SetVar("txn.big", binary(b"x" * 1000))]
        pending.remove(stream_id)


def test_longer_acks_than_a_socket_takes(stranger: Peer) -> None:
    """As many NOTIFYs as HAProxy has in flight may each have a long ACK, if only HAProxy reads them (3.2.6)."""
    stranger.handshake({**HELLO, "max-frame-size": uint32(65532)})
    big = message("big", ("size", int64(60_000)))
    stranger.send(*(notify(big, stream_id=number) for number in range(20)))
    for number in range(20):
        assert stranger.actions(stream_id=number) == [SetVar("txn.big", binary(b"x" * 60_000))]


def test_longer_acks_than_a_socket_takes_all_at_once(stranger: Peer, other: Peer, key: str) -> None:
    """The same holds when handlers waited, and their answers come all at once (3.2.6)."""
    stranger.handshake({**HELLO, "max-frame-size": uint32(65532)})
    stranger.send(*(notify(message("hold", ("key", text(key))), stream_id=number) for number in range(20)))
    assert stranger.request(ECHO, stream_id=99) == ECHOED
    released = other.request(message("release", ("key", text(key)), ("size", int64(60_000))))
    assert released == [SetVar("txn.count", int64(20))]
    for number in range(20):
        assert stranger.actions(stream_id=number) == [SetVar("txn.big", binary(b"x" * 60_000))]


def oversized(size: int) -> bytes:
    return message("big", ("size", int64(size)))


def test_ack_that_does_not_fit(stranger: Peer) -> None:
    """What does not fit into max-frame-size costs its own message only (3.2.5)."""
    stranger.handshake({**HELLO, "max-frame-size": uint32(1024)})
    assert stranger.request(oversized(20_000)) == []
    assert stranger.request(ECHO, oversized(20_000), ECHO) == ECHOED * 2
    assert stranger.request(ECHO) == ECHOED


def test_ack_that_just_fits(stranger: Peer) -> None:
    """A value is sent as long as its ACK keeps to max-frame-size (3.2.5)."""
    stranger.handshake({**HELLO, "max-frame-size": uint32(1024)})
    set_var = b"\x01\x03\x02" + string("big")
    for size in range(990, 1020):
        value = binary(b"x" * size)
        ack = frame_body(FrameType.ACK, set_var + typed(value), stream_id=1, frame_id=1)
        actions = stranger.request(oversized(size))
        # HAProxy 3.1 and later have room for one byte less than they agreed on.
        if len(ack) != 1024 or actions:
            assert actions == [SetVar("txn.big", value)] * (len(ack) <= 1024), size


def test_messages_that_do_not_fit_together(stranger: Peer) -> None:
    """Of messages that are too long together, those that fit are served (3.2.5)."""
    stranger.handshake({**HELLO, "max-frame-size": uint32(1024)})
    served = SetVar("txn.big", binary(b"x" * 400))
    assert stranger.request(*[oversized(400)] * 4, ECHO) == [served, served, *ECHOED]


def test_many_actions_that_do_not_fit(stranger: Peer) -> None:
    """Too many small actions are too much as well (3.2.5)."""
    stranger.handshake({**HELLO, "max-frame-size": uint32(256)})
    assert stranger.request(message("many", ("count", int64(1000)))) == []
    assert len(stranger.request(message("many", ("count", int64(5))))) == 5

"""The limits of the agent: frame sizes, timeouts, connections, NOTIFYs in flight, unread ACKs."""

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
    """If the agent's own limit is lower than HAProxy's max-frame-size, it is the agreed size (3.2.4)."""
    peer = connect(small_agent)
    items = peer.handshake({**HELLO, "max-frame-size": uint32(16380)})
    assert items["max-frame-size"] == uint32(SMALL_FRAME)
    peer.send(struct.pack(">I", SMALL_FRAME + 1))
    peer.expect_disconnect(Status.TOO_BIG)


def test_hello_above_the_agents_limit(small_agent: Agent, connect: Connect) -> None:
    """A HELLO above the agent's own limit is too big (3.2, 3.5)."""
    peer = connect(small_agent)
    peer.send(struct.pack(">I", SMALL_FRAME + 1))
    peer.expect_disconnect(Status.TOO_BIG)


def test_default_limit_of_a_hello(new_peer: Peer) -> None:
    """With the default options, a HELLO of more than 1 MiB is too big (3.2, 3.5)."""
    new_peer.send(struct.pack(">I", (1 << 20) + 1))
    new_peer.expect_disconnect(Status.TOO_BIG)


@pytest.mark.parametrize("said", [b"", hello()[:3], hello()[:-1]], ids=["nothing", "length", "most"])
def test_hello_that_does_not_arrive(small_agent: Agent, connect: Connect, said: bytes) -> None:
    """A connection without a complete HELLO is closed after the timeout, with status code 2 or no frame (3.5)."""
    peer = connect(small_agent)
    peer.send(said)
    statuses = [read_status(received) for received in peer.frames_to_end()]
    assert statuses in ([], [Status.TIMEOUT])


def test_hello_timeout_ends_with_hello(small_agent: Agent, connect: Connect) -> None:
    """After its HELLO, a connection may be idle for longer than the HELLO timeout (3.5)."""
    peer = connect(small_agent)
    peer.handshake()
    later = connect(small_agent)
    later.frames_to_end()
    assert peer.request(ECHO) == ECHOED


def test_handler_that_never_answers(small_agent: Agent, connect: Connect, key: str) -> None:
    """A NOTIFY gets its ACK after the handler timeout, even if one of its handlers never answers (3.2.6)."""
    peer = connect(small_agent)
    peer.handshake()
    hold = message("hold", ("key", text(key)))
    assert peer.request(ECHO, hold, ECHO) == ECHOED * 2
    assert peer.request(message("dropped", ("key", text(key)))) == [SetVar("txn.dropped", text(key))]


def test_maximum_of_connections(launch: Launch, connect: Connect) -> None:
    """A connection above the maximum waits or is closed, and the others are served (3.2.3)."""
    agent = launch("--max-connections=2")
    first, second = connect(agent), connect(agent)
    first.handshake()
    second.handshake()

    def serve_second() -> None:
        for _ in range(3):
            assert second.request(ECHO) == ECHOED

    try:
        third = connect(agent)
    except ConnectionResetError:
        # The agent's reset arrived before connect() had returned.
        refused = True
        serve_second()
    else:
        third.offer(hello())
        serve_second()
        refused = bool(select.select([third.socket], [], [], 0)[0])
        if refused:
            assert FrameType.AGENT_HELLO not in [received.type for received in third.frames_to_end()]
    first.close()
    serve_second()
    if refused:
        third = connect(agent)
        third.send(hello())
    third.agent_hello()
    assert third.request(ECHO) == ECHOED


def test_thousands_in_flight(peer: Peer, other: Peer, key: str) -> None:
    """All of 3000 NOTIFYs get their ACK, although the agent handles only a part of them at once (3.2.6)."""
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
    """The agent stops reading from a peer that does not read its ACKs, and loses no ACK (3.2.6)."""
    peer = connect(receive_buffer=1 << 16)
    peer.handshake()
    value = binary(bytes(8000))
    request = notify(message("echo", ("x", value)))
    requests = memoryview(request * 8000)
    sent = 0
    peer.socket.setblocking(False)
    while sent < len(requests):
        try:
            sent += peer.socket.send(requests[sent : sent + (1 << 16)])
        except BlockingIOError:
            if not select.select([], [peer.socket], [], 0.5)[1]:
                break
    assert sent < len(requests), "the agent read 64 MB of requests although no ACK was read"
    complete, part = divmod(sent, len(request))
    for _ in range(complete):
        assert peer.actions() == [SetVar("txn.x", value)]
    peer.send(request[part:])
    assert peer.actions() == [SetVar("txn.x", value)]


@pytest.mark.parametrize("capabilities", ["pipelining,async", "pipelining", ""])
def test_many_long_acks(new_peer: Peer, capabilities: str) -> None:
    """50 ACKs that together exceed max-frame-size all arrive, for every version of HAProxy (3.2.6)."""
    new_peer.handshake({**HELLO, "capabilities": text(capabilities)})
    big = message("big", ("size", int64(1000)))
    pending = set(range(50))
    new_peer.send(*(notify(big, stream_id=number) for number in pending))
    while pending:
        stream_id, _, actions = new_peer.acknowledgement()
        assert actions == [SetVar("txn.big", binary(b"x" * 1000))]
        pending.remove(stream_id)


def test_longer_acks_than_a_socket_takes(new_peer: Peer) -> None:
    """20 NOTIFYs, as many as HAProxy keeps in flight, get ACKs of 60,000 bytes each (3.2.6)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(65532)})
    big = message("big", ("size", int64(60_000)))
    new_peer.send(*(notify(big, stream_id=number) for number in range(20)))
    for number in range(20):
        assert new_peer.actions(stream_id=number) == [SetVar("txn.big", binary(b"x" * 60_000))]


def test_longer_acks_than_a_socket_takes_all_at_once(new_peer: Peer, other: Peer, key: str) -> None:
    """The 20 long ACKs also arrive if their handlers waited and are released at once (3.2.6)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(65532)})
    new_peer.send(*(notify(message("hold", ("key", text(key))), stream_id=number) for number in range(20)))
    assert new_peer.request(ECHO, stream_id=99) == ECHOED
    released = other.request(message("release", ("key", text(key)), ("size", int64(60_000))))
    assert released == [SetVar("txn.count", int64(20))]
    for number in range(20):
        assert new_peer.actions(stream_id=number) == [SetVar("txn.big", binary(b"x" * 60_000))]


def oversized(size: int) -> bytes:
    return message("big", ("size", int64(size)))


def test_ack_that_does_not_fit(new_peer: Peer) -> None:
    """If the variables of a message do not fit into max-frame-size, only these are left out (3.2.5)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(1024)})
    assert new_peer.request(oversized(20_000)) == []
    assert new_peer.request(ECHO, oversized(20_000), ECHO) == ECHOED * 2
    assert new_peer.request(ECHO) == ECHOED


def test_ack_that_just_fits(new_peer: Peer) -> None:
    """A value is sent if its ACK is not longer than max-frame-size (3.2.5)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(1024)})
    set_var = b"\x01\x03\x02" + string("big")
    for size in range(990, 1020):
        value = binary(b"x" * size)
        ack = frame_body(FrameType.ACK, set_var + typed(value), stream_id=1, frame_id=1)
        actions = new_peer.request(oversized(size))
        # An ACK of exactly max-frame-size may be left out: HAProxy >= 3.1 has room for one byte less.
        if len(ack) != 1024 or actions:
            assert actions == [SetVar("txn.big", value)] * (len(ack) <= 1024), size


def test_messages_that_do_not_fit_together(new_peer: Peer) -> None:
    """If the answers of several messages do not fit together, those that fit are sent (3.2.5)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(1024)})
    served = SetVar("txn.big", binary(b"x" * 400))
    assert new_peer.request(*[oversized(400)] * 4, ECHO) == [served, served, *ECHOED]


def test_many_actions_that_do_not_fit(new_peer: Peer) -> None:
    """1000 small actions that do not fit into max-frame-size are left out, and 5 are sent (3.2.5)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(256)})
    assert new_peer.request(message("many", ("count", int64(1000)))) == []
    assert len(new_peer.request(message("many", ("count", int64(5))))) == 5

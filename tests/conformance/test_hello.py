"""The HELLO handshake (SPOE.txt 3.2.4 and 3.2.5)."""

from __future__ import annotations

from itertools import permutations

import pytest

from .agent import ECHO, ECHOED, Agent, Connect
from .rawspop import (
    HELLO,
    NULL,
    DataType,
    FrameType,
    Items,
    Peer,
    Status,
    Value,
    binary,
    boolean,
    frame,
    hello,
    int32,
    int64,
    ipv4,
    ipv6,
    kv_list,
    length_and,
    notify,
    text,
    uint32,
    uint64,
    unset,
)

AGENT_CAP = 1 << 20
"""The agent's own default limit on a frame."""

HEALTH_CHECK = (
    b"\x00\x00\x00\x4e\x01\x00\x00\x00\x01\x00\x00"
    b"\x12supported-versions\x08\x032.0\x0emax-frame-size\x03\xfc\xf0\x06"
    b"\x0ccapabilities\x08\x00\x0bhealthcheck\x11"
)

RECORDED = {
    "2.6": (
        b"\x00\x00\x00\x81\x01\x00\x00\x00\x01\x00\x00"
        b"\x12supported-versions\x08\x032.0\x0emax-frame-size\x03\xfc\xf0\x06"
        b"\x0ccapabilities\x08\x10pipelining,async"
        b"\x09engine-id\x08\x2456e6b1e9-8d1b-4bd5-9a3e-0b0c7e4b1f6a"
    ),
    "3.1": (
        b"\x00\x00\x00\x7b\x01\x00\x00\x00\x01\x00\x00"
        b"\x12supported-versions\x08\x032.0\x0emax-frame-size\x03\xfc\xf0\x06"
        b"\x0ccapabilities\x08\x0apipelining"
        b"\x09engine-id\x08\x2456e6b1e9-8d1b-4bd5-9a3e-0b0c7e4b1f6a"
    ),
}


def without(name: str) -> Items:
    return {key: value for key, value in HELLO.items() if key != name}


@pytest.mark.parametrize("version", RECORDED)
def test_hello_of_haproxy(stranger: Peer, version: str) -> None:
    """HELLO as HAProxy sends it, to the byte, opens the connection (3.2.3)."""
    stranger.send(RECORDED[version])
    stranger.agent_hello()
    assert stranger.request(ECHO) == ECHOED


def test_agent_hello(stranger: Peer) -> None:
    """AGENT-HELLO has FIN, ids 0, and its items with their types (3.2.5)."""
    items = stranger.handshake()
    assert items["version"] == text("2.0")
    assert items["max-frame-size"] == uint32(16380)
    assert items["capabilities"].type is DataType.STRING
    assert isinstance(items["capabilities"].data, bytes)
    capabilities = items["capabilities"].data.split(b",")
    assert {b"pipelining", b"fragmentation"} <= set(capabilities)
    # An ACK goes where its NOTIFY came from, and "async" would say otherwise.
    assert b"async" not in capabilities


def test_items_in_any_order(connect: Connect) -> None:
    """A KV-LIST has no order (3.2.4)."""
    for order in permutations(HELLO):
        peer = connect()
        items = peer.handshake({name: HELLO[name] for name in order})
        assert items["max-frame-size"] == uint32(16380), order


@pytest.mark.parametrize(
    "versions",
    ["2.0", " 2.0 ", "2.0, 1.5", "1.5,2.0", "3.0 ,2.0", "2.1"],
)
def test_versions_with_2_0(stranger: Peer, versions: str) -> None:
    """One of the versions suffices, spaces do not count, 2.1 includes 2.0 (3.2.4)."""
    items = stranger.handshake({**HELLO, "supported-versions": text(versions)})
    assert items["version"] == text("2.0")


@pytest.mark.parametrize("versions", ["1.0", "1.5, 1.0", "3.0", "12.0", "0.2"])
def test_versions_without_2_0(stranger: Peer, versions: str) -> None:
    """No version 2 is code 8 (3.5)."""
    stranger.send(hello({**HELLO, "supported-versions": text(versions)}))
    stranger.expect_disconnect(Status.BAD_VERSION)


@pytest.mark.parametrize("versions", ["", ",", "2", "abc", "2.x", b"\xff\xfe"])
def test_versions_that_are_none(stranger: Peer, versions: str | bytes) -> None:
    """What is not "Major.Minor" is no version to agree on (3.2.4, 3.5)."""
    stranger.send(hello({**HELLO, "supported-versions": text(versions)}))
    stranger.expect_disconnect(Status.BAD_VERSION, Status.NO_VERSION, Status.INVALID)


@pytest.mark.parametrize("capabilities", ["", " pipelining , async ", "nosuch,,pipelining,"])
def test_capabilities(stranger: Peer, capabilities: str) -> None:
    """Unknown capabilities are ignored, and so are spaces (3.2.1, 3.2.4)."""
    stranger.handshake({**HELLO, "capabilities": text(capabilities)})
    assert stranger.request(ECHO) == ECHOED


MANDATORY = {
    "supported-versions": Status.NO_VERSION,
    "max-frame-size": Status.NO_MAX_FRAME_SIZE,
    "capabilities": Status.NO_CAPABILITIES,
}


@pytest.mark.parametrize(("name", "status"), MANDATORY.items())
def test_missing_item(stranger: Peer, name: str, status: Status) -> None:
    """Each missing mandatory item has its own code (3.2.4, 3.5)."""
    stranger.send(hello(without(name)))
    stranger.expect_disconnect(status)


def test_a_longer_name_is_another_item(stranger: Peer) -> None:
    """An item is found by its whole name (3.2.4)."""
    stranger.send(hello({**without("capabilities"), "capabilities2": text("")}))
    stranger.expect_disconnect(Status.NO_CAPABILITIES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("supported-versions", binary(b"2.0")),
        ("supported-versions", NULL),
        ("max-frame-size", text("16380")),
        ("max-frame-size", NULL),
        ("capabilities", uint32(1)),
        ("capabilities", NULL),
    ],
    ids=lambda value: value.type.name if isinstance(value, Value) else value,
)
def test_item_of_another_type(stranger: Peer, name: str, value: Value) -> None:
    """An item of the wrong type is invalid, or is not the item (3.2.4, 3.5)."""
    stranger.send(hello({**HELLO, name: value}))
    stranger.expect_disconnect(Status.INVALID, MANDATORY[name])


@pytest.mark.parametrize("size", [0, 255])
def test_max_frame_size_too_small(stranger: Peer, size: int) -> None:
    """The maximum size of a frame is at least 256 bytes (3.2)."""
    stranger.send(hello({**HELLO, "max-frame-size": uint32(size)}))
    stranger.expect_disconnect(Status.BAD_FRAME_SIZE)


@pytest.mark.parametrize(
    ("size", "agreed"),
    [
        (256, 256),
        (16380, 16380),
        (65532, 65532),
        (AGENT_CAP, AGENT_CAP),
        (AGENT_CAP + 1, AGENT_CAP),
        (0xFFFFFFFF, AGENT_CAP),
    ],
)
def test_max_frame_size_agreed(stranger: Peer, size: int, agreed: int) -> None:
    """AGENT-HELLO has the lower one of both sides' sizes (3.2.4)."""
    items = stranger.handshake({**HELLO, "max-frame-size": uint32(size)})
    assert items["max-frame-size"] == uint32(agreed)


@pytest.mark.parametrize("excess", [0, 1])
def test_hello_against_its_own_size(stranger: Peer, excess: int) -> None:
    """HELLO itself is no longer than the max-frame-size that it announces (3.2.4)."""
    size = 300
    items = {**HELLO, "max-frame-size": uint32(size), "padding": text("")}
    padding = "x" * (size + 4 + excess - len(hello(items)))
    stranger.send(hello({**items, "padding": text(padding)}))
    if excess:
        stranger.expect_disconnect(Status.TOO_BIG, Status.INVALID, Status.BAD_FRAME_SIZE)
    else:
        assert stranger.agent_hello()["max-frame-size"] == uint32(size)


@pytest.mark.parametrize(
    "value",
    [
        NULL,
        boolean(True),
        int32(-1),
        uint32(1),
        int64(-1),
        uint64(1),
        ipv4("192.0.2.1"),
        ipv6("::1"),
        text("extra"),
        binary(b"\x00\xff"),
    ],
    ids=lambda value: value.type.name,
)
def test_unknown_item(stranger: Peer, value: Value) -> None:
    """An unknown item is skipped whatever its type, wherever it stands (3.2.4)."""
    stranger.handshake({"before": value, **HELLO, "after": value})
    assert stranger.request(ECHO) == ECHOED


def test_health_check(stranger: Peer) -> None:
    """A health check gets AGENT-HELLO, the close, and nothing between (3.2.5)."""
    stranger.send(HEALTH_CHECK)
    stranger.agent_hello()
    stranger.expect_eof()


def test_health_check_serves_nothing(stranger: Peer) -> None:
    """No frame after a health check is answered, not even by a DISCONNECT (3.2.3)."""
    stranger.send(HEALTH_CHECK, notify(ECHO), hello())
    stranger.agent_hello()
    assert stranger.frames_to_end() == []


def test_health_check_that_cannot_pass(stranger: Peer) -> None:
    """A health check demands what any HELLO demands (3.2.4)."""
    stranger.send(hello({**without("capabilities"), "healthcheck": boolean(True)}))
    stranger.expect_disconnect(Status.NO_CAPABILITIES)


def test_health_check_false(stranger: Peer) -> None:
    """healthcheck FALSE can be ignored (3.2.4)."""
    stranger.handshake({**HELLO, "healthcheck": boolean(False)})
    assert stranger.request(ECHO) == ECHOED


def test_no_engine_id(stranger: Peer) -> None:
    """engine-id is optional (3.2.4)."""
    stranger.handshake(without("engine-id"))
    assert stranger.request(ECHO) == ECHOED


@pytest.mark.parametrize(
    "early",
    [notify(ECHO), notify(ECHO, flags=0), unset(b"piece")],
    ids=["NOTIFY", "fragment", "UNSET"],
)
def test_frame_before_hello(stranger: Peer, early: bytes) -> None:
    """HAPROXY-HELLO is the first frame (3.2.4)."""
    stranger.send(early)
    stranger.expect_disconnect(Status.INVALID)


def test_second_hello(peer: Peer) -> None:
    """HAPROXY-HELLO comes once (3.2.4)."""
    peer.send(hello())
    peer.expect_disconnect(Status.INVALID)


@pytest.mark.parametrize(
    ("metadata", "statuses"),
    [
        ({"flags": 0}, (Status.INVALID, Status.FRAGMENTATION_NOT_SUPPORTED)),
        ({"stream_id": 1}, (Status.INVALID,)),
        ({"frame_id": 1}, (Status.INVALID,)),
    ],
    ids=["no FIN", "stream-id", "frame-id"],
)
def test_hello_header(stranger: Peer, metadata: dict[str, int], statuses: tuple[Status, ...]) -> None:
    """HAPROXY-HELLO cannot be fragmented, and its ids are 0 (3.2.4)."""
    stranger.send(frame(FrameType.HAPROXY_HELLO, kv_list(HELLO), **metadata))
    stranger.expect_disconnect(*statuses)


def test_hello_cut_short(connect: Connect) -> None:
    """A KV-LIST that ends inside an item is invalid, at each of its bytes (3.2)."""
    items = list(HELLO.items())
    payload = kv_list(HELLO)
    lacking = {len(kv_list(dict(items[:count]))): status for count, status in enumerate(MANDATORY.values())}
    whole = {len(kv_list(without("engine-id"))), len(payload)}
    for cut in sorted(set(range(len(payload))) - whole):
        peer = connect()
        peer.send(frame(FrameType.HAPROXY_HELLO, payload[:cut]))
        peer.expect_disconnect(lacking.get(cut, Status.INVALID))


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes.fromhex("160301020001 0001fc0303") + bytes(range(64)),
        length_and(b"\xff" * 16),
        b"\x00" * 64,
    ],
    ids=["HTTP", "TLS", "ones", "zeros"],
)
def test_another_protocol(stranger: Peer, noise: bytes) -> None:
    """What is no SPOP gets its DISCONNECT and the close (3.2.3)."""
    stranger.send(noise)
    stranger.expect_disconnect(Status.INVALID, Status.TOO_BIG)


def test_hello_in_two_pieces(agent: Agent, connect: Connect) -> None:
    """HELLO may arrive in two pieces, cut at any of its bytes (3.2)."""
    greeting = hello()
    # A server's accept queue may be as short as 50, and a full one costs a second.
    for start in range(1, len(greeting), 32):
        cuts = range(start, min(start + 32, len(greeting)))
        peers = [connect() for _ in cuts]
        for peer, cut in zip(peers, cuts, strict=True):
            peer.send(greeting[:cut])
        agent.catch_up()
        for peer, cut in zip(peers, cuts, strict=True):
            peer.send(greeting[cut:])
            assert peer.agent_hello()["version"] == text("2.0"), cut


def test_hello_and_notify_at_once(stranger: Peer) -> None:
    """Frames that follow HELLO in the same segment are served after it (3.2.3)."""
    stranger.send(hello(), notify(ECHO, stream_id=3), notify(ECHO, stream_id=5))
    stranger.agent_hello()
    assert stranger.actions(stream_id=3) == ECHOED
    assert stranger.actions(stream_id=5) == ECHOED


@pytest.mark.parametrize("said", [b"", b"\x00", hello()[:50]])
def test_leaving_without_hello(stranger: Peer, said: bytes) -> None:
    """A TCP probe, or HAProxy gone in mid-HELLO, is let go without a word (3.2.3)."""
    stranger.send(said)
    stranger.half_close()
    stranger.expect_eof()

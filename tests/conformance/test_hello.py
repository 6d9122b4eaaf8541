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

AGENT_CAP = 2 << 20
"""The default limit of the agent for a frame, in bytes."""

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
def test_hello_of_haproxy(new_peer: Peer, version: str) -> None:
    """The exact bytes of HAProxy's HELLO open the connection (3.2.3)."""
    new_peer.send(RECORDED[version])
    new_peer.agent_hello()
    assert new_peer.request(ECHO) == ECHOED


def test_agent_hello(new_peer: Peer) -> None:
    """AGENT-HELLO has the flag FIN, the ids 0, and the three mandatory items with their types (3.2.5)."""
    items = new_peer.handshake()
    assert items["version"] == text("2.0")
    assert items["max-frame-size"] == uint32(16380)
    assert items["capabilities"].type is DataType.STRING
    assert isinstance(items["capabilities"].data, bytes)
    capabilities = items["capabilities"].data.split(b",")
    assert {b"pipelining", b"fragmentation"} <= set(capabilities)
    # By default, an ACK takes the connection of its NOTIFY. With "async" it could take another one.
    assert b"async" not in capabilities


def test_items_in_any_order(connect: Connect) -> None:
    """The items of a HELLO may come in any order (3.2.4)."""
    for order in permutations(HELLO):
        peer = connect()
        items = peer.handshake({name: HELLO[name] for name in order})
        assert items["max-frame-size"] == uint32(16380), order


@pytest.mark.parametrize(
    "versions",
    ["2.0", " 2.0 ", "2.0, 1.5", "1.5,2.0", "3.0 ,2.0", "2.1"],
)
def test_versions_with_2_0(new_peer: Peer, versions: str) -> None:
    """One version 2.x in the list is enough. Spaces are ignored, and 2.1 includes 2.0 (3.2.4)."""
    items = new_peer.handshake({**HELLO, "supported-versions": text(versions)})
    assert items["version"] == text("2.0")


@pytest.mark.parametrize("versions", ["1.0", "1.5, 1.0", "3.0", "12.0", "0.2"])
def test_versions_without_2_0(new_peer: Peer, versions: str) -> None:
    """A HELLO without a version 2.x gets status code 8 (3.5)."""
    new_peer.send(hello({**HELLO, "supported-versions": text(versions)}))
    new_peer.expect_disconnect(Status.BAD_VERSION)


@pytest.mark.parametrize("versions", ["", ",", "2", "abc", "2.x", b"\xff\xfe"])
def test_malformed_versions(new_peer: Peer, versions: str | bytes) -> None:
    """A version that is not of the form "Major.Minor" is refused (3.2.4, 3.5)."""
    new_peer.send(hello({**HELLO, "supported-versions": text(versions)}))
    new_peer.expect_disconnect(Status.BAD_VERSION, Status.NO_VERSION, Status.INVALID)


@pytest.mark.parametrize("capabilities", ["", " pipelining , async ", "nosuch,,pipelining,"])
def test_capabilities(new_peer: Peer, capabilities: str) -> None:
    """Unknown capabilities and spaces are ignored (3.2.1, 3.2.4)."""
    new_peer.handshake({**HELLO, "capabilities": text(capabilities)})
    assert new_peer.request(ECHO) == ECHOED


MANDATORY = {
    "supported-versions": Status.NO_VERSION,
    "max-frame-size": Status.NO_MAX_FRAME_SIZE,
    "capabilities": Status.NO_CAPABILITIES,
}


@pytest.mark.parametrize(("name", "status"), MANDATORY.items())
def test_missing_item(new_peer: Peer, name: str, status: Status) -> None:
    """A HELLO that lacks a mandatory item gets the status code of this item (3.2.4, 3.5)."""
    new_peer.send(hello(without(name)))
    new_peer.expect_disconnect(status)


def test_a_longer_name_is_another_item(new_peer: Peer) -> None:
    """An item whose name only begins with "capabilities" is another item (3.2.4)."""
    new_peer.send(hello({**without("capabilities"), "capabilities2": text("")}))
    new_peer.expect_disconnect(Status.NO_CAPABILITIES)


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
def test_item_of_another_type(new_peer: Peer, name: str, value: Value) -> None:
    """An item of the wrong type is invalid, or counts as missing (3.2.4, 3.5)."""
    new_peer.send(hello({**HELLO, name: value}))
    new_peer.expect_disconnect(Status.INVALID, MANDATORY[name])


@pytest.mark.parametrize("size", [0, 255])
def test_max_frame_size_too_small(new_peer: Peer, size: int) -> None:
    """A max-frame-size below 256 bytes gets status code 9 (3.2, 3.5)."""
    new_peer.send(hello({**HELLO, "max-frame-size": uint32(size)}))
    new_peer.expect_disconnect(Status.BAD_FRAME_SIZE)


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
def test_max_frame_size_agreed(new_peer: Peer, size: int, agreed: int) -> None:
    """AGENT-HELLO has the lower max-frame-size of the two sides (3.2.4)."""
    items = new_peer.handshake({**HELLO, "max-frame-size": uint32(size)})
    assert items["max-frame-size"] == uint32(agreed)


@pytest.mark.parametrize("excess", [0, 1])
def test_hello_against_its_own_size(new_peer: Peer, excess: int) -> None:
    """A HELLO that is longer than its own max-frame-size is refused (3.2.4)."""
    size = 300
    items = {**HELLO, "max-frame-size": uint32(size), "padding": text("")}
    padding = "x" * (size + 4 + excess - len(hello(items)))
    new_peer.send(hello({**items, "padding": text(padding)}))
    if excess:
        new_peer.expect_disconnect(Status.TOO_BIG, Status.INVALID, Status.BAD_FRAME_SIZE)
    else:
        assert new_peer.agent_hello()["max-frame-size"] == uint32(size)


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
def test_unknown_item(new_peer: Peer, value: Value) -> None:
    """An unknown item of any type is skipped, before and behind the known items (3.2.4)."""
    new_peer.handshake({"before": value, **HELLO, "after": value})
    assert new_peer.request(ECHO) == ECHOED


def test_health_check(new_peer: Peer) -> None:
    """The agent answers a health check with AGENT-HELLO, closes the connection, and sends nothing else (3.2.5)."""
    new_peer.send(HEALTH_CHECK)
    new_peer.agent_hello()
    new_peer.expect_eof()


def test_health_check_serves_nothing(new_peer: Peer) -> None:
    """The agent answers no frame behind a health check, not even with a DISCONNECT (3.2.3)."""
    new_peer.send(HEALTH_CHECK, notify(ECHO), hello())
    new_peer.agent_hello()
    assert new_peer.frames_to_end() == []


def test_health_check_without_a_mandatory_item(new_peer: Peer) -> None:
    """A health check that lacks a mandatory item is refused like any other HELLO (3.2.4)."""
    new_peer.send(hello({**without("capabilities"), "healthcheck": boolean(True)}))
    new_peer.expect_disconnect(Status.NO_CAPABILITIES)


def test_health_check_false(new_peer: Peer) -> None:
    """A HELLO with healthcheck FALSE opens a normal connection (3.2.4)."""
    new_peer.handshake({**HELLO, "healthcheck": boolean(False)})
    assert new_peer.request(ECHO) == ECHOED


def test_no_engine_id(new_peer: Peer) -> None:
    """A HELLO without engine-id opens the connection: the item is optional (3.2.4)."""
    new_peer.handshake(without("engine-id"))
    assert new_peer.request(ECHO) == ECHOED


@pytest.mark.parametrize(
    "early",
    [notify(ECHO), notify(ECHO, flags=0), unset(b"fragment")],
    ids=["NOTIFY", "fragment", "UNSET"],
)
def test_frame_before_hello(new_peer: Peer, early: bytes) -> None:
    """A NOTIFY or UNSET before the HELLO is invalid (3.2.4)."""
    new_peer.send(early)
    new_peer.expect_disconnect(Status.INVALID)


def test_second_hello(peer: Peer) -> None:
    """A second HAPROXY-HELLO is invalid (3.2.4)."""
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
def test_hello_header(new_peer: Peer, metadata: dict[str, int], statuses: tuple[Status, ...]) -> None:
    """A HAPROXY-HELLO without FIN, or with an id other than 0, is refused (3.2.4)."""
    new_peer.send(frame(FrameType.HAPROXY_HELLO, kv_list(HELLO), **metadata))
    new_peer.expect_disconnect(*statuses)


def test_hello_cut_short(connect: Connect) -> None:
    """A HELLO that is cut inside an item is invalid. Cut between two items, it lacks a mandatory item (3.2)."""
    items = list(HELLO.items())
    payload = kv_list(HELLO)
    between = {len(kv_list(dict(items[:count]))): status for count, status in enumerate(MANDATORY.values())}
    complete = {len(kv_list(without("engine-id"))), len(payload)}
    for cut in sorted(set(range(len(payload))) - complete):
        peer = connect()
        peer.send(frame(FrameType.HAPROXY_HELLO, payload[:cut]))
        peer.expect_disconnect(between.get(cut, Status.INVALID))


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
def test_another_protocol(new_peer: Peer, noise: bytes) -> None:
    """Bytes of another protocol are answered with DISCONNECT, and the connection is closed (3.2.3)."""
    new_peer.send(noise)
    new_peer.expect_disconnect(Status.INVALID, Status.TOO_BIG)


def test_hello_in_two_pieces(agent: Agent, connect: Connect) -> None:
    """A HELLO that arrives in two pieces, cut at any byte, opens the connection (3.2)."""
    greeting = hello()
    # An accept queue may hold 50 connections only. If it is full, the next connection takes a second.
    for start in range(1, len(greeting), 32):
        cuts = range(start, min(start + 32, len(greeting)))
        peers = [connect() for _ in cuts]
        for peer, cut in zip(peers, cuts, strict=True):
            peer.send(greeting[:cut])
        agent.catch_up()
        for peer, cut in zip(peers, cuts, strict=True):
            peer.send(greeting[cut:])
            assert peer.agent_hello()["version"] == text("2.0"), cut


def test_hello_and_notify_at_once(new_peer: Peer) -> None:
    """Frames behind the HELLO in the same segment are served (3.2.3)."""
    new_peer.send(hello(), notify(ECHO, stream_id=3), notify(ECHO, stream_id=5))
    new_peer.agent_hello()
    assert new_peer.actions(stream_id=3) == ECHOED
    assert new_peer.actions(stream_id=5) == ECHOED


@pytest.mark.parametrize("said", [b"", b"\x00", hello()[:50]])
def test_close_without_hello(new_peer: Peer, said: bytes) -> None:
    """A connection that ends before its HELLO is complete, as of a TCP probe, gets no frame (3.2.3)."""
    new_peer.send(said)
    new_peer.half_close()
    new_peer.expect_eof()

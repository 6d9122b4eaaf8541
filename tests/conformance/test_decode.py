"""Typed data and messages: values at the edges of their ranges, and invalid ones (SPOE.txt 3.1, 3.2)."""

from __future__ import annotations

import pytest

from .agent import ECHO, ECHOED, Connect
from .rawspop import (
    HELLO,
    NULL,
    FrameType,
    Peer,
    SetVar,
    Status,
    UnsetVar,
    Value,
    binary,
    boolean,
    int32,
    int64,
    ipv4,
    ipv6,
    message,
    notify,
    read_actions,
    read_status,
    string,
    text,
    uint32,
    uint64,
    varint,
)

INTEGERS = [
    int32(0),
    int32(-1),
    int32(-(2**31)),
    int32(2**31 - 1),
    uint32(0),
    uint32(2**32 - 1),
    int64(0),
    int64(239),
    int64(240),
    int64(2287),
    int64(2288),
    int64(-1),
    int64(-(2**63)),
    int64(2**63 - 1),
    uint64(0),
    uint64(2**63),
    uint64(2**64 - 1),
]

ADDRESSES = [
    ipv4("0.0.0.0"),
    ipv4("255.255.255.255"),
    ipv4("127.0.0.1"),
    ipv6("::"),
    ipv6("::ffff:192.0.2.1"),
    ipv6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]

CONTENTS = {
    "empty": b"",
    "NUL": b"\x00a\x00",
    "UTF-8": "grüße \U0001f40d".encode(),
    "no UTF-8": bytes(range(128, 256)) + b"\xed\xb2\x80",
    "239": b"x" * 239,
    "240": b"x" * 240,
    "2287": b"x" * 2287,
    "2288": b"x" * 2288,
    "10 KB": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("value", INTEGERS, ids=lambda value: f"{value.type.name} {value.data}")
def test_integer(peer: Peer, value: Value) -> None:
    """A handler that returns an integer returns it with the same type and value, at every edge (3.1)."""
    assert peer.request(message("echo", ("x", value))) == [SetVar("txn.x", value)]


@pytest.mark.parametrize("value", ADDRESSES, ids=lambda value: f"{value.type.name} {value.data.hex()}")
def test_address(peer: Peer, value: Value) -> None:
    """A handler that returns an address returns it with the same family and bytes (3.1)."""
    assert peer.request(message("echo", ("x", value))) == [SetVar("txn.x", value)]


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_content(peer: Peer, content: bytes) -> None:
    """A STRING or BINARY may hold any bytes and have any length, and is returned unchanged (3.1)."""
    for value in (text(content), binary(content)):
        assert peer.request(message("echo", ("x", value))) == [SetVar("txn.x", value)]


@pytest.mark.parametrize("byte", [0x01, 0x11, 0x21, 0xE1])
def test_boolean(peer: Peer, byte: int) -> None:
    """The first flag is the value of a BOOL. The other flags are ignored (3.1)."""
    sent = message("echo", ("x", bytes([byte])))
    assert peer.request(sent) == [SetVar("txn.x", boolean(byte == 0x11))]


@pytest.mark.parametrize("byte", [0x31, 0xF1])
def test_boolean_with_more_flags(peer: Peer, byte: int) -> None:
    """SPOE.txt 3.1 calls this BOOL true, HAProxy takes it for false. The agent may do either."""
    (action,) = peer.request(message("echo", ("x", bytes([byte]))))
    assert action in [SetVar("txn.x", boolean(truth)) for truth in (True, False)]


def test_null(peer: Peer) -> None:
    """NULL arrives as None. A handler can unset a variable with None, or set it to NULL (3.1)."""
    assert peer.request(message("echo", ("x", NULL))) == [UnsetVar("txn.x")]
    assert peer.request(message("echo-null", ("x", NULL))) == [SetVar("txn.x", NULL)]


def test_flags_of_other_types(peer: Peer) -> None:
    """The flags of all types but BOOL are ignored (3.1)."""
    sent = message("echo", ("x", b"\xf4\x07"), ("y", b"\x18\x01y"), ("z", b"\xf0"))
    assert peer.request(sent) == [
        SetVar("txn.x", int64(7)),
        SetVar("txn.y", text("y")),
        UnsetVar("txn.z"),
    ]


def test_all_types_cut_short(connect: Connect) -> None:
    """A message that is cut at any byte is invalid: status code 4 (3.2, 3.5)."""
    values = [int64(-1), text("text"), binary(b"b"), ipv4("192.0.2.1"), ipv6("::1")]
    payload = message("echo", *((f"x{kind.type}", kind) for kind in values))
    for cut in range(1, len(payload)):
        peer = connect()
        peer.handshake()
        peer.send(notify(payload[:cut]))
        peer.expect_disconnect(Status.INVALID)


@pytest.mark.parametrize("kind", range(10, 16))
@pytest.mark.parametrize("flags", [0x00, 0x10])
def test_reserved_type(peer: Peer, kind: int, flags: int) -> None:
    """A reserved type is invalid: its length is unknown, so the bytes after it cannot be decoded (3.1)."""
    peer.send(notify(message("echo", ("x", bytes([kind | flags]) + b"\x01y"))))
    peer.expect_disconnect(Status.INVALID)


X = string("echo") + b"\x01" + string("x")

MALFORMED = {
    "string longer than the frame": X + b"\x08" + varint(1000) + b"text",
    "binary longer than the frame": X + b"\x09" + varint(5) + b"four",
    "string of 2^63 bytes": X + b"\x08" + varint(1 << 63) + b"text",
    "string of 2^64 - 1 bytes": X + b"\x08" + varint((1 << 64) - 1) + b"text",
    "IPv4 of 3 bytes": X + b"\x06\x7f\x00\x00",
    "IPv6 of 15 bytes": X + b"\x07" + bytes(15),
    "integer without bytes": X + b"\x04",
    "truncated varint": X + b"\x04\xf0\x80",
    "varint of 66 bits": X + b"\x04\xff" + b"\xff" * 8 + b"\x7f",
    "varint of 11 bytes": X + b"\x04\xf0" + b"\x80" * 9 + b"\x00",
    "varint without end": X + b"\x04" + b"\xff" * 200,
    "one argument too few": message("echo", ("x", int64(7)), nb_args=2),
    "254 arguments too few": message("echo", ("x", int64(7)), nb_args=255),
    "one argument too many": message("echo", ("x", int64(7)), nb_args=0),
    "no number of arguments": string("echo"),
    "name longer than the frame": b"\x7fecho\x00",
    "name of 2^64 - 1 bytes": varint((1 << 64) - 1) + b"echo\x00",
    "argument name longer than the frame": string("echo") + b"\x01\x7fx\x00",
    "argument without value": string("echo") + b"\x01" + string("x"),
    "trailing byte": ECHO + b"\x00",
    "trailing bytes": ECHO + b"\xff\xff\xff",
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_malformed(peer: Peer, payload: bytes) -> None:
    """A NOTIFY whose payload is not a LIST-OF-MESSAGES is invalid: status code 4 (3.2, 3.5)."""
    peer.send(notify(payload))
    peer.expect_disconnect(Status.INVALID)


def test_varint_as_long_as_a_frame(new_peer: Peer) -> None:
    """The agent refuses a varint at its eleventh byte, and does not read on for a megabyte (3.1)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(1 << 20)})
    new_peer.send(notify(X + b"\x04" + b"\xff" * 1_000_000))
    new_peer.expect_disconnect(Status.INVALID)


def test_malformed_behind_valid(peer: Peer) -> None:
    """A payload with a valid and a malformed message is invalid (3.2, 3.5)."""
    peer.send(notify(ECHO, b"\x04echo\x01\x01x\x0a"))
    peer.expect_disconnect(Status.INVALID)


def test_malformed_inside_unknown(peer: Peer) -> None:
    """A malformed message is invalid, also if it has no handler (3.2, 3.5)."""
    peer.send(notify(message("no-such-message", ("x", b"\x0a")), ECHO))
    peer.expect_disconnect(Status.INVALID)


@pytest.mark.parametrize("value", [b"\x02" + varint(1 << 31), b"\x03" + varint(1 << 32)], ids=bytes.hex)
def test_integer_out_of_range(connect: Connect, value: bytes) -> None:
    """A 32-bit integer of more than 32 bits is invalid, or is accepted with its value (3.1)."""
    peer = connect()
    peer.handshake()
    peer.send(notify(message("names", ("x", value))))
    received = peer.frame()
    if received.type == FrameType.ACK:
        assert read_actions(received.payload) == [SetVar("txn.name0", text("x"))]
    else:
        assert read_status(received) == Status.INVALID
        peer.expect_eof()


@pytest.mark.parametrize("name", ["", b"\xff\xfe", b"a\x00b", "x" * 1000])
def test_strange_message_name(peer: Peer, name: str | bytes) -> None:
    """The name of a message may be any STRING. A message without a handler does not affect others (3.2)."""
    assert peer.request(message(name, ("x", int64(1))), ECHO) == ECHOED


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\x00b", b"x" * 1000, b"a b"])
def test_strange_argument_name(peer: Peer, name: bytes) -> None:
    """The name of an argument may be any STRING, and the handler gets it unchanged (3.2)."""
    sent = message("names", (name, int64(1)))
    assert peer.request(sent) == [SetVar("txn.name0", text(name))]


def test_unnamed_arguments(peer: Peer) -> None:
    """Unnamed arguments, as of `args frontend=fe_id src dst`, keep their positions (3.2)."""
    arguments = [("frontend", int64(2)), ("", ipv4("192.0.2.1")), ("", ipv6("::1"))]
    assert peer.request(message("by-position", *arguments)) == [
        SetVar(f"txn.arg{index}", value) for index, (_, value) in enumerate(arguments)
    ]
    assert peer.request(message("names", *arguments)) == [
        SetVar(f"txn.name{index}", text(name)) for index, (name, _) in enumerate(arguments)
    ]


def test_repeated_arguments(peer: Peer) -> None:
    """The handler gets all arguments that have the same name (3.2)."""
    arguments = [("x", int64(number)) for number in range(3)]
    assert peer.request(message("by-position", *arguments)) == [
        SetVar(f"txn.arg{index}", value) for index, (_, value) in enumerate(arguments)
    ]


def test_no_arguments(peer: Peer) -> None:
    """A message may have no arguments (3.2)."""
    assert peer.request(message("echo"), ECHO) == ECHOED


def test_255_arguments(new_peer: Peer) -> None:
    """A message may have 255 arguments, the most that NB-ARGS can hold (3.2)."""
    new_peer.handshake({**HELLO, "max-frame-size": uint32(65532)})
    arguments = [(f"x{number}", int64(number)) for number in range(255)]
    assert new_peer.request(message("echo", *arguments)) == [SetVar(f"txn.{name}", value) for name, value in arguments]

"""Tests of this folder's own encoder and decoder, with recorded bytes of HAProxy."""

from __future__ import annotations

import pytest

from .rawspop import (
    HELLO,
    NULL,
    Action,
    FrameType,
    Malformed,
    Reader,
    SetVar,
    UnsetVar,
    Value,
    binary,
    boolean,
    disconnect,
    frame_body,
    hello,
    int32,
    int64,
    ipv4,
    ipv6,
    message,
    notify,
    read_actions,
    read_frame,
    read_kv_list,
    text,
    typed,
    uint32,
    uint64,
    varint,
)

VARINTS = [
    (0, "00"),
    (239, "ef"),
    (240, "f000"),
    (2287, "ff7f"),
    (2288, "f08000"),
    (16380, "fcf006"),
    (264431, "ffff7f"),
    (264432, "f0808000"),
    (2**63 - 1, "fff0fefefefefefefe06"),
    (2**64 - 5, "fbf0fefefefefefefe0e"),
]


@pytest.mark.parametrize(("number", "encoded"), VARINTS)
def test_varint_both_ways(number: int, encoded: str) -> None:
    """varint and Reader.varint use the encoding of SPOE.txt 3.1, at every edge."""
    assert varint(number).hex() == encoded
    assert Reader(bytes.fromhex(encoded)).varint() == number


VALUES = [
    (NULL, "00"),
    (boolean(False), "01"),
    (boolean(True), "11"),
    (int32(42), "022a"),
    (uint32(16380), "03fcf006"),
    (int64(-5), "04fbf0fefefefefefefe0e"),
    (int32(-5), "02fbf0fefefefefefefe0e"),
    (uint64(2**64 - 5), "05fbf0fefefefefefefe0e"),
    (ipv4("127.0.0.1"), "067f000001"),
    (ipv6("::1"), "0700000000000000000000000000000001"),
    (text("2.0"), "0803322e30"),
    (binary(b"\0"), "090100"),
]


@pytest.mark.parametrize(("value", "encoded"), VALUES)
def test_typed_data_both_ways(value: Value, encoded: str) -> None:
    """A typed value has its type in the low four bits and its flags in the high four bits of the first byte (3.1)."""
    assert typed(value).hex() == encoded
    assert Reader(bytes.fromhex(encoded)).value() == value


def test_hello_is_the_recorded_one() -> None:
    """hello returns the bytes of HAProxy 2.6's HELLO (SPOE.txt 3.2.4)."""
    assert hello(HELLO) == (
        b"\x00\x00\x00\x81\x01\x00\x00\x00\x01\x00\x00"
        b"\x12supported-versions\x08\x032.0\x0emax-frame-size\x03\xfc\xf0\x06"
        b"\x0ccapabilities\x08\x10pipelining,async"
        b"\x09engine-id\x08\x248a3a1c5e-2f0b-4d4e-9b6a-0f4c7d1e2a3b"
    )


def test_notify_is_the_recorded_one() -> None:
    """notify returns the bytes of a recorded NOTIFY (SPOE.txt 3.2.6)."""
    body = b"\x03\x00\x00\x00\x01\x01\x01\x08check-ip\x01\x02ip\x06\x7f\x00\x00\x01"
    sent = notify(message("check-ip", ("ip", ipv4("127.0.0.1"))))
    assert sent == bytes([0, 0, 0, len(body)]) + body


def test_disconnect_is_the_recorded_one() -> None:
    """disconnect returns the bytes of a recorded DISCONNECT (SPOE.txt 3.2.8)."""
    body = b"\x02\x00\x00\x00\x01\x00\x00\x0bstatus-code\x03\x00\x07message\x08\x06normal"
    assert disconnect() == bytes([0, 0, 0, len(body)]) + body


def test_frames_of_the_agent_are_decoded() -> None:
    """An AGENT-HELLO and an ACK that HAProxy accepts are decoded (3.2.5, 3.2.7)."""
    greeting = read_frame(
        b"\x65\x00\x00\x00\x01\x00\x00\x07version\x08\x032.0"
        b"\x0emax-frame-size\x03\xfc\xf0\x06\x0ccapabilities\x08\x0apipelining"
    )
    assert greeting[:4] == (FrameType.AGENT_HELLO, 1, 0, 0)
    assert read_kv_list(greeting.payload) == {
        "version": text("2.0"),
        "max-frame-size": uint32(16380),
        "capabilities": text("pipelining"),
    }
    ack = read_frame(b"\x67\x00\x00\x00\x01\x01\x01\x01\x03\x02\x08ip_score\x02\x2a")
    assert ack[:4] == (FrameType.ACK, 1, 1, 1)
    assert read_actions(ack.payload) == [SetVar("txn.ip_score", int32(42))]


@pytest.mark.parametrize(
    ("payload", "actions"),
    [
        (b"", []),
        (b"\x00", []),
        (b"\x02\x02\x04\x01a", [UnsetVar("res.a")]),
        (
            b"\x01\x03\x00\x01a\x11\x01\x03\x01\x01b\x00",
            [SetVar("proc.a", boolean(True)), SetVar("sess.b", NULL)],
        ),
    ],
)
def test_actions_are_decoded(payload: bytes, actions: list[Action]) -> None:
    """A LIST-OF-ACTIONS is decoded in its order (SPOE.txt 3.4)."""
    assert read_actions(payload) == actions


@pytest.mark.parametrize(
    "payload",
    [b"\x00\x00", b"\x01\x02\x00\x01a", b"\x01\x03\x05\x01a\x00", b"\x01\x03\x00\x01a"],
    ids=["action", "nb-args", "scope", "truncated"],
)
def test_wrong_actions_are_refused(payload: bytes) -> None:
    """Actions that SPOE.txt 3.4 does not allow raise Malformed, which fails the test that reads them."""
    with pytest.raises(Malformed):
        read_actions(payload)


@pytest.mark.parametrize(
    "data",
    ["0a", "31", "14", "03", "08ff7f", "03f0fefefefefefefefe0e", "0300f0"],
)
def test_wrong_values_are_refused(data: str) -> None:
    """A value that SPOE.txt 3.1 does not define raises Malformed, which fails the test that reads it."""
    with pytest.raises(Malformed):
        read_kv_list(b"\x01a" + bytes.fromhex(data))


def test_an_aborting_fragment_is_encoded() -> None:
    """frame_body puts type, flags, ids and an empty payload in the order of SPOE.txt 3.2."""
    body = frame_body(FrameType.UNSET, flags=3, stream_id=0, frame_id=1)
    assert body.hex() == "00000000030001"

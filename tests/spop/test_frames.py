"""Frames, FrameBuffer, and the payloads of HELLO and DISCONNECT (SPOE.txt, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from spoa_twisted.spop.errors import (
    BadMaxFrameSize,
    CapabilitiesNotFound,
    FrameTooBig,
    InvalidFrame,
    MaxFrameSizeNotFound,
    SPOPError,
    UnsupportedVersion,
    VersionNotFound,
)
from spoa_twisted.spop.frames import (
    AgentHello,
    Disconnect,
    Flags,
    Frame,
    FrameBuffer,
    FrameType,
    HAProxyHello,
    decode_ids,
    encode_frame,
    encode_ids,
    frame_overhead,
)
from spoa_twisted.spop.typeddata import Int32, Int64, UInt32, UInt64, Value, encode_kv_list

# Frames as HAProxy sends them, in hexadecimal and without FRAME-LENGTH.
NOTIFY = "03000000010101" + "08636865636b2d6970" + "01" + "026970" + "067f000001"
FRAMES: list[tuple[Frame, str]] = [
    ((3, 1, b"\x01\x01", bytes.fromhex(NOTIFY[14:])), NOTIFY),
    ((0, 3, b"\x00\x01", b""), "00000000030001"),
    ((103, 1, b"\xff\xf0\xfe\xfe\xfe\xfe\xfe\xfe\xfe\x0e\xf0\x00", b"x"), "6700000001fff0fefefefefefefe0ef00078"),
    ((42, 0xFFFF_FFF1, b"\x00\x00", b""), "2afffffff10000"),
    ((3, 0, b"\xef\xf0\x80\x00", b"y" * 1000), "0300000000eff08000" + "79" * 1000),
]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def in_pieces_of_seven(data: bytes) -> Iterator[bytes]:
    for index in range(0, len(data), 7):
        yield data[index : index + 7]


def cut(buffer: FrameBuffer, pieces: Iterator[bytes]) -> list[Frame]:
    """Feed ``pieces`` to ``buffer``, and return all frames that come out."""
    frames = []
    for piece in pieces:
        buffer.feed(piece)
        while (frame := buffer.next_frame()) is not None:
            frames.append(frame)
    return frames


def framed(body: str) -> bytes:
    data = bytes.fromhex(body)
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("arrive", [whole, byte_by_byte, in_pieces_of_seven])
@pytest.mark.parametrize(("frame", "body"), FRAMES)
def test_a_frame_comes_out_as_it_was_sent(frame: Frame, body: str, arrive: Any) -> None:
    """A frame comes out of the buffer unchanged, however its bytes arrive, and the buffer is empty then."""
    buffer = FrameBuffer(2000)
    assert cut(buffer, arrive(framed(body))) == [frame]
    assert len(buffer) == 0


@pytest.mark.parametrize("arrive", [whole, byte_by_byte, in_pieces_of_seven])
def test_frames_come_out_in_order_and_the_rest_stays(arrive: Any) -> None:
    """Frames come out in their order, and the beginning of another frame stays in the buffer."""
    buffer = FrameBuffer(2000)
    data = b"".join([framed(body) for _, body in FRAMES]) * 3
    assert cut(buffer, arrive(data + b"\x00\x00\x00\x08\x03")) == [frame for frame, _ in FRAMES] * 3
    assert len(buffer) == 5


def test_bytes_can_be_fed_while_frames_are_left() -> None:
    """Bytes that are fed while the buffer still holds frames come after these frames."""
    buffer = FrameBuffer(2000)
    data = b"".join([framed(body) for _, body in FRAMES])
    buffer.feed(data[:100])
    assert buffer.next_frame() == FRAMES[0][0]
    buffer.feed(data[100:])
    frames = [buffer.next_frame() for _ in FRAMES]
    assert frames == [*[frame for frame, _ in FRAMES[1:]], None]


def test_two_cuts_anywhere() -> None:
    """The same frames come out, and the length is right, wherever two cuts fall and whenever frames are taken out."""
    frames = [(3, 1, b"\x01\x01", b"abc"), (3, 1, b"\xf0\x00\x01", b""), (1, 1, b"\x00\x00", b"defghij")]
    data = b"".join([encode_frame(*frame) for frame in frames])
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            for taken in product([0, 1, 9], repeat=2):
                buffer = FrameBuffer(2000)
                received: list[Any] = []
                for piece, most in zip((data[:first], data[first:second], data[second:]), (*taken, 9), strict=True):
                    buffer.feed(piece)
                    for _ in range(most):
                        received += filter(None, [buffer.next_frame()])
                assert received == frames
                assert len(buffer) == 0


def test_only_the_end_of_a_cut_frame_is_copied() -> None:
    """Of the bytes that end an incomplete frame, those behind the frame are not copied: they may be many frames."""
    buffer = FrameBuffer(2000)
    frame = encode_frame(3, 1, b"\x01\x01", b"abc")
    buffer.feed(frame[:-1])
    assert buffer.next_frame() is None
    read = frame[-1:] + frame * 9
    buffer.feed(read)
    assert buffer._rest is read
    assert len(buffer) == 10 * len(frame)
    assert buffer.next_frame() is not None
    assert buffer.next_frame() is not None
    assert buffer._data is read


@pytest.mark.parametrize("behind", [b"", b"\xff" * 20])
@pytest.mark.parametrize(("frame", "body"), FRAMES)
def test_a_whole_notify_comes_out_without_a_copy_of_its_payload(frame: Frame, body: str, behind: bytes) -> None:
    """next_notify returns the NOTIFYs in one frame only. Otherwise it leaves the frame to next_frame."""
    data = framed(body)
    for end in range(len(data) + 1):
        buffer = FrameBuffer(2000)
        buffer.feed(data[:end] + behind if end == len(data) else data[:end])
        found = buffer.next_notify()
        if end == len(data) and frame[0] == FrameType.NOTIFY and frame[1] & Flags.FIN:
            assert found is not None
            ids, read, start, stop = found
            assert (ids, read[start:stop]) == frame[2:]
            assert len(buffer) == len(behind)
        else:
            assert found == (None if data[:end] else (b"", b"", 0, 0))
            assert len(buffer) == end + (len(behind) if end == len(data) else 0)
            assert buffer.next_frame() == (frame if end == len(data) else None)


@pytest.mark.parametrize(
    "body",
    [
        "0300000001f0ff",
        "030000000101f0",
        "0300000001" + "ff" * 12,
        "0300000001" + "01" + "ff" * 12,
        "0300000001" + "ff" * 11 + "0001" + "00" * 3,
        "0300000001",
    ],
)
@pytest.mark.parametrize("behind", ["", "00" * 30, "ff" * 30])
def test_a_notify_with_bad_ids_has_the_same_error(body: str, behind: str) -> None:
    """next_notify leaves it to next_frame."""
    errors = []
    for call in (FrameBuffer.next_frame,), (FrameBuffer.next_notify, FrameBuffer.next_frame):
        buffer = FrameBuffer(2000)
        buffer.feed(framed(body) + bytes.fromhex(behind))
        with pytest.raises(InvalidFrame) as caught:
            [method(buffer) for method in call]
        errors.append((str(caught.value), caught.value.offset))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(("frame", "body"), FRAMES[:3])
def test_a_frame_is_encoded_as_haproxy_reads_it(frame: Frame, body: str) -> None:
    """The encoding is FRAME-LENGTH, type, flags, ids and payload, in this order."""
    assert encode_frame(*frame) == framed(body)


@pytest.mark.parametrize("size", [2001, 2**31 - 1, 2**32 - 1])
def test_a_length_is_checked_before_the_frame_arrives(size: int) -> None:
    """A frame that is too big raises FrameTooBig as soon as the four bytes of its length have arrived."""
    buffer = FrameBuffer(2000)
    data = size.to_bytes(4, "big")
    assert cut(buffer, byte_by_byte(data[:3])) == []
    buffer.feed(data[3:])
    with pytest.raises(FrameTooBig, match=str(size)):
        buffer.next_frame()


def test_a_frame_of_max_frame_size_is_accepted() -> None:
    """A frame of exactly max_frame_size bytes is not too big."""
    buffer = FrameBuffer(2000)
    assert len(cut(buffer, whole(framed("0300000001" + "0101" + "00" * 1993)))) == 1


@pytest.mark.parametrize("size", range(7))
def test_a_length_below_a_header_is_an_error(size: int) -> None:
    """A length below 7 raises InvalidFrame: type, flags and ids take at least seven bytes."""
    buffer = FrameBuffer(2000)
    buffer.feed(size.to_bytes(4, "big"))
    with pytest.raises(InvalidFrame, match="too short"):
        buffer.next_frame()


@pytest.mark.parametrize(
    "body", ["0300000001f0ff", "030000000101f0", "0300000001" + "ff" * 12, "0300000001" + "01" + "ff" * 12]
)
@pytest.mark.parametrize("behind", ["", "00" * 30])
def test_a_header_that_ends_inside_an_id_is_an_error(body: str, behind: str) -> None:
    """Ids that do not end within the frame, or have more than 64 bits, raise InvalidFrame, whatever bytes follow."""
    buffer = FrameBuffer(2000)
    buffer.feed(framed(body) + bytes.fromhex(behind))
    with pytest.raises(InvalidFrame):
        buffer.next_frame()


def test_a_frame_that_arrives_byte_by_byte_is_not_copied_each_time() -> None:
    """An incomplete frame grows in place in one bytearray, so small pieces cost no more than large ones."""
    buffer = FrameBuffer(2**20)
    buffer.feed((2**20).to_bytes(4, "big"))
    assert buffer.next_frame() is None
    partial = buffer._partial
    for _ in range(1000):
        buffer.feed(b"x")
        assert buffer.next_frame() is None
    assert buffer._partial is partial
    assert len(buffer) == 1004


@pytest.mark.parametrize(("stream_id", "frame_id"), [(0, 0), (0, 1), (239, 240), (2**32, 1), (2**64 - 1, 2**64 - 1)])
def test_ids_are_encoded_and_decoded(stream_id: int, frame_id: int) -> None:
    """The stream-id and the frame-id are numbers from 0 to 2^64 - 1, and are decoded to themselves."""
    ids = encode_ids(stream_id, frame_id)
    assert decode_ids(ids) == (stream_id, frame_id)
    assert frame_overhead(ids) == 5 + len(ids)


# HAProxy 2.6 and 3.2 send the payloads below.
VERSIONS = "12737570706f727465642d76657273696f6e73" + "0803322e30"
SIZE = "0e6d61782d6672616d652d73697a65" + "03fcf006"
CAPABILITIES = "0c6361706162696c6974696573"


@pytest.mark.parametrize(
    ("hello", "encoded"),
    [
        (
            HAProxyHello(capabilities=frozenset({"pipelining", "async"}), engine_id="E"),
            VERSIONS + SIZE + CAPABILITIES + "0810706970656c696e696e672c6173796e63" + "09656e67696e652d6964" + "080145",
        ),
        (
            HAProxyHello(capabilities=frozenset({"pipelining"})),
            VERSIONS + SIZE + CAPABILITIES + "080a706970656c696e696e67",
        ),
        (
            HAProxyHello(healthcheck=True),
            VERSIONS + SIZE + CAPABILITIES + "0800" + "0b6865616c7468636865636b" + "11",
        ),
    ],
)
def test_haproxys_hello_is_encoded_and_decoded(hello: HAProxyHello, encoded: str) -> None:
    """A HAProxyHello is encoded as HAProxy sends it, and the bytes are decoded to an equal HAProxyHello."""
    assert hello.encode() == bytes.fromhex(encoded)
    assert HAProxyHello.decode(bytes.fromhex(encoded)) == hello


def test_an_agents_hello_is_encoded_and_decoded() -> None:
    """An AgentHello has the bytes that HAProxy accepts, which are decoded to an equal AgentHello."""
    hello = AgentHello(max_frame_size=16380, capabilities=frozenset({"pipelining"}))
    encoded = "0776657273696f6e0803322e30" + SIZE + CAPABILITIES + "080a706970656c696e696e67"
    assert hello.encode() == bytes.fromhex(encoded)
    assert AgentHello.decode(bytes.fromhex(encoded)) == hello


GOOD: dict[str, Value] = {"supported-versions": "2.0", "max-frame-size": UInt32(16380), "capabilities": "pipelining"}


@pytest.mark.parametrize(
    "versions", ["2.0", " 2.0 ", "2.5", "2.0, 1.5", "1.0,2.0", "3.0,2.1", ",2.0,", "nonsense, 2.0"]
)
def test_any_version_2_is_accepted(versions: str) -> None:
    """Any version 2.x in the list is enough: it includes the lower minor versions. Spaces are ignored."""
    assert HAProxyHello.decode(encode_kv_list([*{**GOOD, "supported-versions": versions}.items()]))


@pytest.mark.parametrize(
    "versions", ["1.0", "3.0", "", "2", "2.", ".0", "2.0.0", "-2.0", "20", "22.0", "two.oh", "2,0"]
)
def test_other_versions_are_unsupported(versions: str) -> None:
    """A HELLO without a version 2.x raises UnsupportedVersion."""
    with pytest.raises(UnsupportedVersion):
        HAProxyHello.decode(encode_kv_list([*{**GOOD, "supported-versions": versions}.items()]))
    with pytest.raises(UnsupportedVersion):
        AgentHello.decode(encode_kv_list([("version", versions), *GOOD.items()]))


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        (["supported-versions", "version"], VersionNotFound),
        (["max-frame-size"], MaxFrameSizeNotFound),
        (["capabilities"], CapabilitiesNotFound),
        (["supported-versions", "version", "max-frame-size", "capabilities"], VersionNotFound),
        (["max-frame-size", "capabilities"], MaxFrameSizeNotFound),
    ],
)
def test_mandatory_items_are_demanded(missing: list[str], error: type[SPOPError]) -> None:
    """A HELLO that lacks a mandatory item raises the error of this item."""
    items = [(name, value) for name, value in {**GOOD, "version": "2.0"}.items() if name not in missing]
    with pytest.raises(error):
        HAProxyHello.decode(encode_kv_list(items))
    with pytest.raises(error):
        AgentHello.decode(encode_kv_list(items))


@pytest.mark.parametrize("size", [0, 255, -1, Int32(-1)])
def test_a_size_below_256_is_an_error(size: int) -> None:
    """A max-frame-size below 256 bytes raises BadMaxFrameSize (SPOE.txt, section 3.2)."""
    with pytest.raises(BadMaxFrameSize):
        HAProxyHello.decode(encode_kv_list([*{**GOOD, "max-frame-size": size}.items()]))


@pytest.mark.parametrize("size", [256, Int32(300), UInt32(300), Int64(300), UInt64(2**64 - 1)])
def test_a_size_may_have_any_integer_type(size: int) -> None:
    """A max-frame-size may have any integer type, as HAProxy accepts it from agents, and is decoded to a plain int."""
    hello = HAProxyHello.decode(encode_kv_list([*{**GOOD, "max-frame-size": size}.items()]))
    assert hello.max_frame_size == size
    assert type(hello.max_frame_size) is int


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("supported-versions", b"2.0"),
        ("supported-versions", 2),
        ("supported-versions", None),
        ("max-frame-size", "16380"),
        ("max-frame-size", True),
        ("max-frame-size", None),
        ("capabilities", b"pipelining"),
        ("capabilities", None),
        ("engine-id", 7),
        ("healthcheck", 1),
    ],
)
def test_an_item_of_another_type_is_an_invalid_frame(name: str, value: Any) -> None:
    """An item that has another type than SPOE.txt gives it raises an InvalidFrame that names the item."""
    with pytest.raises(InvalidFrame, match=name):
        HAProxyHello.decode(encode_kv_list([*{**GOOD, name: value}.items()]))


def test_unknown_items_are_skipped() -> None:
    """Unknown items of any type are skipped, also those whose name begins with the name of a known item."""
    items = [*GOOD.items(), ("x", None), ("y", b"\xff"), ("versions", True), ("supported-versionsX", "9.9")]
    assert HAProxyHello.decode(encode_kv_list(items)).supported_versions == ("2.0",)


def test_capabilities_are_a_set() -> None:
    """Spaces and empty items are ignored. A name that only begins with "pipelining" is another capability."""
    hello = HAProxyHello.decode(encode_kv_list([*{**GOOD, "capabilities": " async , ,pipeliningX"}.items()]))
    assert hello.capabilities == {"async", "pipeliningX"}


def test_a_disconnect_is_encoded_and_decoded() -> None:
    """A Disconnect has the bytes that HAProxy accepts, which are decoded to an equal Disconnect."""
    encoded = bytes.fromhex("0b7374617475732d636f6465" + "0300" + "076d657373616765" + "08066e6f726d616c")
    assert Disconnect().encode() == encoded
    assert Disconnect.decode(encoded) == Disconnect(0, "normal")


@pytest.mark.parametrize("message", ["x" * 300, "é" * 200, "\udcff" * 300, "€" * 100])
def test_a_disconnects_message_is_cut(message: str) -> None:
    """A long message is cut to at most 255 bytes, as HAProxy <= 3.0 demands, and never inside a character."""
    cut_message = Disconnect.decode(Disconnect(99, message).encode()).message
    assert 250 < len(cut_message.encode()) <= 255
    assert set(cut_message) <= {message[0], "?"}


@pytest.mark.parametrize(
    ("items", "decoded"),
    [
        ([], Disconnect(99, "")),
        ([("message", "why")], Disconnect(99, "why")),
        ([("status-code", UInt32(3))], Disconnect(3, "")),
        ([("status-code", "3"), ("message", 3)], Disconnect(99, "")),
    ],
)
def test_a_disconnect_may_lack_items(items: list[tuple[str, Any]], decoded: Disconnect) -> None:
    """A missing or wrong status-code becomes 99, a missing or wrong message becomes empty."""
    assert Disconnect.decode(encode_kv_list(items)) == decoded

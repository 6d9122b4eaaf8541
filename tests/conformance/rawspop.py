"""An independent implementation of SPOP, and HAProxy's end of a connection.

It is written from section 3 of SPOE.txt alone and must not import the package under test: a fault of the package's
codec would otherwise occur on both sides, and no test would fail. The decoder is strict: it reads frames of the agent
only, and refuses bytes that SPOE.txt does not allow.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from time import monotonic
from typing import NamedTuple

FIN = 1
ABORT = 2

ANSWER_LIMIT = 10.0
"""The time limit of each read, in seconds. Only a failing test waits so long."""


class FrameType(IntEnum):
    """The types of frames (SPOE.txt 3.2.2)."""

    UNSET = 0
    HAPROXY_HELLO = 1
    HAPROXY_DISCONNECT = 2
    NOTIFY = 3
    AGENT_HELLO = 101
    AGENT_DISCONNECT = 102
    ACK = 103


class DataType(IntEnum):
    """The types of data (SPOE.txt 3.1)."""

    NULL = 0
    BOOL = 1
    INT32 = 2
    UINT32 = 3
    INT64 = 4
    UINT64 = 5
    IPV4 = 6
    IPV6 = 7
    STRING = 8
    BINARY = 9


class Status(IntEnum):
    """The status codes of a DISCONNECT (SPOE.txt 3.5)."""

    NORMAL = 0
    TIMEOUT = 2
    TOO_BIG = 3
    INVALID = 4
    NO_VERSION = 5
    NO_MAX_FRAME_SIZE = 6
    NO_CAPABILITIES = 7
    BAD_VERSION = 8
    BAD_FRAME_SIZE = 9
    FRAGMENTATION_NOT_SUPPORTED = 10
    INTERLACED = 11
    FRAME_ID_NOT_FOUND = 12


SCOPES = ("proc", "sess", "txn", "req", "res")
SET_VAR = 1
UNSET_VAR = 2


class Malformed(AssertionError):
    """The agent sent bytes that SPOE.txt does not allow."""


class NoAnswer(AssertionError):
    """The agent did not send the expected bytes within ANSWER_LIMIT."""


class Value(NamedTuple):
    """A TYPED-DATA. The data of an address is its bytes, so that no library converts it."""

    type: DataType
    data: bool | int | bytes | None


class Frame(NamedTuple):
    """A frame without its FRAME-LENGTH."""

    type: int
    flags: int
    stream_id: int
    frame_id: int
    payload: bytes


class SetVar(NamedTuple):
    """A set-var action of an ACK, its variable as "scope.name"."""

    variable: str
    value: Value


class UnsetVar(NamedTuple):
    """An unset-var action of an ACK, its variable as "scope.name"."""

    variable: str


Action = SetVar | UnsetVar
Items = Mapping[str, Value | bytes]
"""The items of a KV-LIST to send. A value that is bytes is sent unchanged: it need not be valid TYPED-DATA."""

NULL = Value(DataType.NULL, None)


def boolean(truth: bool) -> Value:
    return Value(DataType.BOOL, truth)


def int32(number: int) -> Value:
    return Value(DataType.INT32, number)


def uint32(number: int) -> Value:
    return Value(DataType.UINT32, number)


def int64(number: int) -> Value:
    return Value(DataType.INT64, number)


def uint64(number: int) -> Value:
    return Value(DataType.UINT64, number)


def ipv4(address: str) -> Value:
    return Value(DataType.IPV4, IPv4Address(address).packed)


def ipv6(address: str) -> Value:
    return Value(DataType.IPV6, IPv6Address(address).packed)


def text(content: str | bytes) -> Value:
    return Value(DataType.STRING, _as_bytes(content))


def binary(content: bytes) -> Value:
    return Value(DataType.BINARY, content)


def _as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def varint(number: int) -> bytes:
    """Encode a number in the "Peers encoding" of SPOE.txt 3.1."""
    if number < 240:
        return bytes([number])
    encoded = [0xF0 | number & 0x0F]
    number = (number - 240) >> 4
    while number >= 128:
        encoded.append(0x80 | number & 0x7F)
        number = (number - 128) >> 7
    return bytes([*encoded, number])


def string(content: str | bytes) -> bytes:
    content = _as_bytes(content)
    return varint(len(content)) + content


def typed(value: Value | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    kind, data = value
    if data is None:
        return bytes([kind])
    if kind is DataType.BOOL:
        return bytes([kind | 0x10 if data else kind])
    if isinstance(data, int):
        # A negative number is sent as its 64-bit two's complement, also as INT32.
        return bytes([kind]) + varint(data & 0xFFFFFFFFFFFFFFFF)
    if kind in (DataType.IPV4, DataType.IPV6):
        return bytes([kind]) + data
    return bytes([kind]) + string(data)


def kv_list(items: Items) -> bytes:
    return b"".join(string(name) + typed(value) for name, value in items.items())


def length_and(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def frame_body(
    kind: int,
    payload: bytes = b"",
    *,
    flags: int = FIN,
    stream_id: int = 0,
    frame_id: int = 0,
) -> bytes:
    return struct.pack(">BI", kind, flags) + varint(stream_id) + varint(frame_id) + payload


def frame(
    kind: int,
    payload: bytes = b"",
    *,
    flags: int = FIN,
    stream_id: int = 0,
    frame_id: int = 0,
) -> bytes:
    return length_and(frame_body(kind, payload, flags=flags, stream_id=stream_id, frame_id=frame_id))


HELLO: Items = {
    "supported-versions": text("2.0"),
    "max-frame-size": uint32(16380),
    "capabilities": text("pipelining,async"),
    "engine-id": text("8a3a1c5e-2f0b-4d4e-9b6a-0f4c7d1e2a3b"),
}


def hello(items: Items = HELLO) -> bytes:
    return frame(FrameType.HAPROXY_HELLO, kv_list(items))


def disconnect(status: int = 0, message: str = "normal") -> bytes:
    return frame(
        FrameType.HAPROXY_DISCONNECT,
        kv_list({"status-code": uint32(status), "message": text(message)}),
    )


def message(
    name: str | bytes,
    *arguments: tuple[str | bytes, Value | bytes],
    nb_args: int | None = None,
) -> bytes:
    count = len(arguments) if nb_args is None else nb_args
    return string(name) + bytes([count]) + b"".join(string(key) + typed(value) for key, value in arguments)


def notify(*messages: bytes, stream_id: int = 1, frame_id: int = 1, flags: int = FIN) -> bytes:
    return frame(
        FrameType.NOTIFY,
        b"".join(messages),
        flags=flags,
        stream_id=stream_id,
        frame_id=frame_id,
    )


def unset(payload: bytes = b"", *, stream_id: int = 1, frame_id: int = 1, flags: int = FIN) -> bytes:
    return frame(FrameType.UNSET, payload, flags=flags, stream_id=stream_id, frame_id=frame_id)


def fragments(pieces: Iterable[bytes], *, stream_id: int = 1, frame_id: int = 1) -> list[bytes]:
    """Return the payload of one NOTIFY as frames: a NOTIFY, then UNSETs. The last one has the flag FIN."""
    pieces = list(pieces)
    last = len(pieces) - 1
    return [
        frame(
            FrameType.UNSET if index else FrameType.NOTIFY,
            piece,
            flags=FIN if index == last else 0,
            stream_id=stream_id,
            frame_id=frame_id,
        )
        for index, piece in enumerate(pieces)
    ]


class Reader:
    """Decodes bytes of the agent from the first to the last, and raises Malformed if they are invalid."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def __bool__(self) -> bool:
        return self._offset < len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._offset : self._offset + count]
        if len(taken) < count:
            raise Malformed(f"{count} bytes wanted at offset {self._offset} of {self._data!r}")
        self._offset += count
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._offset)

    def varint(self) -> int:
        number = byte = self.byte()
        if number < 240:
            return number
        shift = 4
        while True:
            byte = self.byte()
            number += byte << shift
            shift += 7
            if byte < 128:
                break
        if number >= 1 << 64:
            raise Malformed(f"varint of more than 64 bits in {self._data!r}")
        return number

    def string(self) -> bytes:
        return self.take(self.varint())

    def value(self) -> Value:
        byte = self.byte()
        flags = byte >> 4
        try:
            kind = DataType(byte & 0x0F)
        except ValueError:
            raise Malformed(f"reserved type {byte:#04x} in {self._data!r}") from None
        if flags > (1 if kind is DataType.BOOL else 0):
            raise Malformed(f"undefined flag in {byte:#04x} in {self._data!r}")
        return Value(kind, self._data_of(kind, flags))

    def _data_of(self, kind: DataType, flags: int) -> bool | int | bytes | None:
        match kind:
            case DataType.NULL:
                return None
            case DataType.BOOL:
                return bool(flags)
            case DataType.INT32 | DataType.INT64:
                number = self.varint()
                number -= (number >> 63) << 64
                return self._in_range(number, kind, signed=True)
            case DataType.UINT32 | DataType.UINT64:
                return self._in_range(self.varint(), kind, signed=False)
            case DataType.IPV4:
                return self.take(4)
            case DataType.IPV6:
                return self.take(16)
            case DataType.STRING | DataType.BINARY:
                return self.string()

    def _in_range(self, number: int, kind: DataType, *, signed: bool) -> int:
        bits = 32 if kind in (DataType.INT32, DataType.UINT32) else 64
        low = -(1 << bits - 1) if signed else 0
        if not low <= number < low + (1 << bits):
            raise Malformed(f"{number} is outside the range of {kind.name}")
        return number


def read_frame(body: bytes) -> Frame:
    reader = Reader(body)
    kind, flags = struct.unpack(">BI", reader.take(5))
    return Frame(kind, flags, reader.varint(), reader.varint(), reader.rest())


def read_kv_list(payload: bytes) -> dict[str, Value]:
    reader = Reader(payload)
    items: dict[str, Value] = {}
    while reader:
        name = reader.string().decode("ascii")
        if name in items:
            raise Malformed(f"{name!r} twice in {payload!r}")
        items[name] = reader.value()
    return items


def read_actions(payload: bytes) -> list[Action]:
    # HAProxy 3.1.0 waits for its timeout after an ACK with an empty payload. Every version ignores an unknown
    # action. So one zero byte is a valid way to send no actions.
    if payload == b"\0":
        return []
    reader = Reader(payload)
    actions: list[Action] = []
    while reader:
        kind, nb_args, scope = reader.take(3)
        if (kind, nb_args) not in ((SET_VAR, 3), (UNSET_VAR, 2)):
            raise Malformed(f"action {kind} with {nb_args} arguments in {payload!r}")
        if scope >= len(SCOPES):
            raise Malformed(f"scope {scope} in {payload!r}")
        variable = f"{SCOPES[scope]}.{reader.string().decode('ascii')}"
        if kind == SET_VAR:
            actions.append(SetVar(variable, reader.value()))
        else:
            actions.append(UnsetVar(variable))
    return actions


def check_header(received: Frame, kind: FrameType) -> None:
    """Check the header of a frame that belongs to no stream (SPOE.txt 3.2.5 and 3.2.9): type, FIN, and ids 0."""
    assert received.type == kind, f"{kind.name} expected, not {received}"
    assert received.flags == FIN, f"{kind.name} cannot be fragmented: {received}"
    assert (received.stream_id, received.frame_id) == (0, 0), received


def read_status(received: Frame) -> int:
    """Check an AGENT-DISCONNECT (SPOE.txt 3.2.9), and return its status code."""
    check_header(received, FrameType.AGENT_DISCONNECT)
    items = read_kv_list(received.payload)
    assert items.keys() >= {"status-code", "message"}, items
    status, reason = items["status-code"], items["message"]
    assert status.type is DataType.UINT32, items
    assert reason.type is DataType.STRING, items
    assert isinstance(status.data, int)
    assert isinstance(reason.data, bytes)
    # HAProxy <= 3.0 answers a longer message with "invalid frame".
    assert len(reason.data) <= 255, items
    assert b"Traceback" not in reason.data, items
    return status.data


class Peer:
    """HAProxy's end of one connection. Its calls block, and each read has a time limit."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.settimeout(ANSWER_LIMIT)
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise
        self.agreed: int | None = None

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with an RST, as HAProxy >= 3.1 closes an idle connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def send(self, *data: bytes) -> None:
        self.socket.settimeout(ANSWER_LIMIT)
        self.socket.sendall(b"".join(data))

    def offer(self, *data: bytes) -> None:
        """Send bytes to an agent that may close the connection before it has read all of them."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send(*data)

    def _receive(self, count: int, what: str) -> bytes:
        """Return ``count`` bytes, or fewer if the connection ends before. ``what`` describes them in an error."""
        deadline = monotonic() + ANSWER_LIMIT
        received = bytearray()
        while len(received) < count:
            remaining = deadline - monotonic()
            try:
                if remaining <= 0:
                    raise TimeoutError
                self.socket.settimeout(remaining)
                chunk = self.socket.recv(count - len(received))
            except TimeoutError:
                raise NoAnswer(f"waited {ANSWER_LIMIT} s for {what}, got {bytes(received)!r}") from None
            if not chunk:
                break
            received += chunk
        return bytes(received)

    def body(self) -> bytes | None:
        """Return the bytes of the next frame, without its length, or None at the end of the stream."""
        prefix = self._receive(4, "a frame's length")
        if not prefix:
            return None
        assert len(prefix) == 4, f"stream ends inside a frame's length: {prefix!r}"
        (length,) = struct.unpack(">I", prefix)
        assert self.agreed is None or length <= self.agreed, f"a frame of {length} bytes exceeds {self.agreed} bytes"
        body = self._receive(length, f"a frame of {length} bytes")
        assert len(body) == length, f"stream ends inside a frame: {body!r}"
        return body

    def frame(self) -> Frame:
        body = self.body()
        assert body is not None, "the agent closed the connection instead of sending a frame"
        return read_frame(body)

    def frames_to_end(self) -> list[Frame]:
        """Return all frames until the connection is closed, by a FIN or by an RST."""
        frames = []
        with suppress(ConnectionResetError):
            while (body := self.body()) is not None:
                frames.append(read_frame(body))
        return frames

    def expect_eof(self) -> None:
        body = self.body()
        assert body is None, f"end of stream expected, not {body!r}"

    def agent_hello(self) -> dict[str, Value]:
        received = self.frame()
        check_header(received, FrameType.AGENT_HELLO)
        items = read_kv_list(received.payload)
        agreed = items["max-frame-size"].data
        assert isinstance(agreed, int)
        self.agreed = agreed
        return items

    def handshake(self, items: Items = HELLO) -> dict[str, Value]:
        self.send(hello(items))
        return self.agent_hello()

    def acknowledgement(self) -> tuple[int, int, list[Action]]:
        """Receive an ACK with the flag FIN; return its stream-id, its frame-id and its actions."""
        received = self.frame()
        assert received.type == FrameType.ACK, f"ACK expected, not {received}"
        assert received.flags == FIN, f"an ACK must not be fragmented: {received}"
        return received.stream_id, received.frame_id, read_actions(received.payload)

    def actions(self, stream_id: int = 1, frame_id: int = 1) -> list[Action]:
        """Receive the ACK with these ids; return its actions."""
        *ids, actions = self.acknowledgement()
        assert ids == [stream_id, frame_id], f"an ACK of {ids} instead of {[stream_id, frame_id]}"
        return actions

    def request(self, *messages: bytes, stream_id: int = 1, frame_id: int = 1) -> list[Action]:
        self.send(notify(*messages, stream_id=stream_id, frame_id=frame_id))
        return self.actions(stream_id, frame_id)

    def expect_disconnect(self, *statuses: int) -> None:
        """Receive an AGENT-DISCONNECT with one of these codes, then the end of the connection, and nothing else."""
        frames = self.frames_to_end()
        assert len(frames) == 1, f"one AGENT-DISCONNECT expected, not {frames}"
        status = read_status(frames[0])
        assert status in statuses, f"status code {status} instead of one of {statuses}: {frames[0]}"

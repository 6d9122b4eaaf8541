"""Frames: their header, the buffer that cuts them out of a byte stream, and the payloads of HELLO and DISCONNECT.

SPOE.txt, section 3.2. A frame is its length (4 bytes, big endian, not counting itself), its type (1 byte), its flags
(4 bytes), two varints that name the stream and the frame within it, and a payload.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, final

from spoa_twisted.spop.errors import (
    BadMaxFrameSize,
    CapabilitiesNotFound,
    FrameTooBig,
    InvalidFrame,
    MaxFrameSizeNotFound,
    StatusCode,
    UnsupportedVersion,
    VersionNotFound,
)
from spoa_twisted.spop.typeddata import UInt32, Value, decode_kv_list, encode_kv_list
from spoa_twisted.spop.varint import decode_varint, encode_varint, end_of_varint


class FrameType(IntEnum):
    """SPOE.txt, section 3.2.2."""

    #: Every fragment of a payload but the first.
    UNSET = 0
    HAPROXY_HELLO = 1
    HAPROXY_DISCONNECT = 2
    NOTIFY = 3
    AGENT_HELLO = 101
    AGENT_DISCONNECT = 102
    ACK = 103


class Flags(IntFlag):
    """SPOE.txt, section 3.2. The other 30 bits are reserved, and ignored."""

    #: This is the last fragment of the payload, or all of it.
    FIN = 1
    #: Whatever was received of this payload is to be forgotten.
    ABORT = 2


#: The version of SPOP that is spoken here.
VERSION: Final = "2.0"

#: The smallest maximum frame size that a peer may ask for, in bytes (SPOE.txt, section 3.2).
MIN_MAX_FRAME_SIZE: Final = 256

#: What HAProxy asks for with its default ``tune.bufsize``: 16384 bytes, less 4 for the length.
HAPROXY_MAX_FRAME_SIZE: Final = 16380

#: The longest message of a DISCONNECT, in bytes; HAProxy <= 3.0 refuses longer ones.
MAX_DISCONNECT_MESSAGE: Final = 255

_LENGTH_SIZE: Final = 4
_FIXED_HEADER_SIZE: Final = 5  # the type and the flags
_MIN_FRAME_SIZE: Final = 7  # the fixed header and two ids of one byte
_HEADER: Final = struct.Struct(">IBI")  # the length, too
_HEADER_SIZE: Final = _LENGTH_SIZE + _FIXED_HEADER_SIZE

#: The ids of HELLO and DISCONNECT frames: stream-id 0, frame-id 0.
NO_IDS: Final = b"\x00\x00"


#: A frame cut out of the stream: its type, a :class:`FrameType` or a number that SPOE.txt does not know; its flags; its
#: ids, the stream-id and the frame-id as they were sent; its payload, not yet read. A number has one form only, so the
#: ids are a key as good as the numbers, and an ACK repeats them as they are.
Frame = tuple[int, int, bytes, bytes]


def encode_frame(frame_type: int, flags: int, ids: bytes, payload: bytes) -> bytes:
    """Encode a frame, its length in front."""
    return _HEADER.pack(_FIXED_HEADER_SIZE + len(ids) + len(payload), frame_type, flags) + ids + payload


def encode_ids(stream_id: int, frame_id: int) -> bytes:
    """Encode a stream-id and a frame-id, each from 0 to 2^64 - 1.

    :raises ValueError: when one is outside that range.
    """
    return encode_varint(stream_id) + encode_varint(frame_id)


def decode_ids(ids: bytes) -> tuple[int, int]:
    """Return the stream-id and the frame-id that ``ids`` holds.

    :raises InvalidFrame: when it is not two varints.
    """
    stream_id, offset = decode_varint(ids, 0)
    frame_id, offset = decode_varint(ids, offset)
    return stream_id, frame_id


def frame_overhead(ids: bytes) -> int:
    """Return how many bytes of the maximum frame size a frame with these ids takes besides its payload."""
    return _FIXED_HEADER_SIZE + len(ids)


@final
class FrameBuffer:
    """Cuts a stream of bytes, which comes in pieces of any size, into frames.

    A frame's length is judged as soon as its four bytes are there. What is kept is at most one frame and the
    piece that its end came in.
    """

    __slots__ = ("_data", "_needed", "_offset", "_partial", "max_frame_size")

    def __init__(self, max_frame_size: int) -> None:
        #: The longest frame that is let in, in bytes, its length's own four not counted.
        self.max_frame_size = max_frame_size
        self._data = b""
        self._offset = 0
        # What is not worth looking at: the beginning of a frame that has not come whole. It grows in place, and is
        # not looked at again before it holds as many bytes as are needed: a peer that sends single bytes costs
        # no more than another.
        self._partial = bytearray()
        self._needed = 0

    def __len__(self) -> int:
        """Return how many bytes are held."""
        return len(self._data) - self._offset + len(self._partial)

    def feed(self, data: bytes) -> None:
        """Take in what was received."""
        if self._offset < len(self._data):
            self._wait_for(0)
        if self._partial:
            self._partial += data
        else:
            self._data = data
            self._offset = 0

    def clear(self) -> None:
        """Forget what is held."""
        self._data = b""
        self._offset = 0
        self._partial = bytearray()

    def next_frame(self) -> Frame | None:
        """Return the next frame, or ``None`` when it has not come whole.

        :raises FrameTooBig: when its length exceeds :attr:`max_frame_size`.
        :raises InvalidFrame: when it is too short for its header.
        """
        if self._partial:
            if len(self._partial) < self._needed:
                return None
            self._data = bytes(self._partial)
            self._offset = 0
            self._partial = bytearray()
        data = self._data
        offset = self._offset
        available = len(data) - offset
        if available < _LENGTH_SIZE:
            if available:
                self._wait_for(_LENGTH_SIZE)
            else:
                self._data = b""
                self._offset = 0
            return None
        if available < _HEADER_SIZE:
            self._wait_for(_LENGTH_SIZE + self._judge(int.from_bytes(data[offset : offset + _LENGTH_SIZE], "big")))
            return None
        # Plain ints once compiled.
        size: int
        frame_type: int
        flags: int
        size, frame_type, flags = _HEADER.unpack_from(data, offset)
        if not _MIN_FRAME_SIZE <= size <= self.max_frame_size:
            self._judge(size)
        if _LENGTH_SIZE + size > available:
            self._wait_for(_LENGTH_SIZE + size)
            return None
        end = self._offset = offset + _LENGTH_SIZE + size
        ids = offset + _HEADER_SIZE
        payload = end_of_varint(data, end_of_varint(data, ids))
        if payload > end:
            raise InvalidFrame("a frame ends inside its header")
        return frame_type, flags, data[ids:payload], data[payload:end]

    def _judge(self, size: int) -> int:
        """Return ``size``, a frame's, if it may be."""
        if size > self.max_frame_size:
            raise FrameTooBig(f"a frame of {size} bytes, where {self.max_frame_size} is the most")
        if size < _MIN_FRAME_SIZE:
            raise InvalidFrame(f"a frame of {size} bytes, too short for its header")
        return size

    def _wait_for(self, needed: int) -> None:
        self._needed = needed
        self._partial += self._data[self._offset :] if self._offset else self._data
        self._data = b""
        self._offset = 0


@final
@dataclass(frozen=True, slots=True)
class HAProxyHello:
    """The payload of a HAPROXY-HELLO frame (SPOE.txt, section 3.2.4)."""

    #: The versions that the engine supports, each a "Major.Minor".
    supported_versions: tuple[str, ...] = (VERSION,)
    #: The longest frame that the engine allows, in bytes.
    max_frame_size: int = HAPROXY_MAX_FRAME_SIZE
    capabilities: frozenset[str] = frozenset()
    #: What is the same on all connections of one engine; empty when the engine does not say.
    engine_id: str = ""
    #: Whether this connection is a health check, to be closed after the AGENT-HELLO.
    healthcheck: bool = False

    def encode(self) -> bytes:
        """Encode it as the KV-LIST that HAProxy sends, item for item.

        :raises TypeError: :raises ValueError: for an item outside its type.
        """
        items: list[tuple[str, Value]] = [
            ("supported-versions", ",".join(self.supported_versions)),
            ("max-frame-size", UInt32(self.max_frame_size)),
            ("capabilities", ",".join(sorted(self.capabilities, reverse=True))),
        ]
        if self.healthcheck:
            items.append(("healthcheck", True))
        if self.engine_id:
            items.append(("engine-id", self.engine_id))
        return encode_kv_list(items)

    @classmethod
    def decode(cls, payload: bytes) -> HAProxyHello:
        """Decode and judge the KV-LIST ``payload``. Unknown items are skipped.

        :raises VersionNotFound: :raises MaxFrameSizeNotFound: :raises CapabilitiesNotFound: for want of an item.
        :raises UnsupportedVersion: when there is no 2.x among the versions.
        :raises BadMaxFrameSize: for a size below 256 bytes.
        :raises InvalidFrame: when it cannot be read, or an item has another type than SPOE.txt gives it.
        """
        items = decode_kv_list(payload)
        if "supported-versions" not in items:
            raise VersionNotFound("the HELLO has no supported-versions")
        versions = _comma_separated(_text(items, "supported-versions"))
        if not any(_speaks_ours(version) for version in versions):
            raise UnsupportedVersion(f"none of the versions {ascii(', '.join(versions))[:100]} is a 2.x")
        max_frame_size = _max_frame_size(items)
        if "capabilities" not in items:
            raise CapabilitiesNotFound("the HELLO has no capabilities")
        capabilities = frozenset(_comma_separated(_text(items, "capabilities")))
        engine_id = _text(items, "engine-id") if "engine-id" in items else ""
        healthcheck = items.get("healthcheck", False)
        if not isinstance(healthcheck, bool):
            raise InvalidFrame("healthcheck is not a BOOL")
        return cls(tuple(versions), max_frame_size, capabilities, engine_id, healthcheck)


@final
@dataclass(frozen=True, slots=True)
class AgentHello:
    """The payload of an AGENT-HELLO frame (SPOE.txt, section 3.2.5)."""

    version: str = VERSION
    #: The longest frame from now on, in bytes.
    max_frame_size: int = HAPROXY_MAX_FRAME_SIZE
    capabilities: frozenset[str] = frozenset()

    def encode(self) -> bytes:
        """Encode it as a KV-LIST.

        :raises TypeError: :raises ValueError: for an item outside its type.
        """
        return encode_kv_list(
            [
                ("version", self.version),
                ("max-frame-size", UInt32(self.max_frame_size)),
                ("capabilities", ",".join(sorted(self.capabilities, reverse=True))),
            ]
        )

    @classmethod
    def decode(cls, payload: bytes) -> AgentHello:
        """Decode and judge the KV-LIST ``payload``. Unknown items are skipped.

        :raises VersionNotFound: :raises MaxFrameSizeNotFound: :raises CapabilitiesNotFound: for want of an item.
        :raises UnsupportedVersion: when the version is not 2.x.
        :raises BadMaxFrameSize: for a size below 256 bytes.
        :raises InvalidFrame: when it cannot be read, or an item has another type than SPOE.txt gives it.
        """
        items = decode_kv_list(payload)
        if "version" not in items:
            raise VersionNotFound("the HELLO has no version")
        version = _text(items, "version").strip()
        if not _speaks_ours(version):
            raise UnsupportedVersion(f"the version {ascii(version)[:100]} is not 2.x")
        max_frame_size = _max_frame_size(items)
        if "capabilities" not in items:
            raise CapabilitiesNotFound("the HELLO has no capabilities")
        capabilities = frozenset(_comma_separated(_text(items, "capabilities")))
        return cls(version, max_frame_size, capabilities)


@final
@dataclass(frozen=True, slots=True)
class Disconnect:
    """The payload of a HAPROXY-DISCONNECT or AGENT-DISCONNECT frame (SPOE.txt, sections 3.2.8 and 3.2.9)."""

    #: A :class:`~spoa_twisted.spop.errors.StatusCode`, or a number of the peer's own.
    status_code: int = StatusCode.NORMAL
    message: str = "normal"

    def encode(self) -> bytes:
        """Encode it as a KV-LIST, its message cut after 255 bytes.

        :raises ValueError: for a status code below 0 or above 2^32 - 1.
        """
        message = self.message.encode("utf-8", "replace")[:MAX_DISCONNECT_MESSAGE]
        return encode_kv_list(
            [("status-code", UInt32(self.status_code)), ("message", message.decode("utf-8", "ignore"))]
        )

    @classmethod
    def decode(cls, payload: bytes) -> Disconnect:
        """Decode the KV-LIST ``payload``. An item that is missing, or no number or text, counts as unknown.

        :raises InvalidFrame: when it cannot be read.
        """
        items = decode_kv_list(payload)
        status_code = items.get("status-code")
        if not isinstance(status_code, int):
            status_code = StatusCode.UNKNOWN
        message = items.get("message")
        return cls(int(status_code), message if isinstance(message, str) else "")


def _text(items: dict[str, Value], name: str) -> str:
    value = items[name]
    if not isinstance(value, str):
        raise InvalidFrame(f"{name} is not a STRING")
    return value


def _max_frame_size(items: dict[str, Value]) -> int:
    if "max-frame-size" not in items:
        raise MaxFrameSizeNotFound("the HELLO has no max-frame-size")
    size = items["max-frame-size"]
    # HAProxy takes every integer type here, and so is generous to agents; so are we to engines.
    if not isinstance(size, int) or isinstance(size, bool):
        raise InvalidFrame("max-frame-size is not a UINT32")
    if size < MIN_MAX_FRAME_SIZE:
        raise BadMaxFrameSize(f"a max-frame-size of {int(size)}, where {MIN_MAX_FRAME_SIZE} is the least")
    # int(size) is size itself once compiled.
    return int.__int__(size)


_VERSION: Final = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\Z")
_MAJOR: Final = VERSION.partition(".")[0]


def _speaks_ours(version: str) -> bool:
    # A major version announced includes its minor ones down to 0 (SPOE.txt, section 3.2.4).
    return _VERSION.match(version) is not None and version.partition(".")[0] == _MAJOR


def _comma_separated(text: str) -> list[str]:
    return [item for item in "".join(text.split()).split(",") if item]

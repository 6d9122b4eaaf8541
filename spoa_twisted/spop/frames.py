"""Frames: their header, the buffer that cuts them out of a byte stream, and the payloads of HELLO and DISCONNECT.

A frame is encoded as follows (SPOE.txt, section 3.2)::

    FRAME-LENGTH  4 bytes, big-endian; it does not count itself
    FRAME-TYPE    1 byte
    FLAGS         4 bytes, big-endian
    STREAM-ID     a varint: the stream
    FRAME-ID      a varint: the frame within the stream
    payload       the rest: a KV-LIST (HELLO, DISCONNECT), a LIST-OF-MESSAGES (NOTIFY) or a LIST-OF-ACTIONS (ACK)

A max-frame-size limits FRAME-LENGTH: the four bytes of FRAME-LENGTH do not count. So the default ``tune.bufsize`` of
16384 bytes holds a frame of 16380 bytes.
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
from spoa_twisted.spop.varint import MAX_VARINT_SIZE, decode_varint, encode_varint, end_of_varint


class FrameType(IntEnum):
    """The types of frames (SPOE.txt, section 3.2.2)."""

    #: A fragment of a NOTIFY after the first one. Only HAProxy <= 3.0 sends it, and only its SPOE.txt describes it.
    UNSET = 0
    HAPROXY_HELLO = 1
    HAPROXY_DISCONNECT = 2
    NOTIFY = 3
    AGENT_HELLO = 101
    AGENT_DISCONNECT = 102
    ACK = 103


class Flags(IntFlag):
    """The flags of a frame (SPOE.txt, section 3.2). The other 30 bits are reserved and ignored."""

    #: The frame holds the last fragment of its payload, or the whole payload.
    FIN = 1
    #: The sender of a fragmented payload gives it up: the receiver forgets its fragments.
    ABORT = 2


#: The version of SPOP that this package implements.
VERSION: Final = "2.0"

#: The smallest max-frame-size that SPOP allows, in bytes (SPOE.txt, section 3.2).
MIN_MAX_FRAME_SIZE: Final = 256

#: The max-frame-size of a HAProxy with the default ``tune.bufsize``: 16384 bytes, less 4 for FRAME-LENGTH.
HAPROXY_MAX_FRAME_SIZE: Final = 16380

#: The longest message of a DISCONNECT, in bytes. HAProxy <= 3.0 refuses a longer one.
MAX_DISCONNECT_MESSAGE: Final = 255

#: The size of the shortest frame, in bytes: FRAME-TYPE, FLAGS and two ids of one byte each.
MIN_FRAME_SIZE: Final = 7

# Sizes in bytes.
_LENGTH_SIZE: Final = 4
_FIXED_HEADER_SIZE: Final = 5  # FRAME-TYPE and FLAGS
_HEADER: Final = struct.Struct(">IBI")  # FRAME-LENGTH, FRAME-TYPE and FLAGS
_HEADER_SIZE: Final = _LENGTH_SIZE + _FIXED_HEADER_SIZE

# Plain integers, as the operators of an IntFlag and the comparisons of an IntEnum call Python functions.
_FIN: Final = int(Flags.FIN)
_NOTIFY: Final = int(FrameType.NOTIFY)

#: The ids of HELLO and DISCONNECT frames: stream-id 0 and frame-id 0 (SPOE.txt, sections 3.2.4 to 3.2.9).
NO_IDS: Final = b"\x00\x00"


# What next_notify returns if there are no bytes. It cannot be recognized by its identity: mypyc copies tuples.
_NO_BYTES: Final = (b"", b"", 0, 0)

#: A frame: (type, flags, ids, payload). The type is a number, which need not be a :class:`FrameType`. The ids are the
#: encoded stream-id and frame-id. They are not decoded: an ACK repeats the bytes. They can be the key of a dict,
#: because each number has only one encoding. The payload is not decoded either.
Frame = tuple[int, int, bytes, bytes]


def encode_frame(frame_type: int, flags: int, ids: bytes, payload: bytes) -> bytes:
    """Encode a frame, with its FRAME-LENGTH in front. The sizes are not checked."""
    return encode_head(frame_type, flags, len(ids) + len(payload)) + ids + payload


def encode_head(frame_type: int, flags: int, size: int) -> bytes:
    """Encode what comes before the ids: FRAME-LENGTH, FRAME-TYPE and FLAGS.

    :param size: the size of the ids and the payload together, in bytes.
    """
    return _HEADER.pack(_FIXED_HEADER_SIZE + size, frame_type, flags)


def encode_ids(stream_id: int, frame_id: int) -> bytes:
    """Encode a stream-id and a frame-id, each from 0 to 2^64 - 1.

    :raises ValueError: if a number is outside that range.
    """
    return encode_varint(stream_id) + encode_varint(frame_id)


def decode_ids(ids: bytes) -> tuple[int, int]:
    """Return the stream-id and the frame-id that ``ids`` encodes.

    :raises InvalidFrame: if ``ids`` does not begin with two varints.
    """
    stream_id, offset = decode_varint(ids, 0)
    frame_id, offset = decode_varint(ids, offset)
    return stream_id, frame_id


def frame_overhead(ids: bytes) -> int:
    """Return the size of a frame with these ids less its payload, in bytes, as max-frame-size counts it."""
    return _FIXED_HEADER_SIZE + len(ids)


@final
class FrameBuffer:
    """Cuts a stream of bytes, which arrives in pieces of any size, into frames.

    :meth:`feed` adds received bytes; :meth:`next_frame` returns one frame after the other. FRAME-LENGTH is checked as
    soon as its four bytes have arrived, before the frame is buffered. So the buffer never holds more than one
    incomplete frame, plus the bytes of the last :meth:`feed`.

    The bytes are in three places, in this order:

    - ``_data`` from ``_offset`` on holds received bytes that have not been looked at. While it does, ``_partial`` is
      empty.
    - ``_partial`` holds the beginning of an incomplete frame. While it does, ``_rest`` is empty.
    - ``_rest`` from ``_rest_offset`` on holds what arrived together with the end of the incomplete frame, which has
      moved to ``_data``.
    """

    __slots__ = ("_data", "_needed", "_offset", "_partial", "_rest", "_rest_offset", "max_frame_size")

    def __init__(self, max_frame_size: int) -> None:
        #: The longest frame that is accepted, in bytes. FRAME-LENGTH itself is not counted.
        self.max_frame_size = max_frame_size
        self._data = b""
        self._offset = 0
        # A bytearray grows in place. It is not looked at again before it holds _needed bytes. So a frame that arrives
        # byte by byte is copied as often as one that arrives whole; with bytes, the cost would be quadratic.
        self._partial = bytearray()
        self._needed = 0
        self._rest = b""
        self._rest_offset = 0

    def __len__(self) -> int:
        """Return the number of buffered bytes."""
        return len(self._data) - self._offset + len(self._partial) + len(self._rest) - self._rest_offset

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        if self._offset < len(self._data) or self._rest:
            # Frames are left. They move to _partial, and next_frame looks at them again at once.
            self._wait_for(0)
        if not self._partial:
            self._data = data
            self._offset = 0
            return
        lacking = self._needed - len(self._partial)
        if 0 < lacking < len(data) and self._needed > _LENGTH_SIZE:
            # Only the end of the incomplete frame is copied, not all that has arrived behind it.
            self._partial += data[:lacking]
            self._data = bytes(self._partial)
            self._offset = 0
            self._partial = bytearray()
            self._rest = data
            self._rest_offset = lacking
        else:
            self._partial += data

    def clear(self) -> None:
        """Discard all buffered bytes."""
        self._data = self._rest = b""
        self._offset = self._rest_offset = 0
        self._partial = bytearray()

    def next_frame(self) -> Frame | None:
        """Return the next frame, or ``None`` if it is incomplete.

        :raises FrameTooBig: if its length exceeds :attr:`max_frame_size`.
        :raises InvalidFrame: if it is too short for its header, or an id has more than 64 bits.
        """
        if self._partial:
            if len(self._partial) < self._needed:
                return None
            self._data = bytes(self._partial)
            self._offset = 0
            self._partial = bytearray()
        elif self._rest and self._offset == len(self._data):
            self._data = self._rest
            self._offset = self._rest_offset
            self._rest = b""
            self._rest_offset = 0
        data = self._data
        offset = self._offset
        available = len(data) - offset
        if available < _LENGTH_SIZE:
            if available:
                self._wait_for(_LENGTH_SIZE)
            else:
                # All frames were returned: do not keep the bytes of the last feed alive.
                self._data = b""
                self._offset = 0
            return None
        if available < _HEADER_SIZE:
            # FRAME-LENGTH is here, the rest of the header is not. A wrong length is reported at once.
            self._wait_for(_LENGTH_SIZE + self._check_size(int.from_bytes(data[offset : offset + _LENGTH_SIZE], "big")))
            return None
        # With these declarations, mypyc compiles the three to plain integers.
        size: int
        frame_type: int
        flags: int
        size, frame_type, flags = _HEADER.unpack_from(data, offset)
        if not MIN_FRAME_SIZE <= size <= self.max_frame_size:
            self._check_size(size)
        if _LENGTH_SIZE + size > available:
            self._wait_for(_LENGTH_SIZE + size)
            return None
        end = self._offset = offset + _LENGTH_SIZE + size
        ids = offset + _HEADER_SIZE
        # end_of_varint does not know where the frame ends. It may read ids that go on in the bytes behind the frame.
        payload = end_of_varint(data, end_of_varint(data, ids))
        if payload > end:
            raise InvalidFrame("a frame ends inside its stream-id or frame-id", ids - offset)
        return frame_type, flags, data[ids:payload], data[payload:end]

    def next_notify(self) -> tuple[bytes, bytes, int, int] | None:
        """Return the next frame if it is a NOTIFY that is complete and not fragmented: ids, bytes, start and end.

        The payload is what the bytes hold from the start to the end. It is not copied: a body may be long.

        The ids are empty if the buffer is. ``None`` says nothing about the next frame: call :meth:`next_frame` then.
        """
        data = self._data
        offset = self._offset
        ids = offset + _HEADER_SIZE
        if ids >= len(data):
            if offset < len(data) or self._partial or self._rest:
                return None
            # See next_frame.
            self._data = b""
            self._offset = 0
            return _NO_BYTES
        size: int
        frame_type: int
        flags: int
        size, frame_type, flags = _HEADER.unpack_from(data, offset)
        end = offset + _LENGTH_SIZE + size
        if frame_type != _NOTIFY or not flags & _FIN or end > len(data):
            return None
        if not MIN_FRAME_SIZE <= size <= self.max_frame_size:
            return None
        # This is end_of_varint without the calls, for a stream-id of up to 9 bytes and a frame-id of one byte. Nearly
        # all ids of HAProxy are like that. next_frame handles the others.
        payload = ids + 1
        if data[ids] >= 240:
            while payload < end and data[payload] >= 128:
                payload += 1
            payload += 1
        if payload >= end or data[payload] >= 240 or payload - ids >= MAX_VARINT_SIZE:
            return None
        payload += 1
        self._offset = end
        return data[ids:payload], data, payload, end

    def _check_size(self, size: int) -> int:
        """Check the FRAME-LENGTH ``size``, and return it.

        :raises FrameTooBig: if it exceeds :attr:`max_frame_size`.
        :raises InvalidFrame: if it is below 7, the size of the shortest header.
        """
        if size > self.max_frame_size:
            raise FrameTooBig(f"a frame of {size} bytes exceeds the max-frame-size of {self.max_frame_size} bytes")
        if size < MIN_FRAME_SIZE:
            raise InvalidFrame(f"a frame of {size} bytes is too short: its header takes at least {MIN_FRAME_SIZE}")
        return size

    def _wait_for(self, needed: int) -> None:
        """Move all bytes that are left to ``_partial``, which is complete when it holds ``needed`` bytes."""
        self._needed = needed
        self._partial += self._data[self._offset :] if self._offset else self._data
        self._data = b""
        self._offset = 0
        if self._rest:
            self._partial += self._rest[self._rest_offset :]
            self._rest = b""
            self._rest_offset = 0


@final
@dataclass(frozen=True, slots=True)
class HAProxyHello:
    """The payload of a HAPROXY-HELLO frame (SPOE.txt, section 3.2.4)."""

    #: The versions that the engine supports, each as "Major.Minor".
    supported_versions: tuple[str, ...] = (VERSION,)
    #: The longest frame that the engine accepts, in bytes.
    max_frame_size: int = HAPROXY_MAX_FRAME_SIZE
    #: The capabilities of the engine (SPOE.txt, section 3.2.1). HAProxy <= 3.0 also lists ``async``.
    capabilities: frozenset[str] = frozenset()
    #: The id of the engine, the same on all its connections. It is empty if the HELLO has no engine-id. HAProxy <= 3.0
    #: has one engine for each thread, HAProxy >= 3.1 one for each ``spoe-agent`` section.
    engine_id: str = ""
    #: True for a health check: the connection is closed after the AGENT-HELLO.
    healthcheck: bool = False

    def encode(self) -> bytes:
        """Encode the HELLO as a KV-LIST, with HAProxy's items in HAProxy's order.

        :raises TypeError: if an item has the wrong Python type.
        :raises ValueError: if :attr:`max_frame_size` does not fit in a UINT32.
        """
        items: list[tuple[str, Value]] = [
            ("supported-versions", ",".join(self.supported_versions)),
            ("max-frame-size", UInt32(self.max_frame_size)),
            # Reverse order gives "pipelining,async", as HAProxy sends it.
            ("capabilities", ",".join(sorted(self.capabilities, reverse=True))),
        ]
        # HAProxy leaves out the optional items that have no value.
        if self.healthcheck:
            items.append(("healthcheck", True))
        if self.engine_id:
            items.append(("engine-id", self.engine_id))
        return encode_kv_list(items)

    @classmethod
    def decode(cls, payload: bytes) -> HAProxyHello:
        """Decode and check the KV-LIST ``payload``. Unknown items are skipped.

        :raises VersionNotFound: if the mandatory item supported-versions is missing.
        :raises MaxFrameSizeNotFound: if the mandatory item max-frame-size is missing.
        :raises CapabilitiesNotFound: if the mandatory item capabilities is missing.
        :raises UnsupportedVersion: if no supported version is a 2.x.
        :raises BadMaxFrameSize: for a max-frame-size below 256 bytes.
        :raises InvalidFrame: if the list cannot be decoded, or an item has not the type that SPOE.txt gives it.
        """
        items = decode_kv_list(payload)
        if "supported-versions" not in items:
            raise VersionNotFound("the HAPROXY-HELLO has no supported-versions")
        versions = _split_list(_get_string(items, "supported-versions"))
        if not any(_is_supported(version) for version in versions):
            # The text is cut: the message of a DISCONNECT holds 255 bytes.
            offered = ascii(", ".join(versions))[:100]
            raise UnsupportedVersion(f"the HAPROXY-HELLO offers the versions {offered}; the agent supports 2.x only")
        max_frame_size = _get_max_frame_size(items)
        if "capabilities" not in items:
            raise CapabilitiesNotFound("the HAPROXY-HELLO has no capabilities")
        capabilities = frozenset(_split_list(_get_string(items, "capabilities")))
        engine_id = _get_string(items, "engine-id") if "engine-id" in items else ""
        healthcheck = items.get("healthcheck", False)
        if not isinstance(healthcheck, bool):
            raise InvalidFrame("the healthcheck of the HAPROXY-HELLO is not a BOOL")
        return cls(tuple(versions), max_frame_size, capabilities, engine_id, healthcheck)


@final
@dataclass(frozen=True, slots=True)
class AgentHello:
    """The payload of an AGENT-HELLO frame (SPOE.txt, section 3.2.5)."""

    #: The version of SPOP that the agent chooses, as "Major.Minor".
    version: str = VERSION
    #: The longest frame that both sides may send after the handshake, in bytes.
    max_frame_size: int = HAPROXY_MAX_FRAME_SIZE
    #: The capabilities of the agent (SPOE.txt, section 3.2.1).
    capabilities: frozenset[str] = frozenset()

    def encode(self) -> bytes:
        """Encode the HELLO as a KV-LIST.

        :raises TypeError: if an item has the wrong Python type.
        :raises ValueError: if :attr:`max_frame_size` does not fit in a UINT32.
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
        """Decode and check the KV-LIST ``payload``. Unknown items are skipped.

        :raises VersionNotFound: if the mandatory item version is missing.
        :raises MaxFrameSizeNotFound: if the mandatory item max-frame-size is missing.
        :raises CapabilitiesNotFound: if the mandatory item capabilities is missing.
        :raises UnsupportedVersion: if the version is not a 2.x.
        :raises BadMaxFrameSize: for a max-frame-size below 256 bytes.
        :raises InvalidFrame: if the list cannot be decoded, or an item has not the type that SPOE.txt gives it.
        """
        items = decode_kv_list(payload)
        if "version" not in items:
            raise VersionNotFound("the AGENT-HELLO has no version")
        version = _get_string(items, "version").strip()
        if not _is_supported(version):
            raise UnsupportedVersion(f"the version {ascii(version)[:100]} of the AGENT-HELLO is not 2.x")
        max_frame_size = _get_max_frame_size(items)
        if "capabilities" not in items:
            raise CapabilitiesNotFound("the AGENT-HELLO has no capabilities")
        capabilities = frozenset(_split_list(_get_string(items, "capabilities")))
        return cls(version, max_frame_size, capabilities)


@final
@dataclass(frozen=True, slots=True)
class Disconnect:
    """The payload of a HAPROXY-DISCONNECT or AGENT-DISCONNECT frame (SPOE.txt, sections 3.2.8 and 3.2.9)."""

    #: A :class:`~spoa_twisted.spop.errors.StatusCode`, or another number: section 3.5 lets peers define their own.
    status_code: int = StatusCode.NORMAL
    #: A description of the error, for the log of the peer.
    message: str = "normal"

    def encode(self) -> bytes:
        """Encode the DISCONNECT as a KV-LIST. A message of more than 255 bytes is cut.

        :raises ValueError: for a status code below 0 or above 2^32 - 1.
        """
        message = self.message.encode("utf-8", "replace")[:MAX_DISCONNECT_MESSAGE]
        # The cut may have fallen inside a character: "ignore" removes the rest of it.
        return encode_kv_list(
            [("status-code", UInt32(self.status_code)), ("message", message.decode("utf-8", "ignore"))]
        )

    @classmethod
    def decode(cls, payload: bytes) -> Disconnect:
        """Decode the KV-LIST ``payload``.

        A status-code that is missing or is not an integer becomes ``StatusCode.UNKNOWN``; a message that is missing or
        is not a STRING becomes empty. This is not an error, because the peer closes the connection anyway.

        :raises InvalidFrame: if the list cannot be decoded.
        """
        items = decode_kv_list(payload)
        status_code = items.get("status-code")
        if not isinstance(status_code, int):
            status_code = StatusCode.UNKNOWN
        message = items.get("message")
        return cls(int(status_code), message if isinstance(message, str) else "")


def _get_string(items: dict[str, Value], name: str) -> str:
    """Return the value of the item ``name``, which must be there and must be a STRING."""
    value = items[name]
    if not isinstance(value, str):
        raise InvalidFrame(f"the {name} of the HELLO is not a STRING")
    return value


def _get_max_frame_size(items: dict[str, Value]) -> int:
    """Return the mandatory item max-frame-size as an ``int``, after a check of its type and its lower limit."""
    if "max-frame-size" not in items:
        raise MaxFrameSizeNotFound("the HELLO has no max-frame-size")
    size = items["max-frame-size"]
    # SPOE.txt demands a UINT32. HAProxy accepts every integer type from an agent, and this package does the same.
    if not isinstance(size, int) or isinstance(size, bool):
        raise InvalidFrame("the max-frame-size of the HELLO is not a UINT32")
    if size < MIN_MAX_FRAME_SIZE:
        raise BadMaxFrameSize(f"the max-frame-size {int(size)} is too small: SPOP allows {MIN_MAX_FRAME_SIZE} and more")
    # Of an Int32 or UInt32, the compiled int(size) returns the object itself. int.__int__ returns a plain int.
    return int.__int__(size)


# The number of digits is limited, as a peer chooses the text.
_VERSION: Final = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\Z")
_MAJOR: Final = VERSION.partition(".")[0]


def _is_supported(version: str) -> bool:
    # A peer that announces 2.5 also supports 2.0 to 2.4 (SPOE.txt, section 3.2.4). So only the major version counts.
    return _VERSION.match(version) is not None and version.partition(".")[0] == _MAJOR


def _split_list(text: str) -> list[str]:
    """Split a comma-separated list. Spaces and empty items are ignored (SPOE.txt, section 3.2.4)."""
    return [item for item in "".join(text.split()).split(",") if item]

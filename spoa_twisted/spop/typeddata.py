"""TYPED-DATA, STRING and KV-LIST: Python values to bytes, and bytes to Python values (SPOE.txt, sections 3.1 and 3.2).

=========  ==============================  ===============================================
SPOP type  Python type after decoding      Python types that are encoded as it
=========  ==============================  ===============================================
NULL       ``None``                        ``NULL``, ``None``
BOOL       ``bool``                        ``bool``
INT32      :class:`Int32`                  :class:`Int32`
UINT32     :class:`UInt32`                 :class:`UInt32`
INT64      ``int``                         ``int``, :class:`Int64`
UINT64     :class:`UInt64`                 :class:`UInt64`
IPV4       ``ipaddress.IPv4Address``       ``ipaddress.IPv4Address``
IPV6       ``ipaddress.IPv6Address``       ``ipaddress.IPv6Address``
STRING     ``str``                         ``str``
BINARY     ``bytes``                       ``bytes``, ``bytearray``, ``memoryview``
=========  ==============================  ===============================================

In the actions of an ACK, ``None`` is not encoded: it unsets the variable (:mod:`spoa_twisted.spop.actions`).

HAProxy does not check that a STRING is UTF-8: a header or a path may hold any bytes. So a STRING is decoded as UTF-8
with ``surrogateescape``. A handler that sends the ``str`` back sends the same bytes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Literal

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.hints import advice, type_of
from spoa_twisted.spop.varint import decode_varint, encode_varint


class DataType(IntEnum):
    """The type of a value, in the low four bits of its first byte (SPOE.txt, section 3.1)."""

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


class Null(Enum):
    """The type of :data:`NULL`. An ``Enum`` of one member lets mypy tell ``NULL`` from other values."""

    NULL = "NULL"

    def __repr__(self) -> str:
        return self.value


#: A handler that returns ``NULL`` for a variable sets it to the SPOP type NULL; ``None`` unsets the variable.
NULL: Final = Null.NULL


# mypyc cannot compile a subclass of int. It leaves a class that names a metaclass to the Python interpreter; the
# superfluous "metaclass=type" makes it do so here.
class _SizedInteger(int, metaclass=type):  # noqa: UP050
    pass


class Int32(_SizedInteger):
    """An ``int`` that is encoded as INT32: from -2^31 to 2^31 - 1."""


class UInt32(_SizedInteger):
    """An ``int`` that is encoded as UINT32: from 0 to 2^32 - 1."""


class Int64(_SizedInteger):
    """An ``int`` that is encoded as INT64, as a plain ``int`` is: from -2^63 to 2^63 - 1."""


class UInt64(_SizedInteger):
    """An ``int`` that is encoded as UINT64: from 0 to 2^64 - 1.

    HAProxy keeps every integer as a signed 64-bit number: it reads 2^63 and above as negative.
    """


#: The value of an argument of a message, or of a variable that a handler sets.
Value = bool | int | str | bytes | bytearray | memoryview | IPv4Address | IPv6Address | Literal[Null.NULL] | None

# The decoder compares with plain integers: a comparison with an IntEnum member would call a Python function.
_NULL: Final = int(DataType.NULL)
_BOOL: Final = int(DataType.BOOL)
_INT32: Final = int(DataType.INT32)
_UINT32: Final = int(DataType.UINT32)
_INT64: Final = int(DataType.INT64)
_UINT64: Final = int(DataType.UINT64)
_IPV4: Final = int(DataType.IPV4)
_IPV6: Final = int(DataType.IPV6)
_STRING: Final = int(DataType.STRING)
_BINARY: Final = int(DataType.BINARY)

# Section 3.1 of SPOE.txt draws a value's first byte as <TYPE:4 bits><FLAGS:4 bits>. HAProxy puts them the other way
# round: the type into the low four bits, the flags into the high four bits.
_TYPE_MASK: Final = 0x0F
_TRUE_FLAG: Final = 0x10


def decode_string(data: bytes, offset: int) -> tuple[str, int]:
    """Decode the STRING (a varint length, then its bytes) at ``offset``; return it and the offset behind it.

    :raises InvalidFrame: if ``data`` ends before the STRING does.
    """
    # Most lengths are below 240, which is one byte: this saves a call of decode_varint.
    if offset < len(data) and (length := data[offset]) < 240:
        offset += 1
    else:
        length, offset = decode_varint(data, offset)
    end = offset + length
    # A slice would silently return fewer bytes.
    if end > len(data):
        text = f"a STRING of {length} bytes is cut off: {len(data) - offset} bytes follow its length"
        raise InvalidFrame(text, offset)
    return data[offset:end].decode("utf-8", "surrogateescape"), end


def decode_typed_data(data: bytes, offset: int) -> tuple[Value, int]:  # noqa: C901 - one branch for each type
    """Decode the TYPED-DATA at ``offset``; return its value and the offset behind it.

    Flags that the type does not use are ignored, as HAProxy ignores them.

    :raises InvalidFrame: for a reserved type, an integer outside the range of its type, or data that ends too early.
    """
    if offset >= len(data):
        raise InvalidFrame("the data ends where a typed value should begin", offset)
    head = data[offset]
    offset += 1
    data_type = head & _TYPE_MASK
    # The types UINT64, UINT32 and INT32 are compared last, because HAProxy sends none of them in a NOTIFY.
    if data_type == _STRING:
        return decode_string(data, offset)
    if data_type == _INT64:
        number, offset = decode_varint(data, offset)
        # A negative number arrives as its 64-bit two's complement.
        return (number if number < 2**63 else number - 2**64), offset
    if data_type == _IPV4:
        end = offset + 4
        packed_ipv4 = data[offset:end]
        return known_ipv4.get(packed_ipv4) or _new_ipv4(packed_ipv4, offset), end
    if data_type == _BINARY:
        length, offset = decode_varint(data, offset)
        return _take(data, offset, length)
    if data_type == _BOOL:
        return head & _TRUE_FLAG != 0, offset
    if data_type == _NULL:
        return None, offset
    if data_type == _IPV6:
        packed, offset = _take(data, offset, 16)
        return IPv6Address(packed), offset
    if data_type == _UINT64:
        number, offset = decode_varint(data, offset)
        return UInt64(number), offset
    if data_type == _UINT32:
        number, offset = decode_varint(data, offset)
        if number >= 2**32:
            raise InvalidFrame(f"the UINT32 {number} has more than 32 bits", offset)
        return UInt32(number), offset
    if data_type == _INT32:
        number, offset = decode_varint(data, offset)
        return _sign_int32(number, offset), offset
    raise InvalidFrame(f"the data type {data_type} is reserved: SPOP defines the types 0 to 9", offset - 1)


#: The IPv4Address of each address that was received lately, by its four bytes. To create one takes as long as to decode
#: three texts, and HAProxy sends the same addresses again and again. A full table is emptied.
known_ipv4: Final[dict[bytes, IPv4Address]] = {}
_MAX_KNOWN_IPV4: Final = 1024


def _new_ipv4(packed: bytes, offset: int) -> IPv4Address:
    """Return the address that is not in ``known_ipv4``, and store it there. ``offset`` is for an error."""
    if len(packed) < 4:
        raise InvalidFrame(f"an IPV4 of 4 bytes is cut off: {len(packed)} bytes follow its type", offset)
    if len(known_ipv4) >= _MAX_KNOWN_IPV4:
        known_ipv4.clear()
    address = known_ipv4[packed] = IPv4Address(packed)
    return address


def _take(data: bytes, offset: int, length: int) -> tuple[bytes, int]:
    """Return ``length`` bytes of ``data`` from ``offset`` on, and the offset behind them."""
    end = offset + length
    if end > len(data):
        raise InvalidFrame(f"a value of {length} bytes is cut off: {len(data) - offset} bytes are left", offset)
    return data[offset:end], end


def _sign_int32(number: int, offset: int) -> Int32:
    """Return the INT32 that the varint ``number`` stands for. ``offset`` is for an error.

    HAProxy encodes a negative INT32 as its 64-bit two's complement. Other peers may encode it as its 32-bit two's
    complement, a number from 2^31 to 2^32 - 1. No valid INT32 has that encoding in HAProxy's form, so both forms can
    be accepted.
    """
    if number < 2**31:
        return Int32(number)
    if 2**31 <= number < 2**32:
        return Int32(number - 2**32)
    if number >= 2**64 - 2**31:
        return Int32(number - 2**64)
    raise InvalidFrame(f"the INT32 {number} has more than 32 bits", offset)


def encode_string(value: str) -> bytes:
    """Encode ``value`` as STRING: its length in UTF-8 bytes as a varint, then these bytes.

    :raises TypeError: if ``value`` is not a ``str``.
    :raises UnicodeEncodeError: (a ``ValueError``) for a lone surrogate that ``surrogateescape`` does not produce.
    """
    # For an int or None, value.encode would raise AttributeError; str.encode raises TypeError.
    encoded = str.encode(value, "utf-8", "surrogateescape")
    return encode_varint(len(encoded)) + encoded


def encode_typed_data(value: Value) -> bytes:
    """Encode ``value`` as TYPED-DATA. The table at the top of this module has the SPOP type of each Python type.

    A value of a subclass is encoded as its base class in the table.

    :raises TypeError: for a value of any other type.
    :raises ValueError: for an integer outside the range of its type, or a ``str`` that cannot be encoded as UTF-8.
    """
    # Scores and flags are usually small integers: a table lookup is faster than the encoder.
    if type(value) is int and 0 <= value < 240:
        return _ONE_BYTE_INT64[value]
    encode = _ENCODERS.get(type(value)) or _find_encoder(value)
    return encode(value)


def _find_encoder(value: object) -> Callable[[Any], bytes]:
    """Return the encoder for a ``value`` whose class is not a key of ``_ENCODERS``, but has a key as a base class.

    An ``IntEnum`` member, for example, is encoded as its ``int``.
    """
    for data_class, encode in _ENCODERS.items():
        if isinstance(value, data_class):
            return encode
    raise TypeError(f"{type_of(value)} has no SPOP type; {advice(value)}")


def _encode_integer(data_type: DataType, lowest: int, end: int) -> Callable[[int], bytes]:
    """Return the encoder of the integers from ``lowest`` to ``end - 1`` as ``data_type``."""
    first = bytes((data_type,))

    def encode(value: int) -> bytes:
        if not lowest <= value < end:
            # str() of an int raises ValueError above 4300 digits: name the size of a very large number instead.
            shown = str(int(value)) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"
            raise ValueError(f"{shown} is outside the range of {data_type.name}: {lowest} to {end - 1}")
        # A negative number of any type is encoded as its 64-bit two's complement: HAProxy reads every integer as
        # 64 bits, and would read the 32-bit complement of -5 as 4294967291.
        return first + encode_varint(value & 0xFFFF_FFFF_FFFF_FFFF)

    return encode


def _encode_null(value: object) -> bytes:
    return b"\x00"


def _encode_bool(value: bool) -> bytes:
    return b"\x11" if value else b"\x01"


def _encode_ipv4(value: IPv4Address) -> bytes:
    return b"\x06" + value.packed


def _encode_ipv6(value: IPv6Address) -> bytes:
    return b"\x07" + value.packed


def _encode_str(value: str) -> bytes:
    return b"\x08" + encode_string(value)


def _encode_binary(value: bytes | bytearray | memoryview) -> bytes:
    data = bytes(value)
    return b"\x09" + encode_varint(len(data)) + data


_ONE_BYTE_INT64: Final = tuple([bytes((DataType.INT64, value)) for value in range(240)])

_encode_int64: Final = _encode_integer(DataType.INT64, -(2**63), 2**63)

# The encoder of each class. _find_encoder tries the classes in this order: bool and the four sized integers must come
# before int, for they are subclasses of int.
_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    bool: _encode_bool,
    Int32: _encode_integer(DataType.INT32, -(2**31), 2**31),
    UInt32: _encode_integer(DataType.UINT32, 0, 2**32),
    Int64: _encode_int64,
    UInt64: _encode_integer(DataType.UINT64, 0, 2**64),
    int: _encode_int64,
    str: _encode_str,
    bytes: _encode_binary,
    bytearray: _encode_binary,
    memoryview: _encode_binary,
    IPv4Address: _encode_ipv4,
    IPv6Address: _encode_ipv6,
    Null: _encode_null,
    type(None): _encode_null,
}


def decode_kv_list(data: bytes, offset: int = 0) -> dict[str, Value]:
    """Decode the KV-LIST that fills ``data`` from ``offset`` to its end. Of a repeated name, the first value counts.

    :raises InvalidFrame: if a name or a value cannot be decoded, or is cut off.
    """
    items: dict[str, Value] = {}
    while offset < len(data):
        name, offset = decode_string(data, offset)
        value, offset = decode_typed_data(data, offset)
        items.setdefault(name, value)
    return items


def encode_kv_list(items: Iterable[tuple[str, Value]]) -> bytes:
    """Encode ``items``, pairs of a name and a value, as a KV-LIST.

    :raises TypeError: as :func:`encode_string` and :func:`encode_typed_data` do.
    :raises ValueError: as :func:`encode_string` and :func:`encode_typed_data` do.
    """
    return b"".join([encode_string(name) + encode_typed_data(value) for name, value in items])

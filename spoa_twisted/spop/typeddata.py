"""TYPED-DATA, STRING and KV-LIST: bytes and the Python values they stand for (SPOE.txt, sections 3.1 and 3.2).

=========  ==============================  ===============================================
SPOP       arrives as                      is sent for
=========  ==============================  ===============================================
NULL       ``None``                        ``NULL``; ``None`` where no variable is unset by it
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

A STRING is bytes to HAProxy. It is decoded as UTF-8 with ``surrogateescape``, so that whatever it holds goes
back unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Literal

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.varint import decode_varint, encode_varint


class DataType(IntEnum):
    """SPOE.txt, section 3.1: the type of a value, in the low four bits of its first byte."""

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
    """The type of :data:`NULL`."""

    NULL = "NULL"

    def __repr__(self) -> str:
        return self.value


#: Sets a variable to the SPOP NULL, where ``None`` would unset it.
NULL: Final = Null.NULL


# mypyc compiles no subclass of int, and leaves to Python what has a metaclass.
class _SizedInteger(int, metaclass=type):  # noqa: UP050
    pass


class Int32(_SizedInteger):
    """An ``int`` that goes as INT32: from -2^31 to 2^31 - 1."""


class UInt32(_SizedInteger):
    """An ``int`` that goes as UINT32: from 0 to 2^32 - 1."""


class Int64(_SizedInteger):
    """An ``int`` that goes as INT64, as a plain ``int`` does: from -2^63 to 2^63 - 1."""


class UInt64(_SizedInteger):
    """An ``int`` that goes as UINT64: from 0 to 2^64 - 1. HAProxy itself reads 2^63 and above as negative."""


#: What an argument or a variable may be.
Value = bool | int | str | bytes | bytearray | memoryview | IPv4Address | IPv6Address | Literal[Null.NULL] | None

# Plain integers for the decoder's comparisons: an IntEnum member costs a Python-level call there.
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

# SPOE.txt draws <TYPE><FLAGS> in this order, but HAProxy has the type in the low nibble, the flags in the high one.
_TYPE_MASK: Final = 0x0F
_TRUE_FLAG: Final = 0x10


def decode_string(data: bytes, offset: int) -> tuple[str, int]:
    """Decode the STRING (a varint length, then its bytes) at ``offset``; return it and the offset behind it.

    :raises InvalidFrame: when ``data`` ends first.
    """
    if offset < len(data) and (length := data[offset]) < 240:
        offset += 1
    else:
        length, offset = decode_varint(data, offset)
    end = offset + length
    if end > len(data):
        raise InvalidFrame("a string is longer than what holds it")
    return data[offset:end].decode("utf-8", "surrogateescape"), end


def decode_typed_data(data: bytes, offset: int) -> tuple[Value, int]:  # noqa: C901 - a branch a type
    """Decode the TYPED-DATA at ``offset``; return its value and the offset behind it.

    :raises InvalidFrame: for a reserved type, an integer outside its type, or when ``data`` ends first.
    """
    if offset >= len(data):
        raise InvalidFrame("the data ends where a value should stand")
    head = data[offset]
    offset += 1
    data_type = head & _TYPE_MASK
    if data_type == _STRING:
        return decode_string(data, offset)
    if data_type == _INT64:
        number, offset = decode_varint(data, offset)
        return (number if number < 2**63 else number - 2**64), offset
    if data_type == _IPV4:
        end = offset + 4
        if end > len(data):
            raise InvalidFrame("a value is longer than what holds it")
        return IPv4Address(data[offset:end]), end
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
            raise InvalidFrame("a UINT32 has more than 32 bits")
        return UInt32(number), offset
    if data_type == _INT32:
        number, offset = decode_varint(data, offset)
        return _int32(number), offset
    raise InvalidFrame(f"the data type {data_type} is reserved")


def _take(data: bytes, offset: int, length: int) -> tuple[bytes, int]:
    end = offset + length
    if end > len(data):
        raise InvalidFrame("a value is longer than what holds it")
    return data[offset:end], end


def _int32(number: int) -> Int32:
    # HAProxy extends the sign to 64 bits before the varint. A peer that extends it to 32 bits only is
    # understood too: its form is no other INT32's.
    if number < 2**31:
        return Int32(number)
    if 2**31 <= number < 2**32:
        return Int32(number - 2**32)
    if number >= 2**64 - 2**31:
        return Int32(number - 2**64)
    raise InvalidFrame("an INT32 has more than 32 bits")


def encode_string(value: str) -> bytes:
    """Encode ``value`` as STRING: a varint length in bytes, then its UTF-8 bytes.

    :raises TypeError: for what is no ``str``.
    :raises UnicodeEncodeError: (a ``ValueError``) for a lone surrogate that no byte was decoded to.
    """
    # value.encode would be an AttributeError for an int or None.
    encoded = str.encode(value, "utf-8", "surrogateescape")
    return encode_varint(len(encoded)) + encoded


def encode_typed_data(value: Value) -> bytes:
    """Encode ``value`` as TYPED-DATA, in the type that the table above gives its class or a base of its class.

    :raises TypeError: for a value of any other type.
    :raises ValueError: for an integer outside its type, or a ``str`` that UTF-8 cannot hold.
    """
    if type(value) is int and 0 <= value < 240:
        return _ONE_BYTE_INT64[value]
    encode = _ENCODERS.get(type(value)) or _find_encoder(value)
    return encode(value)


def _find_encoder(value: object) -> Callable[[Any], bytes]:
    """Return the encoder for a ``value`` whose class is not in the table, but may be a subclass: an IntEnum, say."""
    for data_class, encode in _ENCODERS.items():
        if isinstance(value, data_class):
            return encode
    raise TypeError(f"a {type(value).__name__} has no SPOP type")


def _encode_integer(head: DataType, lowest: int, beyond: int) -> Callable[[int], bytes]:
    first = bytes((head,))

    def encode(value: int) -> bytes:
        if not lowest <= value < beyond:
            # Python writes no numbers of any length.
            shown = str(int(value)) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"
            raise ValueError(f"{shown} is outside the range of {head.name}")
        # The sign goes on to 64 bits whatever the type: HAProxy reads every integer as a 64-bit one.
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

# In the order in which a subclass is looked for: bool and the four integers are subclasses of int.
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
    """Decode the KV-LIST that fills ``data`` from ``offset`` on. Of a repeated name, the first value counts.

    :raises InvalidFrame: when it cannot be read to the end.
    """
    items: dict[str, Value] = {}
    while offset < len(data):
        name, offset = decode_string(data, offset)
        value, offset = decode_typed_data(data, offset)
        items.setdefault(name, value)
    return items


def encode_kv_list(items: Iterable[tuple[str, Value]]) -> bytes:
    """Encode ``items``, pairs of a name and a value, as a KV-LIST.

    :raises TypeError: :raises ValueError: as :func:`encode_typed_data` does.
    """
    return b"".join([encode_string(name) + encode_typed_data(value) for name, value in items])

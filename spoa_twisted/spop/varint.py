"""Variable-length integers, in the encoding of HAProxy's peers protocol (SPOE.txt, section 3.1).

A number below 240 is its own byte. From 240 on, the first byte holds 1111 and the four lowest bits of the
number; what remains follows in groups of seven bits, lowest first, each but the last with its eighth bit set.
Every step subtracts what the shorter forms can already say, so a number has exactly one form.
"""

from __future__ import annotations

from typing import Final

from spoa_twisted.spop.errors import InvalidFrame

#: The largest number SPOP knows: ids and integers have 64 bits.
MAX_VARINT: Final = 2**64 - 1

#: The longest form of a 64-bit number, in bytes.
MAX_VARINT_SIZE: Final = 10

_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(240))


def encode_varint(value: int) -> bytes:
    """Encode ``value``, from 0 to 2^64 - 1, as 1 to 10 bytes.

    :raises ValueError: when ``value`` is outside that range.
    """
    if 0 <= value < 240:
        return _ONE_BYTE[value]
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} does not fit in 64 bits")
    encoded = bytearray(((value & 0x0F) | 0xF0,))
    value = (value - 240) >> 4
    while value >= 128:
        encoded.append((value & 0x7F) | 0x80)
        value = (value - 128) >> 7
    encoded.append(value)
    return bytes(encoded)


def end_of_varint(data: bytes, offset: int) -> int:
    """Return the offset behind the number at ``offset`` of ``data``, which need not be known.

    :raises InvalidFrame: as :func:`decode_varint` does.
    """
    try:
        if data[offset] < 240:
            return offset + 1
        end = offset + 1
        while data[end] >= 128:
            end += 1
    except IndexError:
        raise InvalidFrame("the data ends inside a variable-length integer") from None
    # Only the longest form may exceed 64 bits.
    return end + 1 if end + 1 < offset + MAX_VARINT_SIZE else decode_varint(data, offset)[1]


def decode_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Decode the number at ``offset`` of ``data``; return it and the offset behind it.

    :raises InvalidFrame: when ``data`` ends first, or the number takes more than 10 bytes or exceeds 64 bits.
    """
    try:
        value = data[offset]
        offset += 1
        if value < 240:
            return value, offset
        last = offset + MAX_VARINT_SIZE - 1
        shift = 4
        while True:
            byte = data[offset]
            offset += 1
            value += byte << shift
            shift += 7
            if byte < 128:
                break
            if offset >= last:
                raise InvalidFrame("a variable-length integer has more than 10 bytes")
    except IndexError:
        raise InvalidFrame("the data ends inside a variable-length integer") from None
    if value > MAX_VARINT:
        raise InvalidFrame("a variable-length integer has more than 64 bits")
    return value, offset

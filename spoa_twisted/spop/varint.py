"""Variable-length integers ("varints"), in the encoding of HAProxy's peers protocol (SPOE.txt, section 3.1).

A number below 240 is one byte. From 240 on, the four high bits of the first byte are 1111, and its four low bits are
the four lowest bits of the number. More bytes follow, the lowest first. Each holds seven bits of the rest of the
number; its high bit is set if another byte follows.

Before each byte the encoder subtracts the numbers that a shorter form can hold (240 before the second byte, 128 before
each further one). So every number has exactly one encoding. For example::

    239  is ef
    240  is f0 00           (240 - 240) >> 4 = 0
    2287 is ff 7f           (2287 - 240) >> 4 = 127, the largest number of one more byte
    2288 is f0 80 00        (2288 - 240) >> 4 = 128 needs two more bytes; then (128 - 128) >> 7 = 0
"""

from __future__ import annotations

from typing import Final

from spoa_twisted.spop.errors import InvalidFrame

#: The largest number that SPOP can hold: ids and integers have at most 64 bits.
MAX_VARINT: Final = 2**64 - 1

#: The length of the longest encoding of a 64-bit number, in bytes: 4 bits, then 9 times 7 bits.
MAX_VARINT_SIZE: Final = 10

# Most ids, lengths and integers on the wire are below 240: a table lookup is faster than bytes((value,)).
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(240))


def encode_varint(value: int) -> bytes:
    """Encode ``value``, from 0 to 2^64 - 1, as 1 to 10 bytes.

    :raises ValueError: if ``value`` is outside that range.
    """
    if 0 <= value < 240:
        return _ONE_BYTE[value]
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} is not a number from 0 to 2^64 - 1: it does not fit in 64 bits")
    encoded = bytearray(((value & 0x0F) | 0xF0,))
    value = (value - 240) >> 4
    while value >= 128:
        encoded.append((value & 0x7F) | 0x80)
        value = (value - 128) >> 7
    encoded.append(value)
    return bytes(encoded)


def end_of_varint(data: bytes, offset: int) -> int:
    """Return the offset behind the number that begins at ``offset`` of ``data``.

    It skips the two ids of a frame, which an ACK repeats byte by byte: their values are not needed.

    :raises InvalidFrame: as :func:`decode_varint` does.
    """
    try:
        if data[offset] < 240:
            return offset + 1
        end = offset + 1
        while data[end] >= 128:
            end += 1
    except IndexError:
        raise InvalidFrame("the data ends inside a variable-length integer", offset) from None
    # Up to 9 bytes hold less than 64 bits. Only longer forms need a check of their value, which decode_varint does.
    return end + 1 if end + 1 < offset + MAX_VARINT_SIZE else decode_varint(data, offset)[1]


def decode_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Decode the number that begins at ``offset`` of ``data``; return it and the offset behind it.

    :raises InvalidFrame: if ``data`` ends inside the number, or the number takes more than 10 bytes or 64 bits.
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
            # The continuation bit is added together with the seven bits below it. That undoes the encoder's
            # subtraction of 128: the bit's weight at this place is exactly 128 << shift.
            value += byte << shift
            shift += 7
            if byte < 128:
                break
            # Without this limit, a peer could make Python build an integer of a whole frame's length.
            if offset >= last:
                raise InvalidFrame("a variable-length integer has more than 10 bytes", offset)
    except IndexError:
        raise InvalidFrame("the data ends inside a variable-length integer", len(data)) from None
    if value > MAX_VARINT:
        raise InvalidFrame("a variable-length integer has more than 64 bits", offset)
    return value, offset

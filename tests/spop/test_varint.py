"""Variable-length integers (SPOE.txt, section 3.1)."""

from __future__ import annotations

import pytest

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.varint import MAX_VARINT, decode_varint, encode_varint

VARINTS = [
    (0, "00"),
    (1, "01"),
    (239, "ef"),
    (240, "f000"),
    (241, "f100"),
    (256, "f001"),
    (2287, "ff7f"),
    (2288, "f08000"),
    (16380, "fcf006"),
    (264431, "ffff7f"),
    (264432, "f0808000"),
    (33818863, "ffffff7f"),
    (33818864, "f080808000"),
    (4328786159, "ffffffff7f"),
    (4328786160, "f08080808000"),
    (2**63 - 1, "fff0fefefefefefefe06"),
    (2**64 - 5, "fbf0fefefefefefefe0e"),
    (MAX_VARINT, "fff0fefefefefefefe0e"),
]


@pytest.mark.parametrize(("value", "encoded"), VARINTS)
def test_a_number_is_encoded_as_haproxy_encodes_it(value: int, encoded: str) -> None:
    """A number has the bytes that HAProxy sends. They are decoded to the number, also between other bytes."""
    data = bytes.fromhex(encoded)
    assert encode_varint(value) == data
    assert decode_varint(data, 0) == (value, len(data))
    assert decode_varint(b"\xff\xff" + data + b"\x80", 2) == (value, 2 + len(data))


@pytest.mark.parametrize(("value", "encoded"), VARINTS)
def test_a_number_cut_short_is_an_error(value: int, encoded: str) -> None:
    """If the data ends before the last byte of a number, decode_varint raises InvalidFrame."""
    data = bytes.fromhex(encoded)
    for end in range(len(data)):
        with pytest.raises(InvalidFrame):
            decode_varint(data[:end], 0)


@pytest.mark.parametrize(
    "encoded",
    ["ff" + "80" * 9 + "00", "ff" + "ff" * 40, "f0f1fefefefefefefe0e", "ff" + "ff" * 8 + "7f"],
    ids=["eleven bytes", "endless", "2^64", "67 bits"],
)
def test_a_number_above_64_bits_is_an_error(encoded: str) -> None:
    """decode_varint raises InvalidFrame for a number of more than 10 bytes, and for 10 bytes of more than 64 bits."""
    with pytest.raises(InvalidFrame):
        decode_varint(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_numbers_outside_64_bits_are_refused(value: int) -> None:
    """encode_varint raises ValueError for numbers below 0 and above 2^64 - 1."""
    with pytest.raises(ValueError, match=str(value)):
        encode_varint(value)


def test_encoding_and_decoding_agree_near_powers_of_two() -> None:
    """Numbers near each power of two are decoded to themselves: the length of the encoding changes there."""
    for bits in range(65):
        for value in range(max(0, 2**bits - 300), min(2**64, 2**bits + 300)):
            data = encode_varint(value)
            assert decode_varint(data, 0) == (value, len(data))

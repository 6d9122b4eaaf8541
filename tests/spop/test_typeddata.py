"""TYPED-DATA, STRING and KV-LIST (SPOE.txt, sections 3.1 and 3.2)."""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

import pytest

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.typeddata import (
    NULL,
    Int32,
    Int64,
    UInt32,
    UInt64,
    decode_kv_list,
    decode_string,
    decode_typed_data,
    encode_kv_list,
    encode_string,
    encode_typed_data,
    known_ipv4,
)

# Values and their encoding, which is decoded to the same value of the same type.
SYMMETRIC: list[tuple[Any, str]] = [
    (None, "00"),
    (False, "01"),
    (True, "11"),
    (Int32(0), "0200"),
    (Int32(42), "022a"),
    (Int32(-1), "02fff0fefefefefefefe0e"),
    (Int32(-5), "02fbf0fefefefefefefe0e"),
    (Int32(2**31 - 1), "02fff0fefe3e"),
    (Int32(-(2**31)), "02f0f1fefebefefefefe0e"),
    (UInt32(0), "0300"),
    (UInt32(16380), "03fcf006"),
    (UInt32(2**32 - 1), "03fff0fefe7e"),
    (0, "0400"),
    (239, "04ef"),
    (-5, "04fbf0fefefefefefefe0e"),
    (2**63 - 1, "04fff0fefefefefefefe06"),
    (-(2**63), "04f0f1fefefefefefefe06"),
    (UInt64(0), "0500"),
    (UInt64(2**64 - 1), "05fff0fefefefefefefe0e"),
    (IPv4Address("0.0.0.0"), "0600000000"),
    (IPv4Address("127.0.0.1"), "067f000001"),
    (IPv4Address("255.255.255.255"), "06ffffffff"),
    (IPv6Address("::"), "07" + "00" * 16),
    (IPv6Address("2001:db8::1"), "0720010db8000000000000000000000001"),
    (IPv6Address("::ffff:192.0.2.1"), "0700000000000000000000ffffc0000201"),
    ("", "0800"),
    ("GET", "0803474554"),
    ("a\0b", "0803610062"),
    ("é", "0802c3a9"),
    ("\udcff\udc80", "0802ff80"),
    ("x" * 240, "08f000" + "78" * 240),
    (b"", "0900"),
    (b"\x00\xff", "090200ff"),
    (b"y" * 2288, "09f08000" + "79" * 2288),
]

IDS = [f"{type(value).__name__}-{str(value)[:20]!r}" for value, _ in SYMMETRIC]


@pytest.mark.parametrize(("value", "encoded"), SYMMETRIC, ids=IDS)
def test_a_value_is_decoded_to_its_own_type(value: Any, encoded: str) -> None:
    """A value is encoded as HAProxy encodes it, and decoded to the same value and type, also between other bytes."""
    data = bytes.fromhex(encoded)
    assert encode_typed_data(value) == data
    for before, behind in ((b"", b""), (b"\x08\x05", b"\x00\xff")):
        decoded, offset = decode_typed_data(before + data + behind, len(before))
        assert (decoded, type(decoded)) == (value, type(value))
        assert offset == len(before) + len(data)


@pytest.mark.parametrize(("value", "encoded"), SYMMETRIC, ids=IDS)
def test_a_value_cut_short_is_an_error(value: Any, encoded: str) -> None:
    """If the data ends before the last byte of a value, decode_typed_data raises InvalidFrame."""
    data = bytes.fromhex(encoded)
    for end in range(len(data)):
        with pytest.raises(InvalidFrame):
            decode_typed_data(data[:end], 0)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("f0", None),
        ("31", True),
        ("f1", True),
        ("21", False),
        ("e1", False),
        ("f401", 1),
        ("1803616263", "abc"),
        ("02fff0fefe7e", Int32(-1)),
        ("02f0f1fefe3e", Int32(-(2**31))),
    ],
)
def test_variants_of_other_peers_are_decoded(encoded: str, value: Any) -> None:
    """Flags that a type does not use are ignored. A negative INT32 may be encoded in 32 bits as well as in 64."""
    decoded, _ = decode_typed_data(bytes.fromhex(encoded), 0)
    assert (decoded, type(decoded)) == (value, type(value))


@pytest.mark.parametrize("data_type", range(10, 16))
def test_a_reserved_type_is_an_error(data_type: int) -> None:
    """The types 10 to 15 raise InvalidFrame."""
    with pytest.raises(InvalidFrame, match=str(data_type)):
        decode_typed_data(bytes((data_type, 0, 0, 0)), 0)


@pytest.mark.parametrize(
    "encoded",
    ["03f0f1fefe7e", "02f0f1fefe7e", "02fff0fefefefefefefe06", "02fff0fefebefefefefe0e"],
    ids=["UINT32 2^32", "INT32 2^32", "INT32 2^63-1", "INT32 -2^31-1"],
)
def test_an_integer_outside_its_type_is_an_error(encoded: str) -> None:
    """A 32-bit integer with more bits raises InvalidFrame."""
    with pytest.raises(InvalidFrame):
        decode_typed_data(bytes.fromhex(encoded), 0)


class Colour(IntEnum):
    RED = 3


class Permission(IntFlag):
    READ = 2**40


class Verdict(str, Enum):
    DENY = "deny"


class Name(str):
    __slots__ = ()


class Octets(bytes):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (NULL, "00"),
        (Int64(-5), "04fbf0fefefefefefefe0e"),
        (Colour.RED, "0403"),
        (Permission.READ, encode_typed_data(2**40).hex()),
        (Verdict.DENY, "080464656e79"),
        (Name("abc"), "0803616263"),
        (Octets(b"a"), "090161"),
        (bytearray(b"a"), "090161"),
        (memoryview(b"a"), "090161"),
        (IPv4Interface("127.0.0.1/8"), "067f000001"),
        (IPv6Interface("::1/64"), "07" + "00" * 15 + "01"),
    ],
)
def test_subclasses_and_other_bytes_can_be_encoded(value: Any, encoded: str) -> None:
    """NULL, Int64, instances of subclasses, bytearray and memoryview are encoded, but decoded to another class."""
    assert encode_typed_data(value) == bytes.fromhex(encoded)


@pytest.mark.parametrize("value", [1.5, [], {}, object(), {"a"}, 1j, IPv4Address], ids=lambda v: type(v).__name__)
def test_other_types_are_refused(value: Any) -> None:
    """For a value that has no SPOP type, encode_typed_data raises a TypeError that names the value's type."""
    with pytest.raises(TypeError, match=type(value).__name__):
        encode_typed_data(value)


@pytest.mark.parametrize(
    "value",
    [
        Int32(2**31),
        Int32(-(2**31) - 1),
        UInt32(-1),
        UInt32(2**32),
        2**63,
        -(2**63) - 1,
        Int64(2**63),
        UInt64(-1),
        UInt64(2**64),
        "\ud800",
    ],
    ids=ascii,
)
def test_values_outside_their_type_are_refused(value: Any) -> None:
    """An integer outside the range of its type, or a lone surrogate that no byte is decoded to, raises ValueError."""
    with pytest.raises(ValueError):
        encode_typed_data(value)


def test_null_is_readable() -> None:
    """The repr of NULL, as a log shows it, is "NULL"."""
    assert repr(NULL) == "NULL"


@pytest.mark.parametrize("text", ["", "a", "é", "\udcfe", "x" * 300])
def test_a_string_is_encoded_and_decoded(text: str) -> None:
    """A STRING is decoded to the same text, also with bytes behind it; cut off, it raises InvalidFrame."""
    data = encode_string(text)
    assert decode_string(data, 0) == (text, len(data))
    assert decode_string(data + b"\x01", 0) == (text, len(data))
    for end in range(len(data)):
        with pytest.raises(InvalidFrame):
            decode_string(data[:end], 0)


def test_every_pair_of_bytes_is_encoded_unchanged() -> None:
    """Any two bytes that HAProxy sends as a STRING are decoded to a str, which is encoded to the same bytes."""
    for number in range(2**16):
        data = b"\x02" + number.to_bytes(2, "big")
        text, _ = decode_string(data, 0)
        assert encode_string(text) == data


def test_a_kv_list_is_encoded_and_decoded() -> None:
    """Names and values are decoded in their order. Of a repeated name, the first value counts."""
    data = encode_kv_list([("a", 1), ("", b"x"), ("a", 2)])
    assert data == b"\x01a\x04\x01\x00\x09\x01x\x01a\x04\x02"
    assert decode_kv_list(data) == {"a": 1, "": b"x"}
    assert decode_kv_list(b"\xff" + data, 1) == {"a": 1, "": b"x"}
    assert decode_kv_list(b"") == {}


def test_a_kv_list_cut_short_is_an_error() -> None:
    """A list that ends inside a name or a value raises InvalidFrame."""
    data = encode_kv_list([("name", "value")])
    for end in range(1, len(data)):
        with pytest.raises(InvalidFrame):
            decode_kv_list(data[:end])


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        ("", 0),
        ("0c", 0),
        ("08 05 61", 2),
        ("09 05 61", 2),
        ("06 01", 1),
        ("07 01", 1),
        ("04 ff", 2),
        ("04 ff ff", 3),
        ("03 ff ff ff ff ff 7f", 7),
    ],
)
def test_an_error_says_where_it_is(data: str, offset: int) -> None:
    """The offset counts from the beginning of all data, not of the value."""
    for before in (b"", b"before"):
        with pytest.raises(InvalidFrame) as caught:
            decode_typed_data(before + bytes.fromhex(data), len(before))
        assert caught.value.offset == len(before) + offset


def test_the_table_of_addresses_is_bounded() -> None:
    """Each IPV4 is decoded to its own address, and at most 1024 of them are kept."""
    for number in [*range(3000), *range(3000)]:
        assert decode_typed_data(b"\x06" + number.to_bytes(4, "big"), 0) == (IPv4Address(number), 5)
        assert len(known_ipv4) <= 1024

"""ctl.values: the text form of values."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from spoa_twisted import NULL, Int32, Int64, UInt32, UInt64
from spoa_twisted.ctl.values import parse_value
from spoa_twisted.shown import show_value

TYPED = [
    ("null", None),
    ("null:", None),
    ("bool:true", True),
    ("bool:false", False),
    ("int32:-5", Int32(-5)),
    ("uint32:4294967295", UInt32(2**32 - 1)),
    ("int64:42", Int64(42)),
    ("uint64:18446744073709551615", UInt64(2**64 - 1)),
    ("ipv4:192.0.2.1", IPv4Address("192.0.2.1")),
    ("ipv6:2001:db8::1", IPv6Address("2001:db8::1")),
    ("str:42", "42"),
    ("str:", ""),
    ("str:a:b", "a:b"),
    ("bin:00ff", b"\x00\xff"),
    ("bin:", b""),
]

GUESSED = [
    ("true", True),
    ("false", False),
    ("42", 42),
    ("-5", -5),
    ("0", 0),
    ("192.0.2.1", IPv4Address("192.0.2.1")),
    ("2001:db8::1", IPv6Address("2001:db8::1")),
    ("::1", IPv6Address("::1")),
    ("", ""),
    ("GET", "GET"),
    ("True", "True"),
    ("007", "007"),
    ("1_000", "1_000"),
    ("+1", "+1"),
    ("1.5", "1.5"),
    ("http://example.test/", "http://example.test/"),
    ("https:", "https:"),
    ("mailto:a@example.test", "mailto:a@example.test"),
    ("12:30", "12:30"),
    ("fe80:1::2", IPv6Address("fe80:1::2")),
    ("Mozilla: x", "Mozilla: x"),
    ("Text: x", "Text: x"),
    ("ipv4s:x", "ipv4s:x"),
    ("localhost:8080", "localhost:8080"),
    ("sha256:00ff", "sha256:00ff"),
    ("a b int:x", "a b int:x"),
    ("ip", "ip"),
    ("@x", "@x"),
    (":x", ":x"),
    ("str", "str"),
    ("99999999999999999999", "99999999999999999999"),
    ("10.0.0.256", "10.0.0.256"),
]


@pytest.mark.parametrize(("text", "value"), [*TYPED, *GUESSED])
def test_a_value_is_parsed(text: str, value: Any) -> None:
    """The type is the one named before the colon. Without a name, the type is guessed."""
    parsed = parse_value(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "bool:1",
        "bool:",
        "int32:x",
        "int32:2147483648",
        "uint32:-1",
        "int64:9223372036854775808",
        "uint64:1.5",
        "ipv4:1.2.3",
        "ipv6:1.2.3.4",
        "bin:0",
        "bin:xy",
    ],
)
def test_a_text_that_is_not_of_its_type_is_refused(text: str) -> None:
    """parse_value raises ValueError. The value is not sent with another type."""
    with pytest.raises(ValueError):
        parse_value(text)


@pytest.mark.parametrize(
    "word",
    [
        *["ip", "int", "string", "integer", "binary", "boolean", "bytes", "text", "hex", "float", "sint", "addr"],
        *["int8", "uint16", "ip4", "ipv5", "BOOL", "INT32", "STRING", "IPV4", "BIN", "ipv", "str8"],
    ],
)
def test_a_word_that_looks_like_a_type_is_refused(word: str) -> None:
    """The error lists the types. With the type str, the text is accepted."""
    with pytest.raises(ValueError) as caught:
        parse_value(f"{word}:1.2.3.4")
    assert str(caught.value) == (
        f"'{word}' is no type; the types are null, bool, int32, uint32, int64, uint64, ipv4, ipv6, str, bin;"
        f" write str:{word}:1.2.3.4 for this text"
    )
    assert parse_value(f"str:{word}:1.2.3.4") == f"{word}:1.2.3.4"


@pytest.mark.parametrize(("text", "value"), [row for row in TYPED if row[1] is not None])
def test_a_value_is_shown_as_it_is_written(text: str, value: Any) -> None:
    """spoactl accepts the values that it prints."""
    assert show_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "int64:7"), (NULL, "null"), ("a\nb\x1b[31m\udcff", "str:a\\nb\\x1b[31m\\udcff"), ("é", "str:é")],
)
def test_a_value_is_shown_in_one_line(value: Any, text: str) -> None:
    """Control characters from the network are escaped."""
    assert show_value(value) == text


def test_a_value_without_an_spop_type_is_refused() -> None:
    """SPOP has no type for a float."""
    with pytest.raises(TypeError, match="a float has no SPOP type"):
        show_value(1.5)  # type: ignore[arg-type]

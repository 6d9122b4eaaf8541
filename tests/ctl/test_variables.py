"""ctl.variables: variables as lines and as JSON, and compared."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from spoa_twisted.ctl.variables import canonical, differences, show_variable, variables_to_json
from spoa_twisted.spop.typeddata import NULL, Int32, Int64, UInt32, UInt64


def test_equal_variables() -> None:
    """Their order does not matter, and unset is equal to NULL. Types matter."""
    assert canonical({"txn.a": 1, "txn.b": None}) == canonical({"txn.b": NULL, "txn.a": Int64(1)})
    assert canonical({"txn.a": 1}) != canonical({"txn.a": Int32(1)})
    assert canonical({"txn.a": None}) != canonical({})


@pytest.mark.parametrize(
    ("value", "line"), [(True, "txn.a=bool:true"), (None, "unset txn.a"), (NULL, "txn.a=null"), ("\n", "txn.a=str:\\n")]
)
def test_a_variable_is_a_line(value: Any, line: str) -> None:
    """Control characters are escaped, also those in the name."""
    assert show_variable("txn.a", value) == line
    assert show_variable("txn.\x1b", 1) == "txn.\\x1b=int64:1"


@pytest.mark.parametrize(
    ("expected", "received", "line"),
    [
        (1, 2, "expected txn.a=int64:1, got txn.a=int64:2"),
        (1, Int32(1), "expected txn.a=int64:1, got txn.a=int32:1"),
        (True, 1, "expected txn.a=bool:true, got txn.a=int64:1"),
        ("x", None, "expected txn.a=str:x, got unset txn.a"),
        ("x", NULL, "expected txn.a=str:x, got txn.a=null"),
        (None, "x", "expected txn.a=null, got txn.a=str:x"),
        (None, False, "expected txn.a=null, got txn.a=bool:false"),
    ],
)
def test_a_difference(expected: Any, received: Any, line: str) -> None:
    """The line has the types too. The difference is found in both directions, and other variables do not matter."""
    assert differences({"txn.a": expected}, {"txn.a": received, "txn.b": 1}) == [line]
    assert differences({"txn.a": received}, {"txn.a": expected}) != []
    for value in (expected, received):
        assert differences({"txn.a": value}, {"txn.b": 1, "txn.a": value}) == []


def test_a_variable_that_is_missing() -> None:
    """A variable that is expected to be unset may be missing, or set to NULL."""
    assert differences({"txn.a": 1, "txn.b": None}, {"txn.c": 1}) == ["expected txn.a=int64:1, got no txn.a"]
    assert differences({"txn.a": None}, {"txn.a": NULL}) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (NULL, {"type": "null", "value": None}),
        (True, {"type": "bool", "value": True}),
        (Int32(-5), {"type": "int32", "value": -5}),
        (UInt32(5), {"type": "uint32", "value": 5}),
        (-(2**63), {"type": "int64", "value": -(2**63)}),
        (UInt64(2**64 - 1), {"type": "uint64", "value": 2**64 - 1}),
        (IPv4Address("192.0.2.1"), {"type": "ipv4", "value": "192.0.2.1"}),
        (IPv6Address("2001:db8::1"), {"type": "ipv6", "value": "2001:db8::1"}),
        ("é\n\x1b\U0001f600", {"type": "str", "value": "é\n\x1b\U0001f600"}),
        ("a\udcff", {"type": "str", "value": "a\ufffd", "hex": "61ff"}),
        ("a\ufffd", {"type": "str", "value": "a\ufffd"}),
        (b"\x00\xff", {"type": "bin", "value": "00ff"}),
    ],
)
def test_a_variable_as_json(value: Any, shown: Any) -> None:
    """Nothing is lost, and no lone surrogate is left, which other JSON parsers replace or refuse."""
    text = json.dumps(variables_to_json({"txn.a": value}))
    assert json.loads(text) == {"txn.a": shown}
    assert "\n" not in text
    json.dumps(variables_to_json({"txn.a": value, "txn.\udcff": value}), ensure_ascii=False).encode()

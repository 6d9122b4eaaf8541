"""LIST-OF-ACTIONS (SPOE.txt, section 3.4)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from spoa_twisted.spop.actions import NO_ACTIONS, decode_action, decode_actions, encode_actions
from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.typeddata import NULL, Int32

LISTS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"txn.ip_score": Int32(42)}, "010302" + "0869705f73636f7265" + "022a"),
    ({"proc.a": 1}, "010300" + "0161" + "0401"),
    ({"sess.a": 1}, "010301" + "0161" + "0401"),
    ({"txn.a": 1}, "010302" + "0161" + "0401"),
    ({"req.a": 1}, "010303" + "0161" + "0401"),
    ({"res.a": 1}, "010304" + "0161" + "0401"),
    ({"sess.a": None}, "020201" + "0161"),
    ({"sess.a": NULL}, "010301" + "0161" + "00"),
    ({"req.a.b_C.9": True}, "010303" + "07612e625f432e39" + "11"),
    (
        {"sess.a": "x", "txn.b": None, "res.c": b""},
        "010301" + "0161" + "080178" + "020202" + "0162" + "010304" + "0163" + "0900",
    ),
]


@pytest.mark.parametrize(("variables", "encoded"), LISTS)
def test_a_list_is_encoded_and_decoded(variables: dict[str, Any], encoded: str) -> None:
    """Variables are encoded in their order as HAProxy reads them, and the bytes are decoded to the same variables."""
    data = bytes.fromhex(encoded)
    assert encode_actions(variables) == data
    assert encode_actions(MappingProxyType(variables)) == data
    assert list(decode_actions(data).items()) == list(variables.items())
    assert decode_actions(b"\x01" + data, 1) == variables


@pytest.mark.parametrize(("variables", "encoded"), LISTS)
def test_a_list_cut_short_is_an_error_or_a_shorter_list(variables: dict[str, Any], encoded: str) -> None:
    """Data that ends inside an action raises InvalidFrame. Data that ends between two actions is a shorter list."""
    data = bytes.fromhex(encoded)
    items = list(variables.items())
    ends = {len(encode_actions(dict(items[:count]))): dict(items[:count]) for count in range(len(items) + 1)}
    for end in range(len(data)):
        if end in ends:
            assert decode_actions(data[:end]) == ends[end]
        else:
            with pytest.raises(InvalidFrame):
                decode_actions(data[:end])


def test_no_scope_means_proc() -> None:
    """A name without a scope has the scope proc."""
    assert encode_actions({"a": 1}) == encode_actions({"proc.a": 1})


def test_doubtful_names_are_collected() -> None:
    """Names without a scope, and long names, each time. An instance of a subclass of str is collected too."""

    class Name(str):
        __slots__ = ()

    long, longer = "sess." + "v" * 41, "v" * 100
    variables: dict[str, Any] = {"sess.good": 1, "a": 1, long: None, Name("b"): 1, longer: 1, "proc." + "v" * 40: 1}
    for _ in range(2):
        doubtful: list[str] = []
        assert encode_actions(variables, doubtful) == encode_actions(variables)
        assert doubtful == ["a", long, "b", longer]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("session.a", "'session' is not a scope; use one of proc, sess, txn, req, res"),
        ("a.b", "'a' is not a scope"),
        (".a", "'' is not a scope"),
        ("SESS.a", "'SESS' is not a scope"),
        ("sess.", "drops names"),
        ("", "drops names"),
        ("sess.a-b", "drops names"),
        ("sess.a b", "drops names"),
        ("sess.é", "drops names"),
        ("sess.a\n", "drops names"),
        ("user-agent", "drops names"),
    ],
)
def test_names_that_haproxy_ignores_are_refused(name: str, text: str) -> None:
    """For a name that HAProxy would silently ignore, encode_actions raises a ValueError that names the variable."""
    with pytest.raises(ValueError, match=text) as caught:
        encode_actions({name: 1})
    assert f"variable {name!r}: " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("sess.a", 1.5, TypeError, "variable 'sess.a': a float has no SPOP type"),
        ("sess.a", 2**63, ValueError, "variable 'sess.a': 9223372036854775808 is outside the range of INT64"),
        ("sess.a", Int32(2**31), ValueError, "variable 'sess.a': 2147483648 is outside the range of INT32"),
        ("sess.a", "\ud800", ValueError, r"variable 'sess.a': .*surrogates not allowed"),
        (1, 1, TypeError, "variable 1: "),
        (b"sess.a", 1, TypeError, "variable b'sess.a': "),
        (("sess", "a"), 1, TypeError, "variable "),
    ],
)
def test_values_that_cannot_be_encoded_are_refused(name: Any, value: Any, error: type[Exception], text: str) -> None:
    """The error names the variable, and the type or the range that its value violates."""
    with pytest.raises(error, match=text):
        encode_actions({"sess.good": 1, name: value})


def test_the_last_action_on_a_variable_counts() -> None:
    """If two actions name the same variable, decode_actions returns the value of the second."""
    assert decode_actions(encode_actions({"sess.a": 1}) + encode_actions({"sess.a": None})) == {"sess.a": None}


def test_no_actions_is_decoded_as_an_empty_list() -> None:
    """NO_ACTIONS is a valid list that unsets txn._, and decode_actions returns no variables for it."""
    assert decode_actions(NO_ACTIONS) == {}
    assert encode_actions({"txn._": None}) == NO_ACTIONS


@pytest.mark.parametrize(
    "encoded",
    ["00", "0003010161", "0102010161" + "00", "0303010161" + "00", "0103050161" + "00", "0203010161", "01030101610a"],
    ids=["one byte", "action 0", "too few arguments", "action 3", "scope 5", "too many", "reserved type"],
)
def test_unknown_actions_are_an_error(encoded: str) -> None:
    """An unknown action, scope, number of arguments or data type raises InvalidFrame."""
    with pytest.raises(InvalidFrame):
        decode_actions(bytes.fromhex(encoded))


def test_the_table_of_names_is_bounded() -> None:
    """Each table holds at most 1024 names, of at most 64 characters each, and no instances of subclasses of str."""
    from spoa_twisted.spop.actions import _doubtful_heads, _known_heads

    class Name(str):
        __slots__ = ("more",)

    for number in range(3000):
        encode_actions({f"sess.a{number}": 1, f"sess.{'b' * 100}{number}": 1, Name(f"sess.c{number}"): 1})
        encode_actions({f"a{number}": 1, f"{'b' * 100}{number}": 1, Name(f"c{number}"): 1})
    for table in (_known_heads, _doubtful_heads):
        assert 0 < len(table) <= 1024
        assert max(map(len, table)) <= 64
        assert set(map(type, table)) == {str}


def test_actions_are_decoded_one_by_one() -> None:
    """A tool shows those before a bad action, and where that is."""
    data = encode_actions({"txn.a": True, "sess.b": None, "txn.n": NULL}) + b"\x01\x03\x07\x01c\x11"
    variables = []
    offset = 0
    for _ in range(3):
        variable, value, offset = decode_action(data, offset)
        variables.append((variable, value))
    with pytest.raises(InvalidFrame) as caught:
        decode_action(data, offset)
    assert variables == [("txn.a", True), ("sess.b", None), ("txn.n", NULL)]
    assert caught.value.offset == offset + 2

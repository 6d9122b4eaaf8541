"""The condition of an ``.if`` line has a value, no value that can be known, or it is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoa_twisted.haproxy.grammar.predicates import UnreadableError, evaluate

ENVIRONMENT = {"A": "1"}

#: Conditions with the value that HAProxy gives to them; test_real_grammar.py asks HAProxy.
KNOWN = {
    "0": False,
    "1": True,
    "-1": True,
    "+0": False,
    "00": False,
    "0x0": False,
    "0x10": True,
    "010": True,
    "!0": True,
    "! 0": True,
    "!!0": False,
    "(1)": True,
    "((1))": True,
    "( 1 && 0 ) || 1": True,
    "1&&0": False,
    "1 || 0 && 0": True,
    "0 || 1 && 0": False,
    "1&&!0||0": True,
    "!(0)": True,
    "!(1 || 1)": False,
    "1 ": True,
    "version_atleast(2)": True,
    "version_atleast( 2.4 )": True,
    "version_atleast(2.4.9-dev3)": True,
    "version_atleast(9)": False,
    "version_atleast(x)": True,
    "version_atleast(2.4beta)": True,
    "version_atleast()": True,
    "version_atleast": True,
    "version_before(9.1)": True,
    "version_before(2.4)": False,
    "defined(A)": True,
    "defined(B)": False,
    "defined()": False,
    "streq(a,a)": True,
    "streq(a, a)": False,
    "streq(a,b)": False,
    "streq(,)": True,
    "streq(a(b,a(b)": True,
    "streq(a\\ b,a\\x20b)": False,
    "strneq(a,b)": True,
    "strneq(a,a)": False,
    "defined(A) && streq(a,a)": True,
    "defined(A)||defined(B)": True,
}
#: ``strstr`` came with HAProxy 2.8.
STRSTR = {"strstr(abc,b)": True, "strstr(abc,)": True, "strstr(,a)": False}
REFUSED = [
    *("true", "09", "1a", "1 1", "1)", "(1", "!", "-", "&& 1", "1 &&", "1||", "1 | 0", "nope(1)", "1 || nope(1)"),
    *("defined(A", "defined(A,B)", "streq(a)", "streq(a,b,c)", "streq(a,a)x", "version_atleast (2.6)"),
    *("version_atleast(2.6,1)", "streq(a(b),a(b))"),
]


@pytest.mark.parametrize("text", KNOWN | STRSTR)
def test_known(text: str) -> None:
    """A condition has the value that HAProxy gives to it."""
    assert evaluate(text, (3, 0), ENVIRONMENT) is (KNOWN | STRSTR)[text]


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    """A condition that HAProxy refuses is an error."""
    with pytest.raises(UnreadableError):
        evaluate(text, (3, 0), ENVIRONMENT)


@pytest.mark.parametrize("text", ["", " "])
def test_empty(text: str) -> None:
    """An empty condition is false."""
    assert evaluate(text, (3, 0), {}) is False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("version_atleast(3.1)", True),
        ("version_atleast(3.1-dev4)", True),
        ("version_atleast(3.1.0)", True),
        ("version_atleast(3.1.4)", None),
        ("version_before(3.1)", False),
        ("version_before(3.1.4)", None),
        ("version_before(3.2)", True),
        ("version_atleast(3.2)", False),
        ("version_atleast(4)", False),
    ],
)
def test_versions(text: str, value: bool | None) -> None:
    """Only the branch is known, not the release."""
    assert evaluate(text, (3, 1), {}) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("feature(OPENSSL)", None),
        ("!enabled(SPLICE)", None),
        ("openssl_version_atleast(3.0.0)", None),
        ("openssl_version_before(3.0.0)", None),
        ("ssllib_name_startswith(AWS)", None),
        ("awslc_api_atleast(25)", None),
        ("awslc_api_before(25)", None),
        ("feature(A) || 1", True),
        ("feature(A) || 0", None),
        ("0 || feature(A)", None),
        ("1 && feature(A)", None),
        ("feature(A) && 0", False),
        ("0 && feature(A)", False),
    ],
)
def test_unknown(text: str, value: bool | None) -> None:
    """What depends on the build of HAProxy is not known, unless the rest of the condition decides."""
    assert evaluate(text, (3, 1), {}) is value


def test_many_parentheses() -> None:
    """Deep nesting is an error, and no recursion without an end."""
    with pytest.raises(UnreadableError, match="too many nested parentheses"):
        evaluate("(" * 10000 + "1", (3, 0), {})


PIECES = [*"01!()&| ,'\"\\", "&&", "||", "defined(A)", "streq(", "feature(x)", "version_before(3", "nope"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_never_another_error(text: str) -> None:
    """Any text has a value, or is refused."""
    with suppress(UnreadableError):
        assert evaluate(text, (3, 0), ENVIRONMENT) in (True, False, None)

"""Sample expressions are read, alone and in log formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoa_twisted.haproxy.grammar.expressions import Call, Expression
from spoa_twisted.haproxy.grammar.samples import expressions_in, parse_expression


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("src", [Call("src")]),
        ("rand()", [Call("rand")]),
        ("req.hdr(x-a,-1)", [Call("req.hdr", ("x-a", "-1"))]),
        ("str(\"a,b)\"),field(1,',')", [Call("str", ("a,b)",)), Call("field", ("1", ","))]),
        ('str(\'a\\b\',"c\\"d",e\\,f,)', [Call("str", ("a\\b", 'c"d', "e\\", "f", ""))]),
        ("str(a\\ b\\r\\n\\t)", [Call("str", ("a b\r\n\t",))]),
        ("str(a(b)", [Call("str", ("a(b",))]),
        ('str("")', [Call("str", ("",))]),
        ("src,lower,upper", [Call("src"), Call("lower"), Call("upper")]),
        ("src,,lower,", [Call("src"), Call("lower")]),
        ("lua.my-fetch(a),lua.c:d_e", [Call("lua.my-fetch", ("a",)), Call("lua.c:d_e")]),
    ],
)
def test_expressions(text: str, calls: list[Call]) -> None:
    """A fetch and its converters are read with their arguments."""
    assert parse_expression(text) == Expression(text, calls[0], tuple(calls[1:]))


@pytest.mark.parametrize("text", ["", "a b", "a(", "a(b))", "(a)", "a,b(", "a'b'", "%[a]", "str('a)", "a(b)c"])
def test_no_expression(text: str) -> None:
    """Another text is no expression."""
    assert parse_expression(text) is None


def test_variable() -> None:
    """``var(NAME)`` reads a variable; a default value may follow."""
    names = ["var(txn.p.a)", "var(txn.p.a,0)", "var()", "src", "src,var(a)"]
    assert [found and found.variable for found in map(parse_expression, names)] == ["txn.p.a", "txn.p.a", None] + [
        None
    ] * 2


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("%ci %[src] %[dst,lower]:%[var(a)]", ["src", "dst,lower", "var(a)"]),
        ("%{+Q}[src] %(name)[dst] %(n:int){+X}[rand(3)]", ["src", "dst", "rand(3)"]),
        ("%%[src] %%%[dst]", ["dst"]),
        ("%[var(a)] %[src %[dst]", ["var(a)"]),
        ("%[str(])]%[src", ["str(])"]),
        ("100% [src]", []),
        ("%[]%[", []),
    ],
)
def test_log_formats(text: str, expressions: list[str]) -> None:
    """The expressions in a log format are found."""
    assert [found.text for found in expressions_in(text)] == expressions


PIECES = [*"a.,()'\"\\[]{}% ", "%[", "%{+Q}[", "var(", "txn.a"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text(text: str) -> None:
    """Any text is read without an error, and what is found is part of the text."""
    expression = parse_expression(text)
    assert expression is None or expression.text == text
    assert all(f"[{found.text}]" in text for found in expressions_in(text))

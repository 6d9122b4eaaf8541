"""Conditions are read into terms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoa_twisted.haproxy.grammar.conditions import parse_condition, parse_test, split_condition
from spoa_twisted.haproxy.grammar.documents import parse_lines
from spoa_twisted.haproxy.grammar.expressions import Condition, Term
from spoa_twisted.haproxy.grammar.lines import Word


def words(text: str) -> tuple[Word, ...]:
    """Return the words of a line."""
    return parse_lines(text + "\n", "f", {}).lines[0].words


def shown(term: Term) -> str:
    """Return a term in a form that a test can compare."""
    name = term.acl or (term.expression.text if term.expression else "?")
    return f"{'not ' if term.negated else ''}{name} {list(term.flags)} {list(term.patterns)}"


def alternatives(condition: Condition) -> list[list[str]]:
    """Return the alternatives of a condition in a form that a test can compare."""
    return [
        [term.acl or shown(term) if not term.negated else shown(term) for term in each]
        for each in condition.alternatives
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("if a b", [["a", "b"]]),
        ("if a or b c || d", [["a"], ["b", "c"], ["d"]]),
        ("if a OR b", [["a"], ["b"]]),
        ("if !a ! b !!c ! !d", [["not a [] []", "not b [] []", "c", "d"]]),
        ("if ! or a", [[], ["a"]]),
        ("if { src 1.2.3.4 } !{ path /x } b", [["src [] ['1.2.3.4']", "not path [] ['/x']", "b"]]),
        ("if ! { src } a", [["not src [] []", "a"]]),
        ("if { var(txn.a) -m bool }", [["var(txn.a) ['-m', 'bool'] []"]]),
        ("if { src -i -n -M -f F -u 3 -- -1 x }", [["src ['-i', '-n', '-M', '-f', 'F', '-u', '3'] ['-1', 'x']"]]),
        ("if { var(a) -m int ge 1 }", [["var(a) ['-m', 'int'] ['ge', '1']"]]),
        ("if { src -m }", [["src ['-m'] []"]]),
        ("if { src( x }", [["? [] ['x']"]]),
        ("if { }", [["? [] []"]]),
        ("if a { b", [["a"]]),
        ("if", [[]]),
    ],
)
def test_conditions(text: str, found: list[list[str]]) -> None:
    """Alternatives, negations and anonymous ACLs are read."""
    condition = parse_condition(words(text))
    assert alternatives(condition) == found
    assert (condition.unless, condition.words) == (False, words(text))


def test_split() -> None:
    """Words are divided at ``if`` and ``unless``."""
    front, condition = split_condition(words("deny unless a"))
    assert [word.text for word in front] == ["deny"]
    assert condition is not None
    assert condition.unless
    assert split_condition(words("deny")) == (words("deny"), None)


def test_acl_line() -> None:
    """What stands behind the name of an ``acl`` line is read as what stands between braces."""
    line = words("acl bad var(txn.bad) -m bool")
    assert shown(parse_test(line[2:], line[1])) == "var(txn.bad) ['-m', 'bool'] []"
    assert parse_test((), line[1]) == Term(line[1], False)


@given(
    st.lists(
        st.sampled_from(["if", "!", "{", "}", "or", "||", "a", "!b", "!{", "-m", "-f", "--", "src", "var(a)", '""'])
    )
)
def test_any_words(texts: list[str]) -> None:
    """Any words are read without an error. Each term's word is one of them."""
    given_words = words("if " + " ".join(texts))
    for terms in parse_condition(given_words).alternatives:
        assert all(term.word in given_words for term in terms)

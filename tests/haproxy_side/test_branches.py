"""Of a conditional block the lines of one branch count."""

from __future__ import annotations

import pytest

from spoa_twisted.haproxy.grammar.branches import select, words_for
from spoa_twisted.haproxy.grammar.documents import parse_lines


def read(text: str) -> tuple[list[str], list[str]]:
    """Return the lines that count for HAProxy 3.0, and what is not known."""
    branches = select(parse_lines(text, "f", {}), (3, 0), {"A": "1"})
    return [line.raw.strip() for line in branches.lines], [f"{place.line}: {why}" for place, why in branches.unknown]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\n\n# b\nc\n", ["a", "c"]),
        (".if 1\na\n.else\nb\n.endif\nc\n", ["a", "c"]),
        (".if 0\na\n.else\nb\n.endif\nc\n", ["b", "c"]),
        (".if 0\na\n.elif 0\nb\n.elif defined(A)\nc\n.elif 1\nd\n.else\ne\n.endif\n", ["c"]),
        (".if 0\na\n.if 1\nb\n.else\nc\n.endif\n.else\nd\n.endif\n", ["d"]),
        (".if 1\n.if 0\nb\n.else\nc\n.endif\nd\n.else\ne\n.endif\n", ["c", "d"]),
        (".if\na\n.endif\n", []),
        (".notice a\n.warning b\n.alert c\n.diag d\ne\n", ["e"]),
        (".if 0\n[x]\na\n.endif\n", ["[x]"]),
        (".if 1\na\n.elif nonsense\nb\n.endif\n", ["a"]),
        (".if 0\n.nonsense\n.if nonsense\n.endif\n.endif\na\n", ["a"]),
    ],
)
def test_known(text: str, lines: list[str]) -> None:
    """The branch whose condition is true counts, and a scope's line in each branch."""
    assert read(text) == (lines, [])


@pytest.mark.parametrize(
    ("text", "lines", "unknown"),
    [
        (
            ".if feature(X)\na\n.else\nb\n.endif\n",
            ["a"],
            ["1: .if feature(X) depends on HAProxy's build: taken as true."],
        ),
        (
            ".if 0\na\n.elif feature(X)\nb\n.elif 1\nc\n.else\nd\n.endif\n",
            ["b"],
            ["3: .elif feature(X) depends on HAProxy's build: taken as true."],
        ),
        (".if nope\na\n.else\nb\n.endif\n", ["a"], ["1: .if nope: HAProxy does not know 'nope'."]),
        (".else\na\n", ["a"], ["1: HAProxy does not accept .else here."]),
        (".nope\na\n", ["a"], ["1: HAProxy does not accept .nope here."]),
    ],
)
def test_unknown(text: str, lines: list[str], unknown: list[str]) -> None:
    """If a condition is not known, its branch counts and no other, and the condition is named."""
    assert read(text) == (lines, unknown)


@pytest.mark.parametrize(
    ("text", "old", "joining", "new"),
    [
        ('messages "$X" m', ["messages"], ["messages", "m"], ["messages"]),
        ('messages a "$X" m', ["messages", "a"], ["messages", "a", "m"], ["messages", "a"]),
        ('messages a"${X}" m', ["messages", "a", "m"], ["messages", "am"], ["messages", "a", "m"]),
        ('messages "$X "m', ["messages", " m"], ["messages", " m"], ["messages", " m"]),
        ('messages "$X"', ["messages"], ["messages"], ["messages"]),
        ('messages "" m', ["messages", "", "m"], ["messages", "", "m"], ["messages", "", "m"]),
    ],
)
def test_unset_variables(text: str, old: list[str], joining: list[str], new: list[str]) -> None:
    """A variable that is not set ends the line, or joins words, as the version of HAProxy does it."""
    (line,) = parse_lines(text + "\n", "f", {}).lines
    for version, words in [((2, 6), old), ((2, 8), joining), ((3, 2), joining), ((3, 4), new)]:
        assert [word.text for word in words_for(line.words, version)] == words


def test_the_place_of_a_joined_word() -> None:
    """A word that is joined with an empty one keeps its own place."""
    (line,) = parse_lines('messages "$X" m\n', "f", {}).lines
    assert words_for(line.words, (3, 0))[1].place.column == 15

"""Lines are split into words as HAProxy splits them, and a file's text is kept byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoa_twisted.haproxy.grammar.documents import parse_lines, scope_name
from spoa_twisted.haproxy.grammar.lines import Line, Place
from spoa_twisted.haproxy.grammar.words import read_words

ENVIRONMENT = {"ONE": "1", "TWO": "a  b", "EMPTY": "", "PATTERN": "it's # \\n $ONE"}

#: What the random lines of the tests are made of.
PIECES = [
    *("a", "x41", "9", "é", " ", "  ", "\t", "\r", '"', "'", "\\", "#", "$", "{", "}", "[*]", "%", "(", ",", ".", "!"),
    *("\\x41", "\\x4", "\\t", "\\ ", "\\#", "\\$", "\\'", '\\"', "\\\\"),
    *("$ONE", "${ONE}", "${TWO}", "${TWO[*]}", "${UNSET}", "${UNSET-d}", "${ONE-d}", "${.LINE}", "$9", "${ONE"),
]


def line(text: str) -> Line:
    """Return the only line of a file."""
    (found,) = parse_lines(text + "\n", "haproxy.cfg", ENVIRONMENT).lines
    return found


def texts(text: str) -> list[str]:
    """Return the words of a line that HAProxy accepts."""
    found = line(text)
    assert found.error is None
    return [word.text for word in found.words]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  \t ", []),
        ("# all of it", []),
        ("  args ip=src  # the client", ["args", "ip=src"]),
        ("a#b c", ["a"]),
        ('"a#b" c\\#d', ["a#b", "c#d"]),
        ("a 'b  c'd \"\"", ["a", "b  cd", ""]),
        ("'a\\x41$ONE\"'", ['a\\x41$ONE"']),
        ("\"it's\" \\'a", ["it's", "'a"]),
        ("a\\ b\\\\c\\td\\x41\\q", ["a b\\c\tdA\\q"]),
        ('\\$ONE "\\$ONE"', ["\\$ONE", "$ONE"]),
        ("a\\", ["a\\"]),
        ("a\r", ["a"]),
        ("a\rb", ["a"]),
        ("a \rb", ["a", "b"]),
        ("a\vb\fc", ["a", "b", "c"]),
        ("$ONE ${ONE}", ["$ONE", "${ONE}"]),
        ('"$ONE-${ONE}" "${TWO}"', ["1-1", "a  b"]),
        ('"${UNSET-d e}" "${ONE-d}" "${EMPTY-d}"', ["d e", "1", ""]),
        ('x"${TWO[*]}"y "$TWO[*]"', ["xa", "by", "a  b[*]"]),
        ('"$PATTERN"', ["it's # \\n $ONE"]),
        ('"${.FILE}:$.LINE"', ["haproxy.cfg:1"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    """Quotes, escapes, comments and environment variables are resolved."""
    assert texts(text) == words


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a 'b", "the quote in column 3 has no end"),
        ("\"a'", "the quote in column 1 has no end"),
        ("a\\x4g", "\\x in column 2 needs two hexadecimal digits"),
        ('"$1"', "the $ in column 2 needs the name of an environment variable"),
        ('"$"', "the $ in column 2 needs the name of an environment variable"),
        ('"${ONE"', "the brace in column 3 has no end"),
        ('"${ONE!}"', "the brace in column 3 has no end"),
        ('"${ONE[1]}"', "the [ behind the variable ONE must be [*]"),
        ('"${.NONE}"', "HAProxy does not know the variable .NONE in column 2"),
        ("a\0b", "the line has a NUL byte"),
        ("a " * 65, "the line has more than 64 words"),
        ("[e] x", "a line with [ at its start must be the name of a scope in brackets"),
    ],
)
def test_errors(text: str, error: str) -> None:
    """A line that HAProxy refuses has an error, and its raw text."""
    found = line(text)
    assert (found.error, found.raw) == (error, text + "\n")


def test_most_words() -> None:
    """HAProxy accepts 64 words."""
    assert len(texts("a " * 64)) == 64


def test_words_before_an_error() -> None:
    """The words in front of an error are kept."""
    assert [word.text for word in line("args ip=src 'x").words] == ["args", "ip=src"]


def test_the_last_line() -> None:
    """A last line without a line feed is an error."""
    first, last = parse_lines("a\nb", "f", {}).lines
    assert (first.error, last.error) == (None, "the last line has no line feed at its end")


def test_positions() -> None:
    """A word knows its line and its column, and how it stands in the file."""
    _, second = parse_lines('#\n  a  "$ONE"b\n', "f", ENVIRONMENT).lines
    assert [(word.place, word.raw) for word in second.words] == [(Place("f", 2, 3), "a"), (Place("f", 2, 6), '"$ONE"b')]


def test_unset() -> None:
    """A word knows the environment variables that are not set and have no default."""
    found = line('"$NONE${UNSET}" "${UNSET-}" "$EMPTY"')
    assert [word.unset for word in found.words] == [("NONE", "UNSET"), (), ()]


def test_section() -> None:
    """``${.SECTION}`` is the kind of the section in which the line stands."""
    document = parse_lines('frontend www\n  log-tag "${.SECTION}"\n', "f", {})
    assert document.lines[1].words[1].text == "frontend"


@pytest.mark.parametrize(
    ("text", "name"),
    [("[e]", "e"), (" [A-z.0_:] # x", "A-z.0_:"), ("[e] x", None), ("[e e]", None), ("[]", None), ('"[e]"', None)],
)
def test_scopes(text: str, name: str | None) -> None:
    """``[name]`` alone on its line begins a scope. A comment may follow."""
    assert scope_name(line(text)) == name
    assert scope_name(line(text + "\r")) == name


@given(st.binary())
def test_round_trip_of_bytes(data: bytes) -> None:
    """Any bytes are read, and come back."""
    assert str(parse_lines(data, "f", ENVIRONMENT)).encode("utf-8", "surrogateescape") == data


@given(st.lists(st.sampled_from([*PIECES, "\n"])).map("".join))
def test_round_trip_of_pieces(text: str) -> None:
    """Each word stands where its place says."""
    document = parse_lines(text, "f", ENVIRONMENT)
    assert str(document) == text
    rows = text.split("\n")
    for word in (word for each in document.lines for word in each.words):
        assert rows[word.place.line - 1].startswith(word.raw, word.place.column - 1)


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_long_word(quote: str) -> None:
    """The time grows with the length, not with its square: that took minutes."""
    long = "a" * 2_000_000
    (word,), error = read_words(quote + long + quote, Place("haproxy.cfg", 1), {})
    assert (word.text, error) == (long, None)

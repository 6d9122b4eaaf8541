"""help_text: the kinds of parts in a help text, and their layout."""

from __future__ import annotations

from spoa_twisted.help_text import NO_BREAK, Block, Kind, fill, items, parse, sections

TEXT = """\
A paragraph whose lines are joined, and
wrapped again:
  - a bullet of several words
    with a second line
  literal --line
  - another bullet

Not a heading:

exit status:
  0  all is well,
    as it was
  1  it is not
"""

FILLED = """\
A paragraph whose lines are
joined, and wrapped again:
  - a bullet of several
    words with a second line
  literal --line
  - another bullet

Not a heading:

exit status:
  0  all is well, as it was
  1  it is not
"""


def test_fill() -> None:
    """Each kind of part is wrapped in its way. A literal line is not wrapped."""
    assert fill(TEXT, 28) == FILLED
    assert fill("  literal words, many of them\n", 10) == "  literal words, many of them\n"
    assert fill("", 80) == ""


def test_the_items_of_a_list_share_a_column() -> None:
    """The column is as wide as the widest term, up to a limit. The text of a longer term begins below it."""
    text = f"  a  one\n  bbb  two and\n    three\n  {'c' * 23}  four\n"
    assert fill(text, 15).splitlines() == [
        "  a    one",
        "  bbb  two and",
        "       three",
        "  " + "c" * 23,
        "       four",
    ]
    # Without a short term, the column has its greatest width.
    assert fill(f"  {'c' * 23}  four\n", 80).splitlines() == ["  " + "c" * 23, " " * 26 + "four"]


def test_a_space_at_which_no_line_ends() -> None:
    """It is shown as a space."""
    assert items([("a", f"aaa bbb{NO_BREAK}cc")], 13, 1) == ["  a  aaa", "     bbb cc"]


def test_gaps_are_kept() -> None:
    """An empty line stays, and several become one. Those before the first part are dropped."""
    assert fill("\n\nA\n\n\nB\n\n  - c\n\n  - d\n", 80) == "A\n\nB\n\n  - c\n\n  - d\n"
    assert fill("  a  x\n\n  b  y\n", 80) == "  a  x\n\n  b  y\n"


def test_a_heading_begins_a_section() -> None:
    """A line is a heading only if it is a paragraph of its own, in lower case."""
    assert parse("A\nexamples:\n") == [Block(Kind.PARAGRAPH, "A examples:")]
    found = list(sections("A\n\nempty:\n\nexamples:\n  x y\n\nB\n"))
    assert found == [
        ("", [Block(Kind.PARAGRAPH, "A")]),
        ("examples", [Block(Kind.LITERAL, "x y"), Block(Kind.PARAGRAPH, "B", gap=True)]),
    ]
    assert list(sections("examples:\n  x y\n")) == [("examples", [Block(Kind.LITERAL, "x y")])]
    assert list(sections("")) == []

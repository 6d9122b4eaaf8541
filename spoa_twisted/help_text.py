"""Lays out the help texts of ``spoactl`` and ``twistd spoa`` for the width of a terminal.

The source of a text is plain, so that it can be read in the code, and each part of it has a kind:

- Lines at the left margin are a paragraph. Its line breaks have no meaning.
- A paragraph of one line in lower case that ends with a colon, as ``exit status:``, is the heading of a section.
- An indented line with two or more spaces inside is an item: a term and its text. Lines that are indented further
  continue it.
- An indented line that begins with ``-`` is a bullet, continued in the same way.
- Each other indented line is literal, as a command is: it is never wrapped.

The manual pages and the reference page are made from the same parts.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, final

#: A space at which no line ends.
NO_BREAK: Final = "\xa0"

#: The widest column for terms, in characters. The text of a longer term begins on the next line.
MAX_TERM: Final = 22

_HEADING: Final = re.compile(r"[a-z][A-Za-z ]*:")
_ITEM: Final = re.compile(r"(\S.*?) {2,}(\S.*)")
_INDENT: Final = "  "


class Kind(Enum):
    """What a part of a text is."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    ITEM = "item"
    BULLET = "bullet"
    LITERAL = "literal"


@final
@dataclass(slots=True)
class Block:
    """A part of a text.

    :param text: the words, joined by single spaces; for a literal, the line without the first two spaces.
    :param term: the term of an item.
    :param gap: whether an empty line is before it.
    """

    kind: Kind
    text: str
    term: str = ""
    gap: bool = False


def parse(text: str) -> list[Block]:
    """Return the parts of ``text``."""
    blocks: list[Block] = []
    gap = False
    for line in text.splitlines():
        words = " ".join(line.split())
        if not words:
            gap = True
        elif blocks and not gap and _continues(blocks[-1], line):
            blocks[-1].text += f" {words}"
        else:
            block = _new_block(line, words, may_be_heading=gap or not blocks)
            block.gap = gap and bool(blocks)
            blocks.append(block)
            gap = False
    return blocks


def _continues(block: Block, line: str) -> bool:
    """Return whether ``line`` belongs to the block that the line before it belongs to."""
    indent = len(line) - len(line.lstrip())
    if block.kind is Kind.PARAGRAPH:
        return indent == 0
    return block.kind in (Kind.ITEM, Kind.BULLET) and indent > len(_INDENT)


def _new_block(line: str, words: str, *, may_be_heading: bool) -> Block:
    if not line.startswith(" "):
        if may_be_heading and _HEADING.fullmatch(line.rstrip()):
            return Block(Kind.HEADING, words)
        return Block(Kind.PARAGRAPH, words)
    if words.startswith("- "):
        return Block(Kind.BULLET, words.removeprefix("- "))
    item = _ITEM.fullmatch(line.strip())
    if item is not None:
        return Block(Kind.ITEM, item[2], item[1])
    return Block(Kind.LITERAL, line.rstrip().removeprefix(_INDENT))


def runs(blocks: Sequence[Block]) -> list[list[Block]]:
    """Return the blocks in lists: neighbours of one kind, without an empty line between them."""
    found: list[list[Block]] = []
    for block in blocks:
        if found and block.kind is found[-1][0].kind and not block.gap:
            found[-1].append(block)
        else:
            found.append([block])
    return found


def fill(text: str, width: int) -> str:
    """Return ``text`` in lines of at most ``width`` characters. Only literal lines may be longer."""
    lines: list[str] = []
    for run in runs(parse(text)):
        kind = run[0].kind
        if run[0].gap:
            lines.append("")
        if kind is Kind.ITEM:
            # The items of a list share a column, so all of them are laid out at once.
            rows = [(item.term, item.text) for item in run]
            lines += items(rows, width, max([len(term) for term, _ in rows if len(term) <= MAX_TERM], default=MAX_TERM))
        elif kind is Kind.LITERAL:
            lines += [_INDENT + block.text for block in run]
        else:
            for block in run:
                lines += _wrapped(block, width)
    return "".join([f"{line}\n" for line in lines])


def _wrapped(block: Block, width: int) -> list[str]:
    first, rest = (f"{_INDENT}- ", f"{_INDENT}  ") if block.kind is Kind.BULLET else ("", "")
    return _wrap(block.text, width, first, rest)


def items(rows: Sequence[tuple[str, str]], width: int, column: int) -> list[str]:
    """Return the lines of a list of terms, each with its text beside it, or below it if the term is long.

    :param column: the width of the column for terms, in characters.
    """
    indent = " " * (column + 2 * len(_INDENT))
    lines: list[str] = []
    for term, text in rows:
        first = f"{_INDENT}{term:<{column}}{_INDENT}"
        if len(term) > column:
            lines.append(f"{_INDENT}{term}")
            first = indent
        lines += _wrap(text, width, first, indent)
    return lines


def _wrap(text: str, width: int, first: str, rest: str) -> list[str]:
    lines = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )
    return [line.replace(NO_BREAK, " ") for line in lines]


def sections(text: str) -> Iterator[tuple[str, list[Block]]]:
    """Yield the heading of each section of ``text`` with its parts. What is before the first heading has ``""``."""
    heading = ""
    blocks: list[Block] = []
    for block in parse(text):
        if block.kind is Kind.HEADING:
            if blocks:
                yield heading, blocks
            heading, blocks = block.text.removesuffix(":"), []
        else:
            blocks.append(block)
    if blocks:
        yield heading, blocks

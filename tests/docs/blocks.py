"""Reads the code blocks of a page of ``docs/``, and compares what a page shows with what a program prints."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from .pages import DOCS

#: The directive, its options and its body. The body ends before the first line that is not indented.
_BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n((?:   :[\w-]+:.*\n)*)\n((?:   .*\n|\n)+)", re.MULTILINE)

#: What differs from run to run: times, durations, process ids.
_FIGURES = [
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+\d{4}"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)?(?= ?(s|ms)\b)"), "N"),
    (re.compile(r"(?<=process )\d+"), "N"),
]


@dataclass(frozen=True)
class Block:
    """A code block: its language, its caption (empty without one), and its text without indentation."""

    language: str
    caption: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page in their order."""
    found = []
    for language, options, body in _BLOCK.findall(page.read_text("utf-8")):
        caption = re.search(r":caption: (.*)", options)
        found.append(Block(language, caption[1] if caption else "", textwrap.dedent(body).strip("\n") + "\n"))
    return found


class Steps:
    """The blocks of a page. A test takes one after the other, so it cannot leave one out.

    :param name: the path of the page in ``docs/`` without ``.rst``.
    """

    def __init__(self, name: str) -> None:
        self._left = blocks(DOCS / f"{name}.rst")
        assert self._left, f"{name} has no code blocks"

    def take(self, caption: str = "") -> str:
        """Return the text of the next block, which must have this caption."""
        block = self._left.pop(0)
        assert block.caption == caption, f"the next block is {block}"
        return block.text

    def finish(self) -> None:
        """Fail if there are more blocks."""
        assert self._left == []


def commands(session: str) -> list[tuple[str, str]]:
    """Return the commands of a console session, each with the output that the page shows below it."""
    parts = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)
    assert parts[0] == ""
    return list(zip(parts[1::2], parts[2::2], strict=True))


def same(shown: str, printed: str) -> bool:
    """Return whether ``printed`` is what a page shows, but for figures and for what ``...`` stands for."""
    return re.fullmatch(_pattern(shown), _without_figures(printed), re.DOTALL) is not None


def contains(shown: str, printed: str) -> bool:
    """Return whether what a page shows is a part of ``printed``, but for figures and for what ``...`` stands for."""
    return re.search(_pattern(shown), _without_figures(printed), re.DOTALL) is not None


def _pattern(shown: str) -> str:
    # A line that has only "..." stands for any number of lines.
    text = re.sub(r"^[ \t]*\.\.\.\n", "\0", _without_figures(shown), flags=re.MULTILINE)
    return re.escape(text).replace(re.escape("\0"), "(?:.*?)").replace(re.escape("..."), ".*?")


def _without_figures(text: str) -> str:
    for pattern, replacement in _FIGURES:
        text = pattern.sub(replacement, text)
    return text

"""Reads the code blocks of README.rst, and prints its set-up commands so that CI can run them exactly as written.

``python3 -m tests.readme_commands 1`` prints the first command of the section "Try it", ``2`` the second. This module
uses the standard library only, because CI runs it on a machine where nothing is installed yet.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[1] / "README.rst"

DIRECTIVE = ".. code-block:: "


@dataclass(frozen=True)
class Block:
    """A code block: the title of its section, its language, and its text without indentation."""

    section: str
    language: str
    text: str


def blocks(text: str | None = None) -> Iterator[Block]:
    """Yield the code blocks of ``text``, by default the text of the README."""
    lines = (README.read_text("utf-8") if text is None else text).splitlines()
    section = ""
    for number, line in enumerate(lines):
        # A line of "-" or "=", as long as the line before, underlines the title of a section.
        if number and line and set(line) <= {"-", "="} and len(line) == len(lines[number - 1]):
            section = lines[number - 1]
        elif line.startswith(DIRECTIVE):
            body = []
            for following in lines[number + 1 :]:
                if following and not following.startswith(" "):
                    break
                body.append(following)
            yield Block(section, line[len(DIRECTIVE) :], textwrap.dedent("\n".join(body)).strip("\n") + "\n")


def commands() -> list[str]:
    """Return the two set-up commands: the first runs the example, the second runs the tests."""
    return [block.text for block in blocks() if (block.section, block.language) == ("Try it", "sh")]


if __name__ == "__main__":
    sys.stdout.write(commands()[int(sys.argv[1]) - 1])

"""The code blocks of README.rst, and its set-up commands for those who run them as they stand.

``python3 -m tests.readme_commands 1`` prints the first command of the section "Try it", ``2`` the second. It takes
nothing but Python, because it is what a machine runs that has nothing else yet.
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
    """A code block: the title of its section, its language, its text without the indentation."""

    section: str
    language: str
    text: str


def blocks(text: str | None = None) -> Iterator[Block]:
    """Yield the code blocks of ``text``, which is the README unless given."""
    lines = (README.read_text("utf-8") if text is None else text).splitlines()
    section = ""
    for number, line in enumerate(lines):
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
    """Return the set-up commands: one runs the example, the other the tests."""
    return [block.text for block in blocks() if (block.section, block.language) == ("Try it", "sh")]


if __name__ == "__main__":
    sys.stdout.write(commands()[int(sys.argv[1]) - 1])

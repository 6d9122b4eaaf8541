"""Reads code blocks of documents, and prints set-up commands so that CI can run them exactly as they are written.

``python3 -m tests.readme_commands 1`` prints the command of the README that runs the example, and ``2`` those of
CONTRIBUTING.rst that run the tests. This module uses the standard library only, because CI runs it on a machine where
nothing is installed yet.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[1] / "README.rst"

CONTRIBUTING = README.with_name("CONTRIBUTING.rst")

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


def named(text: str | None = None) -> dict[str, str]:
    """Return the code blocks of a text: a file by its name, which its first line says; others by section and number."""
    found: dict[str, str] = {}
    sections: dict[str, int] = {}
    for block in blocks(text):
        sections[block.section] = sections.get(block.section, 0) + 1
        first = block.text.partition("\n")[0]
        name = first[2:] if first.startswith("# ") else f"{block.section} {sections[block.section]}"
        assert name not in found
        found[name] = block.text
    return found


def commands() -> list[str]:
    """Return the command that runs the example, and those that set up a checkout and run the tests."""
    (example,) = [block.text for block in blocks() if (block.section, block.language) == ("Try it", "sh")]
    contributing = CONTRIBUTING.read_text("utf-8")
    (set_up,) = [block.text for block in blocks(contributing) if block.section == "Set up"]
    return [example, f"{set_up}pytest\n"]


if __name__ == "__main__":
    sys.stdout.write(commands()[int(sys.argv[1]) - 1])

"""The pages that explain the checks: ``checks/pages/ID.rst``, as files in reStructuredText and as plain text."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

_LITERAL: Final = re.compile("``(.+?)``", re.DOTALL)


def source(id: str) -> str:  # noqa: A002 - the id of a check, as everywhere
    """Return the page of a check, as it is in the file."""
    return (files("spoa_twisted.haproxy.checks") / "pages" / f"{id}.rst").read_text("utf-8")


def plain(text: str) -> str:
    """Return a page as plain text: without the marks of literals and of blocks with an example."""
    return "\n".join(map(_plain_line, text.splitlines())) + "\n"


def _plain_line(line: str) -> str:
    # In an example, which is indented, quotes and colons stay.
    if line.startswith("    "):
        return line
    return re.sub("::$", ":", _LITERAL.sub(r"\1", line))

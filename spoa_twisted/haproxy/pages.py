"""The pages that explain the checks: ``checks/pages/ID.rst``, as files in reStructuredText and as plain text."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

# Lines that are not indented. In an example, which is, quotes and colons stay.
_PROSE: Final = re.compile(r"(?:^(?! {4}).*\n?)+", re.MULTILINE)

# It may go on in the next line.
_LITERAL: Final = re.compile("``(.+?)``", re.DOTALL)


def source(id: str) -> str:  # noqa: A002 - the id of a check, as everywhere
    """Return the page of a check, as it is in the file."""
    return (files("spoa_twisted.haproxy.checks") / "pages" / f"{id}.rst").read_text("utf-8")


def plain(text: str) -> str:
    """Return a page as plain text: without the marks of literals and of blocks with an example."""
    return _PROSE.sub(lambda lines: re.sub("::$", ":", _LITERAL.sub(r"\1", lines[0]), flags=re.MULTILINE), text)

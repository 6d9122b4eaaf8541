"""The list in docs/reference/options.rst, made from the options of ``twistd spoa``.

``python -m tests.docs.options`` writes it. Run it after a change of an option; ``tests/docs/test_options.py`` fails
until then.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from spoa_twisted.tap import Options
from tests.programs import ROOT

PATH = ROOT / "docs" / "reference" / "options.rst"

#: The longest line of the page, in characters.
WIDTH = 120

# The list is behind this line, at the end of the page.
_HEAD = "Options\n-------\n\n"

#: Options and endpoints in the help texts. The sign at the end of a sentence is no part of them.
_LITERAL = re.compile(r"--[a-z-]+[a-z]|tcp:\S+[^\s.,;]")


def entries() -> Iterator[tuple[str, str, str]]:
    """Yield each option of ``twistd spoa`` with its default and its help text, as reStructuredText."""
    options: Any = Options()
    for option in options.longOpt:
        name = option.rstrip("=")
        if name in ("help", "version"):
            continue
        text = " ".join(options.docs[name].split())
        yield f"--{name}", _default(option, options.defaults.get(name)), _LITERAL.sub(r"``\g<0>``", text)


def _default(option: str, default: object) -> str:
    if not option.endswith("="):
        return "off by default"
    return "no default" if default is None else f"default {default}"


def with_list(text: str) -> str:
    """Return ``text``, the content of the page, with the list that :func:`entries` makes now."""
    begin, head, _ = text.partition(_HEAD)
    assert head
    indent = "   "
    described = []
    for option, default, meaning in entries():
        lines = textwrap.wrap(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        described.append("\n".join([f"``{option}`` : {default}", *lines, ""]))
    return begin + head + "\n".join(described)


if __name__ == "__main__":
    PATH.write_text(with_list(PATH.read_text("utf-8")), "utf-8")

"""The table in docs/reference/options.rst, made from the options of ``twistd spoa``.

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

HEAD = ("Option", "Default", "Meaning")

# The table below the title "Options". In reStructuredText, a line of "=" is above and below the head of a table,
# and at its end.
_TABLE = re.compile(r"(?<=\nOptions\n-------\n)(\n)(=[= ]+\n.*?\n=[= ]+\n.*?\n=[= ]+\n)", re.DOTALL)


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield each option of ``twistd spoa`` with its default and its help text, as reStructuredText."""
    options: Any = Options()
    for option in options.longOpt:
        name = option.rstrip("=")
        if name in ("help", "version"):
            continue
        yield f"``--{name}``", _default(option, options.defaults.get(name)), " ".join(options.docs[name].split())


def _default(option: str, default: object) -> str:
    if not option.endswith("="):
        return "off"
    if default is None:
        return "none"
    return f"``{default}``" if isinstance(default, str) else str(default)


def table() -> str:
    """Return the whole table. A long help text continues on the next lines, where the first two cells are empty."""
    cells = list(rows())
    widths = [max(len(row[column]) for row in [HEAD, *cells]) for column in (0, 1)]
    widths.append(WIDTH - sum(widths) - 4)
    line = "  ".join(["=" * width for width in widths])
    text = [line, _row(HEAD, widths), line]
    for option, default, meaning in cells:
        first, *others = textwrap.wrap(meaning, widths[2], break_on_hyphens=False)
        text.append(_row((option, default, first), widths))
        text += [_row(("", "", other), widths) for other in others]
    return "\n".join([*text, line, ""])


def _row(cells: tuple[str, str, str], widths: list[int]) -> str:
    return "  ".join([cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]).rstrip()


def with_table(text: str) -> str:
    """Return ``text``, the content of the page, with the table that :func:`table` makes now."""
    result, count = _TABLE.subn(lambda match: match[1] + table(), text)
    assert count == 1
    return result


if __name__ == "__main__":
    PATH.write_text(with_table(PATH.read_text("utf-8")), "utf-8")

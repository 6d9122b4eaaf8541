"""The list of all checks in docs/reference/checks.rst, made from their ids and titles.

``python -m tests.haproxy_side.list_of_checks`` writes it. Run it after a change of a check;
``tests/haproxy_side/test_pages.py`` fails until then.
"""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks import CHECKS
from tests.programs import ROOT

PATH: Final = ROOT / "docs" / "reference" / "checks.rst"

# The list is behind this line, at the end of the file.
_HEAD: Final = "All checks\n----------\n\n"


def with_list(text: str) -> str:
    """Return the text of the file with the present list."""
    begin, head, _ = text.partition(_HEAD)
    head_row = ("ID", "Severity", "Title")
    rows = [(check.id, check.severity.value, check.title) for check in CHECKS]
    widths = [max(map(len, column)) for column in zip(head_row, *rows, strict=True)]
    rule = tuple("=" * width for width in widths)
    table = [rule, head_row, rule, *rows, rule]
    lines = [
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]).rstrip() + "\n" for row in table
    ]
    return "".join([begin, head, *lines])


if __name__ == "__main__":
    PATH.write_text(with_list(PATH.read_text()))

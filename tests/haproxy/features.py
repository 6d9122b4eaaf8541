"""The table of what each branch of HAProxy does, in docs/reference/haproxy_versions.rst.

It has a row for each feature and a column for each branch.

Each test in ``test_versions.py`` that has a feature observes one value, and compares this value with the table. The
tests themselves hold no expected values. If the observed table differs, or if a branch has no column yet, the end of
the run prints the new table, which can be pasted into the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from tests.programs import ROOT

from .branches import REWRITTEN, Branch

#: The page with the table.
PAGE = ROOT / "docs" / "reference" / "haproxy_versions.rst"

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])

#: The heading of the table's first column. It is how :meth:`Table.of_page` finds the table.
HEAD = "HAProxy"

#: The features that tests observe, in the table's order.
FEATURES: list[str] = []


def feature(name: str) -> Callable[[FunctionT], FunctionT]:
    """Decorate the test that observes the value of the table's row ``name``."""

    def register(test: FunctionT) -> FunctionT:
        FEATURES.append(name)
        test.feature = name  # type: ignore[attr-defined]
        return test

    return register


def version_of(branch: str) -> tuple[int, ...]:
    """Return the branch's name as numbers, so that 3.10 sorts after 3.9."""
    return tuple([int(part) for part in branch.split(".")])


class Table:
    """The table's cells, by feature and branch, and the names of the branches in the order of the columns."""

    def __init__(self, cells: dict[tuple[str, str], str], branches: list[str]) -> None:
        self.cells = cells
        self.branches = branches

    @classmethod
    def of_page(cls) -> Table:
        """Read the page's table whose first heading is ``HEAD``."""
        lines = PAGE.read_text("utf-8").splitlines()
        (head,) = [
            number for number, line in enumerate(lines) if line.split()[:1] == [HEAD] and "=" in lines[number - 1]
        ]
        columns = [(match.start(), match.end()) for match in re.finditer("=+", lines[head - 1])]
        _, *branches = [lines[head][start:end].strip() for start, end in columns]
        cells: dict[tuple[str, str], str] = {}
        for line in lines[head + 2 : lines.index(lines[head - 1], head + 2)]:
            name, *values = [line[start:end].strip() for start, end in columns]
            cells |= {(name, branch): value for branch, value in zip(branches, values, strict=True)}
        return cls(cells, branches)

    @property
    def features(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.cells))

    def column_for(self, branch: Branch) -> str:
        """Return the name of the column that ``branch`` is compared with.

        This is the column of ``branch`` itself. If it has none, it is the nearest older column with the same SPOE
        (before or since 3.1), and else the oldest column with the same SPOE.
        """
        same = [name for name in self.branches if (version_of(name) >= REWRITTEN) == branch.rewritten]
        return max([name for name in same if version_of(name) <= branch.version], key=version_of, default=same[0])

    def updated(self, observed: dict[tuple[str, str], str]) -> Table:
        """Return a copy of the table with the observed values, and with columns for new branches."""
        branches = {*self.branches, *[branch for _, branch in observed]}
        return Table({**self.cells, **observed}, sorted(branches, key=version_of))

    def as_rst(self) -> str:
        """Return the table as reStructuredText, exactly as the page has it."""
        rows = [[HEAD, *self.branches]]
        rows += [[name, *[self.cells.get((name, branch), "") for branch in self.branches]] for name in FEATURES]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        rule = "  ".join("=" * width for width in widths)
        head, *body = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join([rule, head, rule, *body, rule]) + "\n"

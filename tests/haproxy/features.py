"""The README's table of what HAProxy's branches do: a row for each test that observes a feature, a column a branch.

The tests of ``test_versions.py`` observe, and compare what they saw to the table. It is as true as they are: no other
place says what belongs into it. A branch that has no column yet is shown at the end of the run, to be pasted in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from tests.readme_commands import README

from .branches import REWRITTEN, Branch

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])

#: The head of the table's first column.
HEAD = "HAProxy"

#: The features that tests observe, in the table's order.
FEATURES: list[str] = []


def feature(name: str) -> Callable[[FunctionT], FunctionT]:
    """Say which row of the table a test observes."""

    def register(test: FunctionT) -> FunctionT:
        FEATURES.append(name)
        test.feature = name  # type: ignore[attr-defined]
        return test

    return register


def version_of(branch: str) -> tuple[int, ...]:
    return tuple([int(part) for part in branch.split(".")])


class Table:
    """Cells by feature and branch."""

    def __init__(self, cells: dict[tuple[str, str], str], branches: list[str]) -> None:
        self.cells = cells
        self.branches = branches

    @classmethod
    def of_readme(cls) -> Table:
        """Read the table that begins with ``HEAD``."""
        lines = README.read_text("utf-8").splitlines()
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
        """Return the branch in whose column to look: ``branch`` itself, else the one before it, else the one after it,
        of those that have the same SPOE.
        """
        same = [name for name in self.branches if (version_of(name) >= REWRITTEN) == branch.rewritten]
        return max([name for name in same if version_of(name) <= branch.version], key=version_of, default=same[0])

    def updated(self, observed: dict[tuple[str, str], str]) -> Table:
        """Return the table with what was observed."""
        branches = {*self.branches, *[branch for _, branch in observed]}
        return Table({**self.cells, **observed}, sorted(branches, key=version_of))

    def as_rst(self) -> str:
        """Return it as the README has it."""
        rows = [[HEAD, *self.branches]]
        rows += [[name, *[self.cells.get((name, branch), "") for branch in self.branches]] for name in FEATURES]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        rule = "  ".join("=" * width for width in widths)
        head, *body = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join([rule, head, rule, *body, rule]) + "\n"

"""Tables of configurations on which a check speaks, and of near ones on which it is silent."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import pytest

from spoa_twisted.haproxy.answers import Answers

from .configurations import NEW, Files


@dataclass(frozen=True)
class Case:
    """A configuration, what it is checked for, and how the line begins that is found."""

    files: Files
    #: As ``haproxy.cfg:16: error: ...``; empty for a configuration on which the check is silent.
    found: str = ""
    version: tuple[int, int] = NEW
    answers: Answers | None = None

    def lines(self, family: ModuleType, id_: str) -> list[str]:
        """Return the findings of one check."""
        found = self.files.found(family, version=self.version, answers=self.answers)
        return [line for line in found if line.endswith(f" [{id_}]")]


def parameters(cases: dict[str, list[Case]]) -> list[object]:
    """Return the arguments of ``pytest.mark.parametrize(("id_", "case"), ...)``."""
    return [
        pytest.param(id_, case, id=f"{id_}-{number}")
        for id_, several in cases.items()
        for number, case in enumerate(several)
    ]

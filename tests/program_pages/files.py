"""The files that are made from the command lines, and their texts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spoa_twisted.ctl.completion import SCRIPTS
from tests.program_pages import bash, manual, reference, zsh
from tests.program_pages.programs import programs
from tests.programs import ROOT

MANUAL: Final = ROOT / "docs" / "man"
REFERENCE: Final = ROOT / "docs" / "reference" / "programs.rst"
COMPLETION: Final = ROOT / "spoa_twisted" / "ctl" / "completion"

#: Folders that have no other files than these.
FOLDERS: Final = {MANUAL: "*.1", COMPLETION / "bash": "*", COMPLETION / "zsh": "*"}


def texts() -> dict[Path, str]:
    """Return the text of each file by its path."""
    found = programs()
    made = {MANUAL / f"{program.page}.1": manual.page(program, found) for program in found}
    made[REFERENCE] = reference.page(found)
    made[COMPLETION / "bash" / SCRIPTS["bash"]] = bash.script(found)
    for name in bash.OTHER_NAMES:
        made[COMPLETION / "bash" / name] = bash.LOAD
    made[COMPLETION / "zsh" / SCRIPTS["zsh"]] = zsh.script(found)
    return made

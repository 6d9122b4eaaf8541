"""docs/howto/logs_and_processes.rst: ``--check`` prints what the page shows."""

from __future__ import annotations

from tests.machine import Machine

from .iprep import HANDLERS
from .pages import Page

PAGE = Page("howto/logs_and_processes")


@PAGE.run(console="Check the agent before it starts 1")
def test_check(console: str, machine: Machine) -> None:
    """``--check`` prints what the README shows."""
    machine.write(iprep_py=HANDLERS)
    command, _, shown = console.partition("\n")
    assert machine.run(command.removeprefix("$ ")) == shown

"""docs/howto/status.rst: the status counts a request. ``tests/status/test_documentation.py`` tests the rest."""

from __future__ import annotations

import shlex

import pytest_twisted

from spoa_twisted.ctl import status as command
from tests.machine import Machine, on_any_port

from .iprep import HANDLERS, check_status
from .pages import Page

PAGE = Page("howto/status")


@PAGE.run(command="Serve it 1")
@pytest_twisted.ensureDeferred
async def test_the_status(command: str, machine: Machine) -> None:
    """The status counts a request."""
    machine.write(iprep_py=HANDLERS)
    await check_status(machine.start(on_any_port(command).replace("tcp:8404", "tcp:0")))


@PAGE.run(text="status.tac", command="In an application 2")
@pytest_twisted.ensureDeferred
async def test_the_status_in_a_tac_file(text: str, command: str, machine: Machine) -> None:
    """The same of an application."""
    machine.write(iprep_py=HANDLERS, status_tac=text.replace("tcp:12345", "tcp:0").replace("tcp:8404", "tcp:0"))
    await check_status(machine.start(command))


@PAGE.run(text="On a terminal 1")
def test_the_commands_are_accepted(text: str) -> None:
    """By the parser of ``spoactl status``."""
    for line in text.splitlines():
        program, name, *arguments = shlex.split(line.partition(" | ")[0])
        assert (program, name) == ("spoactl", "status")
        command.parser().parse_args(arguments)

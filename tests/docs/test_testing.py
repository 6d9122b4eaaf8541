"""docs/howto/testing.rst: the test passes, and spoactl prints what the page shows."""

from __future__ import annotations

import shlex
import sys

from tests.machine import Machine, on_any_port

from .iprep import HANDLERS, START, to_agent
from .pages import Page

PAGE = Page("howto/testing")


@PAGE.run(test="test_iprep.py")
def test_the_test(test: str, machine: Machine) -> None:
    """Pytest runs it, and it passes."""
    machine.write(iprep_py=HANDLERS)
    (machine.folder / "test_iprep.py").write_text(test)
    command = shlex.join([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_iprep.py"])
    assert "3 passed" in machine.run(command)


@PAGE.run(console="An agent that runs 1", options="An agent that runs 2")
def test_spoactl(console: str, options: str, machine: Machine) -> None:
    """It prints what the README shows of sessions with the agent above."""
    machine.write(iprep_py=HANDLERS)
    agent = machine.start(on_any_port(START))
    session = ""
    for line in (console + options).splitlines():
        if line.startswith("$ "):
            session += f"{line}\n{machine.run(to_agent(line[2:], agent))}"
    assert session == console + options
    agent.stop()

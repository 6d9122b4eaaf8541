"""docs/howto/workers.rst: SIGHUP reloads, and each worker may have a port."""

from __future__ import annotations

import signal

from tests.machine import Machine, on_any_port

from .iprep import HANDLERS
from .pages import Page

PAGE = Page("howto/workers")


@PAGE.run(command="Start them 1", ports="Spread the load 1")
def test_workers(command: str, ports: str, machine: Machine) -> None:
    """SIGHUP reloads. With the second command, each worker has an endpoint of its own."""
    machine.write(iprep_py=HANDLERS)
    agent = machine.start(on_any_port(command))
    for number in (1, 2):
        agent.program.said(f"worker {number} is ready")
    agent.program.signal(signal.SIGHUP)
    agent.program.said("reloaded: 2 workers")
    assert "Traceback" not in agent.stop()
    agent = machine.start(ports.replace("tcp:1234{worker}:interface=127.0.0.1", f"unix:{machine.folder}/{{worker}}"))
    assert agent.program.address(2) == f"{machine.folder}/2"
    agent.stop()

"""A plugin of coverage.py that also saves the coverage of agents that end with a signal.

A process normally saves its coverage in Python's exit handlers. But Twisted >= 24.10 ends a stopped process with the
signal that stopped it, by ``os.kill()`` on itself, and Python then runs no exit handlers. So save the coverage before.
"""

from __future__ import annotations

import os
from typing import Any

import coverage


def coverage_init(registry: Any, options: dict[str, str]) -> None:
    """Replace ``os.kill``. coverage.py calls this function in each process that it measures."""
    kill = os.kill

    def save_and_kill(pid: int, number: int) -> None:
        measured = coverage.Coverage.current()
        if pid == os.getpid() and measured is not None:
            measured.save()
        kill(pid, number)

    os.kill = save_and_kill

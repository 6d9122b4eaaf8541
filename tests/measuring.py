"""A plugin of coverage.py: what an agent that the tests started has run counts too.

An agent that is stopped ends itself by the signal that stopped it, which Twisted does since 24.10. Nothing that Python
runs at its exit is run then, so what was measured has to be saved before.
"""

from __future__ import annotations

import os
from typing import Any

import coverage


def coverage_init(registry: Any, options: dict[str, str]) -> None:
    """coverage.py calls this in each process that it measures."""
    kill = os.kill

    def save_and_kill(pid: int, number: int) -> None:
        measured = coverage.Coverage.current()
        if pid == os.getpid() and measured is not None:
            measured.save()
        kill(pid, number)

    os.kill = save_and_kill

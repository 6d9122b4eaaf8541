"""Stopping processes for a while, so that they answer nothing. Their ports stay open."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.programs import LIMIT


def freeze(*pids: int) -> None:
    """Let the processes answer nothing, until :func:`thaw`. The kernel still takes connections for them."""
    deadline = time.monotonic() + LIMIT
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        # The signal has no effect at once. The third field of the file is the state; T is a stopped process.
        while (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline, f"the process {pid} has not stopped after SIGSTOP"
            os.sched_yield()


def thaw(*pids: int) -> None:
    """Let the processes go on."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)

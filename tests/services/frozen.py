"""Stopping processes for good, or for a while: then they answer nothing, and their ports stay open."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.programs import LIMIT, Program


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


class Stoppable:
    """A server that is one program."""

    program: Program

    def stop(self) -> None:
        """End the server. Its ports are closed then. Data that it has only in memory are gone."""
        self.program.stop()

    def freeze(self) -> None:
        """Let the server answer nothing, until :meth:`thaw`. Its ports stay open, and the kernel takes connections."""
        freeze(self.program.pid)

    def thaw(self) -> None:
        """Let the server go on after :meth:`freeze`."""
        thaw(self.program.pid)

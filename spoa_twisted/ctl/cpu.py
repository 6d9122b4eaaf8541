"""How much CPU time a process uses, and how long it waits for a core."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import final


def waited(pid: int) -> int | None:
    """Return for how many nanoseconds a process was ready to run and had no core.

    The figure is that of the process's first thread. It is ``None`` when the system does not tell: only Linux does, and
    only while the process exists.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None


@final
class CPUMeter:
    """Measures one process between :meth:`begin` and :meth:`end`.

    :param pid: the process.
    :param cpu_time: returns the nanoseconds of CPU that the process has used so far, or ``None`` when it has ended.
    """

    def __init__(self, pid: int, cpu_time: Callable[[], int | None]) -> None:
        self.pid = pid
        self._cpu_time = cpu_time
        # The readings of the three clocks at the beginning.
        self._cpu_at_begin: int | None = None
        self._began_at = 0.0
        self._waited_at_begin: int | None = None
        #: The seconds between begin and end.
        self.measured = 0.0
        #: The CPU seconds of all threads, including those that have ended; ``None`` when the process ended too early.
        self.seconds: float | None = None
        #: The seconds that the first thread was ready to run and had no core; ``None`` when the system does not tell.
        self.waited: float | None = None

    @classmethod
    def of_this_process(cls) -> CPUMeter:
        """Return the meter of this process. It works on every system."""
        return cls(os.getpid(), time.process_time_ns)

    @classmethod
    def of_process(cls, pid: int) -> CPUMeter:
        """Return the meter of any process of this machine.

        :raises ProcessLookupError: when there is no such process.
        """
        clock = ctypes.c_int()
        error_number = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
        if error_number:
            raise ProcessLookupError(f"--pid {pid}: {os.strerror(error_number)}")

        def cpu_time() -> int | None:
            try:
                return time.clock_gettime_ns(clock.value)
            except OSError:
                return None

        return cls(pid, cpu_time)

    def begin(self) -> None:
        """Begin to measure."""
        self._cpu_at_begin, self._began_at, self._waited_at_begin = self._read()

    def end(self) -> None:
        """End, and set the figures."""
        cpu, now, waited_so_far = self._read()
        self.measured = now - self._began_at
        if cpu is not None and self._cpu_at_begin is not None:
            self.seconds = (cpu - self._cpu_at_begin) / 1e9
        if waited_so_far is not None and self._waited_at_begin is not None:
            self.waited = (waited_so_far - self._waited_at_begin) / 1e9

    def _read(self) -> tuple[int | None, float, int | None]:
        return self._cpu_time(), time.perf_counter(), waited(self.pid)

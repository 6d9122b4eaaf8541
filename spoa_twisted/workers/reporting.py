"""The ``Report`` of a worker process.

For now, it has the numbers of the process only. To add the others, give another function as ``report`` to
:class:`~spoa_twisted.workers.worker.WorkerService`.
"""

from __future__ import annotations

import os
import time

from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.status.report import BOUNDS, Histogram, Process, Report, Totals


def empty_totals() -> Totals:
    """Return totals of nothing."""
    return {
        "messages": {},
        "notify": _empty_histogram(),
        "connections": 0,
        "refused": 0,
        "health_checks": 0,
        "disconnects": {},
        "dropped": {},
        "stalls": 0,
        "stall_seconds": 0.0,
    }


def _empty_histogram() -> Histogram:
    return {"buckets": [0] * (len(BOUNDS) + 1), "sum": 0.0}


def empty_process(number: int, pid: int, state: str, started: float, detail: str = "") -> Process:
    """Return the numbers of a process that has not said anything about itself."""
    return {
        "worker": number,
        "pid": pid,
        "state": state,
        "detail": detail,
        "started": started,
        "age": 0.0,
        "connections": 0,
        "in_flight": 0,
        "blocking_waiting": 0,
        "held_back": 0,
        "lag": 0.0,
        "cpu_seconds": 0.0,
        "resident_memory": 0,
    }


def report_of(process: Process, messages: list[str]) -> Report:
    """Return a report with ``process`` and empty totals."""
    return {"process": process, "totals": empty_totals(), "problems": [], "engines": [], "messages": messages}


def report_process(factory: SPOAFactory, number: int, started: float, lag: float) -> Report:
    """Return the report of this process."""
    process = empty_process(number, os.getpid(), "ready", started)
    process["connections"] = len(factory.connections)
    process["in_flight"] = sum(connection._in_flight.count for connection in factory.connections)
    process["lag"] = lag
    process["cpu_seconds"] = time.process_time()
    process["resident_memory"] = resident_memory()
    handlers = factory.handlers
    # Other implementations of IHandlers have no names of messages.
    return report_of(process, sorted(handlers) if isinstance(handlers, Handlers) else [])


def resident_memory() -> int:
    """Return the resident memory of this process in bytes; 0 where the kernel has no ``/proc``."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return 0

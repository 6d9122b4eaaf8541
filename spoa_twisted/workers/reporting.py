"""The ``Report`` that stands for a worker process that has sent none."""

from __future__ import annotations

from spoa_twisted.status.report import Process, Report
from spoa_twisted.status.totals import empty


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
    return {
        "process": process,
        "totals": empty(),
        "problems": [],
        "engines": [],
        "messages": messages,
        "longest": {},
        "longest_notify": 0.0,
    }

"""Made-up reports."""

from __future__ import annotations

from typing import Any

from spoa_twisted.status.merged import Merged
from spoa_twisted.status.report import Engine, Problem, Process, Report, Status
from tests.status.test_totals import some


def process(worker: int = 0, **values: Any) -> Process:
    result: Any = {
        "worker": worker,
        "pid": 1000 + worker,
        "state": "ready",
        "detail": "",
        "started": 1000.0,
        "age": 0.0,
        "connections": 2,
        "in_flight": 1,
        "blocking_waiting": 3,
        "held_back": 100,
        "lag": 0.25,
        "cpu_seconds": 1.5,
        "resident_memory": 4096,
        **values,
    }
    answer: Process = result
    return answer


def problem(subject: str = "m", **values: Any) -> Problem:
    result: Any = {"kind": "HandlerFailed", "subject": subject, "text": "text", "count": 1, "first": 1.0, "last": 2.0}
    answer: Problem = result | values
    return answer


def engine(name: str = "engine", **values: Any) -> Engine:
    result: Any = {
        "engine": name,
        "peer": "127.0.0.1",
        "capabilities": ["pipelining"],
        "max_frame_size": 16384,
        "connections": 1,
        "in_flight": 1,
    }
    answer: Engine = result | values
    return answer


def report(worker: int = 0, number: int = 1, **values: Any) -> Report:
    """Return a report in which each total is ``number``.

    :param values: values of the process.
    """
    return {
        "process": process(worker, **values),
        "totals": some(number),
        "problems": [problem()],
        "engines": [engine()],
        "messages": ["m"],
        "longest": {"m": 0.1 * number},
        "longest_notify": 0.2 * number,
    }


def status(*reports: Report, workers: bool = False) -> Status:
    return Merged(["tcp:1"], {"debug": ""}, 1000.0, workers=workers).status(reports or [report()], 1010.0)

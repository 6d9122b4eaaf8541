"""The status of an agent, made of the reports of its processes.

When a worker ends, its numbers must not disappear: a counter that falls looks like a new start of the agent. So they
are added to those of all workers that have ended before.
"""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Final, final

import spoa_twisted
from spoa_twisted.status.history import History
from spoa_twisted.status.report import Ending, Engine, Problem, Process, Reloads, Report, Status
from spoa_twisted.status.totals import add, empty

# How many problems are kept, those that happened last.
_MAX_PROBLEMS: Final = 256

# Seconds. The longest durations of a process that has ended count for so long.
_MINUTE: Final = 60.0

# How many processes that have ended are kept for their longest durations.
_MAX_RETIRED: Final = 256


@final
class Merged:
    """Adds up the reports of an agent's processes, those that have ended included.

    :param listen: the endpoints.
    :param options: the options that differ from their defaults, by their names on the command line, without ``--``.
    :param started: the Unix time at which the agent was started.
    :param workers: true if the processes are workers.
    """

    def __init__(
        self, listen: Sequence[str], options: Mapping[str, str], started: float, *, workers: bool = False
    ) -> None:
        self._listen = list(listen)
        self._options = dict(options)
        self._started = started
        self._workers = workers
        self._history = History(started)
        self._retired = empty()
        self._retired_problems: list[Problem] = []
        # The last reports of processes that have ended, each with the time of the status that it was made for.
        self._retired_reports: deque[tuple[float, Report]] = deque(maxlen=_MAX_RETIRED)
        self._last_time = started
        # The CPU time of the processes that have ended, by the number of the worker.
        self._retired_cpu: dict[int, float] = {}

    def retire(self, report: Report) -> None:
        """Keep the numbers of a process that has ended.

        :param report: its last report. No later call of :meth:`status` may have a report of this process.
        """
        self._retired = add([self._retired, report["totals"]])
        self._retired_problems = _merge_problems([self._retired_problems, report["problems"]])
        self._retired_reports.append((self._last_time, report))
        process = report["process"]
        number = process["worker"]
        self._retired_cpu[number] = self._retired_cpu.get(number, 0.0) + process["cpu_seconds"]

    def status(
        self,
        reports: Sequence[Report],
        now: float,
        *,
        state: str | None = None,
        reloads: Reloads | None = None,
        restarts: Mapping[str, int] | None = None,
        endings: Iterable[Ending] = (),
        refused: int = 0,
    ) -> Status:
        """Return the status.

        :param reports: one report of each process.
        :param now: the Unix time.
        :param state: the state of the agent. Without it, that of its processes: ``ready`` if one of them is ready.
        :param refused: connections that the master has refused.
        """
        totals = add([self._retired, *[report["totals"] for report in reports]])
        totals["refused"] += refused
        recent, recent_seconds = self._history.recent(now, totals)
        self._history.add(now, totals)
        processes = [report["process"] for report in reports]
        self._last_time = now
        # The histograms have the NOTIFYs of these processes too, so without them the longest one would be too short.
        last_minute = [*reports, *[report for made, report in self._retired_reports if now - made < _MINUTE]]
        return {
            "version": spoa_twisted.__version__,
            "python": platform.python_version(),
            "twisted": metadata.version("twisted"),
            "pid": os.getpid(),
            "time": now,
            "started": self._started,
            "state": state_of_all(processes) if state is None else state,
            "listen": self._listen,
            "options": self._options,
            "workers": self._workers,
            "processes": self._with_retired_cpu(processes),
            "totals": totals,
            "recent": recent,
            "recent_seconds": recent_seconds,
            "longest": _longest(last_minute),
            "longest_notify": max([report["longest_notify"] for report in last_minute], default=0.0),
            "problems": _merge_problems([self._retired_problems, *[report["problems"] for report in reports]]),
            "engines": _merge_engines(engine for report in reports for engine in report["engines"]),
            "messages": sorted({name for report in reports for name in report["messages"]}),
            "reloads": reloads or no_reloads(),
            "restarts": dict(restarts or {}),
            "endings": list(endings),
        }

    def _with_retired_cpu(self, processes: list[Process]) -> list[Process]:
        result = [process.copy() for process in processes]
        # During a reload, two processes have the same number: the sum of the number must have the time once.
        last = {process["worker"]: process for process in result}
        for number, process in last.items():
            process["cpu_seconds"] += self._retired_cpu.get(number, 0.0)
        return result


def no_reloads() -> Reloads:
    """Return the reloads of an agent that has had none."""
    return {"results": {}, "last_ok": True, "last_time": 0.0, "reason": "", "requested": 0, "answered": 0}


def state_of_all(processes: Iterable[Process]) -> str:
    """Return ``ready`` if one of ``processes`` is ready, or else ``draining`` or ``starting``."""
    states = {process["state"] for process in processes}
    for state in ("ready", "starting", "draining"):
        if state in states:
            return state
    return "starting"


def why_not_ready(status: Status) -> str:
    """Return why the agent answers no new NOTIFYs, in one line. It is empty if the agent does."""
    if status["state"] != "ready":
        return status["state"]
    processes = status["processes"]
    if any(process["state"] == "ready" for process in processes):
        return ""
    states = ", ".join(f"worker {process['worker']} is {process['state']}" for process in processes)
    return f"no worker is ready: {states or 'there is none'}"


def _longest(reports: Iterable[Report]) -> dict[str, float]:
    longest: dict[str, float] = {}
    for report in reports:
        for name, seconds in report["longest"].items():
            longest[name] = max(seconds, longest.get(name, 0.0))
    return longest


def _merge_problems(lists: Iterable[list[Problem]]) -> list[Problem]:
    """Return each problem of ``lists`` once, the one that happened last first."""
    merged: dict[tuple[str, str], Problem] = {}
    for problem in (problem for problems in lists for problem in problems):
        key = problem["kind"], problem["subject"]
        other = merged.get(key)
        if other is None:
            merged[key] = problem.copy()
            continue
        latest = problem if problem["last"] >= other["last"] else other
        merged[key] = {
            **latest,
            "count": problem["count"] + other["count"],
            "first": min(problem["first"], other["first"]),
        }
    latest_first = sorted(merged.values(), key=lambda problem: problem["last"], reverse=True)
    return latest_first[:_MAX_PROBLEMS]


def _merge_engines(engines: Iterable[Engine]) -> list[Engine]:
    merged: dict[str, Engine] = {}
    for engine in engines:
        other = merged.get(engine["engine"])
        if other is None:
            merged[engine["engine"]] = engine.copy()
            continue
        other["capabilities"] = sorted({*other["capabilities"], *engine["capabilities"]}, reverse=True)
        other["max_frame_size"] = min(other["max_frame_size"], engine["max_frame_size"])
        other["connections"] += engine["connections"]
        other["in_flight"] += engine["in_flight"]
    return list(merged.values())

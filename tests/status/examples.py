"""Made-up statuses of agents in every state that an operator meets. Tests and the screenshot in the docs use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from spoa_twisted.status.merged import no_reloads
from spoa_twisted.status.report import (
    BOUNDS,
    Ending,
    Engine,
    Histogram,
    MessageTotals,
    Problem,
    Process,
    Status,
    Totals,
)

#: The time of all statuses: 2026-03-05 07:08:09 UTC.
NOW: Final = 1772694489.0

#: How long ago the agents started, in seconds: 3 days and 4 hours.
UPTIME: Final = 273_600.0


def histogram(*observations: tuple[float, int]) -> Histogram:
    """Return a histogram.

    :param observations: durations in seconds, each with the number of times that it was observed.
    """
    buckets = [0] * (len(BOUNDS) + 1)
    for seconds, number in observations:
        buckets[sum(seconds > bound for bound in BOUNDS)] += number
    return {"buckets": buckets, "sum": sum(seconds * number for seconds, number in observations)}


def message(*observations: tuple[float, int], ok: int = 0, **failures: int) -> MessageTotals:
    """Return the results of one message."""
    return {"results": {"ok": ok, **failures}, "duration": histogram(*observations)}


def totals(messages: dict[str, MessageTotals] | None = None, **more: int) -> Totals:
    """Return totals with ``messages``. Each NOTIFY has one message."""
    messages = messages or {}
    buckets = [sum(column) for column in zip(*(each["duration"]["buckets"] for each in messages.values()), strict=True)]
    notify: Histogram = {"buckets": buckets, "sum": sum(each["duration"]["sum"] for each in messages.values())}
    return {
        "messages": messages,
        "notify": notify if messages else histogram(),
        "connections": more.get("connections", 0),
        "refused": more.get("refused", 0),
        "health_checks": more.get("health_checks", 30),
        "disconnects": {},
        "dropped": {},
        "stalls": more.get("stalls", 0),
        "stall_seconds": float(more.get("stall_seconds", 0)),
    }


def process(worker: int = 0, state: str = "ready", detail: str = "", age: float = 0.1) -> Process:
    """Return a process that works, or one in another state."""
    gone = state in ("lost", "starting")
    return {
        "worker": worker,
        "pid": 4711 + worker,
        "state": state,
        "detail": detail,
        "started": NOW - (2.0 if state == "starting" else UPTIME - 10 * worker),
        "age": age,
        "connections": 0 if gone else 6,
        "in_flight": 0 if gone else 4,
        "blocking_waiting": 0,
        "held_back": 0,
        "lag": 0.0 if gone else 0.0004,
        "cpu_seconds": 0.0 if gone else 9120.0 + 31 * worker,
        "resident_memory": 0 if gone else (41 + worker) * 2**20,
    }


def engine(number: int, connections: int = 12) -> Engine:
    """Return an engine of the HAProxy on 192.0.2.1, 192.0.2.2, ..."""
    return {
        "engine": f"7c9e667{number}-7425-40de-944b-e07fc1f90ae7",
        "peer": f"192.0.2.{number}",
        "capabilities": ["pipelining"],
        "max_frame_size": 16380,
        "connections": connections,
        "in_flight": 8,
    }


def problem(kind: str, subject: str, text: str, count: int, first: float, last: float) -> Problem:
    """Return a problem. ``first`` and ``last`` are seconds ago."""
    return {"kind": kind, "subject": subject, "text": text, "count": count, "first": NOW - first, "last": NOW - last}


def crash(worker: int, ago: float, reason: str = "it was ended by the signal SIGSEGV") -> Ending:
    """Return the end of a worker that has crashed ``ago`` seconds ago."""
    return {"worker": worker, "time": NOW - ago, "reason": reason, "crashed": True}


def _messages() -> dict[str, MessageTotals]:
    """Return the results of the last minute of an agent without faults."""
    return {
        "get-ip-reputation": message((0.00008, 51_000), (0.0002, 610), (0.004, 30), ok=51_640),
        "check-token": message((0.002, 16_000), (0.004, 5400), (0.02, 250), (0.08, 5), ok=21_655),
        "check-dnsbl": message((0.004, 500), (0.02, 220), (0.2, 4), ok=724),
    }


def _well() -> Status:
    """Return the status of an agent with four workers and without faults."""
    messages = _messages()
    total = {
        name: message((0.002, 4000 * sum(each["results"].values())), ok=4000 * sum(each["results"].values()))
        for name, each in messages.items()
    }
    total["check-token"]["results"]["error"] = 3
    return {
        "version": "0.1.0",
        "python": "3.11.2",
        "twisted": "26.10.0",
        "pid": 4_710,
        "time": NOW,
        "started": NOW - UPTIME,
        "state": "ready",
        "listen": ["tcp:12345:interface=192.0.2.10"],
        "options": {"handlers": "iprep", "workers": "4", "status": "tcp:8404:interface=127.0.0.1"},
        "workers": True,
        "processes": [process(worker) for worker in (1, 2, 3, 4)],
        "totals": totals(total, connections=136_842, health_checks=136_800),
        "recent": totals(messages, connections=30, health_checks=30),
        "recent_seconds": 60.0,
        "longest": {"get-ip-reputation": 0.0041, "check-token": 0.083, "check-dnsbl": 0.212},
        "longest_notify": 0.2124,
        "problems": [
            problem(
                "HandlerFailed",
                "check-token",
                "ValueError: not a token (tokens.py, line 14, in parse)",
                3,
                200_000,
                40_000,
            )
        ],
        "engines": [engine(1), engine(2)],
        "messages": ["check-dnsbl", "check-token", "get-ip-reputation"],
        "reloads": {
            "results": {"ok": 2},
            "last_ok": True,
            "last_time": NOW - 90_000,
            "reason": "",
            "requested": 2,
            "answered": 2,
        },
        "restarts": {"reload": 8},
        "endings": [],
    }


def _single() -> Status:
    """Return the status of an agent without workers and without faults."""
    status = _well()
    status["workers"] = False
    status["processes"] = [process()]
    status["options"] = {"handlers": "iprep", "status": "unix:/run/spoa/status"}
    status["reloads"] = no_reloads()
    status["restarts"] = {}
    return status


def _failing() -> Status:
    """Return the status of an agent whose database is down, so that most calls of one handler fail."""
    status = _well()
    status["recent"]["messages"]["check-token"] = message(
        (0.002, 8200), (0.02, 13_455), ok=8229, error=13_402, timeout=24
    )
    status["totals"]["messages"]["check-token"]["results"].update(error=41_233, timeout=90)
    status["problems"] += [
        problem(
            "HandlerFailed",
            "check-token",
            "ConnectionRefusedError: 192.0.2.7:5432: connection refused (tokens.py, line 31, in verify)",
            41_230,
            190,
            0.1,
        ),
        problem("HandlerTimedOut", "check-token", "longer than 0.2 s", 90, 192, 4),
    ]
    # The problem of the same message and kind is one problem.
    del status["problems"][0]
    return status


def _slow() -> Status:
    """Return the status of an agent with a handler that takes nearly a second, and often times out after one."""
    status = _well()
    status["recent"]["messages"]["check-dnsbl"] = message((0.2, 40), (0.7, 310), (0.99, 240), ok=482, timeout=108)
    status["recent"]["notify"]["buckets"][12] += 550
    status["longest"]["check-dnsbl"] = 1.0012
    status["longest_notify"] = 1.0013
    status["problems"].append(problem("HandlerTimedOut", "check-dnsbl", "longer than 1 s", 431, 260, 0.4))
    return status


def _slow_in_time() -> Status:
    """Return the status of an agent with a handler that takes long, but does not time out."""
    status = _well()
    status["recent"]["messages"]["check-dnsbl"] = message((0.2, 340), (0.7, 250), ok=590)
    status["longest"]["check-dnsbl"] = 0.83
    status["longest_notify"] = 0.8301
    return status


def _standing_still() -> Status:
    """Return the status of an agent with a worker that stands still."""
    status = _well()
    status["processes"][0] = process(1, "silent", "iprep.py, line 33, in get_score", age=3.2)
    status["processes"][0]["in_flight"] = 97
    return status


def _stood_still() -> Status:
    """Return the status of an agent without workers that stood still a moment ago."""
    status = _single()
    status["recent"]["stalls"] = 2
    status["recent"]["stall_seconds"] = 3.4
    status["problems"].append(
        problem(
            "HandlerBlocked",
            "get-ip-reputation",
            "it held the agent up for 1.90 s; after 1 s it was in iprep.py, line 33, in get; 41 other requests waited",
            2,
            31,
            9,
        )
    )
    return status


def _worker_lost() -> Status:
    """Return the status of an agent with a worker that was killed, and is not replaced yet."""
    status = _well()
    status["processes"][2] = process(3, "lost", "it was ended by the signal SIGSEGV", age=1.4)
    status["restarts"]["signal"] = 2
    status["endings"] = [crash(1, 7200), crash(3, 1.4)]
    return status


def _worker_starting() -> Status:
    """Return the status of an agent with a worker that was killed, while a new one imports the handlers."""
    status = _worker_lost()
    status["processes"].append(process(3, "starting", age=0.0))
    return status


def _crashing() -> Status:
    """Return the status of an agent whose workers crash again and again, and are replaced each time."""
    status = _well()
    status["restarts"]["signal"] = 4
    where = "it was ended by the signal SIGSEGV in db.py, line 9"
    status["endings"] = [crash(2, 250, where), crash(1, 140, where), crash(2, 61, where), crash(4, 3, where)]
    return status


def _all_lost() -> Status:
    """Return the status of an agent whose workers all end again and again."""
    status = _well()
    status["processes"] = [process(number, "lost", "it ended with exit status 1", age=8.0) for number in (1, 2)]
    status["engines"] = []
    status["restarts"]["exit"] = 12
    return status


def _reload_refused() -> Status:
    """Return the status of an agent whose last reload failed."""
    status = _well()
    status["reloads"] = {
        "results": {"ok": 2, "failed": 1},
        "last_ok": False,
        "last_time": NOW - 725,
        "reason": "SyntaxError: expected ':' (iprep.py, line 12)",
        "requested": 3,
        "answered": 3,
    }
    return status


def _no_haproxy() -> Status:
    """Return the status of an agent that no HAProxy has been connected to for more than a minute."""
    status = _well()
    status["recent"] = totals(health_checks=0)
    status["longest"] = {}
    status["longest_notify"] = 0.0
    status["engines"] = []
    for each in status["processes"]:
        each["connections"] = each["in_flight"] = 0
    return status


def _idle() -> Status:
    """Return the status of an agent at night: HAProxy checks its health, and sends nothing."""
    status = _no_haproxy()
    status["recent"]["connections"] = status["recent"]["health_checks"] = 30
    return status


def _disconnected() -> Status:
    """Return the status of an agent whose HAProxy has closed its connections after ``timeout idle``."""
    status = _well()
    status["engines"] = []
    for each in status["processes"]:
        each["connections"] = each["in_flight"] = 0
    return status


def _draining() -> Status:
    """Return the status of an agent that was told to end, and answers what is in flight."""
    status = _well()
    status["state"] = "draining"
    for each in status["processes"]:
        each["state"] = "draining"
        each["connections"] = 2
        each["in_flight"] = 3
    return status


def _starting() -> Status:
    """Return the status of an agent whose workers import their handlers."""
    status = _no_haproxy()
    status["state"] = "starting"
    status["started"] = NOW - 2.2
    status["processes"] = [process(number, "starting", age=0.0) for number in (1, 2)]
    status["totals"] = totals(health_checks=0)
    status["recent"] = totals(health_checks=0)
    status["recent_seconds"] = 2.2
    status["problems"] = []
    status["reloads"] = no_reloads()
    status["restarts"] = {}
    return status


def _started() -> Status:
    """Return the status of an agent that is ready since a few seconds. No HAProxy has connected yet."""
    status = _starting()
    status["state"] = "ready"
    status["processes"] = [process(number) for number in (1, 2)]
    for each in status["processes"]:
        each["started"] = NOW - 9
        each["cpu_seconds"] = 0.4
        each["connections"] = each["in_flight"] = 0
    status["started"] = NOW - 9
    status["recent_seconds"] = 9.0
    return status


#: The function that makes each status, by the name of the state.
EXAMPLES: Final[dict[str, Callable[[], Status]]] = {
    "all well": _well,
    "all well, without workers": _single,
    "handler failing": _failing,
    "handler slow": _slow,
    "handler slow, in time": _slow_in_time,
    "standing still": _standing_still,
    "stood still": _stood_still,
    "worker lost": _worker_lost,
    "worker starting": _worker_starting,
    "workers crashing": _crashing,
    "all workers lost": _all_lost,
    "reload refused": _reload_refused,
    "no HAProxy": _no_haproxy,
    "idle": _idle,
    "disconnected": _disconnected,
    "draining": _draining,
    "starting": _starting,
    "just started": _started,
}


def example(name: str) -> Status:
    """Return a new status of the state ``name``, which the caller may change."""
    return EXAMPLES[name]()

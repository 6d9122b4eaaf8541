"""The notes of a report: reasons why the figures may be misleading."""

from __future__ import annotations

import argparse
from typing import Any, Final

from spoa_twisted.ctl.bench.durations import duration
from spoa_twisted.shown import show_text

#: From this share of a core on, a process is busy: it may have been the bottleneck.
BUSY: Final = 0.9

#: From this share of the time measured on, waiting for a core has changed the rate and the latency.
WAITED: Final = 0.1

#: From this share of the 99th percentile on, the load's own lateness changes it.
LATE: Final = 0.25

#: Below this share of the rate, the agent did not keep up. The rate itself is exact to a NOTIFY or two.
KEPT_UP: Final = 0.98

#: From this share of the time measured on, the longest latency was a standstill of the agent.
STANDSTILL: Final = 0.05


def notes_on(report: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Return the notes on a report, each in one line."""
    notes = (rate_notes(report) if report["rate"] is not None else latency_notes(report)) + cpu_notes(report)
    if report["in_flight"] < options.in_flight:
        notes.append("the agent does not announce pipelining: one NOTIFY is in flight on each connection")
    # With --expect, an ACK without variables is an error, or it is what the user expects.
    if report["variables"] == {} and not options.expect:
        notes.append(f"the agent set no variables: does it have a handler for {show_text(report['message'])}?")
    if report["processes"] < options.processes:
        notes.append("the load has no more processes than connections")
    if report["interrupted"]:
        notes.append(f"interrupted: measured for {report['seconds']:.1f} of {report['duration']:g} s")
    return notes


def cpu_notes(report: dict[str, Any]) -> list[str]:
    """Return the notes on the CPU time of the load and of the agent."""
    notes = []
    # The busiest process of the load: one of several may be the bottleneck.
    load = max(cpu["busy"] or 0.0 for cpu in report["load_cpu"])
    agents = [cpu["busy"] for cpu in report["agent_cpu"]]
    if load >= BUSY and not agents:
        notes.append(f"the load used {load:.0%} of a core: it may have been the bottleneck; use --pid to find out")
    # If a process of the agent was busy too, the agent was at its limit as well.
    elif load >= BUSY and not any(busy is not None and busy >= BUSY for busy in agents):
        more = report["processes"] + 1
        notes.append(f"the load used {load:.0%} of a core: it was the bottleneck; try --processes {more}")
    for cpu in report["agent_cpu"]:
        if cpu["seconds"] is None:
            notes.append(f"the process {cpu['pid']} ended before the end of the measurement")
        # Perhaps the pid of a parent process, whose children do the work.
        elif not cpu["seconds"]:
            notes.append(f"the process {cpu['pid']} used no CPU: is it the agent?")
    waited = max(cpu["waited"] or 0.0 for cpu in [*report["load_cpu"], *report["agent_cpu"]])
    if waited >= WAITED:
        notes.append(f"a process waited for a core {waited:.0%} of the time: other processes affect rate and latency")
    return notes


def latency_notes(report: dict[str, Any]) -> list[str]:
    """Return a note when the percentiles hide a standstill. The load sends nothing new while the agent stands still."""
    latency = report["latency_us"]
    share = latency["max"] / 1e6 / report["seconds"] if latency is not None and report["seconds"] else 0.0
    if share < STANDSTILL:
        return []
    return [f"max is {share:.0%} of the time measured: the percentiles hardly show this standstill"]


def rate_notes(report: dict[str, Any]) -> list[str]:
    """Return notes when the agent did not keep up with the rate, or the load itself was late."""
    notes = []
    if report["notifys_per_second"] < report["rate"] * KEPT_UP:
        notes.append(
            f"the agent answered {report['notifys_per_second']:.0f} of {report['rate']:g} a second: the latencies grow"
            " with the duration"
        )
    latency, late = report["latency_us"], report["late_us"]
    if latency is not None and late is not None and late["p99"] >= LATE * latency["p99"]:
        notes.append(f"the load itself was up to {duration(late['p99'])} late (p99), which is part of the latencies")
    return notes

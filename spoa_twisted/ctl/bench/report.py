"""The report: a dictionary whose keys ``spoactl bench --help`` describes. ``--json`` prints it as it is."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

from spoa_twisted.ctl.bench.measurement import Measurement
from spoa_twisted.ctl.bench.notes import notes_on
from spoa_twisted.ctl.cpu import CPUMeter
from spoa_twisted.ctl.latency import Latencies
from spoa_twisted.ctl.load.errors import OTHER_VARIABLES
from spoa_twisted.ctl.load.plan import Outcome, Plan
from spoa_twisted.shown import show_text, show_value
from spoa_twisted.spop.typeddata import decode_typed_data


def make_report(options: argparse.Namespace, message: str, plan: Plan, measurement: Measurement) -> dict[str, Any]:
    """Return the report.

    :param options: the command line.
    :param message: the name of the message that was sent.
    :param plan: the parameters of the load.
    :param measurement: the results of the load.
    """
    greeting, outcomes = measurement.greeting, measurement.outcomes
    report = {
        "endpoint": plan.endpoint,
        "message": message,
        "connections": plan.connections,
        "in_flight": greeting.in_flight,
        "rate": plan.rate,
        "processes": len(outcomes),
        "warm_up": options.warm_up,
        "duration": options.duration,
        "seconds": max(outcome.seconds for outcome in outcomes),
        "interrupted": measurement.interrupted,
        "notify_size": greeting.notify_size,
        "agent": {
            "version": greeting.version,
            "max_frame_size": greeting.max_frame_size,
            "capabilities": greeting.capabilities,
        },
        **_answers(outcomes, plan),
    }
    report |= _cpu(measurement.agents, outcomes, report["notifys_per_second"])
    report["notes"] = notes_on(report, options)
    return report


def _answers(outcomes: Sequence[Outcome], plan: Plan) -> dict[str, Any]:
    """Return the figures on the ACKs: those of all processes of the load together."""
    latencies, late = Latencies(), Latencies()
    errors: Counter[str] = Counter()
    for outcome in outcomes:
        latencies.merge(outcome.latencies)
        late.merge(outcome.late)
        errors.update(outcome.errors)
    # In this order: the first ACK of the first process is the one to compare with.
    seen = [
        variables
        for outcome in outcomes
        for variables in (outcome.variables, outcome.other_variables)
        if variables is not None
    ]
    first = seen[0] if seen else None
    expected, other = None, None
    if not plan.varying:
        expected = first if plan.expected is None else plan.expected
        other = next((variables for variables in seen if variables != expected), None)
    if other is not None:
        # Each process has compared its ACKs with its own first ACK. When only these first ones differ from each other,
        # no process has counted an error.
        errors[OTHER_VARIABLES] = max(1, errors[OTHER_VARIABLES])
    return {
        "variables": _as_shown(first),
        "expected": _as_shown(expected),
        "other_variables": _as_shown(other),
        "notifys": sum(outcome.notifys for outcome in outcomes),
        # The sum of the rates: each process has measured its own seconds.
        "notifys_per_second": sum(outcome.notifys / outcome.seconds for outcome in outcomes if outcome.seconds),
        "latency_us": _microseconds(latencies),
        "late_us": _microseconds(late),
        "errors": dict(sorted(errors.items())),
    }


def _microseconds(latencies: Latencies) -> dict[str, float] | None:
    """Return the percentiles and the longest latency in microseconds; ``None`` if there are no latencies."""
    if not latencies.total:
        return None
    percentiles = {f"p{share:g}": latencies.percentile(share) / 1e3 for share in (50, 99, 99.9)}
    return {**percentiles, "max": latencies.longest / 1e3}


def _as_shown(variables: dict[str, str] | None) -> dict[str, str | None] | None:
    """Return the variables as ``spoactl send`` shows them, from the form that :func:`canonical` returns."""
    if variables is None:
        return None
    shown: dict[str, str | None] = {}
    for name, encoded in variables.items():
        value, _ = decode_typed_data(bytes.fromhex(encoded), 0)
        shown[show_text(name)] = None if value is None else show_value(value)
    return shown


def _cpu(agents: Sequence[CPUMeter], outcomes: Sequence[Outcome], rate: float) -> dict[str, Any]:
    """Return the figures on the CPU of the agent and of the load.

    :param rate: good ACKs per second.
    """
    # The CPU per NOTIFY comes from two rates, not from two totals: the processes of the agent and of the load are not
    # measured for exactly the same time.
    busy = [meter.seconds / meter.measured for meter in agents if meter.seconds is not None and meter.measured]
    return {
        "agent_cpu": [
            {
                "pid": meter.pid,
                "seconds": meter.seconds,
                "busy": _share(meter.seconds, meter.measured),
                "waited": _share(meter.waited, meter.measured),
            }
            for meter in agents
        ],
        "cpu_us_per_notify": sum(busy) / rate * 1e6 if busy and len(busy) == len(agents) and rate else None,
        "load_cpu": [
            {"busy": _share(outcome.cpu, outcome.seconds), "waited": _share(outcome.waited, outcome.seconds)}
            for outcome in outcomes
        ],
    }


def _share(part: float | None, whole: float) -> float | None:
    """Return ``part / whole``; ``None`` if ``part`` is unknown, or if nothing was measured."""
    return part / whole if part is not None and whole else None

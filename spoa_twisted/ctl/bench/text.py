"""The report as text: one line for each figure."""

from __future__ import annotations

from typing import Any, Final

from spoa_twisted.ctl.bench.durations import duration
from spoa_twisted.shown import show_text

# In characters. A longer list of variables is cut off here; the JSON report has all of it.
_MAX_LIST: Final = 500


def as_text(report: dict[str, Any]) -> str:
    """Return the report as lines of a name and a text. No line has a control character from the network."""
    hello, latency = report["agent"], report["latency_us"]
    capabilities = ", ".join(hello["capabilities"]) or "no capabilities"
    rows = [
        ("agent", f"{report['endpoint']}, SPOP {hello['version']}, {capabilities}"),
        ("load", _load(report)),
        ("NOTIFY", f"{report['notify_size']} bytes"),
        ("measured", f"{report['seconds']:.1f} s, after {report['warm_up']:g} s of warm-up"),
        ("answered", f"{report['notifys']}, {report['notifys_per_second']:.0f} a second"),
    ]
    if latency is not None:
        rows.append(("latency", ", ".join([f"{name} {duration(latency[name])}" for name in latency])))
    if report["agent_cpu"]:
        rows.append(("agent CPU", _agent_cpu(report)))
    busy = " + ".join([f"{cpu['busy'] or 0:.0%}" for cpu in report["load_cpu"]])
    rows.append(("load CPU", f"{busy} of a core"))
    rows.append(("errors", ", ".join([f"{kind}: {number}" for kind, number in report["errors"].items()]) or "none"))
    if report["other_variables"] is not None:
        rows += [("expected", _list(report["expected"])), ("received", _list(report["other_variables"]))]
    rows += [("note", note) for note in report["notes"]]
    # The report has texts of the agent: its capabilities, and the names and values of variables.
    return "\n".join([f"{name:<9}  {show_text(text)}" for name, text in rows])


def _load(report: dict[str, Any]) -> str:
    """Return the connections, the NOTIFYs in flight, the rate if there is one, and the message."""
    in_flight = f"{report['in_flight']} in flight on each"
    if report["rate"] is not None:
        in_flight = f"at most {in_flight}, {report['rate']:g} a second"
    return f"{report['connections']} connections, {in_flight}, {report['message']}"


def _agent_cpu(report: dict[str, Any]) -> str:
    """Return the CPU per NOTIFY of all processes together, and the share of a core of each."""
    per_notify = report["cpu_us_per_notify"]
    cost = "unknown" if per_notify is None else f"{per_notify:.2f} µs a NOTIFY"
    busy = [f"{cpu['busy']:.0%}" for cpu in report["agent_cpu"] if cpu["busy"] is not None]
    return f"{cost}, {' + '.join(busy) or 'none'} of a core (without child processes)"


def _list(variables: dict[str, str | None]) -> str:
    """Return the variables as a list that is not too long for a terminal."""
    text = ", ".join([f"{name}={'null' if value is None else value}" for name, value in variables.items()])
    return (text if len(text) <= _MAX_LIST else f"{text[:_MAX_LIST]}...") or "no variables"

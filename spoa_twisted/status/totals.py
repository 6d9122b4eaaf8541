"""Adding and subtracting :class:`~spoa_twisted.status.report.Totals`: of several processes, and of two times."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spoa_twisted.status.report import BOUNDS, Histogram, MessageTotals, Totals


def empty_histogram() -> Histogram:
    """Return a histogram without observations."""
    return {"buckets": [0] * (len(BOUNDS) + 1), "sum": 0.0}


def empty() -> Totals:
    """Return totals that are all 0."""
    return {
        "messages": {},
        "notify": empty_histogram(),
        "connections": 0,
        "refused": 0,
        "health_checks": 0,
        "disconnects": {},
        "dropped": {},
        "stalls": 0,
        "stall_seconds": 0.0,
    }


def add(all_totals: Iterable[Totals]) -> Totals:
    """Return the sum of ``all_totals``."""
    result = empty()
    for totals in all_totals:
        result = _combine(result, totals, lambda left, right: left + right)
    return result


def subtract(later: Totals, earlier: Totals) -> Totals:
    """Return how much ``later`` has more than ``earlier``. No number is negative."""
    return _combine(later, earlier, lambda left, right: max(left - right, 0))


# The numbers are integers or floats, and the result has the same type.
_Operation = Callable[[float, float], float]


def _combine(left: Totals, right: Totals, operation: _Operation) -> Totals:
    def number(a: int, b: int) -> int:
        return int(operation(a, b))

    def numbers(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        return {key: number(a.get(key, 0), b.get(key, 0)) for key in {**a, **b}}

    def histogram(a: Histogram, b: Histogram) -> Histogram:
        buckets = [number(x, y) for x, y in zip(a["buckets"], b["buckets"], strict=True)]
        return {"buckets": buckets, "sum": operation(a["sum"], b["sum"])}

    nothing: MessageTotals = {"results": {}, "duration": empty_histogram()}

    def message(name: str) -> MessageTotals:
        a, b = left["messages"].get(name, nothing), right["messages"].get(name, nothing)
        return {
            "results": numbers(a["results"], b["results"]),
            "duration": histogram(a["duration"], b["duration"]),
        }

    return {
        "messages": {name: message(name) for name in {**left["messages"], **right["messages"]}},
        "notify": histogram(left["notify"], right["notify"]),
        "connections": number(left["connections"], right["connections"]),
        "refused": number(left["refused"], right["refused"]),
        "health_checks": number(left["health_checks"], right["health_checks"]),
        "disconnects": numbers(left["disconnects"], right["disconnects"]),
        "dropped": numbers(left["dropped"], right["dropped"]),
        "stalls": number(left["stalls"], right["stalls"]),
        "stall_seconds": operation(left["stall_seconds"], right["stall_seconds"]),
    }

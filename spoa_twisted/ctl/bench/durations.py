"""Durations as text."""

from __future__ import annotations


def duration(microseconds: float) -> str:
    """Return a duration with three digits in a unit that fits it."""
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= factor:
            return f"{microseconds / factor:.3g} {unit}"
    return f"{microseconds:.3g} µs"

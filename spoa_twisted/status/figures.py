"""Numbers as text, for the page, the terminal and the verdict: ``1,234``, ``12/s``, ``62 %``, ``2.5 ms``, ``3 min``."""

from __future__ import annotations

from datetime import datetime
from typing import Final

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 86400.0

# Below this number of cases, a share is shown as "6 of 9": a percentage would look more exact than it is.
_FEW: Final = 50

_KIB: Final = 1024


def times(count: int) -> str:
    """Return ``once``, or ``1,234 times``."""
    return "once" if count == 1 else f"{count:,} times"


def counted(count: int, noun: str) -> str:
    """Return ``1 connection``, ``2 connections``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def rate(count: int, seconds: float) -> str:
    """Return how often something happened a second, or a minute if that is rare: ``1,234/s``, ``3/min``."""
    a_second = count / seconds if seconds > 0 else 0.0
    if a_second >= 10 or not count:
        return f"{a_second:,.0f}/s"
    return f"{a_second:.1f}/s" if a_second >= 1 else f"{max(1.0, a_second * _MINUTE):.0f}/min"


def share(part: int, whole: int) -> str:
    """Return ``62 %``, or ``6 of 9`` if ``whole`` is small. It is 0 % or 100 % only if it is exactly that."""
    if whole < _FEW:
        return f"{part:,} of {whole:,}"
    return percent(part, whole)


def percent(part: int, whole: int) -> str:
    """Return ``62 %``. It is 0 % or 100 % only if it is exactly that, or if ``whole`` is 0."""
    if not part or not whole:
        return "0 %"
    exact = 100 * part / whole
    if exact < 1:
        return f"{exact:.1f} %" if exact >= 0.1 else "< 0.1 %"
    return "100 %" if part == whole else f"{min(99, round(exact))} %"


def duration(seconds: float) -> str:
    """Return a duration with two or three digits: ``0.037 ms``, ``25 ms``, ``3.2 s``, ``12 min``, ``3 h 12 min``."""
    if seconds < 0.00001:
        return "0 ms"
    if seconds < 0.001:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    for unit, name, smaller, smaller_name in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min")):
        if seconds >= unit:
            rest = int(seconds % unit // smaller)
            return f"{seconds // unit:,.0f} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{seconds // _MINUTE:.0f} min" if seconds >= 2 * _MINUTE else f"{seconds:.0f} s"


def ago(seconds: float) -> str:
    """Return ``12 min ago``, or ``now`` for less than a second. Clocks of two machines may differ a little."""
    return f"{duration(float(round(seconds)))} ago" if seconds >= 1 else "now"


def span(seconds: float) -> str:
    """Return the name of the last minute, or of a shorter time: ``minute``, ``12 s``."""
    return "minute" if seconds >= _MINUTE - 1 else duration(max(1.0, float(round(seconds))))


def size(count: int) -> str:
    """Return a number of bytes: ``512 B``, ``16 KiB``, ``1.5 GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= _KIB
    return f"{value:.3g} GiB"


def clock(seconds: float) -> str:
    """Return a Unix time in the local time zone, as in Twisted's log: ``2026-01-31 12:34:56+0000``."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
    except (OverflowError, OSError, ValueError):
        # A number that is no time of the years 1 to 9999. Show it as it is.
        return f"{seconds:g}"

"""Times in a configuration, as ``500ms`` and ``2m``."""

from __future__ import annotations

import re

_SECONDS = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"(\d{1,15})(us|ms|s|m|h|d|)", re.ASCII)


def seconds(text: str) -> float | None:
    """Return the seconds of a time; a number without a unit counts milliseconds. ``None`` for another text."""
    found = _TIME.fullmatch(text)
    return int(found.group(1)) * _SECONDS[found.group(2)] if found else None

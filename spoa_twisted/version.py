"""What ``--version`` says: which version runs, and whether its spop is compiled."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES

from spoa_twisted import __version__
from spoa_twisted.spop import connection


def version() -> str:
    """Return the version of what was imported."""
    # All of spop is compiled, or nothing of it.
    compiled = connection.__file__.endswith(tuple(EXTENSION_SUFFIXES))
    return f"spoa_twisted {__version__}" + (" (spop compiled)" if compiled else "")

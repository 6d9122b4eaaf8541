"""The text of ``--version``: the version that runs, and whether it is compiled."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES

from spoa_twisted import __version__
from spoa_twisted.spop import connection


def version() -> str:
    """Return the version of the imported package, with a note when it is compiled.

    The note matters in reports of speed and of faults: mypyc's extensions and the Python sources differ in both.
    """
    # setup.py compiles all modules that have an effect on speed, or none: one module tells for all. The file that was
    # loaded counts, not the files on the disk: both may exist.
    compiled = connection.__file__.endswith(tuple(EXTENSION_SUFFIXES))
    return f"spoa_twisted {__version__}" + (" (compiled)" if compiled else "")

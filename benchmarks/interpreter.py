"""Names the interpreter that runs this file, and the versions of the packages on which the figures depend.

Another interpreter that has the package runs it by its path: ``python benchmarks/interpreter.py``.
"""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from spoa_twisted.version import version


def interpreter() -> str:
    """Return the interpreter and the versions of Twisted and of this package, and whether its codec is compiled."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.implementation.name == "pypy":
        # PyPy has a version of its own; python_version() is that of the language.
        python = "PyPy {}.{}.{} (Python {})".format(*sys.implementation.version[:3], platform.python_version())
    return f"{python}, Twisted {metadata.version('twisted')}, {version()}"


if __name__ == "__main__":
    print(interpreter())

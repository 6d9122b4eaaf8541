"""What the source says to mypyc, which compiles a part of the package: see ``setup.py``.

``mypy_extensions`` has this name too, but only mypyc needs that package. mypyc reads the types of this module in
``compiling.pyi``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

ClassT = TypeVar("ClassT", bound=type)


def mypyc_attr(*, allow_interpreted_subclasses: bool) -> Callable[[ClassT], ClassT]:
    """Return a decorator of a class that leaves it as it is.

    :param allow_interpreted_subclasses: let Python code that is not compiled derive classes from the compiled class.
    """
    return lambda cls: cls

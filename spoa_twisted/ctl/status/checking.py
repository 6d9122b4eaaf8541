"""Checks that what an endpoint has answered is the status of an agent, so that no other code has to.

The types of :mod:`spoa_twisted.status.report` say what a status has. A newer agent may tell more.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final, cast, get_args, get_origin, get_type_hints, is_typeddict

from spoa_twisted.status.report import BOUNDS, Histogram, Status

# No number of a status is larger. With larger ones, Python's arithmetic of floats would raise exceptions.
_LARGEST: Final = 2**63

# Characters. A key may be as long as the answer.
_MAX_PATH: Final = 100


def check_status(value: object) -> Status:
    """Return ``value`` if it is a status.

    :raises ValueError: when it is not. The error says which part is missing or of another type.
    """
    _check(value, Status, "")
    return cast("Status", value)


def _check(value: Any, wanted: Any, path: str) -> None:
    """Check that ``value`` is of the type ``wanted``; ``path`` says where it is."""
    container = get_origin(wanted)
    if is_typeddict(wanted):
        _check_type(value, dict, path)
        _check_items(value, wanted, path)
    elif container is not None:
        _check_type(value, container, path)
        # The type of the items is the last argument of list[...] and of dict[str, ...].
        for key, item in value.items() if container is dict else enumerate(value):
            _check(item, get_args(wanted)[-1], f"{path}{key}.")
    elif wanted is float and type(value) is int:
        # JSON has 1 for 1.0.
        _check_number(value, path)
    else:
        _check_type(value, wanted, path)
        if wanted in (int, float):
            _check_number(value, path)


def _check_items(value: dict[str, Any], wanted: Any, path: str) -> None:
    """Check that ``value`` has all items of the TypedDict ``wanted``."""
    for name, type_ in get_type_hints(wanted).items():
        if name not in value:
            raise _error(f"{path}{name}", "missing")
        _check(value[name], type_, f"{path}{name}.")
    if wanted is Histogram and len(value["buckets"]) != len(BOUNDS) + 1:
        raise _error(f"{path}buckets", f"{len(value['buckets'])} long, not {len(BOUNDS) + 1}")


def _check_type(value: object, wanted: type, path: str) -> None:
    # type() and not isinstance(): a bool is an int.
    if type(value) is not wanted:
        raise _error(path, f"of the type {type(value).__name__}, not {wanted.__name__}")


def _check_number(value: float, path: str) -> None:
    if not isfinite(value) or abs(value) > _LARGEST:
        raise _error(path, "too large")


def _error(path: str, what: str) -> ValueError:
    where = path.rstrip(".")[:_MAX_PATH] or "it"
    return ValueError(f"the answer is not the status of an agent of this version: {where} is {what}")

"""Parts of error texts: the type of a value with its article, and the advice for a value that has no SPOP type."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from numbers import Number
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

# The first entry whose class the value is an instance of counts. A Deferred is an Awaitable too.
_BY_CLASS: Final[tuple[tuple[Any, str], ...]] = (
    (Awaitable, "await it, and send its result"),
    ((FunctionType, MethodType, BuiltinFunctionType), "call it, and send its result"),
    (Enum, "send its value attribute"),
    ((IPv4Network, IPv6Network), "send its network_address attribute, or a str, such as str(...)"),
    (Mapping, "send a str, such as json.dumps(...), or a variable for each item"),
)

# The same for classes of other modules, by the name of an attribute that the class has: numpy's scalars, the classes of
# datetime, and timedelta.
_BY_ATTRIBUTE: Final = (
    ("dtype", "send an int, a bool or a str, such as value.item() of a scalar"),
    ("isoformat", "send a str, such as value.isoformat(), or an int, such as int(value.timestamp())"),
    ("total_seconds", "send an int, such as int(value.total_seconds())"),
    ("__index__", "send an int, such as int(...)"),
)

_ANY: Final = "send a str, such as str(...), or a bool, int, bytes, IPv4Address, IPv6Address, NULL or None"


def advice(value: object) -> str:
    """Return what to send instead of ``value``."""
    for kind, text in _BY_CLASS:
        if isinstance(value, kind):
            return text
    for attribute, text in _BY_ATTRIBUTE:
        if hasattr(type(value), attribute):
            return text
    if isinstance(value, Number):
        return "send an int, such as round(...), or a str, such as str(...)"
    if isinstance(value, Iterable):
        return 'send a str, such as ",".join(...), or a variable for each element'
    return _ANY


def type_of(value: object) -> str:
    """Return the name of the type of ``value`` with its article: "a float", "an int"."""
    name = type(value).__name__
    # A name with "u" usually begins as "you" does: "a UInt32", "a UUID".
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"

"""The types that a handler declares for its variables: whether SPOP has them, and whether a value has one of them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

from spoa_twisted.spop.hints import type_of
from spoa_twisted.spop.typeddata import Null

# The types that SPOP has. bool stands before int, because it is a subclass of int.
_TYPES: Final = (bool, int, str, bytes, bytearray, memoryview, IPv4Address, IPv6Address, Null, NoneType)

# The types that arrive as bytes.
_BINARY: Final = (bytes, bytearray, memoryview)


def members_of(declared: object) -> tuple[type, ...]:
    """Return the types of ``declared``: those of ``str | None``, or the type itself.

    :raises TypeError: for anything else, and for a type that SPOP does not have.
    """
    if get_origin(declared) in {Union, UnionType}:
        return tuple([member for part in get_args(declared) for member in members_of(part)])
    if declared is None:
        return (NoneType,)
    # isinstance(list[str], type) is true on Python 3.10.
    if not isinstance(declared, type) or get_origin(declared) is not None:
        raise TypeError(
            f"{declared!r} is {type_of(declared)}, not a type; write a type, such as bool, int or str | None"
        )
    if not issubclass(declared, _TYPES):
        raise TypeError(
            f"SPOP has no type for {declared.__name__}; use bool, int, str, bytes, IPv4Address, IPv6Address, or one with"
            " | None"
        )
    return (declared,)


def has_type(value: object, declared: object) -> bool:
    """Return whether ``value`` arrives at HAProxy as one of the types of ``declared``."""
    return any(_has_type(value, member) for member in members_of(declared))


def show_type(declared: object) -> str:
    """Return the text of ``declared``, as ``str | None``."""
    return " | ".join([_show(member) for member in members_of(declared)])


def joined(types: Iterable[Any]) -> Any:
    """Return the union of several types that :func:`members_of` accepts; of one type, the type itself."""
    union = None
    for member in dict.fromkeys(types):
        union = member if union is None else union | member
    return union


def _has_type(value: object, member: type) -> bool:
    if isinstance(value, bool):
        return member is bool
    if isinstance(value, _BINARY):
        return issubclass(member, _BINARY)
    return isinstance(value, member)


def _show(member: type) -> str:
    return {NoneType: "None", Null: "NULL"}.get(member, member.__name__)

"""The types that a handler declares for its variables: whether SPOP has them, and whether a value has one of them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

from spoa_twisted.spop.hints import type_of
from spoa_twisted.spop.typeddata import Int32, Int64, Null, UInt32, UInt64

# The types that SPOP has. The subclasses of int stand before int.
_TYPES: Final = (
    *(bool, Int32, Int64, UInt32, UInt64, int),
    *(str, bytes, bytearray, memoryview, IPv4Address, IPv6Address, Null, NoneType),
)

# Types that arrive as another one.
_ARRIVES_AS: Final[dict[type, type]] = {Int64: int, bytearray: bytes, memoryview: bytes}


def members_of(declared: object) -> tuple[type, ...]:
    """Return the types, as they arrive, of ``declared``: those of ``str | None``, or of a type by itself.

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
            f"SPOP has no type for {declared.__name__}; use bool, int, str, bytes, IPv4Address or IPv6Address, or"
            " one of these with | None"
        )
    # A subclass arrives as its base, and bytearray as bytes.
    base = next(base for base in _TYPES if issubclass(declared, base))
    return (_ARRIVES_AS.get(base, base),)


def has_type(value: object, declared: object) -> bool:
    """Return whether ``value``, which has been decoded, has one of the types of ``declared``."""
    # bool is a subclass of int, but not the same type for HAProxy.
    return any(
        member is bool if isinstance(value, bool) else isinstance(value, member) for member in members_of(declared)
    )


def show_type(declared: object) -> str:
    """Return the text of ``declared``, as ``str | None``."""
    return " | ".join([_show(member) for member in members_of(declared)])


def joined(types: Iterable[Any]) -> Any:
    """Return the union of several types that :func:`members_of` accepts; of one type, the type itself."""
    union = None
    for member in dict.fromkeys(types):
        union = member if union is None else union | member
    return union


def _show(member: type) -> str:
    return {NoneType: "None", Null: "NULL"}.get(member, member.__name__)

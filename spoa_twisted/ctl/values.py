"""Values as a person types and reads them: ``ipv4:192.0.2.1``."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from spoa_twisted.spop.typeddata import Int32, Int64, Null, UInt32, UInt64, Value, encode_typed_data

_BOOLS: Final = {"true": True, "false": False}


def parse_value(text: str) -> Value:
    """Return the value of ``type:value``, or of a bare ``value`` whose type is guessed.

    :raises ValueError: for a value that its type does not allow.
    """
    type_name, colon, rest = text.partition(":")
    parse = _PARSERS.get(type_name)
    value = parse(rest) if parse is not None and (colon or type_name == "null") else _guess(text)
    encode_typed_data(value)
    return value


def show_value(value: Value) -> str:
    """Return ``value`` as ``type:value``, in one line: what :func:`parse_value` takes."""
    for data_class, (type_name, show) in _SHOWN.items():
        if isinstance(value, data_class):
            return f"{type_name}:{show(value)}" if show else type_name
    raise TypeError(f"a {type(value).__name__} has no SPOP type")


def _guess(text: str) -> Value:
    if text in _BOOLS:
        return _BOOLS[text]
    for guess in (_integer, ip_address):
        try:
            value = guess(text)
            encode_typed_data(value)
        except ValueError:
            continue
        return value
    return text


def _integer(text: str) -> int:
    # Only what an integer is shown as: "007" and "1_000" are rather names of something.
    number = int(text)
    if str(number) != text:
        raise ValueError(f"{text!r} is no plain integer")
    return number


def _bool(text: str) -> bool:
    if text not in _BOOLS:
        raise ValueError(f"{text!r} is neither true nor false")
    return _BOOLS[text]


_PARSERS: Final[dict[str, Callable[[str], Value]]] = {
    "null": lambda text: None,
    "bool": _bool,
    "int32": lambda text: Int32(text),
    "uint32": lambda text: UInt32(text),
    "int64": lambda text: Int64(text),
    "uint64": lambda text: UInt64(text),
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "str": str,
    "bin": bytes.fromhex,
}


def show_text(text: str) -> str:
    """Return ``text``, which came from the network, as one line that does not steer the terminal."""
    return "".join([char if char.isprintable() else repr(char)[1:-1] for char in text])


# In this order: bool and the integers of a given width are subclasses of int.
_SHOWN: Final[dict[type, tuple[str, Callable[..., str] | None]]] = {
    Null: ("null", None),
    bool: ("bool", lambda value: str(value).lower()),
    Int32: ("int32", int.__str__),
    UInt32: ("uint32", int.__str__),
    UInt64: ("uint64", int.__str__),
    int: ("int64", int.__str__),
    IPv4Address: ("ipv4", str),
    IPv6Address: ("ipv6", str),
    str: ("str", show_text),
    bytes: ("bin", bytes.hex),
}

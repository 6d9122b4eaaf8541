"""The text form of values on the command line: ``type:value``, as in ``ipv4:192.0.2.1``."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from spoa_twisted.spop.typeddata import Int32, Int64, UInt32, UInt64, Value, encode_typed_data

_BOOLS: Final = {"true": True, "false": False}

#: Words that users write for the name of a type. SPOP's and HAProxy's documentation have some of them.
NO_TYPES: Final = (
    *("addr", "binary", "boolean", "byte", "bytes", "double", "float", "hex", "int", "integer", "ip", "sint"),
    *("string", "text", "uint"),
)


def parse_value(text: str) -> Value:
    """Return the value of ``type:value``, or of a bare ``value`` whose type is guessed.

    :raises ValueError: for a text that is not a value of its type, such as ``int32:x``, for a value out of range, or
        for a word before the colon that looks like a type but is none, such as ``string:x``.
    """
    type_name, colon, rest = text.partition(":")
    parse = _PARSERS.get(type_name)
    if parse is None and colon and _looks_like_a_type(type_name):
        raise ValueError(f"{type_name!r} is no type; the types are {TYPES}; write str:{text} for this text")
    # "null" has no value, so its colon is optional. The name of another type without a colon is a string.
    value = parse(rest) if parse is not None and (colon or type_name == "null") else _guess(text)
    # Int64 and the other integers accept any number; the range is checked when they are encoded.
    encode_typed_data(value)
    return value


def _looks_like_a_type(word: str) -> bool:
    """Return whether a user who writes ``word:`` probably means a type.

    Text such as ``http://x`` or ``Text: x`` must not be taken for a type. So the word must be in a short list, or be
    the name of a type in capitals or with other digits.
    """
    letters = word.lower().rstrip("0123456789")
    return (word.islower() or word.isupper()) and letters in _TYPE_LIKE


def _guess(text: str) -> Value:
    """Return ``text`` as the first of these that it is: a BOOL, an INT64, an address, a STRING."""
    if text in _BOOLS:
        return _BOOLS[text]
    for guess in (_integer, ip_address):
        try:
            value = guess(text)
            # An integer of more than 64 bits is a string.
            encode_typed_data(value)
        except ValueError:
            continue
        return value
    return text


def _integer(text: str) -> int:
    number = int(text)
    # int() also accepts "007" and "1_000". These are more likely names than numbers, so they stay strings.
    if str(number) != text:
        raise ValueError(f"{text!r} is not a plain integer")
    return number


def _bool(text: str) -> bool:
    if text not in _BOOLS:
        raise ValueError(f"{text!r} is neither true nor false")
    return _BOOLS[text]


# Each parser raises ValueError for a text that is not a value of its type.
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


#: The names of the types, for the help and for errors.
TYPES: Final = ", ".join(_PARSERS)

# The words that look like a type, without digits at the end.
_TYPE_LIKE: Final = {*NO_TYPES, *(name.rstrip("0123456789") for name in _PARSERS)}

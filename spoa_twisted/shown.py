"""Values, messages and variables as text and as JSON: for ``spoactl``, and for the watchers of an agent.

The values are data of users. So a function that shows several of them shows only their types, unless its argument
``values`` is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import NULL, Int32, Null, UInt32, UInt64, Value

# Characters of a name, and characters or bytes of a value. A longer one is cut.
MAX_NAME: Final = 64
MAX_VALUE: Final = 100


def show_value(value: Value) -> str:
    """Return ``value`` as ``type:value``, in one line that :func:`parse_value` accepts.

    :raises TypeError: for a value that SPOP has no type for.
    """
    type_name, show = _shown(value)
    return f"{type_name}:{show(value)}" if show else type_name


def type_of(value: Value) -> str:
    """Return the name of the type of ``value``.

    :raises TypeError: for a value that SPOP has no type for.
    """
    return _shown(value)[0]


def show_text(text: str) -> str:
    """Return ``text`` as one line without control characters.

    The text comes from the network. Its control characters could move the cursor, or change the terminal's settings.
    """
    return "".join([char if char.isprintable() else repr(char)[1:-1] for char in text])


# The name of each class's type, and a function that shows its values. The order matters: bool, Int32, UInt32 and UInt64
# are subclasses of int.
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


def _shown(value: Value) -> tuple[str, Callable[..., str] | None]:
    """Return the entry of ``_SHOWN`` for ``value``."""
    for data_class, shown in _SHOWN.items():
        if isinstance(value, data_class):
            return shown
    raise TypeError(f"a {type(value).__name__} has no SPOP type")


def value_to_json(value: Value) -> dict[str, Any]:
    """Return the type and the value of a variable."""
    shown: dict[str, Any] = {"type": type_of(value), "value": value}
    if value is NULL:
        shown["value"] = None
    elif isinstance(value, bytes):
        shown["value"] = value.hex()
    elif isinstance(value, (IPv4Address, IPv6Address)):
        shown["value"] = str(value)
    elif isinstance(value, str):
        encoded = value.encode("utf-8", "surrogateescape")
        # A str may have bytes that are not UTF-8, as lone surrogates. Many JSON parsers replace these, or fail.
        shown["value"] = encoded.decode("utf-8", "replace")
        if shown["value"] != value:
            shown["hex"] = encoded.hex()
    return shown


def message_to_json(message: Message, *, values: bool) -> dict[str, Any]:
    """Return the name and the arguments of ``message``."""
    arguments = [{"name": show_name(name), **typed_to_json(value, values=values)} for name, value in message]
    return {"name": show_name(message.name), "arguments": arguments}


def actions_to_json(actions: Iterable[tuple[str, Value]], *, values: bool) -> list[dict[str, Any]]:
    """Return the actions of an ACK: ``{"set": name, "type": ...}`` or ``{"unset": name}``."""
    return [
        {"unset": show_name(name)} if value is None else {"set": show_name(name), **typed_to_json(value, values=values)}
        for name, value in actions
    ]


def typed_to_json(value: Value, *, values: bool) -> dict[str, Any]:
    """Return the type of ``value`` and the size of a STRING or BINARY; with ``values`` also the value, cut if long."""
    # An argument of the type NULL: HAProxy sends it for a header that the request does not have.
    value = NULL if value is None else value
    size = size_of(value)
    shown: dict[str, Any] = {"type": type_of(value)} if size is None else {"type": type_of(value), "size": size}
    if values:
        is_long = isinstance(value, (str, bytes)) and len(value) > MAX_VALUE
        shown.update(value_to_json(value[:MAX_VALUE] if is_long else value))  # type: ignore[index]
        if is_long:
            shown["cut"] = True
    return shown


def size_of(value: Value) -> int | None:
    """Return the bytes of a STRING or BINARY; ``None`` for another type."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    return len(value) if isinstance(value, (bytes, bytearray, memoryview)) else None


def show_name(name: str) -> str:
    """Return the name of a message, argument or variable, cut and escaped."""
    return show_text(cut_text(name, MAX_NAME))


def cut_text(text: str, length: int) -> str:
    """Return ``text``, or its first ``length`` characters and the number of the others."""
    return text if len(text) <= length else f"{text[:length]}...({len(text) - length} more)"

"""LIST-OF-ACTIONS, the payload of an ACK frame: bytes and ``{"sess.score": 42}`` (SPOE.txt, section 3.4).

A variable is called ``scope.name``. ``None`` as its value is the action unset-var, every other value set-var.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.typeddata import (
    NULL,
    Value,
    decode_string,
    decode_typed_data,
    encode_string,
    encode_typed_data,
)


class Action(IntEnum):
    """SPOE.txt, section 3.4: what an action does."""

    SET_VAR = 1
    UNSET_VAR = 2


class Scope(IntEnum):
    """SPOE.txt, section 3.4: how long a variable lives."""

    PROC = 0
    SESS = 1
    TXN = 2
    REQ = 3
    RES = 4


#: The variables that a handler sets, by ``scope.name``; ``None`` unsets one.
Variables = Mapping[str, Value]

#: The action list of an ACK that has nothing to say to a HAProxy that may be 3.1.0. That one forgets the stream
#: whose ACK has an empty payload; the unset of a variable that nobody sets is harmless everywhere.
NO_ACTIONS: Final = b"\x02\x02\x02\x01_"

_SCOPES: Final = {scope.name.lower(): scope for scope in Scope}
_NAME: Final = re.compile(r"[A-Za-z0-9_.]+\Z")
_LONGEST_KNOWN_NAME: Final = 64
_MOST_KNOWN_NAMES: Final = 1024
_LONGEST_NAME_SHOWN: Final = 100
_SET_VAR_ARGUMENTS: Final = 3
_UNSET_VAR_ARGUMENTS: Final = 2


def encode_actions(variables: Variables) -> bytes:
    """Encode ``variables`` as a LIST-OF-ACTIONS, in their order. A name without a scope is of ``proc``.

    :raises TypeError: :raises ValueError: for a name that HAProxy would drop silently or a value that SPOP cannot
        hold; the text names the variable.
    """
    encoded = []
    # Any: nothing has checked the types of a handler's names and values yet. An error below names the variable.
    items: Iterable[Any] = variables.items()
    for name, value in items:
        try:
            set_var, unset_var = _known_heads.get(name) or _encode_heads(name)
            if value is None:
                encoded.append(unset_var)
            else:
                encoded.append(set_var)
                encoded.append(encode_typed_data(value))
        except (TypeError, ValueError) as error:
            # Not the error's own class: a UnicodeEncodeError cannot be made with a text alone.
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"variable {_quote(name)}: {error}") from error
    return b"".join(encoded)


def _quote(name: object) -> str:
    """Return ``name`` for the text of an error, escaped and cut: it may come from what a client sent."""
    return repr(name)[:_LONGEST_NAME_SHOWN]


# Bounded in number and in bytes: a handler may take its variables' names from what a client sent.
_known_heads: Final[dict[str, tuple[bytes, bytes]]] = {}


def _encode_heads(variable: object) -> tuple[bytes, bytes]:
    """Return how the set-var and the unset-var of ``variable`` begin: all but the value. Remember both."""
    if not isinstance(variable, str):
        raise TypeError(f"the name of a variable is a str, not a {type(variable).__name__}")
    prefix, dot, name = variable.partition(".")
    if not dot:
        prefix, name = "proc", variable
    scope = _SCOPES.get(prefix)
    if scope is None:
        raise ValueError(f"{_quote(prefix)} is no scope; those are {', '.join(_SCOPES)}")
    if not _NAME.match(name):
        raise ValueError("HAProxy drops names with other characters than A-Z, a-z, 0-9, '_' and '.', or none")
    encoded = encode_string(name)
    heads = (
        bytes((Action.SET_VAR, _SET_VAR_ARGUMENTS, scope)) + encoded,
        bytes((Action.UNSET_VAR, _UNSET_VAR_ARGUMENTS, scope)) + encoded,
    )
    # Only a plain str: an object of a subclass of str may hold much more than its characters.
    if type(variable) is str and len(variable) <= _LONGEST_KNOWN_NAME:
        if len(_known_heads) >= _MOST_KNOWN_NAMES:
            _known_heads.clear()
        _known_heads[variable] = heads
    return heads


def decode_actions(data: bytes, offset: int = 0) -> dict[str, Value]:
    """Decode the LIST-OF-ACTIONS that fills ``data`` from ``offset`` on, as the engine does.

    An unset variable is ``None``, one set to the SPOP NULL is :data:`NULL`. The last action on a variable counts.

    :raises InvalidFrame: when it cannot be read to the end, or holds an unknown action or scope.
    """
    variables: dict[str, Value] = {}
    if data[offset:] == NO_ACTIONS:
        return variables
    while offset < len(data):
        if offset + 3 > len(data):
            raise InvalidFrame("an action ends before its scope")
        action, arguments, scope = data[offset], data[offset + 1], data[offset + 2]
        name, offset = decode_string(data, offset + 3)
        if scope > Scope.RES:
            raise InvalidFrame(f"the scope {scope} is unknown")
        variable = f"{Scope(scope).name.lower()}.{name}"
        value: Value
        if action == Action.SET_VAR and arguments == _SET_VAR_ARGUMENTS:
            value, offset = decode_typed_data(data, offset)
            variables[variable] = NULL if value is None else value
        elif action == Action.UNSET_VAR and arguments == _UNSET_VAR_ARGUMENTS:
            variables[variable] = None
        else:
            raise InvalidFrame(f"the action {action} with {arguments} arguments is unknown")
    return variables

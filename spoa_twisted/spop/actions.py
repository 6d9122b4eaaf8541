"""LIST-OF-ACTIONS, the payload of an ACK frame: ``{"sess.score": 42}`` to bytes and back (SPOE.txt, section 3.4).

The key of a variable is ``scope.name``. Two actions exist. The value ``None`` is encoded as unset-var, every other
value as set-var::

    set-var    01  03 (number of arguments)  scope (one byte)  name (a STRING)  value (TYPED-DATA)
    unset-var  02  02 (number of arguments)  scope (one byte)  name (a STRING)

HAProxy stops at the first action that it cannot decode, and reports no error: the actions before it are applied, the
others are lost. HAProxy also ignores a variable whose name it does not allow. So :func:`encode_actions` checks every
name and every value, and its errors name the variable that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.hints import type_of
from spoa_twisted.spop.typeddata import (
    NULL,
    Value,
    decode_string,
    decode_typed_data,
    encode_string,
    encode_typed_data,
)


class Action(IntEnum):
    """The type of an action (SPOE.txt, section 3.4)."""

    SET_VAR = 1
    UNSET_VAR = 2


class Scope(IntEnum):
    """The lifetime of a variable: the process, a session, a transaction, a request or a response (section 3.4)."""

    PROC = 0
    SESS = 1
    TXN = 2
    REQ = 3
    RES = 4


#: The variables that a handler sets, by ``scope.name``. The value ``None`` unsets the variable.
Variables = Mapping[str, Value]

#: The payload of an ACK without actions for a HAProxy >= 3.1: the unset of ``txn._``, which is never set. On
#: an ACK with an empty payload, HAProxy 3.1.0 loses the stream, which then waits for its timeout.
NO_ACTIONS: Final = b"\x02\x02\x02\x01_"

#: HAProxy drops a variable if ``scope.prefix.name`` is longer than 63 characters. The agent does not know the prefix
#: (``option var-prefix``): a name of 40 characters leaves 17 characters for the prefix.
LONGEST_SAFE_NAME: Final = 40

_SCOPES: Final = {scope.name.lower(): scope for scope in Scope}
# HAProxy allows these characters in the name of a variable.
_NAME: Final = re.compile(r"[A-Za-z0-9_.]+\Z")
# The limits of each table of names: characters of a name, and number of names.
_MAX_KNOWN_NAME_LENGTH: Final = 64
_MAX_KNOWN_NAMES: Final = 1024
# How many characters of a name's repr an error text shows.
_MAX_NAME_SHOWN: Final = 100
# NB-ARGS of the two actions: the scope, the name and, for set-var, the value.
_SET_VAR_ARGUMENTS: Final = 3
_UNSET_VAR_ARGUMENTS: Final = 2


def encode_actions(variables: Variables, doubtful: list[str] | None = None) -> bytes:
    """Encode ``variables`` as a LIST-OF-ACTIONS, in their order. A name without a scope has the scope ``proc``.

    The text of each error begins with the name of the variable.

    :param doubtful: receives the names that have no scope, or are longer than :data:`LONGEST_SAFE_NAME`. They are
        encoded, but HAProxy may do something else with them than the handler's author expects.
    :raises TypeError: if a name is not a ``str``, or a value has no SPOP type.
    :raises ValueError: for a name that HAProxy would ignore, or a value that its SPOP type cannot hold.
    """
    encoded = []
    # The types of a handler's names and values are not checked yet. With the type Any, mypyc compiles no type check:
    # its TypeError would not name the variable, as the errors below do.
    items: Iterable[Any] = variables.items()
    for name, value in items:
        try:
            set_var, unset_var = _known_heads.get(name) or _find_heads(name, doubtful)
            if value is None:
                encoded.append(unset_var)
            else:
                encoded.append(set_var)
                encoded.append(encode_typed_data(value))
        except (TypeError, ValueError) as error:
            # type(error)(text) would fail for UnicodeEncodeError, whose constructor takes five arguments.
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"variable {_quote(name)}: {error}") from error
    return b"".join(encoded)


def _quote(name: object) -> str:
    """Return ``name`` for an error text. It is escaped and cut, because a handler may take it from a client's data."""
    return repr(name)[:_MAX_NAME_SHOWN]


# By the name of a variable: the encoded set-var up to the value, and the whole unset-var. Their number and length are
# limited, because a handler may take the names of its variables from a client's data. A full table is emptied.
_known_heads: Final[dict[str, tuple[bytes, bytes]]] = {}
# The same for doubtful names. They have a table of their own, so that encode_actions calls _find_heads each time.
_doubtful_heads: Final[dict[str, tuple[bytes, bytes]]] = {}


def _find_heads(variable: object, doubtful: list[str] | None) -> tuple[bytes, bytes]:
    """Return the heads of a ``variable`` that is not in ``_known_heads``, and store them in the table for the name.

    :param doubtful: receives the name if it is doubtful; see :func:`encode_actions`.
    """
    if not isinstance(variable, str):
        raise TypeError(f"the name of a variable is a str, not {type_of(variable)}")
    heads = _doubtful_heads.get(variable)
    if heads is None:
        heads = _encode_heads(variable)
        table = _doubtful_heads if _is_doubtful(variable) else _known_heads
        # The table keeps its keys alive. An instance of a subclass of str may refer to much more than its characters.
        if type(variable) is str and len(variable) <= _MAX_KNOWN_NAME_LENGTH:
            if len(table) >= _MAX_KNOWN_NAMES:
                table.clear()
            table[variable] = heads
    if doubtful is not None and _is_doubtful(variable):
        doubtful.append(variable)
    return heads


def _is_doubtful(variable: str) -> bool:
    _scope, dot, name = variable.partition(".")
    return not dot or len(name) > LONGEST_SAFE_NAME


def _encode_heads(variable: str) -> tuple[bytes, bytes]:
    """Return the set-var of ``variable`` up to its value, and the unset-var."""
    prefix, dot, name = variable.partition(".")
    if not dot:
        prefix, name = "proc", variable
    scope = _SCOPES.get(prefix)
    if scope is None:
        raise ValueError(f"{_quote(prefix)} is not a scope; use one of {', '.join(_SCOPES)}")
    if not _NAME.match(name):
        raise ValueError(
            "HAProxy drops names with characters other than A-Z, a-z, 0-9, '_' and '.', and empty names;"
            " rename the variable"
        )
    encoded = encode_string(name)
    return (
        bytes((Action.SET_VAR, _SET_VAR_ARGUMENTS, scope)) + encoded,
        bytes((Action.UNSET_VAR, _UNSET_VAR_ARGUMENTS, scope)) + encoded,
    )


def decode_actions(data: bytes, offset: int = 0) -> dict[str, Value]:
    """Decode the LIST-OF-ACTIONS that fills ``data`` from ``offset`` to its end. The engine and the tests use it.

    The value of an unset variable is ``None``, that of a variable set to the SPOP type NULL is :data:`NULL`. If two
    actions name the same variable, the last one counts. :data:`NO_ACTIONS` is decoded as no actions.

    Unlike HAProxy, it reports an action that it cannot decode: an agent must not send it.

    :raises InvalidFrame: for an unknown action or scope, or if an action cannot be decoded or is cut off.
    """
    variables: dict[str, Value] = {}
    if data[offset:] == NO_ACTIONS:
        return variables
    while offset < len(data):
        variable, value, offset = decode_action(data, offset)
        variables[variable] = value
    return variables


def decode_action(data: bytes, offset: int) -> tuple[str, Value, int]:
    """Decode the action at ``offset``; return the variable as ``scope.name``, its value, and the offset behind it.

    The value of an unset variable is ``None``, that of a variable set to the SPOP type NULL is :data:`NULL`.

    :raises InvalidFrame: for an unknown action or scope, or if the action cannot be decoded or is cut off.
    """
    start = offset
    if offset + 3 > len(data):
        raise InvalidFrame("an action ends before its scope", start)
    action, arguments, scope = data[offset], data[offset + 1], data[offset + 2]
    name, offset = decode_string(data, offset + 3)
    if scope > Scope.RES:
        text = f"the scope {scope} of an action is unknown: SPOP defines the scopes 0 to 4"
        raise InvalidFrame(text, start + 2)
    variable = f"{Scope(scope).name.lower()}.{name}"
    value: Value
    if action == Action.SET_VAR and arguments == _SET_VAR_ARGUMENTS:
        value, offset = decode_typed_data(data, offset)
        return variable, NULL if value is None else value, offset
    if action == Action.UNSET_VAR and arguments == _UNSET_VAR_ARGUMENTS:
        return variable, None, offset
    raise InvalidFrame(
        f"an action of type {action} with {arguments} arguments is unknown:"
        f" set-var (1) has 3 arguments, unset-var (2) has 2",
        start,
    )

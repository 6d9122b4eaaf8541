"""The variables that a function sets, from its source.

They are known if each ``return`` has ``None`` or a dict display with constant keys. Of all other functions, nothing is
known before they are called.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any

from spoa_twisted.handlers.plain import definition, returned
from spoa_twisted.handlers.variable_types import joined


def infer_variables(function: Callable[..., Any]) -> Mapping[str, object | None] | None:
    """Return the variables that ``function`` may set, each with its type, or ``None`` if only the name is known.

    :return: ``None`` if the function may set other variables, too.
    """
    statement = definition(function)
    if statement is None:
        return None
    types: dict[str, list[Any]] = {}
    for value in returned(statement):
        for display in _ends(value):
            if display is None or (isinstance(display, ast.Constant) and display.value is None):
                continue
            if not isinstance(display, ast.Dict):
                return None
            for key, item in zip(display.keys, display.values, strict=True):
                # The key is None for **other.
                if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                    return None
                types.setdefault(_with_scope(key.value), []).append(_type_of(item))
    return {name: None if None in found else joined(found) for name, found in types.items()}


def _with_scope(name: str) -> str:
    return name if "." in name else f"proc.{name}"


def _ends(value: ast.expr | None) -> Iterator[ast.expr | None]:
    """Yield ``value``, or both ends of a conditional expression."""
    if isinstance(value, ast.IfExp):
        yield from _ends(value.body)
        yield from _ends(value.orelse)
    else:
        yield value


def _type_of(value: ast.expr) -> Any:
    """Return the type of the value of an expression, ``None`` if it is not known."""
    if isinstance(value, ast.Constant):
        kind: Any = type(value.value)
        return kind if kind in {bool, int, str, bytes, NoneType} else None
    if isinstance(value, ast.Compare) or (isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)):
        return bool
    if isinstance(value, ast.JoinedStr):
        return str
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        known: dict[str, Any] = {"bool": bool, "int": int, "str": str, "len": int, "bytes": bytes}
        return known.get(value.func.id)
    if isinstance(value, ast.IfExp):
        types = [_type_of(value.body), _type_of(value.orelse)]
        return None if None in types else joined(types)
    return None

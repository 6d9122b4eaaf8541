"""Whether a function is plain: it surely returns neither a Deferred nor another awaitable.

A ``def`` may return a Deferred. If each ``return`` in its source returns a dict display or a constant, it does not. Of
other functions, nothing is known before they are called.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def is_plain(function: Any) -> bool:
    """Return whether ``function`` surely returns neither a Deferred nor another awaitable.

    False for a function whose source is not available, and for a lambda, whose source has no clear beginning.
    """
    statement = definition(function)
    if not isinstance(statement, ast.FunctionDef):
        return False
    return all(_is_no_awaitable(value) for value in returned(statement))


def definition(function: Any) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Return the source of ``function``, parsed. ``None`` if it is not available, and for a lambda or a generator."""
    if isinstance(function, MethodType):
        function = function.__func__
    # A function with __wrapped__ is the work of a decorator, such as inlineCallbacks. inspect.getsource would return
    # the source of the decorated function instead of its own.
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return None
    if function.__code__.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        return None
    try:
        statement = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except Exception:
        # There is no source, or the file has changed since the module was loaded, and is not valid Python now.
        return None
    kind = ast.AsyncFunctionDef if function.__code__.co_flags & inspect.CO_COROUTINE else ast.FunctionDef
    return statement if isinstance(statement, kind) and statement.name == function.__code__.co_name else None


def returned(statement: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr | None]:
    """Yield the expression of each ``return`` of a function, and ``None`` for a ``return`` alone."""
    return (node.value for node in _own_nodes(statement) if isinstance(node, ast.Return))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below ``node`` that are not in a function or class within it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _SCOPES):
            yield child
            yield from _own_nodes(child)


def _is_no_awaitable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.IfExp):
        return _is_no_awaitable(value.body) and _is_no_awaitable(value.orelse)
    return value is None or isinstance(value, (ast.Constant, ast.Dict, ast.DictComp))

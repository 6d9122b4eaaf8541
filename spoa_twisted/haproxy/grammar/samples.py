"""Read sample expressions: ``req.hdr(host),lower``, and those in log formats: ``%[var(txn.iprep.score)]``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spoa_twisted.haproxy.grammar.arguments import read_arguments
from spoa_twisted.haproxy.grammar.expressions import Call, Expression

_NAME = re.compile(r"[A-Za-z0-9._:-]+")
#: ``%[``, ``%{+Q}[`` and ``%(name:type)[``. ``%%`` is a percent sign, behind which nothing begins.
_IN_LOG_FORMAT = re.compile(r"%%|%(?:\([^()]*\))?(?:\{[^{}]*\})?\[")


def parse_expression(text: str) -> Expression | None:
    """Return the expression that is the whole ``text``. Return ``None`` if there is none."""
    expression = _read(text, 0)
    return expression if expression is not None and expression.text == text else None


def expressions_in(text: str) -> Iterator[Expression]:
    """Return the expressions between ``%[`` and ``]`` in a log-format string.

    HAProxy refuses the string if one of its expressions cannot be read: then nothing behind it is read here, either.
    """
    position = 0
    while found := _IN_LOG_FORMAT.search(text, position):
        position = found.end()
        if found.group() == "%%":
            continue
        expression = _read(text, position)
        if expression is None or not text.startswith("]", position + len(expression.text)):
            return
        position += len(expression.text) + 1
        yield expression


def _read(text: str, start: int) -> Expression | None:
    """Read an expression from ``start`` on, as far as it goes."""
    fetch = _call(text, start)
    if fetch is None:
        return None
    call, end = fetch
    converters: list[Call] = []
    while text.startswith(",", end):
        # HAProxy accepts several commas, and some behind the last converter.
        end += 1
        found = _call(text, end)
        if found is not None:
            converters.append(found[0])
            end = found[1]
    return Expression(text[start:end], call, tuple(converters))


def _call(text: str, start: int) -> tuple[Call, int] | None:
    name = _NAME.match(text, start)
    if name is None:
        return None
    if not text.startswith("(", name.end()):
        return Call(name.group()), name.end()
    arguments = read_arguments(text, name.end())
    return None if arguments is None else (Call(name.group(), arguments.values), arguments.end)

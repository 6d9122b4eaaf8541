"""Checks of how conditions compare variables whose types the handlers declare."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from types import NoneType
from typing import Final, get_args

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.naming import Names
from spoa_twisted.haproxy.checks.uses import Use, uses
from spoa_twisted.haproxy.configuration import Configuration
from spoa_twisted.haproxy.finding import Finding, Severity

#: The text of an int, as ``-m str`` sees it.
_NUMBER: Final = re.compile(r"-?\d+")

#: Why ``-m bool`` hardly matches a str.
_STR_AS_BOOL: Final = 'a str: for -m bool, only a number as "1" is true, "true" is false; use -m str, or set a bool'


def check_types(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find conditions that never match the type of a variable, and ``-m found`` on a bool."""
    names = Names(configuration, answers)
    found = {}
    for use in uses(configuration):
        types = _types(names, use.variable)
        values = (types or set()) - {NoneType}
        for finding in (_type(use, values), _found_on_bool(use, types)) if values else ():
            if finding is not None:
                found[finding.id, finding.place, finding.text] = finding
    yield from found.values()


def _types(names: Names, variable: str) -> set[type] | None:
    """Return the types of the values that a variable can have, with ``NoneType``. ``None`` if that is not known."""
    owners = names.owners(variable)
    if len(owners) != 1 or variable in names.set_by_rules or variable in owners[0].made or names.has_lua:
        return None
    types: set[type] = set()
    for declared in owners[0].types(variable):
        for member in get_args(declared) or (declared,):
            base = next(
                (base for base in (bool, int, str, bytes) if isinstance(member, type) and issubclass(member, base)),
                None,
            )
            if base is None and member is not NoneType:
                return None
            types.add(base or NoneType)
    return types


def _kind(use: Use) -> str | None:
    """Return the kind of match, as ``str`` for ``-m str``. ``None`` if it does not compare the value itself."""
    expression, flags = use.term.expression, use.term.flags
    if expression is None or expression.converters or use.has_default:
        return None
    options = dict(pairwise(flags))
    # The patterns of a file are not known.
    return None if "-f" in options else options.get("-m")


def _type(use: Use, types: set[type]) -> Finding | None:
    """Return what a comparison has to do with a type that it never matches."""
    kind, patterns = _kind(use), use.term.patterns
    texts = {_never(kind, patterns, type_) for type_ in types}
    if None in texts:
        return None
    text = f"{use.variable} is {' or '.join(sorted(filter(None, texts)))}"
    # The handler may set "1", which does match.
    severity = Severity.WARNING if _STR_AS_BOOL in texts else Severity.ERROR
    return Finding("variable-type", severity, use.place, text)


def _never(kind: str | None, patterns: tuple[str, ...], type_: type) -> str | None:
    """Return why a match is never true for values of a type, or for usual ones. ``None`` if it may be true."""
    given = " ".join(patterns)
    if kind == "str" and type_ is bool and patterns and not {"0", "1"} & {*patterns}:
        return f"a bool, which is never '{given}': use -m bool"
    if kind == "str" and type_ is int and patterns and not any(map(_NUMBER.fullmatch, patterns)):
        return f"an int, which is never '{given}': use -m int"
    if kind == "bool" and type_ is str:
        return _STR_AS_BOOL
    if kind in {"bool", "int"} and type_ is bytes:
        return f"bytes, which -m {kind} never matches: use -m str, or set another type"
    return None


def _found_on_bool(use: Use, types: set[type] | None) -> Finding | None:
    """Return a finding for a condition that is also true if the variable is False, and does not look at the value."""
    # A bool or None may be True or None, and never False.
    if types != {bool} or _kind(use) != "found" or use.negated:
        return None
    # The rule looks at the value in another term, or passes it on.
    expressions = [term.expression for term in use.alternative if term != use.term]
    if any(expression is not None and expression.variable == use.variable for expression in expressions):
        return None
    if any(use.variable in word.text for word in use.rule.arguments):
        return None
    text = f"-m found is true if {use.variable} is False, too: use -m bool"
    return Finding("found-on-bool", Severity.WARNING, use.place, text)

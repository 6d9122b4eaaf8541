"""The lines that the package may log, read from its source, and those that ``docs/reference/log.rst`` describes.

``python -m tests.log_lines`` prints the lines that are not described yet, ready to be pasted into the document.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import spoa_twisted

PACKAGE: Final = Path(spoa_twisted.__file__).parent
DOCUMENT: Final = PACKAGE.parent / "docs" / "reference" / "log.rst"

LEVELS: Final = ("critical", "error", "warn", "info", "debug")

#: The tables of spoa_twisted/log.py: the level of a line is None if the table has it.
_TABLES: Final = {"_LINES": None, "_COUNTED": None, "_FAILURES": "critical"}
#: The end of each text in _COUNTED.
_COUNT: Final = " {count} more time{s} in the last minute"


class Line(NamedTuple):
    """The text of a line."""

    level: str
    #: A format without conversions: ``{peer}: connected``.
    text: str


class Place(NamedTuple):
    """Where a line is logged, for the report of a failed test."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path.relative_to(PACKAGE.parent)}, line {self.number}"


class UnknownText(Exception):
    """A call logs a text that this module cannot find out."""


def lines() -> dict[Line, Place]:
    """Return each line that the package may log, and where.

    :raises UnknownText: for a call whose text is not a constant.
    """
    found: dict[Line, Place] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, number in lines_of(ast.parse(path.read_text()), path):
            found.setdefault(line, Place(path, number))
    return found


def lines_of(tree: ast.Module, path: Path) -> Iterator[tuple[Line, int]]:
    """Yield the lines that one file may log, each with its number in the file."""
    module = _assigned(tree.body)
    if path == PACKAGE / "log.py":
        yield from _tables(tree, module)
    # The innermost function of a call is the last one that contains it.
    scopes = {
        call: function
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (found := _log_call(node)) is not None:
            level, text = found
            function = scopes.get(node)
            names = module | (_assigned(ast.walk(function)) if function is not None else {})
            parameters = _parameters(function)
            if _is_passed_on(text, names, parameters) or _is_passed_on(level, names, parameters):
                continue
            texts, levels = _constants(text, names), _levels(level, names)
            if not texts or not levels:
                raise UnknownText(
                    f"{Place(path, node.lineno)}: tests/log_lines.py cannot tell the text or the level of this line of"
                    " the log: write both as constants, in the call or in a variable of the same function"
                )
            for name in levels:
                for constant in texts:
                    yield Line(name, plain(constant)), node.lineno


def plain(text: str) -> str:
    """Return a format without conversions, and without the ``_`` of a field that is only a part of the text."""
    return re.sub(r"\{_?(\w+)(![ars])?(:[^{}]*)?\}", r"{\1}", " ".join(text.split()))


def _log_call(call: ast.Call) -> tuple[ast.expr | str, ast.expr] | None:
    """Return the level and the text of a call, or None if it is not a call that logs."""
    function, arguments = call.func, call.args
    if isinstance(function, ast.Name):
        return ("critical", arguments[1]) if function.id == "log_failure" else None
    if not isinstance(function, ast.Attribute) or not arguments:
        return None
    if function.attr == "_write" and ast.unparse(function.value) == "self" and len(arguments) == 3:
        return arguments[1], arguments[2]
    if not re.search(r"\blog$|_log$", ast.unparse(function.value)):
        return None
    if function.attr == "emit":
        return arguments[0], arguments[1]
    if function.attr == "failure":
        return "critical", arguments[0]
    return (function.attr, arguments[0]) if function.attr in LEVELS else None


def _assigned(nodes: object) -> dict[str, list[ast.expr]]:
    """Return the values that are assigned to each name."""
    values: dict[str, list[ast.expr]] = {}
    for node in nodes:  # type: ignore[attr-defined]
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name):
                        values.setdefault(name.id, []).append(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            values.setdefault(node.target.id, []).append(node.value)
    return values


def _is_passed_on(text: ast.expr | str, names: dict[str, list[ast.expr]], parameters: set[str]) -> bool:
    """Return whether the text comes from a caller, as in ``_write`` of log.py, or from one of its tables."""
    if isinstance(text, ast.JoinedStr):
        # f"{text}{TRACEBACK}" in escaping.py.
        return any(
            isinstance(part, ast.FormattedValue) and _is_passed_on(part.value, names, parameters)
            for part in text.values
        )
    if isinstance(text, ast.Name):
        return text.id in parameters or any(_is_passed_on(value, {}, set()) for value in names.get(text.id, ()))
    return isinstance(text, ast.Subscript) and ast.unparse(text.value) in _TABLES


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | None) -> set[str]:
    if function is None:
        return set()
    return {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}


def _constants(node: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    """Return the texts that an expression may have."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.IfExp):
        return _constants(node.body, names) + _constants(node.orelse, names)
    if isinstance(node, ast.Name):
        return [text for value in names.get(node.id, ()) for text in _constants(value, {})]
    return []


def _levels(node: ast.expr | str, names: dict[str, list[ast.expr]]) -> list[str]:
    if isinstance(node, str):
        return [node]
    if isinstance(node, ast.Attribute):
        return [node.attr] if node.attr in LEVELS else []
    if isinstance(node, ast.IfExp):
        return _levels(node.body, names) + _levels(node.orelse, names)
    if isinstance(node, ast.Name):
        return [level for value in names.get(node.id, ()) for level in _levels(value, {})]
    return []


def _tables(tree: ast.Module, module: dict[str, list[ast.expr]]) -> Iterator[tuple[Line, int]]:
    for name, level in _TABLES.items():
        for table in module.get(name, ()):
            assert isinstance(table, ast.Dict)
            for value in table.values:
                parts = value.elts if isinstance(value, ast.Tuple) else [value]
                (text,) = _constants(parts[-1], module)
                (found,) = _levels(parts[0] if level is None else level, module)
                yield Line(found, plain(text + _COUNT if name == "_COUNTED" else text)), value.lineno


_TITLE = re.compile(r"^(.+)\n(?:-{3,}|={3,}|~{3,})$", re.MULTILINE)
# The item of a list: a paragraph with the texts, and behind an empty line a paragraph that explains them.
_ITEM = re.compile(r"^- (``.*\n(?:  .*\n)*)\n((?:  .*\n|\n(?=  ))+)", re.MULTILINE)


def described(document: str) -> dict[Line, str]:
    """Return the lines that the document describes, each with its explanation."""
    found: dict[Line, str] = {}
    for level, items in sections(document).items():
        for item in _ITEM.finditer(items):
            for text in re.findall(r"``(.+?)``", item[1], re.DOTALL):
                if not re.fullmatch("[A-Z][A-Za-z]+", text):
                    found[Line(level, plain(text))] = " ".join(item[2].split())
    return found


def sections(document: str) -> dict[str, str]:
    """Return the text of the section of each level."""
    titles = list(_TITLE.finditer(document))
    ends = [title.start() for title in titles[1:]] + [len(document)]
    found = {title[1]: document[title.end() : end] for title, end in zip(titles, ends, strict=True)}
    return {title: text for title, text in found.items() if title in LEVELS}


def item(line: Line) -> str:
    """Return an item of the document for ``line``, without its explanation."""
    text = textwrap.fill(f"``{line.text}``", 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return f"{text}\n\n  WHAT IT MEANS, AND WHAT TO DO.\n"


if __name__ == "__main__":
    known = described(DOCUMENT.read_text()) if DOCUMENT.exists() else {}
    missing = [line for line in lines() if line not in known]
    for level in LEVELS:
        sys.stdout.write("".join([f"{level}\n\n", *(f"{item(line)}\n" for line in missing if line.level == level)]))

"""docs/reference/log.rst describes each line that the package may log, at its level, and no others."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from spoa_twisted import observer
from spoa_twisted.observer import Event
from tests.docs.pages import read
from tests.log_lines import DOCUMENT, LEVELS, Line, UnknownText, described, item, lines, lines_of, plain, sections

TEXT = DOCUMENT.read_text()

#: Paste what this prints into docs/reference/log.rst, under the titles of the levels, and explain each line there.
COMMAND = "python -m tests.log_lines"


def test_each_line_is_described() -> None:
    """The document explains each line of the log. If you add a line, explain it there."""
    known = described(TEXT)
    missing = [f"{place}: {line.level}: {line.text}" for line, place in lines().items() if line not in known]
    advice = f"docs/reference/log.rst lacks lines of the log; run {COMMAND}, and explain:\n"
    assert not missing, advice + "\n".join(missing)


def test_no_other_line_is_described() -> None:
    """A line that has changed, or is logged no more, leaves the document."""
    logged = lines()
    stale = [f"{line.level}: {line.text}" for line in described(TEXT) if line not in logged]
    fault = "docs/reference/log.rst describes lines that the package does not log, at this level:\n"
    assert not stale, fault + "\n".join(stale)


def test_each_line_is_explained() -> None:
    assert [
        line for line, explanation in described(TEXT).items() if len(explanation) < 8 or "WHAT" in explanation
    ] == []


def test_each_level_has_its_section() -> None:
    assert list(sections(TEXT)) == list(LEVELS)


def test_the_kinds_exist() -> None:
    """Each event that is logged has its kind in the document."""
    kinds = {name for text in sections(TEXT).values() for name in re.findall(r"``, ?\s*``([A-Z][A-Za-z]+)``", text)}
    events = {kind for kind in vars(observer).values() if isinstance(kind, type) and issubclass(kind, Event)}
    bases = {base for kind in events for base in kind.__bases__}
    assert kinds == {kind.__name__ for kind in events - bases} - {"HandlersReplaced"}


def test_it_is_valid() -> None:
    """As reStructuredText, and its example is JSON."""
    read(TEXT)
    (example,) = re.findall(r"^   (\{.*\})$", TEXT, re.MULTILINE)
    assert list(json.loads(example))[:4] == ["time", "level", "logger", "message"]


SOURCE = """
TEXT = "a constant"
class A:
    def f(self, x):
        self._log.info("an {x!a} and {_y:.2f}", x=x)
        log = self.log
        log.failure("it " "failed", x)
        level = LogLevel.warn if x else LogLevel.debug
        self._write(Event, level, TEXT)
        text = "one" if x else "two"
        self._log.emit(LogLevel.error, text)
        log_failure(log, "three", x)
        self._logs.info("no log")
        math.log(5)
    def _write(self, kind, level, text):
        self._log.emit(level, text)
"""


def test_lines_are_found_in_the_source() -> None:
    """In all ways in which the package logs."""
    found = [line for line, _ in lines_of(ast.parse(SOURCE), Path("a.py"))]
    assert sorted(found) == sorted(
        [
            Line("info", "an {x} and {y}"),
            Line("critical", "it failed"),
            Line("warn", "a constant"),
            Line("debug", "a constant"),
            Line("error", "one"),
            Line("error", "two"),
            Line("critical", "three"),
        ]
    )


@pytest.mark.parametrize("call", ['self._log.info(f"a {x}")', "self._log.warn(x())", "self._log.emit(y, 'text')"])
def test_a_text_that_is_not_known(call: str) -> None:
    """The test does not pass over it."""
    with pytest.raises(UnknownText, match="cannot tell the text or the level"):
        list(lines_of(ast.parse(call), DOCUMENT))


def test_items_are_read_as_they_are_printed() -> None:
    line = Line("warn", plain("a long text, which is wrapped, of {peer!a} " * 5))
    text = f"warn\n----\n\n{item(line)}".replace("WHAT IT MEANS, AND WHAT TO DO.", "Do this.\n\n  And that.")
    assert described(text) == {line: "Do this. And that."}

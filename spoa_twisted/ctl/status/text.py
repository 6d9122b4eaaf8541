"""The status of agents as lines of text, for a terminal of any width."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO, final

from spoa_twisted.shown import show_text
from spoa_twisted.status.report import Status
from spoa_twisted.status.verdict import Finding, Level
from spoa_twisted.status.view import NOTHING, Cell, Table, View, view

# The colours of the levels, as parameters of the escape sequence SGR: bold red, bold yellow, green and dim.
_COLOURS: Final = {Level.CRITICAL: "1;31", Level.WARNING: "1;33", Level.OK: "32", Level.NOTE: "2"}
_DIM: Final = "2"
_BOLD: Final = "1"

# The word at the beginning of a verdict or a problem. No colour is needed to know the level.
_WORDS: Final = {Level.CRITICAL: "CRITICAL", Level.WARNING: "WARNING", Level.OK: "OK", Level.NOTE: "note"}

# Characters. The text is never narrower, and never wider: long lines are hard to read.
_NARROWEST: Final = 30
_WIDEST: Final = 120

# Characters. If there is less room for the last column of a table, each row becomes a paragraph.
_LAST_COLUMN: Final = 12

#: Between two columns of a table.
_GAP: Final = "  "

#: In front of lines that belong to the line above.
_INDENT: Final = "  "


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """The status of an agent, or the reason why there is none."""

    #: The endpoint that was asked.
    agent: str
    status: Status | None
    #: Why there is no status, in one line.
    reason: str = ""
    #: What is shown of the status.
    shown: View | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", None if self.status is None else view(self.status))

    @property
    def level(self) -> str:
        """``ok``, ``warning`` or ``critical``. An agent that does not answer is critical."""
        return (Level.CRITICAL if self.shown is None else self.shown.verdict.level).value

    @property
    def sentence(self) -> str:
        """The verdict, or why there is none."""
        return f"No status: {self.reason}" if self.shown is None else self.shown.verdict.sentence

    def to_json(self) -> dict[str, Any]:
        """Return the answer as an object for ``--json``."""
        problems = [] if self.shown is None else self.shown.verdict.problems
        return {
            "agent": self.agent,
            "level": self.level,
            "verdict": self.sentence,
            "problems": [
                {
                    "level": each.level.value,
                    "what": each.what,
                    "text": each.text,
                    "hint": each.hint,
                    "count": each.count,
                    "first": each.first,
                    "last": each.last,
                }
                for each in problems
            ],
            "status": self.status,
        }


@final
class Style:
    """How lines are written.

    :param columns: the width of the terminal, in characters.
    :param coloured: whether to use colours.
    """

    def __init__(self, columns: int, coloured: bool) -> None:
        self.width = max(_NARROWEST, min(_WIDEST, columns))
        self._coloured = coloured

    def paint(self, text: str, colour: str) -> str:
        """Return ``text`` with the colour, if colours are used."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured and text else text

    def wrap(self, text: str, first: str = "", rest: str = "") -> list[str]:
        """Return ``text`` as lines that fit, the first one behind ``first``, the others behind ``rest``."""
        return textwrap.wrap(text, self.width, initial_indent=first, subsequent_indent=rest) or [first.rstrip()]


def wants_colours(file: TextIO) -> bool:
    """Return whether to use colours on ``file``: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clear(lines: Sequence[str]) -> str:
    """Return ``lines`` with escape sequences that show them in place of all that is on the terminal.

    The screen is not cleared first, because it would flicker: each line clears what is behind it.
    """
    return "\x1b[H" + "".join([f"{line}\x1b[K\n" for line in lines]) + "\x1b[J"


def as_lines(answers: Sequence[Answer], style: Style) -> list[str]:
    """Return the lines for ``answers``. Of one agent they have everything, of several what an operator needs first."""
    if len(answers) == 1:
        return _agent(answers[0], style, complete=True)
    lines: list[str] = []
    for answer in answers:
        lines += [*_agent(answer, style, complete=False), ""]
    return lines[:-1]


def _agent(answer: Answer, style: Style, *, complete: bool) -> list[str]:
    shown = answer.shown
    lines = _level(Level(answer.level), answer.sentence, style)
    if shown is None:
        return lines + _dim(style.wrap(show_text(answer.agent), _INDENT, _INDENT), style)
    problems = shown.problems
    if problems and problems[0][0].what == answer.sentence:
        # The verdict is the worst problem: what is known about it comes first.
        lines += _details(*problems[0], style)
        problems = problems[1:]
    lines += _dim(style.wrap(f"{show_text(answer.agent)}, {shown.time}", _INDENT, _INDENT), style)
    lines += _flow([(f"{figure.title} ", Cell(figure.text, figure.level)) for figure in shown.figures], style)
    if not complete:
        # Of several agents, the notes would hide what is wrong.
        problems = [each for each in problems if each[0].level is not Level.NOTE]
    elif problems or not shown.problems:
        title = "Other problems" if len(problems) < len(shown.problems) else "Problems"
        lines += ["", style.paint(title, _BOLD), *([] if problems else ["None since the start."])]
    for finding, often in problems:
        lines += [*_level(finding.level, finding.what, style), *_details(finding, often, style)]
    if not complete:
        return lines
    if shown.more_problems:
        lines.append(f"{shown.more_problems:,} more are in /status.json.")
    for table in shown.tables:
        lines += ["", style.paint(table.title, _BOLD), *_table(table, style)]
    return [*lines, "", style.paint("Agent", _BOLD), *_facts(shown.facts, style)]


def _level(level: Level, text: str, style: Style) -> list[str]:
    """Return the word for the level and ``text``. The lines have the colour of the level."""
    return [style.paint(line, _COLOURS[level]) for line in style.wrap(text, f"{_WORDS[level]}{_GAP}", _INDENT)]


def _dim(lines: Iterable[str], style: Style) -> list[str]:
    return [style.paint(line, _DIM) for line in lines]


def _details(finding: Finding, often: str, style: Style) -> list[str]:
    """Return what is known about a problem, below its name."""
    lines = [line for text in (finding.text, finding.hint) if text for line in style.wrap(text, _INDENT, _INDENT)]
    return lines + (_dim(style.wrap(often, _INDENT, _INDENT), style) if often else [])


def _painted(cell: Cell, style: Style) -> str:
    """Return the text of a cell. One that is as it should be has no colour."""
    return cell.text if cell.level is Level.OK else style.paint(cell.text, _COLOURS[cell.level])


def _flow(parts: Iterable[tuple[str, Cell]], style: Style) -> list[str]:
    """Return titles and cells side by side, as many in a line as fit. None is broken, unless it is longer than a line.

    :param parts: each title ends with a space.
    """
    lines: list[str] = []
    length = 0
    for title, cell in parts:
        plain = title + cell.text
        if len(_INDENT) + len(plain) > style.width:
            lines += style.wrap(plain, _INDENT, _INDENT * 2)
            # Nothing fits behind it.
            length = style.width
            continue
        painted = style.paint(title, _DIM) + _painted(cell, style)
        if lines and length + len(_GAP) + len(plain) <= style.width:
            lines[-1] += _GAP + painted
            length += len(_GAP) + len(plain)
        else:
            lines.append(_INDENT + painted)
            length = len(_INDENT) + len(plain)
    return lines


def _table(table: Table, style: Style) -> list[str]:
    """Return the lines of a table; if the terminal is too narrow for it, a paragraph for each row."""
    if not table.rows:
        return style.wrap(table.empty)
    titles = [Cell(column.title, Level.NOTE) for column in table.columns]
    rows = [titles, *table.rows]
    widths = [max(len(row[position].text) for row in rows) for position in range(len(titles))]
    # The last column may be longer than the line.
    room = style.width - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1)
    if room >= min(widths[-1], _LAST_COLUMN):
        lines = [line for row in rows for line in _row(row, table, [*widths[:-1], min(room, widths[-1])], style)]
    else:
        lines = [line for row in table.rows for line in _paragraph(row, table, style)]
    return lines + _dim(style.wrap(table.note) if table.note else [], style)


def _row(row: Sequence[Cell], table: Table, widths: Sequence[int], style: Style) -> list[str]:
    """Return the line of a row, and more lines if its last cell has several."""
    last, *more = [Cell(text, row[-1].level) for text in textwrap.wrap(row[-1].text, widths[-1]) or [""]]
    cells = []
    for cell, column, width in zip([*row[:-1], last], table.columns, widths, strict=True):
        space = " " * (width - len(cell.text))
        text = _painted(cell, style)
        cells.append(space + text if column.is_number else text + space)
    indent = " " * (sum(widths[:-1]) + len(_GAP) * (len(widths) - 1))
    return [_GAP.join(cells).rstrip(), *[indent + _painted(cell, style) for cell in more]]


def _paragraph(row: Sequence[Cell], table: Table, style: Style) -> list[str]:
    """Return the name of a row, and below it its other cells behind their titles."""
    cells = zip(table.columns[1:], row[1:], strict=True)
    name = [_painted(Cell(line, row[0].level), style) for line in style.wrap(row[0].text)]
    return name + _flow([(f"{column.title} ", cell) for column, cell in cells if cell.text != NOTHING], style)


def _facts(facts: Sequence[tuple[str, str]], style: Style) -> list[str]:
    width = max(len(title) for title, _ in facts)
    lines: list[str] = []
    for title, text in facts:
        if style.width >= 3 * width:
            lines += style.wrap(text, f"{title:<{width}}{_GAP}", " " * (width + len(_GAP)))
        else:
            lines += style.wrap(f"{title}: {text}", "", _INDENT)
    return lines

"""The lines and words of a configuration file. The text of a file is kept byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """Where a word stands in a file."""

    #: The file's name, as the user wrote it.
    file: str
    #: The number of the line, from 1.
    line: int
    #: The number of the character in the line, from 1.
    column: int = 1


@dataclass(frozen=True)
class Word:
    """A word of a line."""

    #: The word as HAProxy reads it: without quotes and escapes, with the values of environment variables.
    text: str
    #: The word as it stands in the file.
    raw: str
    place: Place
    #: The names of the environment variables in it that are not set, and have no default.
    unset: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Line:
    """A line of a file."""

    #: The whole line, with its line end and its comment.
    raw: str
    place: Place
    words: tuple[Word, ...] = ()
    #: Why HAProxy does not accept the line, for example a quote without its end. ``None`` for a line that it accepts.
    error: str | None = None


@dataclass(frozen=True)
class Document:
    """A file. ``str(document)`` is the text that was read."""

    name: str
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        return "".join(line.raw for line in self.lines)

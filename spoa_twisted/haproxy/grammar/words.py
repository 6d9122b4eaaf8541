"""Split a line into words: quotes, escapes, comments and environment variables, as HAProxy reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from spoa_twisted.haproxy.grammar.lines import Place, Word

#: HAProxy refuses a line with more words.
MAX_WORDS = 64

#: The characters for which C's ``isspace`` is true.
SPACES = " \t\n\v\f\r"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}
#: Characters that stand for themselves inside quotes and outside, for a step of more than one character.
_PLAIN = re.compile(r"[^ \t\n\v\f\r\0'\"\\#$]+")
_VARIABLE = re.compile(r"\.?[A-Za-z0-9_]*", re.ASCII)


class _CannotReadError(Exception):
    """HAProxy refuses the line; the text says why."""


def read_words(
    text: str, place: Place, environment: Mapping[str, str], section: str = ""
) -> tuple[tuple[Word, ...], str | None]:
    """Return the words of a line, and why HAProxy refuses the line (``None`` for a line that it accepts).

    :param text: the line, with or without its line end.
    :param section: the value of ``${.SECTION}``: the kind of the section in which the line stands.
    """
    return _Splitter(text, place, environment, section).split()


class _Splitter:
    """The state while one line is split."""

    def __init__(self, text: str, place: Place, environment: Mapping[str, str], section: str) -> None:
        self._text = text
        self._place = place
        self._environment = environment
        self._internal = {".LINE": str(place.line), ".FILE": place.file, ".SECTION": section}
        self._position = 0
        # The quote in which the position is: "'" or '"'; empty outside quotes.
        self._quote = ""
        # The words of the current run of characters. There is more than one if "${V[*]}" has a value with spaces.
        self._pieces = [""]
        self._unset: list[str] = []
        self._words: list[Word] = []

    def split(self) -> tuple[tuple[Word, ...], str | None]:
        """Read the whole line."""
        error = None
        try:
            while self._skip_spaces():
                start = self._position
                self._read_run()
                self._finish(start)
                # HAProxy ends the line at a carriage return behind a word, and skips one behind a space.
                if self._peek() == "\r":
                    break
        except _CannotReadError as reason:
            error = str(reason)
        if error is None and "\0" in self._text:
            error = "the line has a NUL byte"
        if error is None and len(self._words) > MAX_WORDS:
            error = f"the line has more than {MAX_WORDS} words"
        return tuple(self._words), error

    def _peek(self, offset: int = 0) -> str:
        """Return a character, or an empty text behind the end of the line."""
        return self._text[self._position + offset : self._position + offset + 1]

    def _skip_spaces(self) -> bool:
        """Go to the next word. Return False if there is none."""
        while self._peek() in (" ", "\t", "\v", "\f", "\r"):
            self._position += 1
        return self._peek() not in ("", "\n", "\0", "#")

    def _read_run(self) -> None:
        """Read up to a space, a comment or the end of the line."""
        self._pieces, self._unset = [""], []
        opened = 0
        while (character := self._peek()) not in ("", "\n", "\r", "\0"):
            if plain := _PLAIN.match(self._text, self._position):
                self._pieces[-1] += plain.group()
                self._position = plain.end()
                continue
            if not self._quote and (character in SPACES or character == "#"):
                return
            if character == self._quote:
                self._quote = ""
            elif not self._quote and character in "'\"":
                self._quote, opened = character, self._position + 1
            elif character == "\\" and self._quote != "'":
                self._pieces[-1] += self._escape()
            elif character == "$" and self._quote == '"':
                self._expand()
                continue
            else:
                self._pieces[-1] += character
            self._position += 1
        if self._quote:
            raise _CannotReadError(f"the quote in column {opened} has no end")

    def _escape(self) -> str:
        """Return the character for the escape at the position, and go to the last character of the escape."""
        following = self._peek(1)
        if following == "x":
            digits = self._text[self._position + 2 : self._position + 4]
            if not re.fullmatch("[0-9A-Fa-f]{2}", digits):
                raise _CannotReadError(f"\\x in column {self._position + 1} needs two hexadecimal digits")
            self._position += 3
            return bytes([int(digits, 16)]).decode("utf-8", "surrogateescape")
        if following in _ESCAPES or (following and following in " \\#'\"") or (following == "$" and self._quote):
            self._position += 1
            return _ESCAPES.get(following, following)
        return "\\"

    def _expand(self) -> None:
        """Put the value of the environment variable at the position in place, and go behind the variable."""
        column = self._position + 1
        self._position += 1
        braces = self._peek() == "{"
        self._position += braces
        found = _VARIABLE.match(self._text, self._position)
        name = found.group() if found else ""
        if not name or name[0].isdigit():
            raise _CannotReadError(f"the $ in column {column} needs the name of an environment variable")
        value = self._internal.get(name) if name[0] == "." else self._environment.get(name)
        if name[0] == "." and value is None:
            raise _CannotReadError(f"HAProxy does not know the variable {name} in column {column}")
        self._position += len(name)
        spread = braces and self._peek() == "["
        if spread:
            if self._text[self._position : self._position + 3] != "[*]":
                raise _CannotReadError(f"the [ behind the variable {name} must be [*]")
            self._position += 3
        if braces:
            end = self._text.find("}", self._position)
            if end < 0 or self._peek() not in "-}":
                raise _CannotReadError(f"the brace in column {column + 1} has no end")
            if value is None and self._peek() == "-":
                value = self._text[self._position + 1 : end]
            self._position = end + 1
        if value is None:
            self._unset.append(name)
        elif spread:
            first, *others = re.split(r"[ \t\n\v\f\r]+", value)
            self._pieces[-1] += first
            self._pieces += others
        else:
            self._pieces[-1] += value

    def _finish(self, start: int) -> None:
        """Add the words that have been read since ``start``."""
        raw = self._text[start : self._position]
        place = self._place._replace(column=start + 1)
        unset = tuple(self._unset)
        self._words += [Word(text, raw, place, unset) for text in self._pieces]

"""Evaluate the condition of an ``.if`` line: ``version_atleast(3.1) && !defined(DEBUG)``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from spoa_twisted.haproxy.grammar.arguments import read_arguments

#: A number as C's ``strtol`` reads it: decimal, octal or hexadecimal.
_NUMBER = re.compile(r"[ \t]*[+-]?(?:0[xX][0-9A-Fa-f]+|0[0-7]*|[1-9][0-9]*)")
_NAME = re.compile(r"[a-z_]+")
_RELEASE = re.compile(r"(\d{1,9})(?:\.(\d{1,9})(?:\.(\d{1,9}))?)?(?:[-.].*)?", re.ASCII)

#: HAProxy refuses conditions whose parentheses are nested more deeply.
_MAX_DEPTH = 50

#: Predicates whose value depends on how HAProxy was built and started. The number of their arguments.
_OF_THE_BUILD = {
    "feature": 1,
    "enabled": 1,
    "openssl_version_atleast": 1,
    "openssl_version_before": 1,
    "ssllib_name_startswith": 1,
    "awslc_api_atleast": 1,
    "awslc_api_before": 1,
}
_COUNTS = _OF_THE_BUILD | {
    "version_atleast": 1,
    "version_before": 1,
    "defined": 1,
    "streq": 2,
    "strneq": 2,
    "strstr": 2,
}


class UnreadableError(ValueError):
    """HAProxy refuses the condition. The text says why."""


def evaluate(text: str, version: tuple[int, int], environment: Mapping[str, str]) -> bool | None:
    """Return the value of a condition for a version of HAProxy, or ``None`` if it depends on more than that.

    ``feature(OPENSSL)`` depends on the build of HAProxy, and ``version_atleast(3.0.5)`` on more of the version than
    its branch. ``feature(OPENSSL) && version_atleast(3.1)`` is false for HAProxy 3.0.

    :param text: the words behind ``.if``, joined with spaces.
    :raises UnreadableError: for a condition that HAProxy refuses.
    """
    # HAProxy 2.6 reads an empty condition as false, and later versions one of spaces, too.
    if not text.strip():
        return False
    reader = _Reader(text, version, environment)
    value = reader.alternatives(0)
    reader.skip_spaces()
    if reader.position < len(text):
        raise UnreadableError(f"unexpected {text[reader.position :]!r} behind the condition")
    return value


def _or(left: bool | None, right: bool | None) -> bool | None:
    if left or right:
        return True
    return None if left is None or right is None else False


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


@dataclass
class _Reader:
    """A position in a condition. Each method reads one kind of part, and returns its value."""

    text: str
    version: tuple[int, int]
    environment: Mapping[str, str]
    position: int = 0

    def skip_spaces(self) -> None:
        while self.text[self.position : self.position + 1] in (" ", "\t"):
            self.position += 1

    def _take(self, expected: str) -> bool:
        self.skip_spaces()
        if not self.text.startswith(expected, self.position):
            return False
        self.position += len(expected)
        return True

    def alternatives(self, depth: int) -> bool | None:
        value = self._all(depth)
        while self._take("||"):
            value = _or(value, self._all(depth))
        return value

    def _all(self, depth: int) -> bool | None:
        value = self._term(depth)
        while self._take("&&"):
            value = _not(_or(_not(value), _not(self._term(depth))))
        return value

    def _term(self, depth: int) -> bool | None:
        negations = 0
        while self._take("!"):
            negations += 1
        value = self._plain_term(depth)
        return _not(value) if negations % 2 else value

    def _plain_term(self, depth: int) -> bool | None:
        if number := _NUMBER.match(self.text, self.position):
            self.position = number.end()
            digits = number.group().lower().strip(" \t+-0x")
            return bool(digits)
        if self._take("("):
            if depth == _MAX_DEPTH:
                raise UnreadableError("too many nested parentheses")
            value = self.alternatives(depth + 1)
            if not self._take(")"):
                raise UnreadableError("a closing parenthesis is missing")
            return value
        found = _NAME.match(self.text, self.position)
        name = found.group() if found else ""
        if name not in _COUNTS:
            raise UnreadableError(f"HAProxy does not know {self.text[self.position :]!r}")
        self.position += len(name)
        return self._predicate(name)

    def _predicate(self, name: str) -> bool | None:
        values: tuple[str, ...] = ()
        if self.text.startswith("(", self.position):
            arguments = read_arguments(self.text, self.position)
            if arguments is None:
                raise UnreadableError(f"{name} has no closing parenthesis")
            values, self.position = arguments
        count = _COUNTS[name]
        if len(values) > count or (count == 2 and len(values) < 2):
            raise UnreadableError(f"{name} takes {count} arguments")
        first = values[0] if values else ""
        if name in _OF_THE_BUILD:
            return None
        if name == "version_atleast":
            return _at_least(self.version, first)
        if name == "version_before":
            return _not(_at_least(self.version, first))
        if name == "defined":
            return first in self.environment
        if name == "strstr":
            return values[1] in first
        return (first == values[1]) == (name == "streq")


def _at_least(version: tuple[int, int], text: str) -> bool | None:
    """Return whether a release of the branch ``version`` is at least the version ``text``."""
    found = _RELEASE.fullmatch(text.strip())
    if found is None:
        # HAProxy takes a text that is not a version for the oldest version.
        return True
    major, minor, patch = (int(number or 0) for number in found.groups())
    if version != (major, minor):
        return version > (major, minor)
    # Each release of 3.1 is at least 3.1, 3.1.0 and 3.1-dev4. Whether it is at least 3.1.5 is not known.
    return True if patch == 0 else None

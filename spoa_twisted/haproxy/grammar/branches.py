"""The lines that count: conditional blocks, ``.if`` to ``.endif``, are resolved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from spoa_twisted.haproxy.grammar.documents import scope_name
from spoa_twisted.haproxy.grammar.lines import Document, Line, Place, Word
from spoa_twisted.haproxy.grammar.predicates import UnreadableError, evaluate

#: Directives that print a text. They change nothing else.
_MESSAGES = frozenset({".alert", ".diag", ".notice", ".warning"})


@dataclass
class _Block:
    """An ``.if`` block while its lines are read."""

    #: Whether the block stands in lines that count.
    outer: bool
    #: Whether the lines of the current branch count.
    active: bool = False
    #: Whether a branch of the block has been taken.
    taken: bool = False


@dataclass(frozen=True)
class Branches:
    """The lines of a document that count for one version of HAProxy."""

    lines: tuple[Line, ...]
    #: Conditions whose value is not known, and conditional blocks that HAProxy refuses: the place, and a sentence.
    unknown: tuple[tuple[Place, str], ...] = field(default=())


def select(document: Document, version: tuple[int, int], environment: Mapping[str, str]) -> Branches:
    """Return the lines that HAProxy reads, without the directives ``.if``, ``.notice`` and so on.

    If the value of a condition is not known, it is taken as true, so that exactly one branch of the block counts. Both
    branches together may have settings that exclude each other, and without both, settings may be missing. HAProxy
    never reads either of these configurations, so checks of them would give false alarms.
    """
    selection = _Selection(version, environment)
    lines = tuple(line for line in document.lines if selection.counts(line))
    return Branches(lines, tuple(selection.unknown))


class _Selection:
    """The open ``.if`` blocks."""

    def __init__(self, version: tuple[int, int], environment: Mapping[str, str]) -> None:
        self._version = version
        self._environment = environment
        self._blocks: list[_Block] = []
        self.unknown: list[tuple[Place, str]] = []

    @property
    def _active(self) -> bool:
        return not self._blocks or self._blocks[-1].active

    def counts(self, line: Line) -> bool:
        """Return whether HAProxy reads the line as a setting. A directive changes the open blocks instead."""
        # A scope's line counts in each branch: HAProxy looks at it before it looks at the blocks.
        if scope_name(line) is not None:
            return True
        if not line.words or not line.words[0].text.startswith("."):
            return bool(line.words) and self._active
        directive = line.words[0].text
        if directive == ".if":
            self._blocks.append(_Block(self._active))
            self._enter(line)
        elif directive in (".elif", ".else", ".endif") and self._blocks:
            if directive == ".endif":
                self._blocks.pop()
            else:
                self._enter(line)
        elif self._active and directive not in _MESSAGES:
            self.unknown.append((line.place, f"HAProxy does not accept {directive} here."))
        return False

    def _enter(self, line: Line) -> None:
        """Begin a branch of the innermost block."""
        block = self._blocks[-1]
        block.active = block.outer and not block.taken and self._may_be_true(line)
        block.taken = block.taken or block.active

    def _may_be_true(self, line: Line) -> bool:
        directive, *words = (word.text for word in line.words)
        if directive == ".else":
            return True
        condition = " ".join(words)
        try:
            value = evaluate(condition, self._version, self._environment)
        except UnreadableError as reason:
            self.unknown.append((line.place, f"{directive} {condition}: {reason}."))
            return True
        if value is None:
            self.unknown.append((line.place, f"{directive} {condition} depends on HAProxy's build: taken as true."))
        return value is not False


def words_for(words: tuple[Word, ...], version: tuple[int, int]) -> tuple[Word, ...]:
    """Return the words of a line as a version of HAProxy reads them if environment variables in it are not set.

    A word that is empty, because of a variable that is not set, ends the line; HAProxy 3.4 refuses the line. HAProxy
    2.8 to 3.2 join the word with the next one instead, if the variable stands at its end.
    """
    return tuple(_until_empty(_joined(words) if (2, 8) <= version <= (3, 2) else words))


def _until_empty(words: tuple[Word, ...]) -> Iterator[Word]:
    for word in words:
        if not word.text and word.unset:
            return
        yield word


def _joined(words: tuple[Word, ...]) -> tuple[Word, ...]:
    result: list[Word] = []
    joins = False
    for word in words:
        if joins:
            # The place is that of the word whose text is left.
            before = result.pop()
            first = before if before.text else word
            word = replace(first, text=before.text + word.text, unset=before.unset + word.unset)
        result.append(word)
        joins = bool(word.unset) and re.search(r'\$\{?(\w+)(\[\*\])?\}?"$', word.raw) is not None
    return tuple(result)

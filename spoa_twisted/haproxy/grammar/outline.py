"""Divide the lines of a file into scopes and sections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from spoa_twisted.haproxy.grammar.branches import words_for
from spoa_twisted.haproxy.grammar.documents import ENGINE_SECTIONS, HAPROXY_SECTIONS, scope_name
from spoa_twisted.haproxy.grammar.lines import Line
from spoa_twisted.haproxy.grammar.sections import Section, Setting


@dataclass
class _Open:
    """A section while its lines are read."""

    head: Setting
    scope: str | None
    settings: list[Setting] = field(default_factory=list)

    def close(self) -> Section:
        kind, *names = self.head.texts
        return Section(kind, names[0] if names else "", self.head, tuple(self.settings), self.scope)


def sections(lines: Iterable[Line], version: tuple[int, int]) -> Iterator[Section]:
    """Return the sections of haproxy.cfg, in order. Lines before the first section are left out."""
    return (section.close() for section in _divide(lines, version, HAPROXY_SECTIONS))


def engine_sections(lines: Iterable[Line], version: tuple[int, int]) -> Iterator[Section]:
    """Return the sections of an engine's file, in order, each with its scope.

    A scope lasts to the next one, and may be reopened: then its last section goes on.
    """
    return (section.close() for section in _divide(lines, version, ENGINE_SECTIONS))


def _divide(lines: Iterable[Line], version: tuple[int, int], kinds: frozenset[str]) -> list[_Open]:
    found: list[_Open] = []
    scope: str | None = None
    for line in lines:
        name = scope_name(line)
        if name is not None:
            # Only the engine's file has scopes.
            scope = name if kinds is ENGINE_SECTIONS else None
            continue
        words = words_for(line.words, version)
        if not words:
            continue
        if words[0].text in kinds:
            found.append(_Open(Setting(words), scope))
        elif found and found[-1].scope == scope:
            found[-1].settings.append(Setting(words))
    return found

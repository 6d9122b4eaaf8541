"""The sections of a file, and the settings in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from spoa_twisted.haproxy.grammar.lines import Place, Word


@dataclass(frozen=True)
class Setting:
    """A line of a section that counts: not empty, and not left out by ``.if``."""

    words: tuple[Word, ...]

    @property
    def place(self) -> Place:
        """Where its first word stands."""
        return self.words[0].place

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The words as HAProxy reads them."""
        return tuple(word.text for word in self.words)

    def starts(self, *texts: str) -> bool:
        """Return whether the first words are ``texts``."""
        return self.texts[: len(texts)] == texts


@dataclass(frozen=True)
class Section:
    """A section: its first line, and the settings below it."""

    #: The first word of its first line: ``frontend``, ``defaults``, ``spoe-agent`` or another one.
    kind: str
    #: The second word of its first line; empty if there is none.
    name: str
    head: Setting
    settings: tuple[Setting, ...]
    #: In the file of an engine: the name of the scope, ``[name]``, in which the section stands. ``None`` before the
    #: first scope, and in haproxy.cfg.
    scope: str | None = None

    def all(self, *texts: str) -> list[Setting]:
        """Return the settings whose first words are ``texts``."""
        return [setting for setting in self.settings if setting.starts(*texts)]

    def last(self, *texts: str) -> Setting | None:
        """Return the last setting whose first words are ``texts``. HAProxy uses the last one of a repeated setting."""
        return next(iter(self.all(*texts)[::-1]), None)

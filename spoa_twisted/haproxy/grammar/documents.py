"""Read a file into lines and words, without a loss."""

from __future__ import annotations

import re
from collections.abc import Mapping

from spoa_twisted.haproxy.grammar.lines import Document, Line, Place
from spoa_twisted.haproxy.grammar.words import SPACES, read_words

#: The first words that begin a section of haproxy.cfg, in all versions from 2.6 to 3.4.
HAPROXY_SECTIONS = frozenset(
    {"acme", "backend", "cache", "crt-store", "defaults", "fcgi-app", "frontend", "global", "healthcheck"}
    | {"http-errors", "listen", "log-forward", "log-profile", "mailers", "peers", "program", "resolvers", "ring"}
    | {"traces", "userlist"}
)
#: The first words that begin a section in the file of an engine.
ENGINE_SECTIONS = frozenset({"spoe-agent", "spoe-group", "spoe-message"})

_SCOPE = re.compile(r"[ \t\v\f]*\[([A-Za-z0-9._:-]+)\][ \t\v\f]*(?:[#\r\n].*)?", re.DOTALL)


def parse_lines(data: bytes | str, name: str, environment: Mapping[str, str]) -> Document:
    """Read a file. ``str()`` of the result is the text of ``data``, character for character.

    Any text is read: a line that HAProxy does not accept has an ``error``, and the words in front of it.

    :param data: bytes are decoded as UTF-8; other bytes become surrogates, so that they can be encoded again.
    :param name: the file's name for :class:`Place`, and the value of ``${.FILE}``.
    :param environment: the values of ``"$NAME"`` and ``"${NAME}"``.
    """
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    lines = []
    section = ""
    for number, raw in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), 1):
        place = Place(name, number)
        words, error = read_words(raw, place, environment, section)
        if raw.lstrip(SPACES).startswith("[") and not _SCOPE.fullmatch(raw):
            error = "a line with [ at its start must be the name of a scope in brackets"
        if error is None and not raw.endswith("\n"):
            error = "the last line has no line feed at its end"
        if words and words[0].text in HAPROXY_SECTIONS | ENGINE_SECTIONS:
            section = words[0].text
        lines.append(Line(raw, place, words, error))
    return Document(name, tuple(lines))


def scope_name(line: Line) -> str | None:
    """Return ``name`` for the line ``[name]``, which begins a scope, and ``None`` for any other line."""
    found = _SCOPE.fullmatch(line.raw)
    return found.group(1) if found else None

"""Lines are divided into scopes and sections."""

from __future__ import annotations

from spoa_twisted.haproxy.grammar.documents import parse_lines
from spoa_twisted.haproxy.grammar.outline import engine_sections, sections
from spoa_twisted.haproxy.grammar.sections import Section

ENGINE = """\
    lost line
spoe-agent first
    messages a
[e]
spoe-agent second
    messages b
    option x
[f]
    skipped
[e]
    messages c
    no option x
[f]
spoe-message m
[e]
    lost line
    global
"""


def read(text: str, divide: object) -> list[Section]:
    """Return the sections of a text."""
    assert callable(divide)
    return list(divide(parse_lines(text, "f", {}).lines, (3, 0)))


def outline(found: list[Section]) -> list[tuple[str | None, str, str, list[str]]]:
    """Return scope, kind, name and settings of sections."""
    return [(each.scope, each.kind, each.name, [" ".join(item.texts) for item in each.settings]) for each in found]


def test_scopes() -> None:
    """A scope that is opened again goes on with its section, unless another section has begun."""
    assert outline(read(ENGINE, engine_sections)) == [
        (None, "spoe-agent", "first", ["messages a"]),
        ("e", "spoe-agent", "second", ["messages b", "option x", "messages c", "no option x"]),
        ("f", "spoe-message", "m", []),
    ]


def test_sections() -> None:
    """haproxy.cfg has no scopes, and sections without a name."""
    assert outline(read("x\nglobal\n a\n[e]\n b\nfrontend www\n c\n", sections)) == [
        (None, "global", "", ["a", "b"]),
        (None, "frontend", "www", ["c"]),
    ]


def test_settings() -> None:
    """A section finds its settings by their first words."""
    (_, agent, _) = read(ENGINE, engine_sections)
    assert [setting.texts for setting in agent.all("messages")] == [("messages", "b"), ("messages", "c")]
    last = agent.last("messages")
    assert last is not None
    assert (last.texts, last.place) == (("messages", "c"), ("f", 11, 5))
    assert agent.last("groups") is None

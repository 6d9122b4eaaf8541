"""The scopes of an engine's file, with the agent, the messages and the groups in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spoa_twisted.haproxy.configuration import Argument, Event, Scope, SpoeAgent, SpoeGroup, SpoeMessage
from spoa_twisted.haproxy.grammar.conditions import parse_test, split_condition
from spoa_twisted.haproxy.grammar.documents import scope_name
from spoa_twisted.haproxy.grammar.expressions import Term
from spoa_twisted.haproxy.grammar.lines import Line, Place, Word
from spoa_twisted.haproxy.grammar.outline import engine_sections
from spoa_twisted.haproxy.grammar.samples import parse_expression
from spoa_twisted.haproxy.grammar.sections import Section
from spoa_twisted.haproxy.times import seconds


def scopes(lines: tuple[Line, ...], version: tuple[int, int]) -> tuple[Scope, ...]:
    """Return the scopes of a file's lines, in the order in which they begin."""
    sections: dict[str | None, list[Section]] = {}
    for section in engine_sections(lines, version):
        sections.setdefault(section.scope, []).append(section)
    places: dict[str | None, Place] = {}
    # The text before the first [name] is a scope only if it has a section.
    if None in sections:
        places[None] = sections[None][0].head.place
    for line in lines:
        if (name := scope_name(line)) is not None:
            places.setdefault(name, line.place)
    return tuple(_scope(name, place, sections.get(name, [])) for name, place in places.items())


def _scope(name: str | None, place: Place, sections: list[Section]) -> Scope:
    # HAProxy refuses a second agent in a scope.
    agents = [_agent(section) for section in sections if section.kind == "spoe-agent"]
    messages = tuple(_message(section) for section in sections if section.kind == "spoe-message")
    groups = tuple(
        SpoeGroup(section, tuple(_words(section, "messages"))) for section in sections if section.kind == "spoe-group"
    )
    return Scope(name, place, next(iter(agents), None), messages, groups)


def acls(section: Section) -> dict[str, tuple[Term, ...]]:
    """Return the ACLs of a section, by name. Each ``acl`` line of a name adds a term."""
    found: dict[str, tuple[Term, ...]] = {}
    for setting in section.all("acl"):
        for name in setting.words[1:2]:
            found[name.text] = (*found.get(name.text, ()), parse_test(setting.words[2:], name))
    return found


def _words(section: Section, *texts: str) -> Iterator[Word]:
    """Return the words behind ``texts`` on all lines that begin so."""
    return (word for setting in section.all(*texts) for word in setting.words[len(texts) :])


def _value(section: Section, *texts: str) -> Word | None:
    """Return the word behind ``texts`` on the last line that begins so."""
    last = section.last(*texts)
    return None if last is None else next(iter(last.words[len(texts) :]), None)


def _agent(section: Section) -> SpoeAgent:
    prefix = _value(section, "option", "var-prefix")
    times = {name: _value(section, "timeout", name) for name in ("hello", "idle", "processing")}
    timeouts = {name: seconds(word.text) for name, word in times.items() if word is not None}
    return SpoeAgent(
        section,
        messages=tuple(_words(section, "messages")),
        groups=tuple(_words(section, "groups")),
        prefix=section.name if prefix is None else prefix.text,
        set_on_error=_value(section, "option", "set-on-error"),
        set_process_time=_value(section, "option", "set-process-time"),
        set_total_time=_value(section, "option", "set-total-time"),
        registered=tuple(_words(section, "register-var-names")),
        use_backend=_value(section, "use-backend"),
        timeouts={name: time for name, time in timeouts.items() if time is not None},
    )


def _message(section: Section) -> SpoeMessage:
    return SpoeMessage(section, tuple(_arguments(_words(section, "args"))), _event(section), acls(section))


def _arguments(words: Iterable[Word]) -> Iterator[Argument]:
    for word in words:
        name, equals, expression = word.text.partition("=")
        if not equals:
            yield Argument(word, None, parse_expression(word.text))
        else:
            yield Argument(word, name, parse_expression(expression))


def _event(section: Section) -> Event | None:
    events = [setting for setting in section.all("event") if len(setting.words) > 1]
    if not events:
        return None
    found = (split_condition(setting.words[2:])[1] for setting in events[::-1])
    condition = next((each for each in found if each is not None), None)
    return Event(events[-1].words[1].text, condition, events[-1])

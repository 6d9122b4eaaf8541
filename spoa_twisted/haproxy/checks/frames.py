"""The frames that an engine sends, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from spoa_twisted.haproxy.configuration import Argument, Configuration, Engine, Event, Proxy, Rule, SpoeMessage
from spoa_twisted.haproxy.grammar.lines import Place
from spoa_twisted.haproxy.order import Stage, event_in, stage_of_event, stage_of_rule


@dataclass(frozen=True)
class Moment:
    """When HAProxy runs a rule, or sends the messages of an event."""

    stage: Stage
    #: For a rule, its number among all rules of the proxy. For an event, the number of the filter in the proxy.
    number: int
    proxy: Proxy

    @property
    def order(self) -> tuple[int, int]:
        """Of two moments of one proxy, the earlier one has the smaller value."""
        return self.stage, self.number

    def precedes(self, other: Moment) -> bool:
        """Return whether this is surely earlier than ``other``."""
        if self.stage != other.stage:
            return self.stage < other.stage
        return self.proxy is other.proxy and self.number < other.number

    @property
    def precedes_backends(self) -> bool:
        """Whether HAProxy has not yet chosen a backend."""
        return self.stage <= Stage.USE_BACKEND

    @property
    def is_in_response(self) -> bool:
        """Whether HAProxy has chosen a server before."""
        return self.stage >= Stage.ON_SERVER_SESSION

    @property
    def is_once(self) -> bool:
        """Whether it comes once for a connection, and not once for each request."""
        return self.proxy.mode == "tcp" or self.stage <= Stage.ON_CLIENT_SESSION


@dataclass(frozen=True)
class Frame:
    """The messages of an engine that HAProxy sends together: those of one event, or those of a group by one rule."""

    engine: Engine
    messages: tuple[SpoeMessage, ...]
    #: The event's name; empty for a group.
    event: str
    #: The rule that sends the group, and the group's name. ``None`` and empty for an event.
    rule: Rule | None
    group: str
    moment: Moment

    @property
    def when(self) -> str:
        """When it is sent, for a text: ``at on-client-session`` or ``by the rule in line 12``."""
        return f"at {self.event}" if self.rule is None else f"by the rule in line {self.rule.setting.place.line}"

    @property
    def events(self) -> list[tuple[SpoeMessage, Event]]:
        """The messages of the event, each with its ``event`` line. Empty for a group."""
        messages = self.messages if self.rule is None else ()
        return [(message, message.event) for message in messages if message.event is not None]

    def arguments(self) -> Iterator[tuple[SpoeMessage, Argument]]:
        """Yield each argument, with its message."""
        for message in self.messages:
            for argument in message.arguments:
                yield message, argument


def moment_of(rule: Rule, proxy: Proxy) -> Moment | None:
    """Return when HAProxy runs a rule of a proxy. ``None`` if that is not known."""
    stage = stage_of_rule(rule, proxy)
    # A reading has a rule of its own, which was read from the same line: so look for the line.
    number = _numbers(proxy).get(rule.setting.place)
    return None if stage is None or number is None else Moment(stage, number, proxy)


# A proxy is equal to itself only, so this finds it without a look at its rules.
@lru_cache
def _numbers(proxy: Proxy) -> Mapping[Place, int]:
    """Return the number of each rule of a proxy, by the place of its line."""
    return {rule.setting.place: number for number, rule in enumerate(proxy.rules)}


def sends_group(rule: Rule, engine: Engine) -> str | None:
    """Return the name of the group of ``engine`` that a rule sends. ``None`` for another rule."""
    texts = [word.text for word in rule.arguments]
    return texts[1] if rule.action == "send-spoe-group" and len(texts) > 1 and texts[0] == engine.name else None


def listed(engine: Engine) -> list[SpoeMessage]:
    """Return the messages that the ``messages`` lines of the agent name, in their order."""
    if engine.scope is None or engine.agent is None:
        return []
    messages = {message.name: message for message in engine.scope.messages}
    names = dict.fromkeys(word.text for word in engine.agent.messages)
    return [messages[name] for name in names if name in messages]


def frames(configuration: Configuration, engine: Engine) -> list[Frame]:
    """Return the frames of an engine. Events that a filter in a backend misses are left out."""
    return [*_events(configuration, engine), *_groups(engine)]


def _events(configuration: Configuration, engine: Engine) -> Iterator[Frame]:
    events: dict[str, list[SpoeMessage]] = {}
    for message in listed(engine):
        if message.event is not None:
            events.setdefault(event_in(message.event.name, engine.proxy), []).append(message)
    filters = [other.filter for other in configuration.engines if other.proxy is engine.proxy]
    for event, messages in events.items():
        stage = stage_of_event(event, engine.proxy)
        if stage is not None:
            # Filters see a request in the order of their lines. For responses the order depends on the version.
            number = filters.index(engine.filter) if stage < Stage.ON_SERVER_SESSION else 0
            yield Frame(engine, tuple(messages), event, None, "", Moment(stage, number, engine.proxy))


def _groups(engine: Engine) -> Iterator[Frame]:
    if engine.scope is None:
        return
    groups = {group.name: [word.text for word in group.messages] for group in engine.scope.groups}
    for rule in engine.proxy.rules:
        group = sends_group(rule, engine)
        moment = moment_of(rule, engine.proxy)
        if group in groups and group is not None and moment is not None:
            messages = tuple(message for message in engine.scope.messages if message.name in groups[group])
            yield Frame(engine, messages, "", rule, group, moment)

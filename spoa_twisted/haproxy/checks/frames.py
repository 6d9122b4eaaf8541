"""The frames that an engine sends, and the order in which HAProxy sends them and runs rules.

The order is the same in HAProxy 2.6 to 3.4. Where a ``filter`` line stands among the rules does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from spoa_twisted.haproxy.configuration import Argument, Configuration, Engine, Proxy, Rule, SpoeMessage

_FRONTEND, _BACKEND = "frontend ", "backend "

#: What HAProxy does for a request, step by step.
_STEPS: Final = (
    "quic-initial",
    "tcp-request connection",
    "tcp-request session",
    "on-client-session",
    "on-frontend-tcp-request",
    f"{_FRONTEND}tcp-request content",
    "on-frontend-http-request",
    f"{_FRONTEND}http-request",
    "use_backend",
    "on-backend-tcp-request",
    f"{_BACKEND}tcp-request content",
    "on-backend-http-request",
    f"{_BACKEND}http-request",
    "use-server",
    "on-server-session",
    "on-tcp-response",
    "tcp-response content",
    "on-http-response",
    f"{_BACKEND}http-response",
    f"{_FRONTEND}http-response",
    "http-after-response",
)
_NUMBERS: Final = {step: number for number, step in enumerate(_STEPS)}

#: The first step of the response.
_RESPONSE: Final = _NUMBERS["on-server-session"]

#: Steps that happen before a backend is known: its filters miss them.
_BEFORE_BACKEND: Final = _NUMBERS["use_backend"]


@dataclass(frozen=True)
class Moment:
    """When HAProxy runs a rule, or sends the messages of an event."""

    #: The number of the step.
    step: int
    #: For a rule, its number among all rules of the proxy. For an event, the number of the filter in the proxy.
    number: int
    proxy: Proxy

    def precedes(self, other: Moment) -> bool:
        """Return whether this is surely earlier than ``other``."""
        if self.step != other.step:
            return self.step < other.step
        return self.proxy is other.proxy and self.number < other.number

    @property
    def is_in_response(self) -> bool:
        """Whether HAProxy has chosen a server before."""
        return self.step >= _RESPONSE

    @property
    def precedes_backends(self) -> bool:
        """Whether HAProxy has not yet chosen a backend."""
        return self.step <= _BEFORE_BACKEND

    @property
    def is_once(self) -> bool:
        """Whether it comes once for a connection, and not once for each request."""
        return self.proxy.mode == "tcp" or self.step <= _NUMBERS["on-client-session"]


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

    def arguments(self) -> Iterator[tuple[SpoeMessage, Argument]]:
        """Yield each argument, with its message."""
        for message in self.messages:
            for argument in message.arguments:
                yield message, argument


def moment_of(rule: Rule, proxy: Proxy) -> Moment | None:
    """Return when HAProxy runs a rule of a proxy. ``None`` if the order of its ruleset is not known."""
    side = _BACKEND if proxy.kind == "backend" else _FRONTEND
    step = _NUMBERS.get(rule.ruleset, _NUMBERS.get(side + rule.ruleset))
    return None if step is None else Moment(step, proxy.rules.index(rule), proxy)


def sends_group(rule: Rule, engine: Engine) -> str | None:
    """Return the name of the group of ``engine`` that a rule sends. ``None`` for another rule."""
    texts = [word.text for word in rule.arguments]
    return texts[1] if rule.action == "send-spoe-group" and len(texts) > 1 and texts[0] == engine.name else None


def listed(engine: Engine) -> Iterator[SpoeMessage]:
    """Yield the messages that the ``messages`` lines of the agent name, in their order."""
    if engine.scope is None or engine.agent is None:
        return
    messages = {message.name: message for message in engine.scope.messages}
    for name in dict.fromkeys(word.text for word in engine.agent.messages):
        if name in messages:
            yield messages[name]


def event_of(message: SpoeMessage, proxy: Proxy) -> str | None:
    """Return the event at which a filter in ``proxy`` sends a message. ``None`` without one.

    In a ``listen``, HAProxy makes ``on-frontend-...`` of ``on-backend-...``.
    """
    if message.event is None:
        return None
    name = message.event.name
    return name.replace("on-backend-", "on-frontend-") if proxy.kind == "listen" else name


def frames(configuration: Configuration, engine: Engine) -> list[Frame]:
    """Return the frames of an engine. Events that a filter in a backend misses are left out."""
    return [*_events(configuration, engine), *_groups(engine)]


def _events(configuration: Configuration, engine: Engine) -> Iterator[Frame]:
    events: dict[str, list[SpoeMessage]] = {}
    for message in listed(engine):
        if (event := event_of(message, engine.proxy)) is not None:
            events.setdefault(event, []).append(message)
    filters = [other.filter for other in configuration.engines if other.proxy is engine.proxy]
    for event, messages in events.items():
        step = _NUMBERS.get(event)
        if step is None or (engine.proxy.kind == "backend" and step < _BEFORE_BACKEND):
            continue
        # The order of filters is that of their lines for requests. For responses it depends on the version.
        number = filters.index(engine.filter) if step < _RESPONSE else 0
        yield Frame(engine, tuple(messages), event, None, "", Moment(step, number, engine.proxy))


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

"""The messages with which HAProxy asks an agent, each with the handler that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spoa_twisted.handlers.binding import SEPARATORS
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.configuration import Argument, Configuration, Rule, Scope, SpoeAgent, SpoeMessage
from spoa_twisted.haproxy.grammar.expressions import Condition
from spoa_twisted.haproxy.grammar.lines import Place


@dataclass(frozen=True)
class AskedMessage:
    """A message that an agent may be asked with."""

    message: SpoeMessage
    agent: SpoeAgent
    #: Whether its event sends it.
    by_event: bool
    #: The rules that send a group with it. ``None`` if these are unknown: no haproxy.cfg was given.
    rules: tuple[Rule, ...] | None
    #: The names of the groups with it.
    groups: tuple[str, ...]
    #: The handler of the message, or the default handler; ``None`` if there is neither.
    answer: Answer | None

    @property
    def name(self) -> str:
        """The name of the message."""
        return self.message.name

    @property
    def place(self) -> Place:
        """Its last ``args`` line; without one, the line that begins its section."""
        setting = self.message.section.last("args")
        return self.message.section.head.place if setting is None else setting.place

    @property
    def conditions(self) -> list[Condition] | None:
        """The conditions of which at least one is true when the message is sent. ``None`` if it may need none."""
        event = self.message.event
        own = None if event is None else event.condition
        if own is not None:
            # In a group, the condition of the event counts too.
            return [own]
        if self.by_event or not self.rules:
            return None
        conditions = [rule.condition for rule in self.rules]
        known = [condition for condition in conditions if condition is not None]
        return known if len(known) == len(conditions) else None


def _scopes(configuration: Configuration) -> list[Scope]:
    """Return the scopes that filters use; all scopes if no haproxy.cfg was given."""
    if configuration.has_proxies:
        scopes = [engine.scope for engine in configuration.engines]
    else:
        scopes = [scope for several in configuration.scopes.values() for scope in several]
    return list({id(scope): scope for scope in scopes if scope is not None}.values())


def _messages(configuration: Configuration, scope: Scope, answers: Answers) -> list[AskedMessage]:
    """Return the messages of a scope that its agent names, by itself or in a group."""
    agent = scope.agent
    if agent is None:
        return []
    by_event = {word.text for word in agent.messages}
    listed = {word.text for word in agent.groups}
    engines = {engine.name for engine in configuration.engines if engine.scope is scope}
    sent = []
    for message in scope.messages:
        groups = tuple(
            group.name
            for group in scope.groups
            if group.name in listed and any(word.text == message.name for word in group.messages)
        )
        if message.name in by_event or groups:
            rules = _sending(configuration, engines, groups) if configuration.has_proxies else None
            answer = answers.by_message.get(message.name, answers.default)
            sent.append(AskedMessage(message, agent, message.name in by_event, rules, groups, answer))
    return sent


def _sending(configuration: Configuration, engines: set[str], groups: Sequence[str]) -> tuple[Rule, ...]:
    """Return the rules that send one of ``groups``."""
    return tuple(
        rule
        for proxy in configuration.proxies
        for rule in proxy.rules
        if rule.action == "send-spoe-group"
        and len(rule.arguments) > 1
        and rule.arguments[0].text in engines
        and rule.arguments[1].text in groups
    )


def asked_messages(configuration: Configuration, answers: Answers) -> list[AskedMessage]:
    """Return the messages that these handlers have to answer.

    haproxy.cfg may have engines of other agents. The handlers belong to the scopes with at least one message that has
    a handler. If there is none, all scopes are theirs.
    """
    scopes = [_messages(configuration, scope, answers) for scope in _scopes(configuration)]
    own = [messages for messages in scopes if any(sent.name in answers.by_message for sent in messages)]
    return [sent for messages in own or scopes for sent in messages]


def parameter_of(argument: Argument) -> str:
    """Return the name of the parameter that takes an argument; empty for an argument without a name."""
    return SEPARATORS.sub("_", argument.name or "")


def arguments_by_parameter(sent: AskedMessage) -> dict[str, Argument]:
    """Return the arguments by the names of their parameters: of two arguments with the same name, the first one."""
    taken: dict[str, Argument] = {}
    for argument in sent.message.arguments:
        if argument.name:
            taken.setdefault(parameter_of(argument), argument)
    return taken

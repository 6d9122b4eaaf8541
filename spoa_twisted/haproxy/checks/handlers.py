"""The messages and their arguments, compared with the handlers that answer them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from spoa_twisted.handlers.declaration import split_condition
from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.checks.annotations import mismatch, source
from spoa_twisted.haproxy.checks.check import Check
from spoa_twisted.haproxy.configuration import Argument, Configuration, Rule, Scope, SpoeAgent, SpoeMessage
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.expressions import Condition, Expression, Term
from spoa_twisted.haproxy.grammar.lines import Place
from spoa_twisted.haproxy.grammar.words import read_words

# Fetches of whole bodies and headers. To send them costs time, so it matters more if no handler takes them.
_LARGE: Final = frozenset(
    {"req.body", "res.body", "req.hdrs", "res.hdrs", "req.hdrs_bin", "res.hdrs_bin", "req.payload", "res.payload"}
)

# The agent makes parameters of arguments in this way, too.
_SEPARATORS: Final = re.compile("[-.]")


@dataclass(frozen=True)
class _Sent:
    """A message that an agent may be asked with."""

    message: SpoeMessage
    agent: SpoeAgent
    #: Whether its event sends it.
    by_event: bool
    #: The rules that send a group with it. ``None`` if these are unknown: no haproxy.cfg was given.
    rules: tuple[Rule, ...] | None
    #: The names of the groups with it.
    groups: tuple[str, ...]
    #: What answers it; ``None`` without a handler, also without one for all other messages.
    answer: Answer | None

    @property
    def name(self) -> str:
        return self.message.name

    @property
    def place(self) -> Place:
        """The line with its arguments, or else its first line."""
        setting = self.message.section.last("args")
        return self.message.section.head.place if setting is None else setting.place

    @property
    def conditions(self) -> list[Condition] | None:
        """The conditions of which at least one held when the message was sent. ``None`` if it may be sent without."""
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


def _messages(configuration: Configuration, scope: Scope, answers: Answers) -> list[_Sent]:
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
            sent.append(_Sent(message, agent, message.name in by_event, rules, groups, answer))
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


def _own(configuration: Configuration, answers: Answers) -> list[_Sent]:
    """Return the messages that these handlers have to answer.

    haproxy.cfg may have engines of other agents. The handlers belong to the scopes with at least one message that has
    a handler. If there is none, all scopes are theirs.
    """
    scopes = [_messages(configuration, scope, answers) for scope in _scopes(configuration)]
    own = [messages for messages in scopes if any(sent.name in answers.by_message for sent in messages)]
    return [sent for messages in own or scopes for sent in messages]


def _each(find: Callable[[_Sent, Answer], Iterator[Finding]]) -> Callable[..., Iterator[Finding]]:
    """Return a check that calls ``find`` with each message that has a handler."""

    def check(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
        if answers is not None:
            for sent in _own(configuration, answers):
                if sent.answer is not None:
                    yield from find(sent, sent.answer)

    return check


def message_without_handler(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find a message that no handler has been registered for."""
    if answers is None:
        return
    for sent in _own(configuration, answers):
        if sent.name in answers.by_message:
            continue
        similar = [repr(name) for name in nearest(sent.name, answers.by_message)[:1]]
        has_default = answers.default is not None
        yield Finding(
            "message-without-handler",
            Severity.INFO if has_default else Severity.ERROR,
            sent.message.section.head.place,
            f"{'only the default' if has_default else 'no'} handler answers the message {sent.name!r}"
            f"{did_you_mean(similar)}",
        )


def handler_without_message(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find a handler whose message HAProxy never sends."""
    if answers is None:
        return
    own = _own(configuration, answers)
    if not own:
        return
    names = {sent.name for sent in own}
    agent = own[0].agent
    setting = agent.section.last("messages") or agent.section.last("groups") or agent.section.head
    for name in answers.by_message:
        if name not in names:
            text = f"the handler of {name!r} is never called: no message of that name is sent"
            yield Finding("handler-without-message", Severity.WARNING, setting.place, text)


def _key(argument: Argument) -> str:
    """Return the name of the parameter that takes an argument; empty for an argument without a name."""
    return _SEPARATORS.sub("_", argument.name or "")


def _taken(sent: _Sent) -> dict[str, Argument]:
    """Return the arguments by the names of their parameters: of two arguments with the same name, the first one."""
    taken: dict[str, Argument] = {}
    for argument in sent.message.arguments:
        if argument.name:
            taken.setdefault(_key(argument), argument)
    return taken


def _of(sent: _Sent, answer: Answer) -> str:
    return f"the handler of {sent.name!r}" if answer.message else "the default handler"


def missing(sent: _Sent, answer: Answer) -> Iterator[Finding]:
    """Find a parameter without its argument."""
    names = ", ".join([argument.name for argument in sent.message.arguments if argument.name]) or "none"
    for parameter in answer.parameters:
        if parameter.required and parameter.name not in _taken(sent):
            text = f"{_of(sent, answer)} needs {parameter.name!r}; the message sends: {names}"
            yield Finding("argument-missing", Severity.ERROR, sent.place, text)


def arguments(sent: _Sent, answer: Answer) -> Iterator[Finding]:
    """Find an argument that the handler does not get: it has no name, or a name that comes twice or is not taken."""
    names = {parameter.name for parameter in answer.parameters}
    seen: set[str] = set()
    for number, argument in enumerate(sent.message.arguments):
        key, place = _key(argument), argument.word.place
        if not key:
            yield from _unnamed(sent, answer, argument, number)
        elif key in seen:
            if key in names or answer.takes_rest:
                text = f"two arguments become {key!r}; {_of(sent, answer)} gets the first one: rename this one"
                yield Finding("argument-twice", Severity.WARNING, place, text)
        elif key not in names and not answer.takes_rest and not answer.takes_message:
            text = f"{_of(sent, answer)} does not take {argument.name!r}"
            yield Finding("argument-unused", _cost(argument), place, text)
        seen.add(key)


def _unnamed(sent: _Sent, answer: Answer, argument: Argument, number: int) -> Iterator[Finding]:
    expression = argument.word.text
    if answer.takes_message:
        if answer.parameters or answer.takes_rest:
            text = f"this argument has no name: only message[{number}] finds it; name it, as in x={expression}"
            yield Finding("argument-unnamed", Severity.INFO, argument.word.place, text)
    elif answer.parameters or answer.takes_rest:
        text = f"this argument has no name, so no parameter gets it: name it, as in x={expression}"
        yield Finding("argument-unnamed", Severity.ERROR, argument.word.place, text)
    else:
        text = f"{_of(sent, answer)} does not take {expression!r}"
        yield Finding("argument-unused", _cost(argument), argument.word.place, text)


def _cost(argument: Argument) -> Severity:
    fetch = None if argument.expression is None else argument.expression.fetch.name
    return Severity.WARNING if fetch in _LARGE else Severity.INFO


def types(sent: _Sent, answer: Answer) -> Iterator[Finding]:
    """Find a parameter whose annotation leaves out what HAProxy sends."""
    taken = _taken(sent)
    for parameter in answer.parameters:
        argument = taken.get(parameter.name)
        if argument is None or argument.expression is None or parameter.annotation is None or not parameter.required:
            continue
        present = _is_present(argument, sent)
        text = mismatch(parameter.annotation, argument.expression, present=present)
        if text is not None:
            yield Finding("argument-type", Severity.WARNING, argument.word.place, f"{parameter.name!r} is {text}")


def _is_present(argument: Argument, sent: _Sent) -> bool:
    """Return whether the message is sent only if the argument has a value, or whether this is unknown."""
    if not sent.by_event and not sent.rules:
        return True
    conditions = sent.conditions
    if conditions is None:
        return False
    return all(
        not condition.unless
        and all(any(_proves(term, argument, sent) for term in terms) for terms in condition.alternatives)
        for condition in conditions
    )


def _proves(term: Term, argument: Argument, sent: _Sent) -> bool:
    """Return whether a term holds only if the argument has a value. The ACLs of haproxy.cfg are not known here."""
    if term.negated:
        return False
    if term.acl is not None:
        tests = sent.message.acls.get(term.acl)
        return tests is None or all(_proves(test, argument, sent) for test in tests)
    return term.expression is None or _same_source(term.expression, argument)


def _same_source(expression: Expression, argument: Argument) -> bool:
    return argument.expression is not None and source(expression.fetch) == source(argument.expression.fetch)


def declaration(sent: _Sent, answer: Answer) -> Iterator[Finding]:
    """Find what is declared in another way than it is sent."""
    declared = answer.declaration
    yield from _declared_arguments(sent, answer)
    if declared.event is not None:
        yield from _declared_event(sent, declared.event)
    if declared.rule is not None:
        yield from _declared_rule(sent, declared.rule)


def _differs(place: Place, text: str) -> Finding:
    return Finding("declaration-differs", Severity.WARNING, place, text)


def _declared_arguments(sent: _Sent, answer: Answer) -> Iterator[Finding]:
    taken = _taken(sent)
    required = {parameter.name for parameter in answer.parameters if parameter.required}
    for name, expression in (answer.declaration.args or {}).items():
        key = _SEPARATORS.sub("_", name)
        argument = taken.get(key)
        if argument is None:
            # A parameter that must have the argument is an error: see argument-missing.
            if key not in required:
                yield _differs(sent.place, f"{name!r} is declared, as {expression!r}, and not sent")
        elif argument.expression is not None and argument.expression.text != expression.strip():
            yield _differs(
                argument.word.place, f"{name!r} is declared as {expression!r}, and sent as {argument.expression.text!r}"
            )


def _declared_event(sent: _Sent, declared: str) -> Iterator[Finding]:
    name, condition = split_condition(declared)
    event = sent.message.event
    if not sent.by_event:
        yield _differs(sent.message.section.head.place, f"declared for the event {name}, and sent by a group only")
    elif event is not None and event.name != name:
        yield _differs(event.setting.place, f"declared for the event {name}, and sent at {event.name}")
    elif event is not None and _is_other(condition, event.condition):
        yield _differs(event.setting.place, f"declared as '{declared}', and sent {_shown(event.condition)}")


def _declared_rule(sent: _Sent, declared: str) -> Iterator[Finding]:
    ruleset, condition = split_condition(declared)
    if not sent.groups:
        yield _differs(sent.message.section.head.place, f"declared for the rule '{declared}', and in no group")
    elif sent.rules:
        same = [rule for rule in sent.rules if rule.ruleset == ruleset]
        place = sent.rules[0].setting.place
        if not same:
            yield _differs(place, f"{sent.name!r} is declared for '{ruleset}', and sent by '{sent.rules[0].ruleset}'")
        elif all(_is_other(condition, rule.condition) for rule in same):
            shown = _shown(same[0].condition)
            yield _differs(same[0].setting.place, f"{sent.name!r} is declared for '{declared}', and sent {shown}")


def _is_other(declared: str, condition: Condition | None) -> bool:
    """Return whether a condition is another one than the declared one. If it names an ACL, this is unknown."""
    if condition is not None and any(term.acl is not None for terms in condition.alternatives for term in terms):
        return False
    # The declaration has quotes, and perhaps variables of the environment, whose values are not known here.
    words, _ = read_words(declared, Place("", 1), {})
    return "$" not in declared and " ".join([word.text for word in words]) != _text(condition)


def _text(condition: Condition | None) -> str:
    return "" if condition is None else " ".join([word.text for word in condition.words])


def _shown(condition: Condition | None) -> str:
    return f"'{_text(condition)}'" if condition else "without a condition"


def too_late(sent: _Sent, answer: Answer) -> Iterator[Finding]:
    """Find a handler that the agent gives up when HAProxy does not wait any more."""
    processing = sent.agent.timeouts.get("processing")
    setting = sent.agent.section.last("timeout", "processing")
    if processing and setting is not None and answer.on_error and answer.timeout >= processing:
        text = (
            f"{_of(sent, answer)} may take {answer.timeout:g} s, and HAProxy waits {processing:g} s: its on_error never"
            " arrives"
        )
        yield Finding("on-error-too-late", Severity.WARNING, setting.place, text)


_arguments: Final = _each(arguments)

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = (
    Check("message-without-handler", Severity.ERROR, "no handler answers a message", message_without_handler),
    Check("handler-without-message", Severity.WARNING, "a handler is never called", handler_without_message),
    Check("argument-missing", Severity.ERROR, "a handler needs an argument that is not sent", _each(missing)),
    Check("argument-unused", Severity.INFO, "a handler does not take an argument", _arguments),
    Check("argument-unnamed", Severity.ERROR, "an argument has no name", _arguments),
    Check("argument-twice", Severity.WARNING, "two arguments become one parameter", _arguments),
    Check("declaration-differs", Severity.WARNING, "a handler declares something else", _each(declaration)),
    Check("argument-type", Severity.WARNING, "an annotation leaves out what HAProxy sends", _each(types)),
    Check("on-error-too-late", Severity.WARNING, "on_error arrives after HAProxy's timeout", _each(too_late)),
)

"""The messages and groups of spoe.conf: words that HAProxy ignores, and what it never sends."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.frames import sends_group
from spoa_twisted.haproxy.configuration import Configuration, Engine, Scope, SpoeMessage
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.sections import Setting

#: The words that HAProxy knows in a spoe-message.
_KNOWN: Final = ("acl", "args", "event")


def scopes_of(configuration: Configuration) -> Iterator[Scope]:
    """Yield the scopes that filters use. Of a file that no filter uses, all."""
    used = {id(engine.scope) for engine in configuration.engines}
    for scopes in configuration.scopes.values():
        in_use = [scope for scope in scopes if id(scope) in used]
        yield from in_use or scopes


def engines_of(configuration: Configuration, scope: Scope) -> list[Engine]:
    """Return the engines that use a scope. There are several if several proxies have the filter."""
    return [engine for engine in configuration.engines if engine.scope is scope]


def check_words(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find lines of messages that begin with an unknown word."""
    for scope in scopes_of(configuration):
        for message in scope.messages:
            for setting in message.section.settings:
                word = setting.words[0]
                if word.text not in _KNOWN:
                    text = f"HAProxy ignores the line {word.text!r} in the message {message.name!r}{_hint(word.text)}"
                    yield Finding("unknown-keyword", Severity.ERROR, word.place, text)


def _hint(word: str) -> str:
    meant = next(iter(get_close_matches(word.lower(), _KNOWN, 1)), None)
    if meant is not None:
        return f": did you mean {meant!r}?"
    return f": it knows {', '.join(_KNOWN)} only"


def check_events(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find messages with several events."""
    for scope in scopes_of(configuration):
        for message in scope.messages:
            first, *others = message.section.all("event") or (None,)
            if first is not None and any(other.texts != first.texts for other in others):
                yield Finding("event-twice", Severity.ERROR, others[-1].place, _of_events(message, first, others))


def _of_events(message: SpoeMessage, first: Setting, others: list[Setting]) -> str:
    has_condition = [len(setting.words) > 2 for setting in (first, *others)]
    # A condition stays until another one replaces it.
    kept = ", with the condition of an earlier line" if any(has_condition) and not has_condition[-1] else ""
    return f"of the events of {message.name!r}, only this one counts{kept}: write a message for each event"


def check_messages(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find messages that neither an event nor a group sends."""
    for scope in scopes_of(configuration):
        if scope.agent is None:
            continue
        listed = {word.text for word in scope.agent.messages}
        grouped = {word.text for group in scope.groups for word in group.messages}
        for message in scope.messages:
            if message.name in grouped:
                continue
            if message.name not in listed:
                why = f"neither 'messages' of {scope.agent.name!r} nor a group names it"
            elif message.event is None:
                why = "it has no event, and no group names it"
            else:
                continue
            text = f"the message {message.name!r} is never sent: {why}"
            yield Finding("message-never-sent", Severity.WARNING, message.section.head.place, text)


def check_groups(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find groups that no rule sends. If a part of the configuration is not known, it may have the rule."""
    if not configuration.has_proxies or configuration.not_read:
        return
    for scope in scopes_of(configuration):
        engines = engines_of(configuration, scope)
        # HAProxy itself says if the rule stands in a proxy without the filter.
        rules = [rule for proxy in configuration.proxies for rule in proxy.rules if rule.action == "send-spoe-group"]
        sent = {sends_group(rule, engine) for engine in engines for rule in rules}
        for group in scope.groups if engines else ():
            if group.name in sent:
                continue
            severity, text = Severity.ERROR, f"no rule sends the group {group.name!r}"
            messages = {word.text for word in group.messages}
            if messages and messages <= _with_event(scope):
                severity, text = Severity.INFO, f"{text}: its messages are sent at their events"
            else:
                proxy = engines[0].proxy
                rule = f"http-request send-spoe-group {engines[0].name} {group.name}"
                text = f"{text}: add '{rule}' to {proxy.kind} {proxy.name}"
            yield Finding("group-never-sent", severity, group.section.head.place, text)


def _with_event(scope: Scope) -> set[str]:
    """Return the names of the messages that HAProxy sends at their events."""
    listed = set() if scope.agent is None else {word.text for word in scope.agent.messages}
    return {message.name for message in scope.messages if message.event is not None and message.name in listed}


def check_both(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find messages that have an event and a group."""
    for scope in scopes_of(configuration):
        if scope.agent is None:
            continue
        listed = {word.text for word in scope.agent.messages}
        groups = {word.text: group.name for group in scope.groups for word in group.messages}
        engines = engines_of(configuration, scope)
        sent = {sends_group(rule, engine) for engine in engines for rule in engine.proxy.rules}
        for message in scope.messages:
            group = groups.get(message.name)
            if group is None or message.event is None:
                continue
            event, place = message.event.name, message.event.setting.place
            if message.name not in listed:
                text = (
                    f"{message.name!r} is sent in the group {group!r}: {event} does nothing, only its condition counts"
                )
                yield Finding("event-in-group", Severity.INFO, place, text)
            elif group in sent:
                text = (
                    f"{message.name!r} is sent at {event}, and again in the group {group!r}: name it in one place only"
                )
                yield Finding("sent-twice", Severity.WARNING, place, text)


def check_scopes(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find scopes that no filter uses, in files that filters use."""
    used = {id(engine.scope) for engine in configuration.engines}
    for scopes in configuration.scopes.values():
        if not any(id(scope) in used for scope in scopes):
            continue
        for scope in scopes:
            if id(scope) not in used and (scope.agent is not None or scope.messages or scope.groups):
                if scope.name is None:
                    text = (
                        "no filter uses what stands before the first [name]: HAProxy ignores it; move it below [name]"
                    )
                else:
                    text = f"no filter uses the scope [{scope.name}]: HAProxy ignores all in it"
                yield Finding("outside-scope", Severity.WARNING, scope.place, text)

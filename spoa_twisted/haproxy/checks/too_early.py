"""What is read before it can be set: variables in rules, and the arguments of messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.frames import Frame, Moment, moment_of
from spoa_twisted.haproxy.checks.setters import Setter, Setters, may_come_before
from spoa_twisted.haproxy.configuration import Configuration, Reading, Rule
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.expressions import Expression
from spoa_twisted.haproxy.grammar.lines import Place

#: Headers that clients send, and that a proxy changes for its servers only. A message may want the client's own value.
_OF_CLIENTS: Final = frozenset(
    {"authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "date", "expect"}
    | {"from", "host", "origin", "pragma", "range", "referer", "te", "transfer-encoding", "upgrade", "user-agent"}
    | {"via", "x-requested-with"}
)
_OF_CLIENTS_PREFIXES: Final = ("accept", "cache-", "if-", "sec-")

#: Fetches of a request's header.
_HEADERS: Final = frozenset({"hdr", "hdr_ip", "hdr_val", "req.fhdr", "req.hdr", "req.hdr_ip", "req.hdr_val"})


def check_rules(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find rules that read a variable of an agent before the agent can set it."""
    setters = Setters(configuration, answers)
    if not setters.are_known:
        return
    found = set[tuple[Place, str]]()
    for reading in configuration.readings:
        rule = reading.rule
        if rule is None or (rule.setting.place, reading.variable) in found:
            continue
        setter = _too_late(setters, configuration, reading, rule)
        if setter is not None:
            found.add((rule.setting.place, reading.variable))
            mend = "ask earlier, or move the rule" if setter.frame and setter.frame.event else "move the rule behind it"
            text = f"this rule reads {reading.variable} before it can be set, {setter.text}: {mend}"
            yield Finding("too-early", Severity.ERROR, rule.setting.place, text)


def _too_late(setters: Setters, configuration: Configuration, reading: Reading, rule: Rule) -> Setter | None:
    """Return the first of what sets the variable of a reading, if all of it comes after the reading."""
    moment = moment_of(rule, reading.proxy)
    # A group is often sent only if the variable is not set: "unless { var(sess.iprep.score) -m found }".
    if moment is None or rule.action == "send-spoe-group" or not setters.names.owners(reading.variable):
        return None
    all_setters = setters.of(reading.variable)
    if not all_setters or any(may_come_before(setter, moment) for setter in all_setters):
        return None
    later = [setter for setter in all_setters if _may_come_after(setter, moment)]
    if not later or not any(setter.frame is not None for setter in later):
        return None
    first = min(later, key=lambda setter: setter.moment.order)
    scope = reading.variable.partition(".")[0]
    if scope == "proc" or (scope == "sess" and _is_for_next_request(setters, configuration, reading, moment, first)):
        return None
    return first


def _may_come_after(setter: Setter, moment: Moment) -> bool:
    """Return whether both belong to the same request, and ``setter`` comes later."""
    ours, theirs = moment.proxy, setter.moment.proxy
    if ours is not theirs and ours.kind == theirs.kind:
        return False
    return moment.precedes(setter.moment)


def _is_for_next_request(
    setters: Setters, configuration: Configuration, reading: Reading, moment: Moment, first: Setter
) -> bool:
    """Return whether a rule may mean the value that an earlier request of the connection has left.

    That is likely if the response sets it, or if another rule reads it in time.
    """
    if moment.is_once:
        return False
    if first.moment.is_in_response and not moment.is_in_response:
        return True
    return any(
        other.variable == reading.variable
        and other.rule is not None
        and (later := moment_of(other.rule, other.proxy)) is not None
        and first.moment.precedes(later)
        for other in configuration.readings
    )


def check_arguments(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find arguments that are read before a rule, or another agent, sets them."""
    setters = Setters(configuration, answers)
    if not setters.are_known:
        return
    changes = _changes(configuration)
    found = set[Place]()
    for frame in setters.frames:
        for _, argument in frame.arguments():
            place = argument.word.place
            if argument.expression is None or place in found:
                continue
            text = _early_variable(setters, frame, argument.expression)
            text = text or _early_value(changes, setters, frame, argument.expression)
            if text is not None:
                found.add(place)
                name = argument.name or argument.word.text
                yield Finding("argument-too-early", Severity.ERROR, place, f"{name!r} is read {frame.when}, {text}")


def _early_variable(setters: Setters, frame: Frame, expression: Expression) -> str | None:
    """Return the end of a text if an argument is a variable that is only set later."""
    variable = expression.variable
    if variable is None or setters.names.has_lua:
        return None
    scope = variable.partition(".")[0]
    if scope == "proc" or (scope == "sess" and not frame.moment.is_once):
        return None
    all_setters = setters.of(variable)
    if not all_setters or any(may_come_before(setter, frame.moment) for setter in all_setters):
        return None
    later = [setter for setter in all_setters if _may_come_after(setter, frame.moment)]
    # Without the handlers, an agent may set each variable of its prefix. A variable that a rule sets is meant for the
    # agent.
    by_rules = [setter for setter in later if setter.frame is None]
    if not later or (not by_rules and any(setter.frame is frame for setter in all_setters)):
        return None
    first = min(by_rules or later, key=lambda setter: setter.moment.order)
    if first.frame is not None and first.moment.stage == frame.moment.stage and not first.frame.group:
        engine = first.frame.engine
        return f"before the engine {engine.name!r} sets it: put the filter in line {engine.filter.place.line} first"
    by = "the agent" if first.frame is not None else "a rule"
    return f"before {by} sets {variable}, {first.text}: send a group after it"


def _early_value(changes: _Changes, setters: Setters, frame: Frame, expression: Expression) -> str | None:
    """Return the end of a text if an argument is a header or an address that a later rule changes."""
    fetch = expression.fetch
    action, name = "set-src", ""
    if fetch.name in _HEADERS and fetch.arguments:
        action, name = "set-header", fetch.arguments[0].lower()
    elif fetch.name != "src":
        return None
    found = changes.get((action, name), [])
    # The changes are those of requests, so all of them come before the events of the response.
    if any(may_come_before(change, frame.moment) for change in found):
        return None
    for change in found:
        rule = change.rule
        if (
            rule is not None
            and change.moment.proxy is frame.moment.proxy
            and frame.moment.precedes(change.moment)
            and not _uses_answer(frame, rule)
            and not (action == "set-src" and _is_read_later(setters, frame))
        ):
            return f"before {action} in line {rule.setting.place.line}: send a group after it"
    return None


#: By the action and the name of a header, which is empty for an address.
_Changes: TypeAlias = Mapping[tuple[str, str], Sequence[Setter]]


def _changes(configuration: Configuration) -> _Changes:
    """Return the rules that set the address of the client, or a header that is not in ``_OF_CLIENTS``."""
    found: dict[tuple[str, str], list[Setter]] = {}
    for proxy in configuration.proxies:
        for rule in proxy.rules if proxy.kind != "defaults" else ():
            name = rule.arguments[0].text.lower() if rule.action == "set-header" and rule.arguments else ""
            of_client = name in _OF_CLIENTS or name.startswith(_OF_CLIENTS_PREFIXES)
            moment = moment_of(rule, proxy) if rule.action in ("set-header", "set-src") and not of_client else None
            if moment is not None and not moment.is_in_response:
                found.setdefault((rule.action, name), []).append(Setter(moment, rule))
    return found


def _uses_answer(frame: Frame, rule: Rule) -> bool:
    """Return whether the value that a rule sets comes from the agent, so that the message cannot have it."""
    agent = frame.engine.agent
    return agent is not None and any(f".{agent.prefix}." in word.text for word in rule.arguments)


def _is_read_later(setters: Setters, frame: Frame) -> bool:
    """Return whether a later frame of the same prefix has the client's address, too."""
    agent = frame.engine.agent
    return any(
        other.engine.agent is not None
        and agent is not None
        and other.engine.agent.prefix == agent.prefix
        and frame.moment.precedes(other.moment)
        and any(argument.expression and argument.expression.fetch.name == "src" for _, argument in other.arguments())
        for other in setters.frames
    )

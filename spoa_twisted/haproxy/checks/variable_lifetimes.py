"""Checks of scopes: variables that HAProxy drops, that are gone when a rule reads them, or that last too long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.naming import Names, Prefix, Sent, Way, terms_of
from spoa_twisted.haproxy.configuration import Configuration, Reading
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.expressions import Expression, Term

#: Settings whose variables HAProxy reads at the end of a request.
_LOGS: Final = frozenset({"log-format", "log-format-sd"})

#: The beginnings of the fetches whose values are the same for all requests of a connection.
_OF_CONNECTION: Final = ("src", "dst", "ssl_", "req.ssl_", "fc_", "so_", "fe_", "always_")

#: The beginnings of the fetches that have no value before there is a response.
_OF_RESPONSE: Final = ("res.", "scook", "shdr", "status")

#: Other fetches whose values do not depend on the request.
_CONSTANT: Final = frozenset({"bool", "int", "str", "env", "date", "rand", "nbsrv", "hostname"})


def check_lost(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find variables that a handler sets in a scope that does not exist when the message is sent."""
    found = {}
    for prefix in Names(configuration, answers).prefixes.values():
        for sent in prefix.sent:
            # A message that is sent in requests and in responses may set both scopes.
            sides = {way.in_response for way in sent.ways}
            lost, kept = ("req", "res") if sides == {True} else ("res", "req")
            for name in sent.sets or {} if len(sides) == 1 else ():
                if name.startswith(f"{lost}."):
                    side = "response" if sides == {True} else "request"
                    text = (
                        f"the handler of '{sent.message.name}' sets {name}, which HAProxy drops at a {side} event: set"
                        f" {kept}.{name[4:]} or txn.{name[4:]}"
                    )
                    found[sent.place, name] = Finding("variable-lost", Severity.ERROR, sent.place, text)
    yield from found.values()


def check_gone(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find ``req.`` variables of an agent that are read in responses or in the log."""
    names = Names(configuration, answers)
    found = {}
    for reading in configuration.readings:
        variable = reading.variable
        if variable.startswith("req.") and names.owners(variable) and variable not in names.set_by_rules:
            where = _after_request(reading)
            if where is not None:
                place = reading.word.place
                name = names.owners(variable)[0].own(variable).removeprefix("req.")
                text = f"{variable} is gone in {where}: let the handler set txn.{name}"
                found[place.file, place.line, text] = Finding("variable-gone", Severity.ERROR, place, text)
    yield from found.values()


def _after_request(reading: Reading) -> str | None:
    """Return where a variable is read, if ``req`` no longer exists there."""
    if reading.rule is not None:
        return f"{reading.rule.ruleset} rules" if "response" in reading.rule.ruleset else None
    return "the log" if reading.setting.texts[0] in _LOGS else None


def check_sticks(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find ``sess.`` variables that a message sets for one request, and that rules read for the next ones, too."""
    names = Names(configuration, answers)
    if not configuration.has_proxies or names.has_lua:
        return
    read: dict[str, list[Reading]] = {}
    for reading in configuration.readings:
        if reading.variable.startswith("sess.") and reading.rule is not None and reading.proxy.mode == "http":
            read.setdefault(reading.variable, []).append(reading)
    found = {}
    for variable, readings in read.items():
        for prefix in names.owners(variable):
            # A rule that unsets the variable, or sets it anew, knows that it stays.
            if variable not in names.set_by_rules and not names.is_unset(variable):
                for finding in _sticks(prefix, variable, readings):
                    found[finding.place, finding.text] = finding
    yield from found.values()


def _sticks(prefix: Prefix, variable: str, readings: list[Reading]) -> Iterator[Finding]:
    """Yield a finding for each way in which a message sets ``variable`` for one request, or one for all of them."""
    # If the handlers are not known, any message may set the variable.
    setters = prefix.sent if prefix.setters is None else prefix.setters.get(variable, [])
    ways = [way for sent in setters for way in sent.ways]
    # A message of the connection, or one that depends on a variable of the connection, is meant to set what lasts.
    if any(_is_of_connection(way) or _reads_session(way.terms) for way in ways) or any(map(_sends_session, setters)):
        return
    # A rule with the terms of a message's condition applies only to requests for which the message was sent.
    is_read_without = any(not any(_asks_same(way, reading) for way in ways) for reading in readings)
    if is_read_without and all(map(_varies, ways)):
        for way in ways:
            text = (
                f"{variable} stays set for later requests of a connection that do not fulfil this condition: use txn."
            )
            yield Finding("sess-sticks", Severity.WARNING, way.place, text)
    else:
        text = f"{variable} stays set for later requests of a connection for which the agent does not set it again"
        yield Finding("sess-sticks", Severity.INFO, ways[0].place, text)


def _is_of_connection(way: Way) -> bool:
    """Return whether a message is sent once for each connection of a client."""
    return way.event == "on-client-session" or way.proxy is None or way.proxy.mode != "http"


def _reads_session(terms: tuple[Term, ...]) -> bool:
    """Return whether a condition reads a variable of the connection."""
    return any((_variable(term.expression) or "").startswith("sess.") for term in terms)


def _sends_session(sent: Sent) -> bool:
    """Return whether a message has a variable of the connection as an argument: the agent goes on from its value."""
    return any((_variable(argument.expression) or "").startswith("sess.") for argument in sent.message.arguments)


def _variable(expression: Expression | None) -> str | None:
    return None if expression is None else expression.variable


def _varies(way: Way) -> bool:
    """Return whether the condition may be true for one request of a connection, and false for another one."""
    names = [term.expression.fetch.name for term in way.terms if term.expression is not None]
    same = _OF_CONNECTION if way.in_response else (*_OF_CONNECTION, *_OF_RESPONSE)
    return any(name not in _CONSTANT and not name.startswith(same) for name in names)


def _asks_same(way: Way, reading: Reading) -> bool:
    """Return whether a rule that reads the variable has all terms of the message's condition, too."""
    rule = reading.rule
    asked = set() if rule is None else {_test(term) for term in terms_of(rule.condition, reading.proxy.acls)}
    return all(_test(term) in asked for term in way.terms)


def _test(term: Term) -> tuple[object, ...]:
    """Return what a term compares, without its place."""
    return term.expression, term.flags, term.patterns

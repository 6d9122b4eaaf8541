"""The messages and their arguments, compared with the handlers that answer them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.checks.annotations import mismatch, source
from spoa_twisted.haproxy.checks.asked_messages import (
    AskedMessage,
    arguments_by_parameter,
    asked_messages,
    parameter_of,
)
from spoa_twisted.haproxy.checks.check import Check
from spoa_twisted.haproxy.checks.declarations import check_declaration
from spoa_twisted.haproxy.configuration import Argument, Configuration
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.expressions import Expression, Term

# Fetches of whole bodies and headers. To send them costs time, so it matters more if no handler takes them.
_LARGE: Final = frozenset(
    {"req.body", "res.body", "req.hdrs", "res.hdrs", "req.hdrs_bin", "res.hdrs_bin", "req.payload", "res.payload"}
)


def _each(find: Callable[[AskedMessage, Answer], Iterator[Finding]]) -> Callable[..., Iterator[Finding]]:
    """Return a check that calls ``find`` with each message that has a handler."""

    def check(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
        if answers is not None:
            for sent in asked_messages(configuration, answers):
                if sent.answer is not None:
                    yield from find(sent, sent.answer)

    return check


def check_unanswered(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find a message that no handler has been registered for."""
    if answers is None:
        return
    for sent in asked_messages(configuration, answers):
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


def check_unasked(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find a handler whose message HAProxy never sends."""
    if answers is None:
        return
    own = asked_messages(configuration, answers)
    if not own:
        return
    names = {sent.name for sent in own}
    agent = own[0].agent
    setting = agent.section.last("messages") or agent.section.last("groups") or agent.section.head
    for name in answers.by_message:
        if name not in names:
            text = f"the handler of {name!r} is never called: no message of that name is sent"
            yield Finding("handler-without-message", Severity.WARNING, setting.place, text)


def _of(sent: AskedMessage, answer: Answer) -> str:
    return f"the handler of {sent.name!r}" if answer.message else "the default handler"


def check_missing(sent: AskedMessage, answer: Answer) -> Iterator[Finding]:
    """Find a parameter without its argument."""
    names = ", ".join([argument.name for argument in sent.message.arguments if argument.name]) or "none"
    for parameter in answer.parameters:
        if parameter.required and parameter.name not in arguments_by_parameter(sent):
            text = f"{_of(sent, answer)} needs {parameter.name!r}; the message sends: {names}"
            yield Finding("argument-missing", Severity.ERROR, sent.place, text)


def check_arguments(sent: AskedMessage, answer: Answer) -> Iterator[Finding]:
    """Find an argument that the handler does not get: it has no name, or a name that comes twice or is not taken."""
    names = {parameter.name for parameter in answer.parameters}
    seen: set[str] = set()
    for number, argument in enumerate(sent.message.arguments):
        key, place = parameter_of(argument), argument.word.place
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


def _unnamed(sent: AskedMessage, answer: Answer, argument: Argument, number: int) -> Iterator[Finding]:
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


def check_types(sent: AskedMessage, answer: Answer) -> Iterator[Finding]:
    """Find a parameter whose annotation leaves out what HAProxy sends."""
    taken = arguments_by_parameter(sent)
    for parameter in answer.parameters:
        argument = taken.get(parameter.name)
        if argument is None or argument.expression is None or parameter.annotation is None or not parameter.required:
            continue
        present = _is_present(argument, sent)
        text = mismatch(parameter.annotation, argument.expression, present=present)
        if text is not None:
            yield Finding("argument-type", Severity.WARNING, argument.word.place, f"{parameter.name!r} is {text}")


def _is_present(argument: Argument, sent: AskedMessage) -> bool:
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


def _proves(term: Term, argument: Argument, sent: AskedMessage) -> bool:
    """Return whether a term holds only if the argument has a value. The ACLs of haproxy.cfg are not known here."""
    if term.negated:
        return False
    if term.acl is not None:
        tests = sent.message.acls.get(term.acl)
        return tests is None or all(_proves(test, argument, sent) for test in tests)
    return term.expression is None or _same_source(term.expression, argument)


def _same_source(expression: Expression, argument: Argument) -> bool:
    return argument.expression is not None and source(expression.fetch) == source(argument.expression.fetch)


def check_time(sent: AskedMessage, answer: Answer) -> Iterator[Finding]:
    """Find a handler that the agent gives up when HAProxy does not wait any more."""
    processing = sent.agent.timeouts.get("processing")
    setting = sent.agent.section.last("timeout", "processing")
    if processing and setting is not None and answer.on_error and answer.timeout >= processing:
        text = (
            f"{_of(sent, answer)} may take {answer.timeout:g} s, and HAProxy waits {processing:g} s: its on_error never"
            " arrives"
        )
        yield Finding("on-error-too-late", Severity.WARNING, setting.place, text)


# The same function for three IDs, so that it runs once.
_arguments: Final = _each(check_arguments)

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = (
    Check("message-without-handler", Severity.ERROR, "no handler answers a message", check_unanswered),
    Check("handler-without-message", Severity.WARNING, "a handler is never called", check_unasked),
    Check("argument-missing", Severity.ERROR, "a handler needs an argument that is not sent", _each(check_missing)),
    Check("argument-unused", Severity.INFO, "a handler does not take an argument", _arguments),
    Check("argument-unnamed", Severity.ERROR, "an argument has no name", _arguments),
    Check("argument-twice", Severity.WARNING, "two arguments become one parameter", _arguments),
    Check("declaration-differs", Severity.WARNING, "a handler declares something else", _each(check_declaration)),
    Check("argument-type", Severity.WARNING, "an annotation leaves out what HAProxy sends", _each(check_types)),
    Check("on-error-too-late", Severity.WARNING, "on_error arrives after HAProxy's timeout", _each(check_time)),
)

"""What the handlers declare, compared with how HAProxy asks them."""

from __future__ import annotations

from collections.abc import Iterator

from spoa_twisted.handlers.binding import SEPARATORS
from spoa_twisted.handlers.declaration import split_condition
from spoa_twisted.haproxy.answers import Answer
from spoa_twisted.haproxy.checks.asked_messages import AskedMessage, arguments_by_parameter
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.expressions import Condition
from spoa_twisted.haproxy.grammar.lines import Place
from spoa_twisted.haproxy.grammar.words import read_words


def check_declaration(sent: AskedMessage, answer: Answer) -> Iterator[Finding]:
    """Find arguments, events and rules that differ from what the handler of a message declares."""
    declared = answer.declaration
    yield from _declared_arguments(sent, answer)
    if declared.event is not None:
        yield from _declared_event(sent, declared.event)
    if declared.rule is not None:
        yield from _declared_rule(sent, declared.rule)


def _differs(place: Place, text: str) -> Finding:
    return Finding("declaration-differs", Severity.WARNING, place, text)


def _declared_arguments(sent: AskedMessage, answer: Answer) -> Iterator[Finding]:
    taken = arguments_by_parameter(sent)
    required = {parameter.name for parameter in answer.parameters if parameter.required}
    for name, expression in (answer.declaration.args or {}).items():
        key = SEPARATORS.sub("_", name)
        argument = taken.get(key)
        if argument is None:
            # A parameter that must have the argument is an error: see argument-missing.
            if key not in required:
                yield _differs(sent.place, f"{name!r} is declared, as {expression!r}, and not sent")
        elif argument.expression is not None and argument.expression.text != expression.strip():
            yield _differs(
                argument.word.place, f"{name!r} is declared as {expression!r}, and sent as {argument.expression.text!r}"
            )


def _declared_event(sent: AskedMessage, declared: str) -> Iterator[Finding]:
    name, condition = split_condition(declared)
    event = sent.message.event
    if not sent.by_event:
        yield _differs(sent.message.section.head.place, f"declared for the event {name}, and sent by a group only")
    elif event is not None and event.name != name:
        yield _differs(event.setting.place, f"declared for the event {name}, and sent at {event.name}")
    elif event is not None and _is_other(condition, event.condition):
        yield _differs(event.setting.place, f"declared as '{declared}', and sent {_shown(event.condition)}")


def _declared_rule(sent: AskedMessage, declared: str) -> Iterator[Finding]:
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
    """Return whether a condition surely differs from the declared one. A named ACL may stand for any condition."""
    if condition is not None and any(term.acl is not None for terms in condition.alternatives for term in terms):
        return False
    # The declaration has quotes, and perhaps variables of the environment, whose values are not known here.
    words, _ = read_words(declared, Place("", 1), {})
    return "$" not in declared and " ".join([word.text for word in words]) != _text(condition)


def _text(condition: Condition | None) -> str:
    return "" if condition is None else " ".join([word.text for word in condition.words])


def _shown(condition: Condition | None) -> str:
    return f"'{_text(condition)}'" if condition else "without a condition"

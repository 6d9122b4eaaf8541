"""Variables that two messages of one frame set: the later handler replaces what the earlier one has set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spoa_twisted.handlers.variable_types import members_of
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.checks.frames import Frame
from spoa_twisted.haproxy.checks.naming import Names, Prefix
from spoa_twisted.haproxy.checks.when_sent import all_frames, never_happens
from spoa_twisted.haproxy.configuration import Configuration, SpoeMessage
from spoa_twisted.haproxy.finding import Finding, Severity


def check_set_twice(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find variables that two handlers set, if HAProxy surely asks both in one NOTIFY."""
    if answers is None:
        return
    names = Names(configuration, answers)
    read = {reading.variable for reading in configuration.readings if reading.rule is not None}
    found = {}
    for engine, frame in all_frames(configuration):
        if engine.agent is None or never_happens(configuration, frame):
            continue
        prefix = names.prefixes[engine.agent.prefix]
        for finding in _in_frame(frame, prefix, answers, read):
            # Several filters may have the same scope, and several rules may send the same group.
            found[finding.place, finding.text] = finding
    yield from found.values()


def _in_frame(frame: Frame, prefix: Prefix, answers: Answers, read: set[str]) -> Iterator[Finding]:
    # By the condition and the variable: the message that sets it, and its handler.
    first: dict[tuple[str, str], tuple[SpoeMessage, Answer]] = {}
    for message in frame.messages:
        # Of the default handler, it is not known which variables it sets for which message.
        answer = answers.by_message.get(message.name)
        condition = _condition(message)
        if answer is None or condition is None:
            continue
        for name in answer.sets or ():
            variable = prefix.whole(name)
            if variable in prefix.made:
                continue
            other, other_answer = first.setdefault((condition, name), (message, answer))
            if other is not message:
                is_bool = _declares_bool(answer, name) or _declares_bool(other_answer, name)
                text = (
                    f"{other.name!r} and {message.name!r} set {variable} in one NOTIFY, and the last one wins: give"
                    " each a variable of its own"
                )
                severity = Severity.ERROR if is_bool and variable in read else Severity.WARNING
                yield Finding("set-twice", severity, message.section.head.place, text)


def _condition(message: SpoeMessage) -> str | None:
    """Return the text of the condition with which a message is sent. ``None`` if it may differ from its text.

    A named ACL of one message may be another one in the next message.
    """
    condition = None if message.event is None else message.event.condition
    if condition is None:
        return ""
    if any(term.acl is not None for terms in condition.alternatives for term in terms):
        return None
    return " ".join(["unless" if condition.unless else "if", *[word.text for word in condition.words]])


def _declares_bool(answer: Answer, name: str) -> bool:
    declared: Any = (answer.declaration.sets or {}).get(name)
    return declared is not None and bool in members_of(declared)

"""What the messages of one frame hold: values that are set by the same frame, and more than fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.frames import Frame, frames
from spoa_twisted.haproxy.checks.setters import Setters, may_come_before
from spoa_twisted.haproxy.configuration import Argument, Configuration, SpoeAgent, SpoeMessage
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.lines import Place
from spoa_twisted.haproxy.grammar.sections import Setting

_NUMBER: Final = re.compile("[0-9]{1,15}")

#: HAProxy's defaults, in bytes.
_BUFSIZE: Final = 16384
_MAXREWRITE: Final = 1024

#: Bytes of a frame that HAProxy keeps free for its head. HAProxy >= 3.1 needs a byte more.
_FRAME_HEAD: Final = 32

#: The longest string whose length takes one byte.
_SHORT_STRING: Final = 239

#: Bytes of a buffer that HAProxy needs for the length of a frame.
_LENGTH_OF_FRAME: Final = 4

#: Bytes of the length in front of a body, at most.
_LENGTH_OF_BODY: Final = 3

#: Fetches whose value may fill the buffer.
BODIES: Final = frozenset({"req.body", "res.body"})


def check_same_frame(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find arguments that read what another message of the same frame sets."""
    setters = Setters(configuration, answers)
    if not setters.are_known:
        return
    found = set[Place]()
    for frame in setters.frames:
        for message, argument in frame.arguments():
            variable = None if argument.expression is None else argument.expression.variable
            if variable is None or argument.word.place in found:
                continue
            writer = _writer(setters, frame, message, variable)
            if writer is not None:
                found.add(argument.word.place)
                text = f"{message.name!r} is sent together with {writer.name!r}, which sets {variable}: send it later"
                yield Finding("same-frame", Severity.ERROR, argument.word.place, text)


def _writer(setters: Setters, frame: Frame, reader: SpoeMessage, variable: str) -> SpoeMessage | None:
    """Return the message of a frame that sets a variable which ``reader`` needs, and which nothing sets before."""
    owners = setters.names.owners(variable)
    scope = variable.partition(".")[0]
    all_setters = setters.of(variable)
    if (
        all_setters is None
        or not any(frame.engine in owner.engines for owner in owners)
        # A variable of the process is kept for all requests, and options set theirs after each frame.
        or scope == "proc"
        or any(variable in owner.made for owner in owners)
        or any(may_come_before(setter, frame.moment) for setter in all_setters)
    ):
        return None
    others = [message for message in frame.messages if message is not reader]
    sure = [message for message in others if setters.surely_sets(message, variable)]
    if sure and not (scope == "sess" and setters.may_set(reader, variable)):
        return sure[0]
    # Without the handlers: if nothing but this frame is sent for the prefix, one of its messages sets the variable.
    # A message may count requests in a variable of the session, so that is no error.
    unknown = setters.names.answers is None and all(setter.frame is frame for setter in all_setters)
    return others[0] if unknown and others and scope != "sess" else None


def check_sizes(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find frames that are too small for their messages, if HAProxy does not divide them."""
    for engine in configuration.engines:
        agent = engine.agent
        if agent is None or (not configuration.rewritten and _divides(agent)):
            continue
        for frame in frames(configuration, engine):
            yield from _too_small(configuration, agent, frame)


def _divides(agent: SpoeAgent) -> bool:
    """Return whether HAProxy <= 3.0 divides long payloads, which it does if nothing is said."""
    last = [
        setting.texts[0]
        for setting in agent.section.settings
        if setting.starts("option", "send-frag-payload") or setting.starts("no", "option", "send-frag-payload")
    ]
    return last[-1:] != ["no"]


def global_number(configuration: Configuration, name: str, default: int) -> int:
    """Return the number behind a setting of the section ``global``."""
    setting = None if configuration.global_section is None else configuration.global_section.last(name)
    return default if setting is None else _number(setting, default)


def _number(setting: Setting, default: int) -> int:
    """Return the number behind the first word of a setting. HAProxy refuses other texts."""
    text = " ".join(setting.texts[1:2])
    return int(text) if _NUMBER.fullmatch(text) else default


def room_for_bodies(configuration: Configuration) -> int:
    """Return how many bytes header and body of a request can have together in HAProxy's buffer."""
    bufsize = global_number(configuration, "tune.bufsize", _BUFSIZE)
    return max(0, bufsize - global_number(configuration, "tune.maxrewrite", _MAXREWRITE))


def _too_small(configuration: Configuration, agent: SpoeAgent, frame: Frame) -> Iterator[Finding]:
    bufsize = global_number(configuration, "tune.bufsize", _BUFSIZE)
    setting = agent.section.last("max-frame-size")
    default = bufsize - _LENGTH_OF_FRAME
    size = default if setting is None else _number(setting, default)
    # Conditions of messages may exclude each other. Messages without condition are sent together.
    always = [message for message in frame.messages if message.event is None or message.event.condition is None]
    least = sum(map(_least_size, always))
    messages = always or frame.messages[:1]
    bodies = [argument for message in messages for argument in message.arguments if _is_body(argument)]
    if _FRAME_HEAD + configuration.rewritten + least > size:
        place = messages[0].section.head.place if setting is None else setting.place
        text = f"the names and constants {frame.when} alone do not fit in max-frame-size: each request is error 3"
        yield Finding("frame-too-small", Severity.ERROR, place, text)
    elif bodies and len(bodies) * room_for_bodies(configuration) > size:
        # The same number for all versions, so that the finding is the same.
        left = (size - _FRAME_HEAD - 1 - least) // len(bodies) - _LENGTH_OF_BODY
        place = bodies[-1].word.place if setting is None else setting.place
        if setting is None:
            text = f"with {len(bodies)} bodies in a frame, bodies over {left} bytes are error 3: send the body once"
        else:
            text = f"bodies over {left} bytes are error 3, because they do not fit in max-frame-size: remove this line"
        yield Finding("frame-too-small", Severity.WARNING, place, text)


def _is_body(argument: Argument) -> bool:
    expression = argument.expression
    # A converter may shorten the value, as a checksum does.
    return expression is not None and expression.fetch.name in BODIES and not expression.converters


def _least_size(message: SpoeMessage) -> int:
    """Return the bytes of a message whose values are all NULL, except constants."""
    return _string(message.name) + 1 + sum(map(_least_argument, message.arguments))


def _least_argument(argument: Argument) -> int:
    size = _string(argument.name or "") + 1
    expression = argument.expression
    if expression is not None and expression.fetch.name == "str" and not expression.converters:
        size += sum(map(_string, expression.fetch.arguments[:1]))
    return size


def _string(text: str) -> int:
    """Return the bytes of a string of this length, at least."""
    size = len(text.encode())
    return (1 if size <= _SHORT_STRING else 2) + size

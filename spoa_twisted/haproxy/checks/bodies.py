"""Bodies and payloads: whether they have come when a message reads them, and how much of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.frame_contents import BODIES, room_for_bodies
from spoa_twisted.haproxy.checks.frames import Frame, Moment, moment_of
from spoa_twisted.haproxy.checks.when_sent import all_frames
from spoa_twisted.haproxy.configuration import Argument, Configuration, Proxy
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.lines import Place

#: Fetches that need the body of a request or of a response. ``req.body_size`` may come from the header.
_OF_REQUEST: Final = frozenset({"req.body", "req.body_len", "req.body_param"})
_OF_RESPONSE: Final = frozenset({"res.body", "res.body_len"})

#: Fetches that read the first bytes of a connection, beside all that begin with ``req.ssl_`` and ``req_ssl_``.
_PAYLOADS: Final = frozenset({"req.len", "req_len", "req.payload", "req.payload_lv", "payload", "payload_lv"})

#: Texts in rules that look at the size of a body. A configuration with such a rule handles long bodies on purpose.
_SIZES: Final = ("req.body_size", "res.body_size", "content-length")


def check_bodies(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find bodies for which HAProxy does not wait, and say how much of a long body arrives."""
    found = set[Place]()
    for _, frame in all_frames(configuration):
        for message in frame.messages:
            place = message.section.head.place
            needed = [argument for argument in message.arguments if _fetch(argument) in _OF_REQUEST | _OF_RESPONSE]
            if place not in found and needed:
                found.add(place)
                yield from _about_body(configuration, frame, needed)


def _about_body(configuration: Configuration, frame: Frame, needed: list[Argument]) -> Iterator[Finding]:
    """Say what is wrong with the arguments of a message that need a body."""
    for argument in needed:
        text = _not_awaited(configuration, frame, _fetch(argument))
        if text is not None:
            yield Finding("body-not-awaited", Severity.ERROR, argument.word.place, text)
            return
    bodies = [argument for argument in needed if _fetch(argument) in BODIES]
    if bodies and not _knows_sizes(frame.engine.proxy):
        size = room_for_bodies(configuration)
        text = f"of a longer body, {size} bytes arrive, less the header: refuse longer ones, or raise tune.bufsize"
        yield Finding("body-cut", Severity.INFO, bodies[0].word.place, text)


def _fetch(argument: Argument) -> str:
    return "" if argument.expression is None else argument.expression.fetch.name


def _not_awaited(configuration: Configuration, frame: Frame, kind: str) -> str | None:
    """Return the text of a finding if HAProxy does not wait for the body that ``kind`` needs. Otherwise ``None``."""
    of_response = kind in _OF_RESPONSE
    ruleset = "http-response" if of_response else "http-request"
    # Fetches at other moments, as res.body at on-frontend-http-request, are for HAProxy to refuse.
    if frame.moment.is_in_response != of_response or not _is_http(frame):
        return None
    if any(_waits(configuration, frame.moment, proxy, ruleset) for proxy in configuration.proxies):
        return None
    proxy = frame.engine.proxy
    where = f"{proxy.kind} {proxy.name}"
    if frame.rule is not None:
        return f"{kind} is what came with the header: add '{ruleset} wait-for-body time 5s' before line {_line(frame)}"
    if of_response:
        return f"{kind} is what came with the header: send a group after 'http-response wait-for-body'"
    return f"{kind} is what came with the header: add 'option http-buffer-request' to {where}"


def _line(frame: Frame) -> int:
    assert frame.rule is not None
    return frame.rule.setting.place.line


def _is_http(frame: Frame) -> bool:
    name = frame.event if frame.rule is None else frame.rule.ruleset
    return "-http-" in name or name.startswith("http-")


def _waits(configuration: Configuration, moment: Moment, proxy: Proxy, ruleset: str) -> bool:
    """Return whether a proxy may wait for the body before ``moment``."""
    if proxy.kind == "defaults" or (proxy is not moment.proxy and proxy.kind == moment.proxy.kind == "frontend"):
        return False
    if ruleset == "http-request" and any(setting.starts("option", "http-buffer-request") for setting in proxy.settings):
        # The option of a backend works from the backend's events on.
        is_later = proxy.kind == "backend" and moment.precedes_backends
        if not is_later:
            return True
    return any(
        (other := moment_of(rule, proxy)) is not None and other.precedes(moment)
        for rule in proxy.rules
        if rule.ruleset == ruleset and rule.action == "wait-for-body"
    )


def _knows_sizes(proxy: Proxy) -> bool:
    texts = [word.text.lower() for rule in proxy.rules for word in rule.setting.words]
    texts += [word.text.lower() for setting in proxy.settings if setting.starts("acl") for word in setting.words]
    return any(size in text for text in texts for size in _SIZES)


def check_payloads(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find arguments that read the client's data before the client can have sent any."""
    found = set[Place]()
    for _, frame in all_frames(configuration):
        if frame.event == "on-frontend-tcp-request":
            mend = "send a group after the data"
        elif _does_not_wait(frame):
            mend = "add 'if { req.len gt 0 }' to the rule"
        else:
            continue
        for _, argument in frame.arguments():
            kind = _fetch(argument)
            place = argument.word.place
            if place not in found and (kind in _PAYLOADS or kind.startswith(("req.ssl_", "req_ssl_"))):
                found.add(place)
                text = f"{kind} is empty {frame.when}, before the client has sent anything: {mend}"
                yield Finding("payload-too-early", Severity.ERROR, place, text)


def _does_not_wait(frame: Frame) -> bool:
    """Return whether a rule sends a group once, as soon as the client has connected.

    If a condition waits for data, HAProxy runs all rules of the ruleset once more after that.
    """
    rule, proxy = frame.rule, frame.engine.proxy
    if rule is None or rule.ruleset != "tcp-request content" or proxy.kind == "backend" or proxy.mode != "tcp":
        return False
    return all(other.condition is None for other in proxy.rules if other.ruleset == rule.ruleset)

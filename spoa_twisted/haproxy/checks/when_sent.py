"""When HAProxy sends a message, and when it does not: modes, delays, and its own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.frames import Frame, frames
from spoa_twisted.haproxy.configuration import Configuration, Engine, Proxy, Rule
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.lines import Place
from spoa_twisted.haproxy.times import seconds

#: Actions of http-request with which HAProxy answers itself.
_ANSWERS: Final = frozenset({"auth", "deny", "redirect", "return", "tarpit"})

#: HAProxy's own ACL, which is true when the inspect-delay is over.
_END: Final = "WAIT_END"


def all_frames(configuration: Configuration) -> Iterator[tuple[Engine, Frame]]:
    """Yield each frame, with its engine."""
    for engine in configuration.engines:
        for frame in frames(configuration, engine):
            yield engine, frame


def check_mode(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find events of HTTP in mode tcp. A file without defaults may be a part of a configuration: its mode is open."""
    for engine, frame in all_frames(configuration):
        proxy = engine.proxy
        if not never_happens(configuration, frame):
            continue
        for _, event in frame.events:
            text = f"{event.name} never happens in mode tcp: set 'mode http' in {proxy.kind} {proxy.name}"
            yield Finding("http-event-in-tcp", Severity.ERROR, event.setting.place, text)


def never_happens(configuration: Configuration, frame: Frame) -> bool:
    """Return whether a frame is for an event of HTTP in a proxy that never parses requests."""
    proxy = frame.engine.proxy
    return "-http-" in frame.event and proxy.mode == "tcp" and not _may_speak_http(configuration, proxy)


def _may_speak_http(configuration: Configuration, proxy: Proxy) -> bool:
    """Return whether a proxy in mode tcp may come to parse requests: by a rule, or in a backend in mode http."""
    if any(rule.action == "switch-mode" for rule in proxy.rules):
        return True
    if not any(setting.starts("mode") for setting in proxy.settings):
        return any(rule.ruleset.startswith("http-") for rule in proxy.rules)
    if proxy.kind == "backend":
        return False
    used = [word.text for rule in proxy.rules if rule.ruleset == "use_backend" for word in rule.arguments[:1]]
    used += [
        word.text for setting in proxy.settings if setting.starts("default_backend") for word in setting.words[1:2]
    ]
    backends = [other for other in configuration.proxies if other.kind in ("backend", "listen")]
    known = {backend.name: backend for backend in backends}
    return any(name not in known or known[name].mode == "http" for name in used)


def check_delays(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find groups that a rule for TCP sends, if HAProxy does not wait for the agent's answer."""
    for engine, frame in all_frames(configuration):
        if engine.agent is None or frame.rule is None or not frame.rule.ruleset.endswith(" content"):
            continue
        timeout = engine.agent.timeouts.get("processing")
        direction = frame.rule.ruleset.split()[0]
        setting = f"{direction} inspect-delay"
        delays = [line for line in engine.proxy.settings if line.starts(direction, "inspect-delay")]
        delay = seconds(" ".join(delays[-1].texts[2:3])) if delays else 0
        place = frame.rule.setting.place
        if delays and _waits_for_end(engine.proxy, frame.rule):
            text = (
                "WAIT_END waits until inspect-delay is over, and no time is left for the group: wait for data instead"
            )
        elif delay is None or timeout is None or delay >= timeout:
            continue
        elif delays:
            place = delays[-1].place
            text = (
                f"{setting} is shorter than timeout processing: the group is given up, nothing is logged; write "
                f"'{setting} {_above(timeout)}'"
            )
        else:
            text = f"without {setting}, HAProxy does not wait for the group: write '{setting} {_above(timeout)}'"
        yield Finding("inspect-delay-short", Severity.ERROR, place, text)


def _waits_for_end(proxy: Proxy, sending: Rule) -> bool:
    """Return whether the inspect-delay is over when HAProxy sends a group: by its condition, or a rule above."""
    alternatives = _alternatives(sending)
    if alternatives and all(_END in terms for terms in alternatives):
        return True
    rules = [rule for rule in proxy.rules if rule.ruleset == sending.ruleset]
    # With another term beside it, HAProxy may know without waiting that the condition is false.
    return any(_alternatives(rule) == [[_END]] for rule in rules[: rules.index(sending)])


def _alternatives(rule: Rule) -> list[list[str]]:
    """Return the names of the ACLs in a rule's condition, with "" for a term that is negated or anonymous."""
    condition = rule.condition
    if condition is None or condition.unless:
        return []
    return [
        ["" if term.acl is None or term.negated else term.acl for term in terms] for terms in condition.alternatives
    ]


def _above(timeout: float) -> str:
    return f"{int(timeout) + 1}s"


def check_ids(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find arguments with an id that no frontend makes."""
    found = set[Place]()
    for engine, frame in all_frames(configuration):
        # Any frontend may use a backend.
        fronts = [engine.proxy] if engine.proxy.kind != "backend" else configuration.proxies
        if any(setting.starts("unique-id-format") for proxy in fronts for setting in proxy.settings):
            continue
        for _, argument in frame.arguments():
            place = argument.word.place
            if argument.expression is not None and argument.expression.fetch.name == "unique-id" and place not in found:
                found.add(place)
                where = "the frontend" if engine.proxy.kind == "backend" else f"{engine.proxy.kind} {engine.proxy.name}"
                text = f"unique-id is NULL: add 'unique-id-format %[uuid]' to {where}"
                yield Finding("no-unique-id", Severity.WARNING, place, text)


def check_answers(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find messages of responses, if HAProxy answers some requests itself."""
    for engine, frame in all_frames(configuration):
        if frame.event != "on-http-response":
            continue
        own = [rule for rule in engine.proxy.rules if rule.ruleset == "http-request" and rule.action in _ANSWERS]
        for message, event in frame.events if own else ():
            action, line = own[0].action, own[0].setting.place.line
            text = f"{message.name!r} is not sent for HAProxy's own answers, as those of {action!r} in line {line}"
            yield Finding("own-answers", Severity.INFO, event.setting.place, text)

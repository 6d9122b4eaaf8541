"""HAProxy runs rules and sends the messages of events in the order of ``Stage``."""

from __future__ import annotations

from pathlib import Path

from spoa_twisted import Handlers, Message
from spoa_twisted.haproxy.order import EVENTS, stage_of_event, stage_of_rule
from spoa_twisted.haproxy.reading import read
from tests.haproxy.branches import Branch
from tests.haproxy.conftest import Serve, StartHAProxy
from tests.haproxy.harness import bounded

#: Each rule adds its name to ``sess.order``.
RULESETS = (
    *("tcp-request connection", "tcp-request session", "tcp-request content", "http-request", "tcp-response content"),
    *("http-response", "http-after-response"),
)


def rules(place: str, rulesets: tuple[str, ...]) -> str:
    """Return a rule of each ruleset, in an order that is not that of HAProxy."""
    return "".join(
        f'    {ruleset} set-var-fmt(sess.order) "%[var(sess.order)] {place}:{ruleset.replace(" ", "-")}"\n'
        for ruleset in rulesets[::-1]
    )


def messages(prefix: str) -> str:
    """Return a message for each event, which sends ``sess.order``."""
    names = " ".join(f"{prefix}{event}" for event in EVENTS)
    sections = "".join(
        f"\nspoe-message {prefix}{event}\n    args order=var(sess.order)\n    event {event}\n" for event in EVENTS
    )
    return f"    messages {names}\n{sections}"


@bounded
async def test_order(serve: Serve, start_haproxy: StartHAProxy, branch: Branch, tmp_path: Path) -> None:
    """At each event exactly the rules have run whose stage is smaller. A backend's filter sees no earlier events."""
    seen: dict[str, list[str]] = {}
    handlers = Handlers()

    def record(message: Message) -> None:
        seen[message.name] = str(message["order"] or "").split()

    handlers.default(record)
    second = tmp_path / "second.conf"
    second.write_text(
        f"[second]\nspoe-agent second\n    use-backend agents\n    timeout processing 15s\n{messages('b-')}"
    )
    haproxy = start_haproxy(
        serve(handlers),
        spoe=messages("f-"),
        web=f"""\
{rules("f", RULESETS[:4] + RULESETS[5:])}
    default_backend app

backend app
    filter spoe engine second config {second}
{rules("b", RULESETS[2:])}
    server origin unix@{tmp_path}/origin
""",
        origin=f"    bind unix@{tmp_path}/origin\n    http-request return status 200",
    )

    await haproxy.get()

    (file,) = tmp_path.glob("*/haproxy.cfg")
    proxies = {proxy.name: proxy for proxy in read([], [file], version=branch.version, environment={}).proxies}
    stages = {
        rule.setting.texts[-1].split()[-1]: stage_of_rule(rule, proxies[name])
        for name in ("web", "app")
        for rule in proxies[name].rules
        if "sess.order" in rule.setting.texts[-1]
    }
    assert len(stages) == 11
    expected = {}
    for prefix, proxy in (("f-", proxies["web"]), ("b-", proxies["app"])):
        for event in EVENTS:
            at = stage_of_event(event, proxy)
            if at is not None:
                before = [(stage, rule) for rule, stage in stages.items() if stage is not None and stage < at]
                expected[prefix + event] = [rule for _, rule in sorted(before)]
    assert seen == expected


#: The lines of a message, and whether HAProxy sends it.
EVENT_LINES = {
    ("if FALSE", ""): False,
    ("", "if FALSE"): False,
    ("if FALSE", "if TRUE"): True,
    ("if TRUE", "if FALSE"): False,
}


@bounded
async def test_conditions_of_two_events(
    serve: Serve, start_haproxy: StartHAProxy, branch: Branch, tmp_path: Path
) -> None:
    """The condition that counts is the last one of all ``event`` lines of a message."""
    seen = []
    handlers = Handlers()

    def record(message: Message) -> None:
        seen.append(message.name)

    handlers.default(record)
    event = "    event on-frontend-http-request"
    sections = [
        f"\nspoe-message m{number}\n{event} {first}\n{event} {second}\n"
        for number, (first, second) in enumerate(EVENT_LINES)
    ]
    haproxy = start_haproxy(
        serve(handlers), spoe=f"    messages m0 m1 m2 m3\n{''.join(sections)}", web="    default_backend origin"
    )

    await haproxy.get()

    assert seen == [f"m{number}" for number, sent in enumerate(EVENT_LINES.values()) if sent]
    (file,) = tmp_path.glob("*/haproxy.cfg")
    (engine,) = read([], [file], version=branch.version, environment={}).engines
    assert engine.scope is not None
    for message, sent in zip(engine.scope.messages, EVENT_LINES.values(), strict=True):
        assert message.event is not None
        assert message.event.condition is not None
        assert (message.event.condition.words[-1].text == "TRUE") == sent

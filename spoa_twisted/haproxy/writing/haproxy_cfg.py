"""A plan -> lines for haproxy.cfg, or a whole haproxy.cfg."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from types import NoneType
from typing import Final

from spoa_twisted.handlers.variable_types import members_of
from spoa_twisted.haproxy.writing.plan import Phase, Plan, PlannedMessage
from spoa_twisted.haproxy.writing.words import time_of

#: The rules of a part are written in this order, which is that in which HAProxy runs them.
_RULESETS: Final = ("tcp-request content", "http-request", "tcp-response content", "http-response")

#: A boolean variable with one of these words in its name allows something, so a rule refuses unless it is true.
_ALLOWING: Final = frozenset(
    {
        *("allow", "allowed", "allows", "authorized", "clean", "good", "human", "known", "ok", "passed", "permitted"),
        *("trusted", "unlisted", "valid"),
    }
)

#: Seconds that HAProxy waits for a body.
_BODY_TIME: Final = 5

_AGENTS: Final = """\
backend {agents}
.if version_atleast(3.1)
    mode spop
.else
    mode tcp
.endif
    balance roundrobin
    option spop-check
    option redispatch 1
    timeout connect 100ms
    timeout check 500ms
    timeout server {server}
    default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}"""

_WHOLE: Final = """\
# For HAProxy 2.6 and newer.
# Start the agent:  {agent}
# Start HAProxy:    haproxy -f haproxy.cfg
# Send a request:   curl -i http://127.0.0.1:8080/
global
    # Relative paths start at the folder of this file: spoe.conf is there too.
    default-path config
    log stderr format raw local0 notice
{tune}
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-request 20s

{site}
# Below all frontends: HAProxy >= 3.1 then reuses its connections to the agent more often.
{agents}"""

_FRONTEND: Final = """\
frontend www
{mode}    bind 127.0.0.1:8080
{rules}    default_backend app

backend app
{mode}{backend_rules}    server app1 127.0.0.1:8081
"""

_LISTEN: Final = """\
listen www
{mode}    bind 127.0.0.1:8080
{rules}    server app1 127.0.0.1:8081
"""

#: A section for a haproxy.cfg that serves without any other program.
_STUB: Final = """
# It stands for your application. Remove it when your application listens on 127.0.0.1:8081.
frontend app-stub
    bind 127.0.0.1:8081
    http-request return status 200 content-type text/plain string "Hello.\\n"
"""


def parts(plan: Plan) -> str:
    """Return the lines for an existing haproxy.cfg, with a comment that says where they belong."""
    text = ""
    if plan.bufsize is not None:
        text += f"    # Into the section global.\n    tune.bufsize {plan.bufsize}\n\n"
    rules, backend_rules = _rules(plan)
    if plan.needs_listen:
        text += (
            f"    # Into a section listen, with the server lines of the application, before its other rules.\n{rules}\n"
        )
    else:
        text += f"    # Into the frontend, before its other rules.\n{rules}\n"
    if backend_rules:
        text += f"    # Into each backend that the frontend uses, before its other rules.\n{backend_rules}\n"
    return f"{text}# Below all frontends.\n{agents_backend(plan)}"


def whole(plan: Plan, agent: str, *, stub: bool = True) -> str:
    """Return a whole haproxy.cfg.

    :param agent: the command that starts the agent, for a comment.
    :param stub: whether HAProxy stands for the application, too.
    """
    tune = "" if plan.bufsize is None else f"    tune.bufsize {plan.bufsize}\n"
    rules, backend_rules = _rules(plan)
    # Without a message of HTTP, the arguments may need the mode tcp: in the mode http, HAProxy ignores req.ssl_sni.
    mode = "" if plan.is_http else "    mode tcp\n"
    site = (_LISTEN if plan.needs_listen else _FRONTEND).format(mode=mode, rules=rules, backend_rules=backend_rules)
    text = _WHOLE.format(agent=agent, tune=tune, site=site, agents=agents_backend(plan))
    return text + _STUB if stub else text


def agents_backend(plan: Plan) -> str:
    """Return the backend of the agents."""
    servers = "".join([f"    server agent{number} {server}\n" for number, server in enumerate(plan.servers, 1)])
    return _AGENTS.format(agents=plan.backend, server=time_of(plan.server), servers=servers)


def _rules(plan: Plan) -> tuple[str, str]:
    """Return the lines for the section with the filter, and those for the backends behind it, which may be empty."""
    if plan.needs_listen:
        return _part(plan, *Phase), ""
    if not plan.is_http:
        # A frontend has no rules for responses in TCP mode.
        return _part(plan, Phase.REQUEST), _part(plan, Phase.BACKEND, Phase.RESPONSE)
    return _part(plan, Phase.REQUEST, Phase.RESPONSE), _part(plan, Phase.BACKEND)


def _part(plan: Plan, *phases: Phase) -> str:
    """Return the lines for the section with the filter, or for a backend behind it.

    :param phases: the phases of the messages whose variables the rules of the section read.
    """
    lines: list[str] = []
    if Phase.REQUEST in phases:
        lines.append(f"filter spoe engine {plan.engine} config spoe.conf")
        lines += _settings(plan)
        lines += _sends(plan)
    messages = [message for message in plan.messages if message.phase in phases]
    lines += _error_rules(plan, messages)
    lines += _required_rules(plan, messages)
    lines += _examples(plan, messages)
    return "".join([f"    {line}\n" for line in lines])


def _settings(plan: Plan) -> Iterator[str]:
    """Yield the settings without which an argument is empty."""
    if any(message.reads("req.body") for message in plan.by_event):
        yield "option http-buffer-request"
    if any(message.reads("unique-id") for message in plan.messages):
        yield "unique-id-format %[uuid]"


def _sends(plan: Plan) -> Iterator[str]:
    """Yield the rules that send groups, and those that wait for a body before."""
    groups = plan.groups
    for ruleset in _RULESETS:
        chosen = [group for group in groups if group.ruleset == ruleset]
        if chosen and ruleset.startswith("tcp-"):
            # The rule waits for the answer for this time at most.
            yield f"{ruleset.partition(' ')[0]} inspect-delay {time_of(plan.processing + 1000)}"
        body = {"http-request": "req.body", "http-response": "res.body"}.get(ruleset)
        for group in chosen:
            if body is not None and any(message.reads(body) for message in group.messages):
                yield f"{ruleset} wait-for-body time {_BODY_TIME}s {group.condition}".rstrip()
        for group in chosen:
            yield f"{ruleset} send-spoe-group {plan.engine} {group.name} {group.condition}".rstrip()


def _refusal(plan: Plan, message: PlannedMessage) -> str:
    """Return the rule that refuses because of a variable of ``message``."""
    if message.phase is Phase.RESPONSE:
        return "http-response deny" if plan.is_http else "tcp-response content reject"
    return "http-request deny" if plan.is_http else "tcp-request content reject"


def _sorted(rules: Iterable[str]) -> list[str]:
    return sorted(
        dict.fromkeys(rules), key=lambda rule: [rule.startswith(ruleset) for ruleset in _RULESETS].index(True)
    )


def _error_rules(plan: Plan, messages: Sequence[PlannedMessage]) -> Iterator[str]:
    """Yield the rules that refuse when the agent has failed."""
    rules = _sorted(_refusal(plan, message) for message in messages)
    if rules and plan.fail_open:
        yield "# The agent has failed: such requests pass unchecked. This rule would refuse them."
    elif rules:
        yield "# The agent has failed: without this rule such requests pass unchecked."
    for rule in rules:
        status = " deny_status 503" if rule.endswith("deny") else ""
        yield f"{'#' if plan.fail_open else ''}{rule}{status} if {{ var({plan.error}) -m found }}"


def _required_rules(plan: Plan, messages: Sequence[PlannedMessage]) -> Iterator[str]:
    """Yield the rules that refuse unless a variable is true."""
    rules = []
    for required in plan.required:
        for message in messages:
            if required.variable in message.sets:
                refusal, variable = _refusal(plan, message), plan.variable(required.variable)
                status = f" deny_status {required.deny_status}" if refusal.endswith("deny") else ""
                test = f"unless {{ var({variable}) -m bool }}"
                if plan.fail_open:
                    test = f"if {{ var({variable}) -m found }} !{{ var({variable}) -m bool }}"
                rules.append(f"{refusal}{status} {test}")
    if rules and plan.fail_open:
        yield "# The agent can refuse the request. When it has failed, the variable is absent, and the request passes."
    elif rules:
        yield '# The agent has to allow the request. "unless" also refuses when the variable is absent.'
    yield from _sorted(rules)


def _examples(plan: Plan, messages: Sequence[PlannedMessage]) -> Iterator[str]:
    """Yield examples of rules, as comments."""
    examples = [f"#{_refusal(plan, message)} {test}" for message in messages for test in _tests(plan, message)]
    if examples:
        yield "# What the agent sets. Rules that read it may look like these:"
        yield from dict.fromkeys(examples)


def _tests(plan: Plan, message: PlannedMessage) -> Iterator[str]:
    """Yield the conditions of rules that refuse, one for each variable that is a truth value or a number."""
    required = {required.variable for required in plan.required}
    for name, declared in message.sets.items():
        if name in required:
            continue
        types = set() if declared is None else set(members_of(declared)) - {NoneType}
        variable = plan.variable(name)
        if types == {bool}:
            allows = not _ALLOWING.isdisjoint(re.split(r"[._]", name))
            yield f"{'unless' if allows else 'if'} {{ var({variable}) -m bool }}"
        elif types and all(issubclass(kind, int) and kind is not bool for kind in types):
            yield f"if {{ var({variable}) -m int ge 1 }}"

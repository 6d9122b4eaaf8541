"""A plan -> the text of spoe.conf."""

from __future__ import annotations

from collections.abc import Iterator

from spoa_twisted.handlers.declaring import ERROR_VARIABLE
from spoa_twisted.haproxy.writing.plan import Plan, PlannedGroup, PlannedMessage
from spoa_twisted.haproxy.writing.words import lines_of, quoted, time_of


def spoe_conf(plan: Plan) -> str:
    """Return the text of spoe.conf: the scope of the engine."""
    return "".join([f"{line}\n" for line in _scope(plan)])


def _scope(plan: Plan) -> Iterator[str]:
    yield f"[{plan.engine}]"
    yield from _agent(plan)
    for message in plan.messages:
        yield ""
        yield from _message(message)
    for group in plan.groups:
        yield ""
        yield from _group(group)


def _agent(plan: Plan) -> Iterator[str]:
    yield f"spoe-agent {plan.agent}"
    yield from lines_of("messages", [message.name for message in plan.by_event])
    yield from lines_of("groups", [group.name for group in plan.groups])
    yield f"    option var-prefix {plan.prefix}"
    # HAProxy accepts no new variables of this scope from an agent, because they are never freed.
    process = {name: None for message in plan.messages for name in message.sets if name.startswith("proc.")}
    yield from lines_of("register-var-names", [name.partition(".")[2] for name in process])
    yield f"    option set-on-error {ERROR_VARIABLE.partition('.')[2]}"
    yield "    option dontlog-normal"
    yield "    timeout hello 2s"
    yield f"    timeout idle {time_of(plan.idle)}"
    yield f"    timeout processing {time_of(plan.processing)}"
    yield f"    use-backend {plan.backend}"
    yield "    log global"


def _message(message: PlannedMessage) -> Iterator[str]:
    yield f"spoe-message {message.name}"
    yield from lines_of("args", [quoted(f"{name}={expression}") for name, expression in message.args.items()])
    # For a message of a group, HAProxy knows no event.
    if not message.by_rule:
        yield f"    event {message.when} {message.condition}".rstrip()


def _group(group: PlannedGroup) -> Iterator[str]:
    yield f"spoe-group {group.name}"
    yield from lines_of("messages", [message.name for message in group.messages])

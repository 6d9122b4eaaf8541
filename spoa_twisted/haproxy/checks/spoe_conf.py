"""The file of the engine alone: unknown words, events, messages, groups, scopes and options."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks import frame_contents, spoe_agent, spoe_messages
from spoa_twisted.haproxy.checks.check import Check
from spoa_twisted.haproxy.finding import Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = (
    Check("unknown-keyword", _E, "HAProxy ignores an unknown word in a message", spoe_messages.check_words),
    Check("event-twice", _E, "only the last event of a message counts", spoe_messages.check_events),
    Check("message-never-sent", _W, "nothing sends the message", spoe_messages.check_messages),
    Check("group-never-sent", _E, "no rule sends the group", spoe_messages.check_groups),
    Check("event-in-group", _I, "the event of a message in a group does nothing", spoe_messages.check_both),
    Check("sent-twice", _W, "a message is sent at its event and in its group", spoe_messages.check_both),
    Check("outside-scope", _W, "no filter uses the scope", spoe_messages.check_scopes),
    Check("scope-in-name", _E, "a name has a scope, which HAProxy adds again", spoe_agent.check_names),
    Check("error-name-collides", _E, "a handler sets a variable of HAProxy's own", spoe_agent.check_collisions),
    Check("maxerrrate", _E, "after some errors, requests pass unchecked", spoe_agent.check_error_rate),
    Check("same-frame", _E, "a message reads what another one of its frame sets", frame_contents.check_same_frame),
    Check("empty-environment", _E, "an environment variable that is not set cuts a line", spoe_agent.check_environment),
    Check("no-log", _I, "failures of the agent are not logged", spoe_agent.check_log),
    Check("continue-on-error", _I, "the error stays set after a later success", spoe_agent.check_continue),
    Check("ignored-since-3.1", _I, "HAProxy >= 3.1 ignores settings", spoe_agent.check_ignored),
    Check("frame-too-small", _W, "what the messages hold may not fit in a frame", frame_contents.check_sizes),
)

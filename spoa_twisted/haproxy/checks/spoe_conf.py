"""The file of the engine alone: unknown words, events, messages, groups, scopes and options."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks.check import Check
from spoa_twisted.haproxy.checks.frame_contents import check_same_frame, check_sizes
from spoa_twisted.haproxy.checks.header_commas import check_header_commas
from spoa_twisted.haproxy.checks.set_twice import check_set_twice
from spoa_twisted.haproxy.checks.spoe_agent import (
    check_collisions,
    check_continue,
    check_environment,
    check_error_rate,
    check_ignored,
    check_log,
    check_names,
)
from spoa_twisted.haproxy.checks.spoe_messages import (
    check_both,
    check_events,
    check_groups,
    check_messages,
    check_scopes,
    check_words,
)
from spoa_twisted.haproxy.finding import Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = (
    Check("unknown-keyword", _E, "HAProxy ignores an unknown word in a message", check_words),
    Check("event-twice", _E, "only the last event of a message counts", check_events),
    Check("message-never-sent", _W, "nothing sends the message", check_messages),
    Check("group-never-sent", _E, "no rule sends the group", check_groups),
    Check("event-in-group", _I, "the event of a message in a group does nothing", check_both),
    Check("sent-twice", _W, "a message is sent at its event and in its group", check_both),
    Check("outside-scope", _W, "no filter uses the scope", check_scopes),
    Check("scope-in-name", _E, "a name has a scope, which HAProxy adds again", check_names),
    Check("error-name-collides", _E, "a handler sets a variable of HAProxy's own", check_collisions),
    Check("maxerrrate", _E, "after some errors, requests pass unchecked", check_error_rate),
    Check("same-frame", _E, "a message reads what another one of its frame sets", check_same_frame),
    Check("set-twice", _E, "two handlers set the same variable in one frame", check_set_twice),
    Check("header-commas", _W, "an argument is only a part of a header with commas", check_header_commas),
    Check("empty-environment", _E, "an environment variable that is not set cuts a line", check_environment),
    Check("no-log", _I, "failures of the agent are not logged", check_log),
    Check("continue-on-error", _I, "the error stays set after a later success", check_continue),
    Check("ignored-since-3.1", _I, "HAProxy >= 3.1 ignores settings", check_ignored),
    Check("frame-too-small", _W, "what the messages hold may not fit in a frame", check_sizes),
)

"""The variables that the agent sets and that rules read: names, scopes, types, and what happens on an error."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks.agent_failures import check_failures, check_headers
from spoa_twisted.haproxy.checks.check import Check
from spoa_twisted.haproxy.checks.variable_lifetimes import check_gone, check_lost, check_sticks
from spoa_twisted.haproxy.checks.variable_names import check_proc, check_too_long, check_unset, check_wrong_proxy
from spoa_twisted.haproxy.checks.variable_types import check_types
from spoa_twisted.haproxy.finding import Severity

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = (
    Check("wrong-proxy", Severity.WARNING, "a frontend reads a variable that no filter of it sets", check_wrong_proxy),
    Check("variable-unset", Severity.ERROR, "a rule reads a variable that nothing sets", check_unset),
    Check("error-never-set", Severity.ERROR, "a rule reads an error that no option set-on-error sets", check_unset),
    Check("variable-lost", Severity.ERROR, "a handler sets a scope that does not exist at the event", check_lost),
    Check("variable-gone", Severity.ERROR, "a req. variable is read in responses or in the log", check_gone),
    Check("variable-too-long", Severity.ERROR, "the name of a variable is too long for HAProxy", check_too_long),
    Check("variable-type", Severity.ERROR, "a condition never matches the type that the handler sets", check_types),
    Check("found-on-bool", Severity.WARNING, "a condition is also true if the variable is False", check_types),
    Check("proc-unregistered", Severity.WARNING, "HAProxy does not know the name of a proc. variable", check_proc),
    Check("sess-sticks", Severity.INFO, "a sess. variable keeps its value for later requests", check_sticks),
    Check("spoofable-header", Severity.INFO, "the client may send a header that the agent sets", check_headers),
    Check("fail-open", Severity.WARNING, "no rule refuses requests when the agent fails", check_failures),
    Check("error-unread", Severity.WARNING, "no rule reads the variable of set-on-error", check_failures),
)

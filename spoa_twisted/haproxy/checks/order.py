"""The order of events and rules: what is asked too early, and what comes too late."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks.bodies import check_bodies, check_payloads
from spoa_twisted.haproxy.checks.check import Check
from spoa_twisted.haproxy.checks.too_early import check_arguments, check_rules
from spoa_twisted.haproxy.checks.when_sent import check_answers, check_delays, check_ids, check_mode
from spoa_twisted.haproxy.finding import Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = (
    Check("http-event-in-tcp", _E, "an event of HTTP does not happen in mode tcp", check_mode),
    Check("too-early", _E, "a rule reads a variable before the agent can set it", check_rules),
    Check("argument-too-early", _E, "an argument is read before a rule sets it", check_arguments),
    Check("body-not-awaited", _E, "the body is read before it has come", check_bodies),
    Check("body-cut", _I, "the agent gets the beginning of a long body", check_bodies),
    Check("payload-too-early", _E, "the client's data is read before any has come", check_payloads),
    Check("inspect-delay-short", _E, "HAProxy gives the group up before the agent", check_delays),
    Check("no-unique-id", _W, "unique-id is NULL without unique-id-format", check_ids),
    Check("own-answers", _I, "HAProxy's own answers do not reach on-http-response", check_answers),
)

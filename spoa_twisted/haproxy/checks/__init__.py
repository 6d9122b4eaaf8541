"""The checks of a configuration, one module for each family.

To add a check, write a function as :data:`spoa_twisted.haproxy.checks.check.Find`, add a ``Check`` to ``CHECKS`` of its
module, and write ``pages/ID.rst``: what happens, how to see it, the mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks import agents_backend, handlers, order, spoe_conf, variables
from spoa_twisted.haproxy.checks.check import Check
from spoa_twisted.haproxy.configuration import Configuration
from spoa_twisted.haproxy.finding import Finding

#: All checks, family by family.
CHECKS: Final[tuple[Check, ...]] = (
    *handlers.CHECKS,
    *spoe_conf.CHECKS,
    *order.CHECKS,
    *variables.CHECKS,
    *agents_backend.CHECKS,
)

#: All checks by their ids.
BY_ID: Final[Mapping[str, Check]] = {check.id: check for check in CHECKS}


def find(configuration: Configuration, answers: Answers | None, checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """Return what ``checks`` find in a configuration, in the order of the checks."""
    # A dict, because a function that finds several ids stands in several checks.
    functions = dict.fromkeys(check.check for check in checks)
    return [finding for function in functions for finding in function(configuration, answers)]

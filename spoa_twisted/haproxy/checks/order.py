"""The order of events and rules: what is asked too early, and what comes too late."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks.check import Check

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = ()

"""The variables that the agent sets and that rules read: names, scopes, types, and what happens on an error."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks.check import Check

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = ()

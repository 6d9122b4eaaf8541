"""The file of the engine alone: unknown words, events, messages, groups, scopes and options."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks.check import Check

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = ()

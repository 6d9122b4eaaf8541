"""The backend of the agents: its mode, its place, its servers, their checks and its timeouts."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks.check import Check

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = ()

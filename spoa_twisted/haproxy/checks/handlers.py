"""The messages and their arguments, compared with the handlers that answer them."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.checks.check import Check

#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = ()

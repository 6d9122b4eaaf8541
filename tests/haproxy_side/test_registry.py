"""The list of all checks."""

from __future__ import annotations

import re
from collections import Counter

from spoa_twisted.haproxy.checks import BY_ID, CHECKS


def test_ids_are_unique() -> None:
    assert max(Counter(check.id for check in CHECKS).values(), default=1) == 1
    assert list(BY_ID.values()) == list(CHECKS)


def test_ids_can_be_typed() -> None:
    assert [check.id for check in CHECKS if not re.fullmatch("[a-z0-9]+([-.][a-z0-9]+)*", check.id)] == []


def test_each_title_is_one_line() -> None:
    assert [check.id for check in CHECKS if not 0 < len(check.title) <= 100 or "\n" in check.title] == []

"""The list of all checks."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from spoa_twisted.haproxy.checks import BY_ID, CHECKS

from . import test_agents_backend, test_handlers, test_order_checks, test_spoe_conf, test_variables

FAMILIES = (test_agents_backend, test_handlers, test_order_checks, test_spoe_conf, test_variables)


def test_ids_are_unique() -> None:
    assert max(Counter(check.id for check in CHECKS).values(), default=1) == 1
    assert list(BY_ID.values()) == list(CHECKS)


def test_ids_can_be_typed() -> None:
    assert [check.id for check in CHECKS if not re.fullmatch("[a-z0-9]+([-.][a-z0-9]+)*", check.id)] == []


def test_each_title_is_one_line() -> None:
    assert [check.id for check in CHECKS if not 0 < len(check.title) <= 100 or "\n" in check.title] == []


@pytest.mark.parametrize("table", ["SPEAKS", "SILENT"])
def test_each_check_has_configurations(table: str) -> None:
    """On one it speaks, and on a near one it is silent: the tests of each family have two tables."""
    tested = [id_ for module in FAMILIES for id_, cases in getattr(module, table).items() if cases]
    assert sorted(tested) == sorted(BY_ID)

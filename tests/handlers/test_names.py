"""Which names are similar to a wrong one."""

from __future__ import annotations

import pytest

from spoa_twisted.handlers.names import nearest


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("check_ip", ["scan-body", "check-ip"], ["check-ip"]),
        ("CHECK-IP", ["check_ip", "scan-body"], ["check_ip"]),
        ("chek-ip", ["check-ip", "check-id", "scan-body"], ["check-ip", "check-id"]),
        ("check-ip", ["Check_IP", "check-IP"], ["Check_IP", "check-IP"]),
        ("check-i", ["check-a1", "check-i2", "check-i3", "check-i4", "check-i"], ["check-i", "check-i4", "check-i3"]),
        ("other", ["check-ip"], []),
        ("check-ip", [], []),
        ("", ["check-ip"], []),
    ],
)
def test_the_nearest_names(name: str, names: list[str], expected: list[str]) -> None:
    """At most three, the most similar first. ``_`` and ``-`` count as equal, and so do upper and lower case."""
    assert nearest(name, iter(names)) == expected


def test_a_long_name_is_not_compared() -> None:
    """A peer may send it. Comparing it takes a time that grows with the product of both lengths."""
    assert nearest("x" * 256, ["x" * 256]) == ["x" * 256]
    assert nearest("x" * 257, ["x" * 257]) == []

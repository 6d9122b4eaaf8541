"""Names that are similar to a name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spoa_twisted.handlers.names import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("check_ip", ["check-ip"], ["check-ip"]),
        ("Check-IP", ["scan", "check-ip"], ["check-ip"]),
        ("check-ip", ["check-ips", "check_ip", "Check_Ip", "check-it"], ["check_ip", "Check_Ip", "check-ips"]),
        ("chek-ip", ["get-score", "check-ip"], ["check-ip"]),
        ("check-ip", ["scan-body"], []),
        ("check-ip", [], []),
        ("", ["a"], []),
        ("a1", ["a2", "a3", "a4", "a1"], ["a1"]),
    ],
)
def test_similar_names_are_found(name: str, names: list[str], expected: list[str]) -> None:
    """At most three, the most similar first."""
    assert nearest(name, names) == expected


def test_the_beginning_of_a_long_name_counts() -> None:
    """Only 64 characters are compared."""
    assert nearest("a" * 64 + "b" * 1_000_000, ["a" * 64 + "c" * 1_000_000]) == ["a" * 64 + "c" * 1_000_000]


def test_the_number_of_names_is_bounded() -> None:
    """No more than 256 names are compared."""
    taken: list[int] = []

    def names() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield f"x{number}"

    assert nearest("x255", names())[0] == "x255"
    assert len(taken) == 256


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["'a'"], "; did you mean 'a'?"), (["--a", "--b", "--c"], "; did you mean --a or --b or --c?")],
)
def test_the_end_of_an_error_text(names: list[str], text: str) -> None:
    """The caller quotes the names."""
    assert did_you_mean(iter(names)) == text

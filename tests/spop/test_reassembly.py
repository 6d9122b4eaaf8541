"""Reassembly: fragments become a payload, and the budget counts the incomplete payloads of all connections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from spoa_twisted.spop.messages import Message, encode_messages
from spoa_twisted.spop.reassembly import STALE_AFTER, Reassembly, ReassemblyBudget

IDS = b"\x01\x01"


def test_fragments_are_joined() -> None:
    """Fragments may be empty. A payload of exactly both limits is accepted."""
    budget = ReassemblyBudget(5)
    reassembly = Reassembly(IDS, 5, budget)
    for fragment in (b"ab", b"", b"c", b"de"):
        reassembly.add(fragment)
    assert (reassembly.payload(), reassembly.size, reassembly.exceeded) == (b"abcde", 5, "")
    assert budget.size == 5
    reassembly.clear()
    assert budget.size == 0


def test_a_payload_that_is_too_long() -> None:
    """The names come from all fragments, the one that exceeds the limit included. Then nothing is kept."""
    payload = encode_messages([Message("first"), Message("second", [("body", b"x" * 100)]), Message("third")])
    budget = ReassemblyBudget()
    reassembly = Reassembly(IDS, 20, budget)
    for start in range(0, len(payload), 12):
        reassembly.add(payload[start : start + 12])
    assert reassembly.names == ("first", "second")
    assert (reassembly.exceeded, reassembly.exceeded_size) == ("max_payload_size", 20)
    assert (reassembly.payload(), reassembly.size, budget.size) == (b"", len(payload), 0)


def test_a_lower_budget_affects_the_next_fragment() -> None:
    """The fragments that are there stay, unless the same payload gets another one."""
    budget = ReassemblyBudget(10)
    kept, refused = Reassembly(IDS, 10, budget), Reassembly(IDS, 10, budget)
    kept.add(b"abc")
    refused.add(b"abc")
    budget.max_size = 4
    refused.add(b"d")
    assert (refused.exceeded, refused.exceeded_size) == ("max_reassembly_size", 4)
    assert (kept.payload(), budget.size) == (b"abc", 3)


@pytest.mark.parametrize("passed", [STALE_AFTER, -1.0])
def test_stale_payloads_make_room(passed: float) -> None:
    """A peer that never sends the last fragments does not keep others from sending theirs. No more than needed goes."""
    clock = Clock()
    budget = ReassemblyBudget(30, clock.seconds)
    payloads = [Reassembly(IDS, 30, budget) for _ in range(3)]
    for payload in payloads:
        payload.add(encode_messages([Message("scan")]) + b"body")
    assert budget.size == 30
    clock.rightNow += passed
    late = Reassembly(IDS, 30, budget)
    late.add(b"x" * 11)
    assert [payload.exceeded for payload in payloads] == ["max_reassembly_size", "max_reassembly_size", ""]
    assert payloads[0].names == ("scan",)
    assert (late.payload(), budget.size) == (b"x" * 11, 21)
    # What follows of the others is discarded, and they are not counted twice.
    payloads[0].add(b"more")
    for payload in (*payloads, late):
        payload.clear()
    assert budget.size == 0


def test_only_stale_payloads_make_room() -> None:
    """Others are kept, and the one that needs room is refused, even if it is stale itself."""
    clock = Clock()
    budget = ReassemblyBudget(10, clock.seconds)
    old, young = Reassembly(IDS, 10, budget), Reassembly(IDS, 10, budget)
    old.add(b"12345")
    clock.rightNow += STALE_AFTER - 0.1
    young.add(b"12345")
    refused = Reassembly(IDS, 10, budget)
    refused.add(b"1")
    assert [payload.exceeded for payload in (old, young, refused)] == ["", "", "max_reassembly_size"]
    clock.rightNow += 0.1
    old.add(b"6")
    assert [payload.exceeded for payload in (old, young)] == ["max_reassembly_size", ""]
    assert budget.size == 5


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=30) | st.none())),
    max_size=st.integers(1, 60),
    max_total=st.integers(1, 150),
)
def test_the_budget_is_the_sum(steps: list[tuple[int, bytes | None]], max_size: int, max_total: int) -> None:
    """Whatever fragments arrive, in which order they end: the budget is the sum of what is kept, and is kept itself."""
    budget = ReassemblyBudget(max_total)
    open_ones: dict[int, Reassembly] = {}
    for number, fragment in steps:
        if fragment is None:
            if number in open_ones:
                open_ones.pop(number).clear()
        else:
            reassembly = open_ones.setdefault(number, Reassembly(IDS, max_size, budget))
            reassembly.add(fragment)
            assert bool(reassembly.exceeded) or len(reassembly.payload()) == reassembly.size <= max_size
        assert budget.size == sum(len(reassembly.payload()) for reassembly in open_ones.values()) <= max_total
    for reassembly in open_ones.values():
        reassembly.clear()
    assert budget.size == 0

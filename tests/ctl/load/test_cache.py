"""ctl.load.cache: a dictionary with a limit on its memory."""

from __future__ import annotations

import pytest

from spoa_twisted.ctl.load import cache
from spoa_twisted.ctl.load.cache import Cache

from .memory import MemoryLoad


def test_it_stores_until_the_memory_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is stored stays; a later one is not stored."""
    monkeypatch.setattr(cache, "MAX_BYTES", 200)
    numbers: Cache[int] = Cache()
    for number in range(10):
        numbers.store(b"key %d" % number, number)
    # Each entry takes 150 bytes and its key.
    assert numbers.entries == {b"key 0": 0, b"key 1": 1}


def test_without_room_each_ack_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load counts the ACKs that it cannot store just the same."""
    monkeypatch.setattr(cache, "MAX_BYTES", 0)
    memory = MemoryLoad()
    connection = memory.accept()
    window = memory.run()
    for _ in range(5000):
        connection.acknowledge()
    ring = memory.load._shared.rings._ring
    assert ring is not None
    assert ring.good_acks.entries == {}
    assert memory.load._verdicts._known.entries == {}
    window.end()
    connection.acknowledge()
    connection.lose()
    (outcome,) = memory.outcomes
    assert (outcome.notifys, outcome.errors) == (10_000, {})

"""``Readiness``: who waits for the start of a service, and what they get."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from spoa_twisted.readiness import Readiness


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


def results_of(readiness: Readiness, count: int = 2) -> list[Any]:
    """Return a list that gets the results of ``count`` Deferreds."""
    results: list[Any] = []
    for _ in range(count):
        readiness.when_ready().addBoth(results.append)
    return results


def test_ready(readiness: Readiness) -> None:
    """All that wait get the same result, and so do later callers."""
    results = results_of(readiness)
    assert results == []
    readiness.on_ready()
    assert results == [None, None]
    assert results_of(readiness) == [None, None]


def test_failed(readiness: Readiness) -> None:
    """A failure is for later callers too, until the next start."""
    results = results_of(readiness)
    readiness.on_failed(Failure(LookupError("boom")))
    assert [failure.type for failure in (*results, *results_of(readiness))] == [LookupError] * 4
    readiness.on_start()
    results = results_of(readiness)
    assert results == []
    readiness.on_ready()
    assert results == [None, None]


def test_stopped(readiness: Readiness) -> None:
    """Who waits gets a CancelledError. Later callers wait for the next start."""
    results = results_of(readiness)
    readiness.on_stop()
    assert [failure.type for failure in results] == [CancelledError] * 2
    readiness.on_ready()
    readiness.on_stop()
    assert results_of(readiness) == []


def test_a_wait_that_is_cancelled(readiness: Readiness) -> None:
    """The others get their result."""
    readiness.when_ready().addErrback(lambda failure: None).cancel()
    results = results_of(readiness)
    readiness.on_ready()
    assert results == [None, None]

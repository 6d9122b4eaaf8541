"""ctl.load.window: when the load measures."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock

from spoa_twisted.ctl.load.window import Window
from tests.ctl.agents import Agent, ack


def watched(clock: Clock) -> tuple[Window, list[str]]:
    """Return a window with a warm-up of 1 s and a duration of 10 s, and the list of its begin and end."""
    window, events = Window(clock, 1, 10), list[str]()
    window.watch(lambda: events.append("begin"), lambda: events.append("end"))
    return window, events


def test_it_begins_after_the_warm_up_and_ends_after_the_duration() -> None:
    """Then it is not interrupted, and it does not end again."""
    clock = Clock()
    window, events = watched(clock)
    clock.advance(0.9)
    assert events == []
    clock.advance(0.1)
    clock.advance(9.9)
    assert events == ["begin"]
    clock.advance(0.1)
    window.end()
    window.interrupt()
    assert events == ["begin", "end"]
    assert window.interrupted is False
    assert clock.getDelayedCalls() == []


def test_the_duration_counts_from_the_begin() -> None:
    """When the reactor is late with the begin, the end is later as well."""
    clock = Clock()
    _, events = watched(clock)
    clock.advance(5)
    clock.advance(9.9)
    assert events == ["begin"]
    clock.advance(0.1)
    assert events == ["begin", "end"]


def test_it_is_interrupted() -> None:
    """The window ends at once. During the warm-up it begins first. Then no call is pending."""
    for elapsed in (0.5, 5):
        clock = Clock()
        window, events = watched(clock)
        clock.advance(elapsed)
        window.interrupt()
        assert events == ["begin", "end"]
        assert window.interrupted is True
        assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_the_warm_up_is_not_counted(run_bench: Any, listen: Any) -> None:
    """The NOTIFYs that are answered during the warm-up are not in the figures."""
    agent = Agent(lambda ids, n: ack(ids))
    before = []
    reactor.callLater(0.3, lambda: before.append(agent.notifys))
    listen(agent)
    result = await run_bench("--warm-up=0.4", "--duration=0.2")
    assert result.errors == {}
    assert result.report["notifys"] <= agent.notifys - before[0]

"""A drain that timed out keeps no connection in memory; a clock that is set back makes no time negative."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest
from twisted.internet.task import Clock

from spoa_twisted import SPOAFactory
from spoa_twisted.agent.drain import QUIET_INTERVAL
from tests.agent.memory import Session, Waiting
from tests.agent.recording import Recorder
from tests.conftest import Logged


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython counts references")
def test_a_drain_that_timed_out_keeps_no_connection(
    factory: SPOAFactory, clock: Clock, waiting: Waiting, logged: Logged
) -> None:
    """The connection is freed although the garbage collector is off."""
    session = Session(factory)
    session.notify("wait")
    enabled = gc.isenabled()
    gc.disable()
    try:
        # The drain checks the connection, and aborts it before the next check, because the NOTIFY is still pending.
        drained = factory.drain(1.5 * QUIET_INTERVAL)
        clock.pump([0.0, QUIET_INTERVAL, QUIET_INTERVAL / 2])
        assert waiting.cancelled
        # Twisted's transports do the same when they have closed.
        session.wire.producer = None
        session.lose()
        assert drained.called
        waiting.deferreds.clear()
        waiting.cancelled.clear()
        agent = weakref.ref(session.agent)
        del session
        assert agent() is None
        assert logged.take() == ["warn: closing 1 connections that were not drained in time"]
    finally:
        if enabled:
            gc.enable()


def test_a_clock_that_is_set_back(clock: Clock, waiting: Waiting) -> None:
    """The time that a NOTIFY took is then unknown. It is 0, not negative: observers may add it to a total."""
    recorder = Recorder()
    session = Session(SPOAFactory(waiting.handlers, reactor=clock, observer=recorder))
    session.notify("wait")
    clock.rightNow -= 3600
    waiting.deferreds[0].callback(None)
    ((_, _, _, seconds),) = recorder.notifys
    assert seconds == 0

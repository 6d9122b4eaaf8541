"""ctl.load.pacer: a timer that is more exact than the reactor's."""

from __future__ import annotations

import threading
import time
from typing import Any

from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred

from spoa_twisted.ctl.load.pacer import Pacer
from tests.haproxy.harness import bounded

reactor: Any = default_reactor


@bounded
async def test_it_calls_in_the_reactor_s_thread_and_not_too_early() -> None:
    """Also for a time that is over. After stop(), its thread ends."""
    calls: list[tuple[bool, int]] = []
    called: list[Deferred[None]] = []

    def call() -> None:
        calls.append((threading.current_thread() is threading.main_thread(), time.perf_counter_ns()))
        called.pop().callback(None)

    pacer = Pacer(reactor, call)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "pacer"]
    for delay in (20_000_000, -5):
        due = time.perf_counter_ns() + delay
        waiting: Deferred[None] = Deferred()
        called.append(waiting)
        pacer.wake_at(due)
        await waiting
        in_main_thread, when = calls[-1]
        assert in_main_thread
        assert when >= due
    pacer.stop()
    thread.join(10)
    assert not thread.is_alive()

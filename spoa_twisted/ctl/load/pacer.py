"""A timer that is more exact than the reactor's."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, final


@final
class Pacer:
    """Calls a function in the reactor's thread at a point in time.

    The reactor's own timers are up to a millisecond late, because ``epoll_wait`` counts milliseconds. That is longer
    than the latency of a fast agent. So a thread sleeps, and then wakes the reactor: it is late by about 0.1 ms.

    :param reactor: it must run.
    :param call: the function. It is called once for each :meth:`wake_at`.
    """

    def __init__(self, reactor: Any, call: Callable[[], object]) -> None:
        self._reactor = reactor
        self._call = call
        # The points in time at which the thread wakes the reactor. None ends the thread.
        self._times: SimpleQueue[int | None] = SimpleQueue()
        # A thread that still sleeps does not keep the process from ending.
        Thread(target=self._run, name="pacer", daemon=True).start()

    def wake_at(self, nanoseconds: int) -> None:
        """Call the function once, at this time of ``time.perf_counter_ns``. Do not call this again before that."""
        self._times.put(nanoseconds)

    def stop(self) -> None:
        """End the thread. A call that was asked for before may still come."""
        self._times.put(None)

    def _run(self) -> None:
        while (when := self._times.get()) is not None:
            delay = (when - time.perf_counter_ns()) / 1e9
            if delay > 0:
                time.sleep(delay)
            self._reactor.callFromThread(self._call)

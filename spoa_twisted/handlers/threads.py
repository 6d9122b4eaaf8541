"""Blocking functions -> Deferreds: in threads of their own, a limited number at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.python.threadpool import ThreadPool


@final
class BlockingThreads:
    """Runs functions that block. A job that is cancelled before a thread is free is never run.

    :param max_threads: how many jobs may run at a time. A job that never returns keeps its thread.
    """

    def __init__(self, max_threads: int) -> None:
        self._free = max_threads
        # The queue is here, not in the ThreadPool: from there a cancelled job could not be taken out.
        self._queue: OrderedDict[Deferred[Any], tuple[IReactorThreads, Callable[[], Any]]] = OrderedDict()
        self._threadpool = ThreadPool(0, max_threads, "spoa-blocking")
        # A function that still blocks when the agent has drained must not keep the process alive.
        self._threadpool.threadFactory = _DaemonThread
        self._threadpool.start()

    def run(self, reactor: IReactorThreads, function: Callable[[], Any]) -> Deferred[Any]:
        """Run ``function`` in a thread when one is free. Return a Deferred of its result, which ``reactor`` fires."""
        deferred: Deferred[Any] = Deferred(self._cancel)
        self._queue[deferred] = (reactor, function)
        self._start_jobs()
        return deferred

    def end(self) -> None:
        """Let each thread end when it has nothing to do any more. Does not wait for them."""
        # ThreadPool.stop waits for all threads, however long that takes.
        _DaemonThread(target=self._threadpool.stop).start()

    def _start_jobs(self) -> None:
        while self._free and self._queue:
            deferred, (reactor, function) = self._queue.popitem(last=False)
            on_result = partial(reactor.callFromThread, self._on_result, deferred)
            try:
                self._threadpool.callInThreadWithCallback(on_result, function)
            except BaseException:
                # The system refuses to start another thread. ThreadPool keeps the one that did not start: these would
                # pile up, and ThreadPool.stop would raise an exception when it joins one.
                self._threadpool.threads[:] = [thread for thread in self._threadpool.threads if thread.ident]
                deferred.errback()
            else:
                self._free -= 1

    def _on_result(self, deferred: Deferred[Any], success: bool, result: Any) -> None:
        self._free += 1
        if not deferred.called:
            (deferred.callback if success else deferred.errback)(result)
        self._start_jobs()

    def _cancel(self, deferred: Deferred[Any]) -> None:
        # If it runs already, it runs to its end, and its result is dropped.
        self._queue.pop(deferred, None)


@final
class _DaemonThread(Thread):
    """A thread that does not keep the process alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)

"""Blocking functions -> Deferreds: in threads of their own, so many at a time."""

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
    """Runs functions that block. What was given up before a thread was free leaves nothing behind.

    :param most: how many may run at a time. One that never returns keeps its thread.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: OrderedDict[Deferred[Any], tuple[IReactorThreads, Callable[[], Any]]] = OrderedDict()
        self._threadpool = ThreadPool(0, most, "spoa-blocking")
        # Whatever blocks when the agent has drained must not keep the process.
        self._threadpool.threadFactory = _DaemonThread
        self._threadpool.start()

    def run(self, reactor: IReactorThreads, function: Callable[[], Any]) -> Deferred[Any]:
        """Run ``function`` in a thread when one is free; return a Deferred of its result, which ``reactor`` fires."""
        deferred: Deferred[Any] = Deferred(self._give_up)
        self._waiting[deferred] = (reactor, function)
        self._begin()
        return deferred

    def end(self) -> None:
        """Let the threads end when they have nothing to do any more."""
        # To wait for them may take any time.
        _DaemonThread(target=self._threadpool.stop).start()

    def _begin(self) -> None:
        while self._free and self._waiting:
            deferred, (reactor, function) = self._waiting.popitem(last=False)
            finished = partial(reactor.callFromThread, self._finished, deferred)
            try:
                self._threadpool.callInThreadWithCallback(finished, function)
            except BaseException:
                # The system has no thread for it just now.
                deferred.errback()
            else:
                self._free -= 1

    def _finished(self, deferred: Deferred[Any], success: bool, result: Any) -> None:
        self._free += 1
        if not deferred.called:
            (deferred.callback if success else deferred.errback)(result)
        self._begin()

    def _give_up(self, deferred: Deferred[Any]) -> None:
        self._waiting.pop(deferred, None)


@final
class _DaemonThread(Thread):
    """A thread that ends with the process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)

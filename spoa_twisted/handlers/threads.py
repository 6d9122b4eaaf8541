"""Running blocking functions in a limited number of threads. Each call returns a Deferred."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, NamedTuple, final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.python.threadpool import ThreadPool


class Wait(NamedTuple):
    """How long a call waited for a thread."""

    #: Seconds from :meth:`BlockingThreads.run` until a thread was free, or until now if none is.
    seconds: float
    #: Whether a thread runs the function, or has run it.
    began: bool
    #: How many threads there are.
    threads: int


@final
class BlockingThreads:
    """Runs functions that block. A call that is cancelled before a thread is free is never run.

    :param max_threads: how many functions may run at the same time. A function that never returns keeps its thread.
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._free = max_threads
        # Calls that wait for a free thread. ThreadPool has a queue too, but a cancelled call cannot be removed from it.
        self._queue: OrderedDict[Deferred[Any], tuple[IReactorThreads, Callable[[], Any], float]] = OrderedDict()
        # For each call that runs, the seconds that it waited for a thread.
        self._waited: dict[Deferred[Any], float] = {}
        self._threadpool = ThreadPool(0, max_threads, "spoa-blocking")
        # A function may still block when the agent has drained. A daemon thread does not keep the process alive.
        self._threadpool.threadFactory = _DaemonThread
        self._threadpool.start()

    def run(self, reactor: IReactorThreads, function: Callable[[], Any]) -> Deferred[Any]:
        """Run ``function`` when a thread is free. Return a Deferred that fires with its result in the reactor's thread.

        :param reactor: the reactor whose thread fires the Deferred.
        """
        deferred: Deferred[Any] = Deferred(self._cancel)
        self._queue[deferred] = (reactor, function, IReactorTime(reactor).seconds())
        self._start_calls()
        return deferred

    @property
    def waiting(self) -> int:
        """How many calls wait for a free thread."""
        return len(self._queue)

    def wait_of(self, deferred: Any) -> Wait:
        """Return how long a call has waited for a thread. Call this before its Deferred is cancelled.

        :param deferred: the Deferred that :meth:`run` returned for the call.
        """
        if deferred in self._queue:
            reactor, _, queued = self._queue[deferred]
            return Wait(_seconds_since(queued, reactor), False, self._max_threads)
        return Wait(self._waited.get(deferred, 0.0), True, self._max_threads)

    def end(self) -> None:
        """Let each thread end when it has finished its work. This method does not wait for the threads."""
        # ThreadPool.stop waits until all threads have ended, so another thread must call it.
        _DaemonThread(target=self._threadpool.stop).start()

    def _start_calls(self) -> None:
        while self._free and self._queue:
            deferred, (reactor, function, queued) = self._queue.popitem(last=False)
            on_result = partial(reactor.callFromThread, self._on_result, deferred)
            try:
                self._threadpool.callInThreadWithCallback(on_result, function)
            except BaseException:
                # The operating system cannot start another thread. ThreadPool keeps the thread that did not start. Such
                # threads would pile up, and ThreadPool.stop would raise an exception when it joins one.
                self._threadpool.threads[:] = [thread for thread in self._threadpool.threads if thread.ident]
                deferred.errback()
            else:
                self._free -= 1
                self._waited[deferred] = _seconds_since(queued, reactor)

    def _on_result(self, deferred: Deferred[Any], success: bool, result: Any) -> None:
        self._free += 1
        if not deferred.called:
            (deferred.callback if success else deferred.errback)(result)
        # Only now, because callbacks may call wait_of.
        del self._waited[deferred]
        self._start_calls()

    def _cancel(self, deferred: Deferred[Any]) -> None:
        # If the function already runs, it is not in the queue. It runs to its end, and _on_result drops its result.
        self._queue.pop(deferred, None)


@final
class LazyThreads:
    """The threads of one ``Handlers``: they begin with the first call, and end when nothing refers to this object.

    :param max_threads: see :class:`BlockingThreads`.
    """

    def __init__(self, max_threads: int) -> None:
        self.max_threads = max_threads
        self._threads: BlockingThreads | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for a free thread."""
        return 0 if self._threads is None else self._threads.waiting

    def on(self, reactor: IReactorTime) -> BlockingThreads | None:
        """Return the threads, or ``None`` if ``reactor`` has none, as in tests."""
        if not IReactorThreads.providedBy(reactor):
            return None
        if self._threads is None:
            self._threads = BlockingThreads(self.max_threads)
            # The handlers were replaced.
            weakref.finalize(self, self._threads.end).atexit = False
        return self._threads


def _seconds_since(earlier: float, reactor: IReactorThreads) -> float:
    # Twisted's reactors use the time of day. After it was set back, the difference would be negative.
    return max(0.0, IReactorTime(reactor).seconds() - earlier)


@final
class _DaemonThread(Thread):
    """A thread that does not keep the process alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)

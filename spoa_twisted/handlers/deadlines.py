"""The timeouts of pending handlers. All handlers with the same timeout share one timer.

Nearly all handlers finish long before their timeout. Starting and cancelling a Twisted timer for each handler would
take longer than most handlers do. For the same reason, a busy agent keeps a timer for which nothing waits: the next
handler needs it at once.
"""

from __future__ import annotations

from itertools import takewhile
from math import inf
from typing import Final, Protocol, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: An agent is busy if it starts this many timers within a second.
BUSY: Final = 32


class Expiring(Protocol):
    """An object that :class:`Deadlines` accepts: the call of a handler."""

    #: The items with the same timeout. :meth:`Deadlines.add` sets it.
    queue: Queue | None
    #: The value of ``reactor.seconds()`` at which the timeout ends. :meth:`Deadlines.add` sets it.
    deadline: float

    def expire(self) -> None:
        """Give up, because the deadline has passed."""


@final
class Deadlines:
    """Calls ``expire`` of each item that was added and not discarded, when its deadline has passed."""

    __slots__ = ("_queues", "_reactor")

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        # By their timeout in seconds. Handlers have few different timeouts.
        self._queues: dict[float, Queue] = {}

    def add(self, item: Expiring, seconds: float) -> None:
        """Call ``item.expire`` after ``seconds``, unless ``item.queue`` discards it before."""
        try:
            queue = self._queues[seconds]
        except KeyError:
            queue = self._queues[seconds] = Queue(self._reactor, seconds)
        queue.add(item)

    def rest(self) -> None:
        """Keep no timer for which nothing waits: the last connection has ended."""
        for queue in self._queues.values():
            queue.rest()


@final
class Queue:
    """The items that have the same timeout, and their timer."""

    __slots__ = ("_due", "_items", "_keeping", "_reactor", "_since", "_starts", "_timer", "seconds")

    def __init__(self, reactor: IReactorTime, seconds: float) -> None:
        self._reactor = reactor
        #: The timeout.
        self.seconds = seconds
        # A dict keeps the order in which items are added. So the first item has the earliest deadline, and the timer is
        # for this item.
        self._items: dict[Expiring, None] = {}
        self._timer: IDelayedCall | None = None
        # When the timer is due.
        self._due = 0.0
        # True to keep a timer for which nothing waits. That is decided each time when BUSY timers were started: their
        # number so far, and the time of the last decision.
        self._keeping = False
        self._starts = 0
        self._since = -inf

    def add(self, item: Expiring) -> None:
        """Call ``item.expire`` when the timeout has passed."""
        now = self._reactor.seconds()
        item.queue = self
        item.deadline = deadline = now + self.seconds
        if self._timer is None:
            self._decide(now)
            self._start(self.seconds, now)
        elif self._due > deadline:
            self._on_clock_set_back(deadline)
        self._items[item] = None

    def discard(self, item: Expiring) -> None:
        """Remove ``item``, which has finished. Do nothing if it was removed before."""
        items = self._items
        items.pop(item, None)
        if not items and not self._keeping:
            self._stop()

    def rest(self) -> None:
        """Keep no timer for which nothing waits, until the agent is busy again."""
        self._keeping = False
        self._starts = 0
        if not self._items:
            self._stop()

    def _decide(self, now: float) -> None:
        self._starts += 1
        if self._starts == BUSY:
            self._starts = 0
            # Twisted's reactors use the time of day, which may be set back.
            self._keeping = 0 <= now - self._since < 1
            self._since = now

    def _start(self, seconds: float, now: float) -> None:
        self._due = now + seconds
        self._timer = self._reactor.callLater(seconds, self._on_timer)

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _on_clock_set_back(self, deadline: float) -> None:
        # The deadlines that were set before are too late.
        for item in self._items:
            item.deadline = min(item.deadline, deadline)
        self._due = deadline
        assert self._timer is not None
        if self._timer.active():
            self._timer.reset(self.seconds)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._items:
            return
        now = self._reactor.seconds()
        first = next(iter(self._items))
        if first.deadline > now:
            self._start(first.deadline - now, now)
        else:
            # If the reactor was blocked, the bytes that a handler waits for may have arrived in time. The reactor reads
            # them before it runs this call.
            self._due = now
            self._timer = self._reactor.callLater(0, self._expire, now)

    def _expire(self, now: float) -> None:
        # Until the end, _timer is the one that has run. So an item that is added meanwhile starts none: the others of
        # the queue may be due before it.
        for item in list(takewhile(lambda item: item.deadline <= now, self._items)):
            # The end of another item may have discarded this one.
            if item in self._items:
                del self._items[item]
                item.expire()
        if self._timer is None or not self._timer.active():
            self._on_timer()

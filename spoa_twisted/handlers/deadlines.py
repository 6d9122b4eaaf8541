"""The timeouts of pending handlers. All handlers with the same timeout share one timer.

Nearly all handlers finish long before their timeout. Starting and cancelling a Twisted timer for each handler would
take longer than most handlers do.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Protocol, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Expiring(Protocol):
    """An object that :class:`Deadlines` accepts: the call of a handler."""

    #: The timeout, in seconds. :meth:`Deadlines.add` sets it.
    seconds: float
    #: The value of ``reactor.seconds()`` at which the timeout ends. :meth:`Deadlines.add` sets it.
    deadline: float

    def expire(self) -> None:
        """Give up, because the deadline has passed."""


@final
class Deadlines:
    """Calls ``expire`` of each item that was added and not discarded, when its deadline has passed."""

    __slots__ = ("_pending", "_timers", "reactor")

    def __init__(self, reactor: IReactorTime) -> None:
        self.reactor = reactor
        # The items, by their timeout in seconds. A dict keeps the order in which items are added. So the first item of
        # each timeout has the earliest deadline, and the timer of this timeout is for this item.
        self._pending: dict[float, dict[Expiring, None]] = {}
        self._timers: dict[float, IDelayedCall] = {}

    def add(self, item: Expiring, seconds: float) -> None:
        """Call ``item.expire`` after ``seconds``, unless it is discarded before."""
        item.seconds = seconds
        item.deadline = self.reactor.seconds() + seconds
        pending = self._pending.get(seconds)
        if pending is None:
            pending = self._pending[seconds] = {}
            self._timers[seconds] = self.reactor.callLater(seconds, self._on_timer, seconds)
        elif self._timers[seconds].getTime() > item.deadline:
            self._on_clock_set_back(seconds, item.deadline)
        pending[item] = None

    def discard(self, item: Expiring) -> None:
        """Remove ``item``, which has finished. Do nothing if it was removed before."""
        pending = self._pending.get(item.seconds)
        if pending is None:
            return
        pending.pop(item, None)
        if not pending:
            del self._pending[item.seconds]
            timer = self._timers.pop(item.seconds)
            if timer.active():
                timer.cancel()

    def _on_clock_set_back(self, seconds: float, deadline: float) -> None:
        # Twisted's reactors use the time of day. If it is set back, the deadlines that were set before are too late.
        for item in self._pending[seconds]:
            item.deadline = min(item.deadline, deadline)
        timer = self._timers[seconds]
        if timer.active():
            timer.reset(seconds)

    def _on_timer(self, seconds: float) -> None:
        now = self.reactor.seconds()
        first = next(iter(self._pending[seconds]))
        if first.deadline > now:
            self._timers[seconds] = self.reactor.callLater(first.deadline - now, self._on_timer, seconds)
        else:
            # If the reactor was blocked, the bytes that a handler waits for may have arrived in time. The reactor reads
            # them before it runs this call.
            self._timers[seconds] = self.reactor.callLater(0, self._expire, seconds, now)

    def _expire(self, seconds: float, now: float) -> None:
        late = list(takewhile(lambda item: item.deadline <= now, self._pending[seconds]))
        for item in late:
            # The end of another item may have discarded this one.
            if item in self._pending.get(seconds, ()):
                self.discard(item)
                item.expire()
        if seconds in self._pending and not self._timers[seconds].active():
            self._on_timer(seconds)

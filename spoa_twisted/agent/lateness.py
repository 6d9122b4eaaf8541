"""How late the reactor is: for how long it has called nothing, because a handler blocks or the process has no CPU."""

from __future__ import annotations

from math import inf
from typing import Final, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two calls of the timer. A shorter standstill is not noticed.
INTERVAL: Final = 0.05


@final
class Lateness:
    """Measures with a timer how late the reactor calls it."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._timer: IDelayedCall | None = None
        #: The time at which the timer is due. :mod:`spoa_twisted.agent.slow` reads it and the next two for each NOTIFY,
        #: because a call would cost time.
        self.due = inf
        #: The sum of all delays so far.
        self.sum = 0.0
        #: How late the timer was in this turn of the reactor; 0 if it was not called in this turn.
        self.in_this_turn = 0.0

    def start(self) -> None:
        """Begin to measure, unless the timer runs."""
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        """Stop the timer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self.due = inf

    def total(self, now: float) -> float:
        """Return for how many seconds the reactor was late so far. A difference of two values is a duration."""
        return self.sum + self._delay(now)

    def _delay(self, now: float) -> float:
        return max(0.0, now - self.due)

    def _arm(self) -> None:
        self.due = self._reactor.seconds() + INTERVAL
        self._timer = self._reactor.callLater(INTERVAL, self._on_timer)

    def _on_timer(self) -> None:
        delay = self._delay(self._reactor.seconds())
        self.sum += delay
        if delay:
            # The reactor calls timers before it reads. The next call is in the next turn, after it has read.
            self.in_this_turn = delay
            self._reactor.callLater(0, self._on_next_turn)
        self._arm()

    def _on_next_turn(self) -> None:
        self.in_this_turn = 0.0

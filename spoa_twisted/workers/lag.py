"""How late the timers of a reactor are."""

from __future__ import annotations

from typing import Final, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two timers.
INTERVAL: Final = 1.0


@final
class Lag:
    """Measures once a second how late the reactor calls a timer."""

    def __init__(self, reactor: IReactorTime) -> None:
        #: Seconds that the last timer was late.
        self.seconds = 0.0
        self._reactor = reactor
        self._due = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._due = self._reactor.seconds() + INTERVAL
        self._timer = self._reactor.callLater(INTERVAL, self._on_timer)

    def stop(self) -> None:
        """Measure no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _on_timer(self) -> None:
        self.seconds = max(0.0, self._reactor.seconds() - self._due)
        self.start()

"""How late the reactor calls a timer: a busy reactor calls it when it has done its other work.

Two other timers measure a similar thing, and share nothing with this one, because none of them always runs, and their
clocks differ. :mod:`spoa_twisted.runner.stalls` runs in ``twistd spoa`` only, and ignores a clock that was set.
:mod:`spoa_twisted.agent.lateness` runs with ``--log-slow`` only, while connections are open. It has the clock of the
reactor, and a shorter interval, because its durations are parts of those of NOTIFYs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two timers.
INTERVAL: Final = 1.0


@final
class Lag:
    """Measures the lag of a reactor.

    :param clock: a clock that is never set.
    """

    def __init__(self, reactor: IReactorTime, clock: Callable[[], float] = time.monotonic) -> None:
        self._reactor = reactor
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._due = 0.0
        #: Seconds that the last timer came late.
        self.seconds = 0.0

    def start(self) -> None:
        """Begin."""
        self._due = self._clock() + INTERVAL
        self._timer = self._reactor.callLater(INTERVAL, self._on_timer)

    def stop(self) -> None:
        """End."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _on_timer(self) -> None:
        self.seconds = max(0.0, self._clock() - self._due)
        self.start()

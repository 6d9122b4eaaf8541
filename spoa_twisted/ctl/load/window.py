"""The window: the time during which the load measures. It is after the warm-up. Ctrl-C can end it early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Window:
    """The time that is measured. It begins after the warm-up, and ends after the duration, or with :meth:`end`.

    :param reactor: the clock.
    :param warm_up: seconds from now to the begin of the window.
    :param duration: seconds from the begin to the end of the window.
    """

    def __init__(self, reactor: Any, warm_up: float, duration: float) -> None:
        self._reactor = reactor
        # The pairs of functions that were passed to watch().
        self._callbacks: list[tuple[Callable[[], object], Callable[[], object]]] = []
        #: The warm-up and the duration.
        self.seconds = (warm_up, duration)
        # The timer for the begin of the window, and later the timer for its end.
        self._call = reactor.callLater(warm_up, self._begin_on_time)
        self._begun = False
        self._ended = False
        #: True if the window ended before the duration was over.
        self.interrupted = False

    def watch(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        """Call ``begin`` and ``end`` when the window begins and ends."""
        self._callbacks.append((begin, end))

    def interrupt(self) -> None:
        """End the window early, unless it has ended."""
        if not self._ended:
            self.interrupted = True
            self.end()

    def end(self) -> None:
        """End the window now, unless it has ended. If it has not begun, it begins first."""
        if not self._ended:
            self._call.cancel()
            self._begin()
            self._end()

    def _begin_on_time(self) -> None:
        self._begin()
        # The duration begins now, not at the time for which this call was planned. On a busy machine, the reactor may
        # be late, and the window would be too short.
        self._call = self._reactor.callLater(self.seconds[1], self._end)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            for begin, _ in self._callbacks:
                begin()

    def _end(self) -> None:
        self._ended = True
        for _, end in self._callbacks:
            end()

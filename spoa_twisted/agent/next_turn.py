"""One call in the next turn of the reactor, for all that happens in this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from spoa_twisted.agent.closing import ignore


@final
class NextTurn:
    """Calls ``function`` in the next turn of the reactor."""

    __slots__ = ("_function", "_reactor", "timer")

    def __init__(self, reactor: IReactorTime, function: Callable[[], object]) -> None:
        self._reactor = reactor
        self._function = function
        #: The timer of the call; ``None`` if it is not scheduled.
        self.timer: IDelayedCall | None = None

    def schedule(self) -> None:
        """Call the function in the next turn. It must not be scheduled yet."""
        self.timer = self._reactor.callLater(0, self._on_timer)

    def cancel(self) -> None:
        """Do not call the function if it is scheduled: somebody has done its work."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def end(self) -> None:
        """Never call the function again."""
        self.cancel()
        self._function = ignore

    def _on_timer(self) -> None:
        self.timer = None
        self._function()

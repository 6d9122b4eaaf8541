"""One call in the next turn of the reactor, for all that happens in this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from spoa_twisted.agent.closing import ignore


@final
class NextTurn:
    """Calls ``function`` in the next turn of the reactor."""

    __slots__ = ("_function", "_reactor", "_timer", "scheduled")

    def __init__(self, reactor: IReactorTime, function: Callable[[], object]) -> None:
        self._reactor = reactor
        self._function = function
        self._timer: IDelayedCall | None = None
        #: Whether the call is scheduled. An attribute, because each answer that comes later reads it.
        self.scheduled = False

    def schedule(self) -> None:
        """Call the function in the next turn. It must not be scheduled."""
        self.scheduled = True
        self._timer = self._reactor.callLater(0, self._on_timer)

    def cancel(self) -> None:
        """Do not call the function, which is scheduled: somebody has done its work."""
        self.scheduled = False
        timer, self._timer = self._timer, None
        assert timer is not None
        timer.cancel()

    def end(self) -> None:
        """Never call the function again."""
        if self.scheduled:
            self.cancel()
        self._function = ignore

    def _on_timer(self) -> None:
        self.scheduled = False
        self._timer = None
        self._function()

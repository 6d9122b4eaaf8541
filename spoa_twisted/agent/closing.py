"""How far the end of a connection is, and for how long it may stay there."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import final

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Phase(IntEnum):
    """How far the end of a connection is. A connection goes from each phase only to a later one."""

    #: NOTIFYs are answered, or the HAPROXY-HELLO is awaited.
    OPEN = 0
    #: AGENT-DISCONNECT was sent, and HAProxy is expected to close the connection.
    DISCONNECTING = 1
    #: The connection will be closed when the last ACKs, held back for a HAProxy >= 3.1, have been written.
    FLUSHING = 2
    #: The transport was told to close, or has closed by itself.
    CLOSING = 3


def ignore(*arguments: object) -> None:
    """Take the place of a callback of a connection that has ended.

    The parts of a connection refer to it by their callbacks. If they kept them, only the garbage collector would free
    the connection, and an application may have turned it off.
    """


@final
class Closing:
    """The phase of one connection, and its deadline.

    :param on_timeout: called with the phase when it has lasted too long.
    """

    __slots__ = ("_on_timeout", "_reactor", "_timer", "phase")

    def __init__(self, reactor: IReactorTime, on_timeout: Callable[[Phase], None]) -> None:
        self._reactor = reactor
        self._on_timeout = on_timeout
        self._timer: IDelayedCall | None = None
        self.phase = Phase.OPEN

    def enter(self, phase: Phase) -> None:
        """Enter ``phase``, which has no deadline so far."""
        assert phase >= self.phase
        self.phase = phase
        self.stop()

    def end_after(self, seconds: float) -> None:
        """Let the phase last for at most ``seconds`` from now on."""
        self.stop()
        self._timer = self._reactor.callLater(seconds, self._on_timer)

    def shorten(self, seconds: float) -> None:
        """Let the phase last for at most ``seconds`` from now on, if it has a deadline."""
        if self._timer is not None:
            self._timer.reset(seconds)

    def stop(self) -> None:
        """Let the phase last for any time."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def end(self) -> None:
        """Stop for good: the connection has ended."""
        self.stop()
        self._on_timeout = ignore

    def _on_timer(self) -> None:
        if self.phase is Phase.OPEN:
            # If the reactor was blocked, the HELLO may have arrived in time. The reactor reads it before the next call.
            self._timer = self._reactor.callLater(0, self._time_out)
        else:
            self._time_out()

    def _time_out(self) -> None:
        self._timer = None
        self._on_timeout(self.phase)

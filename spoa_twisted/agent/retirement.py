"""How the agent ends the pipelined connections of an engine without losing a request.

HAProxy loses a NOTIFY that it sends before it has read AGENT-DISCONNECT. So a connection may end only when no NOTIFY
can be under way, as in :mod:`spoa_twisted.agent.drain`. But here the agent goes on to serve the engine: it never holds
ACKs back for long, and it ends a connection only if all ACKs that are left fit into one write with AGENT-DISCONNECT.

:class:`Retirement` ends a connection that was idle for 60 ms. From time to time it also holds the ACKs of all
connections back, for :data:`PATIENCE` at most. Then HAProxy's clients wait, and soon HAProxy sends no more NOTIFYs. The
connections whose ACKs fit end together, because an ACK may make HAProxy send the next NOTIFY.

HAProxy may use a connection without a pause, for long answers only. This connection stays open, and its ACKs wait for
each other, until HAProxy leaves it idle for a moment.
"""

from __future__ import annotations

from typing import Final, Protocol, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from spoa_twisted.agent.drain import QUIET_INTERVAL, QUIET_INTERVALS_AFTER_ACKS
from spoa_twisted.agent.quiet import Quiet

# The number of QUIET_INTERVALs between two checks while no ACKs are held back. Otherwise it is 1.
_IDLE_INTERVALS: Final = 4

#: The same, in seconds.
IDLE_INTERVAL: Final = _IDLE_INTERVALS * QUIET_INTERVAL

#: Seconds for which the ACKs are held back each time.
PATIENCE: Final = 0.02

#: Seconds until the ACKs are held back for the second time. The next pauses are twice as long, up to LONGEST_PAUSE.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class Retirable(Protocol):
    """The methods of ``SPOAProtocol`` that :class:`Retirement` calls."""

    #: The number of reads and writes so far.
    activity: int

    def hold(self) -> None:
        """Hold ACKs back from now on."""

    def release(self, hold: bool) -> None:
        """Send the ACKs that were held back so far. Hold the next ACKs back if ``hold`` is true."""

    def has_held_acks(self) -> bool:
        """Return whether ACKs are held back."""

    def can_end_at_once(self) -> bool:
        """Return whether no NOTIFY is pending, and AGENT-DISCONNECT would leave in one write with the held ACKs."""

    def disconnect(self) -> None:
        """Send held ACKs and AGENT-DISCONNECT in one write. HAProxy then closes the connection."""


@final
class Retirement:
    """Ends the connections in :attr:`connections`, from :meth:`start` on until none is left."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        #: The open connections with pipelining.
        self.connections: set[Retirable] = set()
        # Not None between start() and the end of the last connection.
        self._timer: IDelayedCall | None = None
        # Whether ACKs are held back, until when they are or are not, and for how long they are not the next time.
        self._holding = False
        self._until = 0.0
        self._pause = FIRST_PAUSE
        self._quiet: Quiet[Retirable] = Quiet()

    def start(self) -> None:
        """Hold ACKs back from the reactor's next turn on, because the caller may be in the middle of a write."""
        if self._timer is None and self.connections:
            self._pause = FIRST_PAUSE
            self._timer = self._reactor.callLater(0, self._hold)

    def stop(self) -> None:
        """End no more connections."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        self._quiet.clear()
        # The last step, because long ACKs that are sent now may call start().
        self._resume()

    def remove(self, connection: Retirable) -> None:
        """Forget a connection, which has ended."""
        self.connections.discard(connection)
        self._quiet.forget(connection)
        if not self.connections:
            self.stop()

    def _hold(self) -> None:
        self._holding = True
        self._until = self._reactor.seconds() + PATIENCE
        for connection in list(self.connections):
            connection.hold()
        self._check_later()

    def _resume(self) -> None:
        holding, self._holding = self._holding, False
        if holding:
            for connection in list(self.connections):
                connection.release(hold=False)

    def _check_later(self) -> None:
        interval = QUIET_INTERVAL if self._holding else IDLE_INTERVAL
        self._timer = self._reactor.callLater(interval, self._read_before_check)

    def _read_before_check(self) -> None:
        # If the operating system has not run this process for a while, NOTIFYs may wait in the kernel. The reactor
        # reads them before it makes the next call.
        self._timer = self._reactor.callLater(0, self._check)

    def _check(self) -> None:
        this_call = self._timer
        self._quiet.check(self.connections, 1 if self._holding else _IDLE_INTERVALS)
        settled = [connection for connection in self.connections if self._is_settled(connection)]
        is_over = self._reactor.seconds() >= self._until
        if not self._holding or is_over or len(settled) == len(self.connections):
            for connection in settled:
                self.connections.discard(connection)
                connection.disconnect()
        if not self.connections:
            self.stop()
        elif is_over and self._holding:
            self._until = self._reactor.seconds() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._resume()
        elif is_over:
            self._hold()
            return
        # The ACKs that were sent may have led to a call of stop() and start().
        if self._timer is this_call:
            self._check_later()

    def _is_settled(self, connection: Retirable) -> bool:
        """Return whether no NOTIFY can be under way on ``connection``, and it can end now."""
        intervals = self._quiet.intervals(connection)
        # HAProxy may not have acted on ACKs that were sent. On ACKs that are held back, it cannot act.
        enough = 1 if connection.has_held_acks() else QUIET_INTERVALS_AFTER_ACKS
        return intervals >= enough and connection.can_end_at_once()

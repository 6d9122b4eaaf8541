"""How an agent that stops takes leave of HAProxy without losing a request.

SPOP has no way to say "send no more": a NOTIFY that HAProxy sends before it has read the AGENT-DISCONNECT is lost. But
HAProxy sends only so many NOTIFYs before it has their ACKs, and its clients wait too. So an agent that drains keeps the
ACKs back for a moment. When nothing is pending, and nothing has come for a while, hardly anything can cross. Then idle
connections are told goodbye, and when HAProxy has closed them, which its threads do at times of their own, the ACKs
leave together with the goodbye, on all other connections at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds without a NOTIFY after which none is on its way, it is hoped, on a connection whose ACKs are kept back.
QUIET_INTERVAL: Final = 0.005

#: How many such intervals it takes on one without: HAProxy may not have acted on its last ACKs. When this was 1, with
#: six pairs of HAProxy and agents under load on two cores, 1 restart of 27 cost 11 to 20 requests.
REST: Final = 12

#: Seconds for which ACKs are kept back at first. Each time that this did not do they leave, and the next ones are kept
#: back for twice as long: no handler that answers at once makes HAProxy wait for long.
FIRST_PATIENCE: Final = 0.02

#: Seconds for which ACKs are kept back at most. From then on, connections on which all is answered wait no longer for
#: those with handlers that need more.
MOST_PATIENCE: Final = 0.32

#: Seconds that HAProxy has to close idle connections before others are told goodbye: on a busy machine it took 30 ms.
CLOSE_INTERVAL: Final = 0.1


class Drainable(Protocol):
    """What is asked of a connection."""

    def hold(self) -> None:
        """Keep ACKs back from now on."""

    def release(self) -> None:
        """Let go those that were kept back so far."""

    def settled(self) -> bool:
        """Return whether nothing is due, and nothing seems to come; asked once in a :data:`QUIET_INTERVAL`."""

    def holds(self) -> bool:
        """Return whether ACKs are kept back."""

    def leave(self) -> None:
        """Let go all, and the goodbye behind it. HAProxy then closes."""

    def left(self) -> bool:
        """Return whether the goodbye was said."""

    def abort(self) -> None:
        """Leave whatever is due."""


@final
class Drain:
    """Takes leave of all ``connections``, a collection that shrinks as they are closed.

    :param too_late: called when the time is over, before what is still open is closed.
    """

    def __init__(self, connections: Collection[Drainable], reactor: IReactorTime, too_late: Callable[[], None]) -> None:
        self._connections = connections
        self._reactor = reactor
        self._too_late = too_late
        self._patience = FIRST_PATIENCE
        self._patience_ends = 0.0
        # Until when HAProxy should have closed the connections that were told goodbye.
        self._closed_by = 0.0
        # What has reached this machine is read first: one turn of the reactor.
        self._timers: list[IDelayedCall] = [reactor.callLater(0, self._begin)]

    def end_after(self, timeout: float) -> None:
        """Close what is still open in so many seconds."""
        self._timers.append(self._reactor.callLater(timeout, self._end))

    def stop(self) -> None:
        """Do nothing any more."""
        for timer in self._timers:
            if timer.active():
                timer.cancel()

    def _begin(self) -> None:
        for connection in list(self._connections):
            connection.hold()
            connection.settled()
        self._be_patient()
        self._look_later()

    def _be_patient(self) -> None:
        self._patience_ends = self._reactor.seconds() + self._patience
        self._patience = min(2 * self._patience, MOST_PATIENCE)

    def _look_later(self) -> None:
        # The last one may have ended while it was told goodbye.
        if self._connections:
            self._timers[0] = self._reactor.callLater(QUIET_INTERVAL, self._read_first)

    def _read_first(self) -> None:
        # If this process had no core for a while, NOTIFYs may wait in front of connections that look quiet.
        self._timers[0] = self._reactor.callLater(0, self._look)

    def _look(self) -> None:
        now = self._reactor.seconds()
        settled: list[Drainable] = []
        unsettled: list[Drainable] = []
        for connection in self._connections:
            if not connection.left():
                (settled if connection.settled() else unsettled).append(connection)
        idle = [connection for connection in settled if not connection.holds()]
        leaving = len(settled) + len(unsettled) < len(self._connections)
        if unsettled and now < self._patience_ends:
            pass
        elif idle:
            self._closed_by = now + CLOSE_INTERVAL
            for connection in idle:
                connection.leave()
        elif not leaving or now >= self._closed_by:
            # An ACK may set off the next NOTIFY, and that must not find a connection that was just told goodbye.
            together = not unsettled or self._patience >= MOST_PATIENCE
            for connection in settled:
                (connection.leave if together else connection.release)()
            for connection in unsettled:
                connection.release()
            self._be_patient()
        self._look_later()

    def _end(self) -> None:
        self._too_late()
        for connection in list(self._connections):
            connection.abort()

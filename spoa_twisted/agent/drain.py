"""How an agent that stops closes its connections without losing a request.

SPOP has no frame that means "send no more NOTIFYs". HAProxy loses a NOTIFY that it sends before it has read
AGENT-DISCONNECT. But HAProxy keeps only a limited number of NOTIFYs in flight, and HAProxy's clients wait for the
answers too. So an agent that drains holds its ACKs back for a moment: then HAProxy soon sends no more NOTIFYs. When no
handler is pending, and no bytes have arrived for a while, a NOTIFY is probably not under way. Then the agent sends
AGENT-DISCONNECT in two steps:

1. It sends AGENT-DISCONNECT on the connections without held ACKs, and waits until HAProxy has closed them. Each thread
   of HAProxy closes its connections at another time.
2. It sends AGENT-DISCONNECT on all other connections at the same time, each with its held ACKs in the same write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import ceil
from typing import Any, Final, Protocol, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from spoa_twisted.agent.quiet import Quiet
from spoa_twisted.agent.receipt import round_trip_time

#: Seconds between two checks of the connections. A connection is quiet when no bytes were read or written between two
#: checks. A connection with held ACKs must be quiet for one interval.
QUIET_INTERVAL: Final = 0.005

#: A connection without held ACKs must be quiet for this many intervals: HAProxy may not have acted on the last ACKs.
#: When this was 1, with six pairs of HAProxy and agents under load on two cores, 1 restart of 27 cost 11 to 20
#: requests.
QUIET_INTERVALS_AFTER_ACKS: Final = 12

#: Seconds for which the agent holds ACKs back at first. If some handlers are still pending then, the agent sends the
#: ACKs, and holds the next ones back for twice as long. So the ACKs of fast handlers are never delayed for long.
FIRST_PATIENCE: Final = 0.02

#: Seconds. The quiet time of a connection is longer by the round-trip time to HAProxy. A shorter one than
#: NEGLIGIBLE_ROUND_TRIP is part of the intervals above, and a longer one than MAX_ROUND_TRIP would take all of
#: MAX_PATIENCE.
NEGLIGIBLE_ROUND_TRIP: Final = 0.001
MAX_ROUND_TRIP: Final = 0.1

#: The longest time, in seconds, for which the agent holds ACKs back. After that, connections without pending handlers
#: no longer wait for connections with slower handlers.
MAX_PATIENCE: Final = 0.32

#: Seconds that HAProxy has to close the connections of step 1 before the agent begins step 2. HAProxy needed 30 ms on a
#: busy machine.
CLOSE_INTERVAL: Final = 0.1


class Drainable(Protocol):
    """The methods of ``SPOAProtocol`` that :class:`Drain` calls."""

    #: The number of reads and writes so far.
    activity: int
    #: The transport, whose round-trip time counts.
    transport: Any

    def hold(self) -> None:
        """Hold ACKs back from now on."""

    def release(self) -> None:
        """Send the ACKs that were held back so far."""

    def is_idle(self) -> bool:
        """Return whether no handler is pending, and no frame is incomplete."""

    def may_have_unread_acks(self) -> bool:
        """Return whether HAProxy may not have acted on the last ACKs: none is held back, so all were sent."""

    def has_held_acks(self) -> bool:
        """Return whether ACKs are held back."""

    def disconnect(self) -> None:
        """Send held ACKs and AGENT-DISCONNECT in one write. HAProxy then closes the connection."""

    def has_disconnected(self) -> bool:
        """Return whether AGENT-DISCONNECT was sent."""

    def abort(self) -> None:
        """Cancel pending handlers, and close the connection."""


@final
class Drain:
    """Closes all connections of an agent.

    :param connections: the open connections. Each connection removes itself from the collection when it is closed.
    :param on_timeout: called when the timeout of :meth:`end_after` has passed, before the drain aborts the connections
        that are still open.
    """

    def __init__(
        self, connections: Collection[Drainable], reactor: IReactorTime, on_timeout: Callable[[], None]
    ) -> None:
        self._connections = connections
        self._reactor = reactor
        self._on_timeout = on_timeout
        # For how many seconds ACKs are held back next time, and until when the present ones are.
        self._hold_seconds = FIRST_PATIENCE
        self._hold_until = 0.0
        # How many intervals longer a connection must be quiet, because a NOTIFY takes time to arrive.
        self._round_trip_intervals = 0
        # When HAProxy should have closed the connections of step 1.
        self._close_deadline = 0.0
        self._quiet: Quiet[Drainable] = Quiet()
        # In the reactor's next turn, because the reactor then first reads the bytes that have arrived by now.
        self._check_timer: IDelayedCall = reactor.callLater(0, self._begin)
        self._timeout_timers: list[IDelayedCall] = []

    def end_after(self, timeout: float) -> None:
        """Abort the connections that are still open after ``timeout`` seconds. May be called again, to end sooner."""
        self._timeout_timers.append(self._reactor.callLater(timeout, self._abort_all))

    def stop(self) -> None:
        """Stop all timers, and forget the connections."""
        for timer in (self._check_timer, *self._timeout_timers):
            if timer.active():
                timer.cancel()
        # A timer that has run still refers to this object. Without this, only the garbage collector would free the
        # connections, and an application may have turned it off.
        self._quiet.clear()

    def _begin(self) -> None:
        longest = 0.0
        for connection in list(self._connections):
            connection.hold()
            longest = max(longest, round_trip_time(connection.transport))
        longest = min(longest, MAX_ROUND_TRIP)
        self._round_trip_intervals = ceil(longest / QUIET_INTERVAL) if longest > NEGLIGIBLE_ROUND_TRIP else 0
        self._hold_seconds += self._round_trip_intervals * QUIET_INTERVAL
        self._quiet.check(self._connections)
        self._start_hold()
        self._check_later()

    def _start_hold(self) -> None:
        self._hold_until = self._reactor.seconds() + self._hold_seconds
        self._hold_seconds = min(2 * self._hold_seconds, MAX_PATIENCE)

    def _check_later(self) -> None:
        # The last connection may have been closed by the AGENT-DISCONNECT of this check.
        if self._connections:
            self._check_timer = self._reactor.callLater(QUIET_INTERVAL, self._read_before_check)

    def _read_before_check(self) -> None:
        # If the operating system has not run this process for a while, NOTIFYs may wait in the kernel on connections
        # that seem quiet. The reactor reads them before it makes the next call.
        self._check_timer = self._reactor.callLater(0, self._check)

    def _check(self) -> None:
        now = self._reactor.seconds()
        staying = [connection for connection in self._connections if not connection.has_disconnected()]
        self._quiet.check(staying)
        settled: list[Drainable] = []
        unsettled: list[Drainable] = []
        for connection in staying:
            (settled if self._is_settled(connection) else unsettled).append(connection)
        without_acks = [connection for connection in settled if not connection.has_held_acks()]
        closing = len(staying) < len(self._connections)
        if unsettled and now < self._hold_until:
            # Some handlers are pending, and may finish before the ACKs must be sent: wait.
            pass
        elif without_acks:
            # Step 1.
            self._close_deadline = now + CLOSE_INTERVAL
            for connection in without_acks:
                connection.disconnect()
        elif not closing or now >= self._close_deadline:
            # Step 2. An ACK may make HAProxy send the next NOTIFY, and HAProxy must not choose a connection on which
            # AGENT-DISCONNECT was just sent. So all settled connections are disconnected together, or none of them.
            disconnect = not unsettled or self._hold_seconds >= MAX_PATIENCE
            for connection in settled:
                if disconnect:
                    connection.disconnect()
                else:
                    connection.release()
            for connection in unsettled:
                connection.release()
            self._start_hold()
        self._check_later()

    def _is_settled(self, connection: Drainable) -> bool:
        """Return whether ``connection`` is idle, and has been quiet for long enough to be disconnected."""
        intervals = QUIET_INTERVALS_AFTER_ACKS if connection.may_have_unread_acks() else 1
        return self._quiet.intervals(connection) >= intervals + self._round_trip_intervals and connection.is_idle()

    def _abort_all(self) -> None:
        self._on_timeout()
        for connection in list(self._connections):
            connection.abort()

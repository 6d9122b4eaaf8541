"""How an agent that stops closes its connections without losing a request.

SPOP has no way to say "send no more NOTIFYs". A NOTIFY that HAProxy sends before it has read the AGENT-DISCONNECT is
lost. But HAProxy sends only a limited number of NOTIFYs before it has their ACKs, and HAProxy's clients wait for the
answers, too. So an agent that drains holds its ACKs back for a moment. When nothing is pending, and nothing has come
for a while, it is unlikely that a NOTIFY is on its way. Then the agent sends AGENT-DISCONNECT

1. on the idle connections, and waits until HAProxy, whose threads do that at times of their own, has closed them;
2. on all other connections at the same time, each with its held ACKs in the same write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two looks at the connections. A connection whose ACKs are held back counts as quiet when nothing has
#: come between two looks.
QUIET_INTERVAL: Final = 0.005

#: How many such intervals a connection must be quiet whose ACKs have all been sent: HAProxy may not have acted on the
#: last ones. When this was 1, with six pairs of HAProxy and agents under load on two cores, 1 restart of 27 cost 11 to
#: 20 requests.
QUIET_INTERVALS_AFTER_ACKS: Final = 12

#: Seconds for which ACKs are held back at first. When that was not long enough, the agent sends them, and holds the
#: next ones back for twice as long. So HAProxy never waits long for handlers that answer at once.
FIRST_PATIENCE: Final = 0.02

#: The longest time, in seconds, for which ACKs are held back. After that, connections on which all is answered no
#: longer wait for connections with slower handlers.
MAX_PATIENCE: Final = 0.32

#: Seconds that HAProxy has to close idle connections before AGENT-DISCONNECT is sent on others. HAProxy needed 30 ms on
#: a busy machine.
CLOSE_INTERVAL: Final = 0.1


class Drainable(Protocol):
    """A connection, as a drain sees it."""

    #: Grows with each read and each write.
    activity: int

    def hold(self) -> None:
        """Hold ACKs back from now on."""

    def release(self) -> None:
        """Send the ACKs that were held back so far."""

    def is_idle(self) -> bool:
        """Return whether no answer is pending, and no frame has arrived in part."""

    def may_have_unread_acks(self) -> bool:
        """Return whether ACKs were sent that HAProxy may not have acted on: all were sent, none is held back."""

    def has_held_acks(self) -> bool:
        """Return whether ACKs are held back."""

    def disconnect(self) -> None:
        """Send held ACKs and AGENT-DISCONNECT in one write. HAProxy then closes the connection."""

    def has_disconnected(self) -> bool:
        """Return whether AGENT-DISCONNECT was sent."""

    def abort(self) -> None:
        """Cancel what is pending, and close the connection."""


@final
class Drain:
    """Closes all ``connections``, a collection that shrinks as they are closed.

    :param on_timeout: called when the time is over, before the connections that are still open are aborted.
    """

    def __init__(
        self, connections: Collection[Drainable], reactor: IReactorTime, on_timeout: Callable[[], None]
    ) -> None:
        self._connections = connections
        self._reactor = reactor
        self._on_timeout = on_timeout
        self._patience = FIRST_PATIENCE
        self._patience_ends = 0.0
        # The time by which HAProxy should have closed the connections that AGENT-DISCONNECT was sent on.
        self._closed_by = 0.0
        # The activity of each connection at the last look, and at how many looks it has been the same.
        self._looks: dict[Drainable, tuple[int, int]] = {}
        # In the reactor's next turn: it first reads the bytes that have arrived by now.
        self._look_timer: IDelayedCall = reactor.callLater(0, self._begin)
        self._end_timers: list[IDelayedCall] = []

    def end_after(self, timeout: float) -> None:
        """Abort connections that are still open after ``timeout`` seconds."""
        self._end_timers.append(self._reactor.callLater(timeout, self._end))

    def stop(self) -> None:
        """Stop all timers."""
        for timer in (self._look_timer, *self._end_timers):
            if timer.active():
                timer.cancel()

    def _begin(self) -> None:
        for connection in list(self._connections):
            connection.hold()
        self._count_looks(self._connections)
        self._start_patience()
        self._look_later()

    def _start_patience(self) -> None:
        self._patience_ends = self._reactor.seconds() + self._patience
        self._patience = min(2 * self._patience, MAX_PATIENCE)

    def _look_later(self) -> None:
        # The last connection may have ended when AGENT-DISCONNECT was sent on it.
        if self._connections:
            self._look_timer = self._reactor.callLater(QUIET_INTERVAL, self._read_first)

    def _read_first(self) -> None:
        # If this process had no core for a while, NOTIFYs may wait in the kernel on connections that look quiet. The
        # reactor reads them before it runs the next call.
        self._look_timer = self._reactor.callLater(0, self._look)

    def _look(self) -> None:
        now = self._reactor.seconds()
        staying = [connection for connection in self._connections if not connection.has_disconnected()]
        self._count_looks(staying)
        settled: list[Drainable] = []
        unsettled: list[Drainable] = []
        for connection in staying:
            (settled if self._is_settled(connection) else unsettled).append(connection)
        idle = [connection for connection in settled if not connection.has_held_acks()]
        closing = len(staying) < len(self._connections)
        if unsettled and now < self._patience_ends:
            pass
        elif idle:
            self._closed_by = now + CLOSE_INTERVAL
            for connection in idle:
                connection.disconnect()
        elif not closing or now >= self._closed_by:
            # An ACK may make HAProxy send the next NOTIFY, and HAProxy must not choose a connection on which
            # AGENT-DISCONNECT was just sent. So all connections are disconnected at the same time.
            together = not unsettled or self._patience >= MAX_PATIENCE
            for connection in settled:
                (connection.disconnect if together else connection.release)()
            for connection in unsettled:
                connection.release()
            self._start_patience()
        self._look_later()

    def _count_looks(self, connections: Collection[Drainable]) -> None:
        looks: dict[Drainable, tuple[int, int]] = {}
        for connection in connections:
            activity, count = self._looks.get(connection, (-1, 0))
            looks[connection] = (connection.activity, count + 1 if connection.activity == activity else 1)
        self._looks = looks

    def _is_settled(self, connection: Drainable) -> bool:
        """Return whether nothing is pending on ``connection``, and nothing has come for long enough."""
        _, looks = self._looks[connection]
        intervals = QUIET_INTERVALS_AFTER_ACKS if connection.may_have_unread_acks() else 1
        return looks > intervals and connection.is_idle()

    def _end(self) -> None:
        self._on_timeout()
        for connection in list(self._connections):
            connection.abort()

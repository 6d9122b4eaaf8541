"""When NOTIFYs are due, for a load with a constant rate: an open loop.

Without a rate, the load sends a NOTIFY when it gets an ACK. So while the agent stands still, nothing is sent, and its
standstill has a long latency for the few NOTIFYs in flight only. Clients of a site do not wait like that. With a rate,
each NOTIFY is due at a point in time that the agent cannot change, and its latency counts from then.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, Protocol, final

from spoa_twisted.ctl.latency import Latencies

_SECOND: Final = 10**9


class Paced(Protocol):
    """A connection that a schedule sends on."""

    @property
    def room(self) -> int:
        """How many NOTIFYs it can send now."""

    def send_due(self, times: Sequence[int]) -> None:
        """Send a NOTIFY for each of ``times``, which are the times at which they were due."""


class Timer(Protocol):
    """What wakes a schedule when the next NOTIFY is due: see :class:`Pacer`."""

    def wake_at(self, nanoseconds: int) -> None:
        """Call the schedule's ``on_time`` at this time."""

    def stop(self) -> None:
        """Call nothing any more."""


#: Makes the timer that calls its argument.
MakeTimer = Callable[[Callable[[], None]], Timer]


@final
class Schedule:
    """Sends NOTIFYs at a constant rate, on the connections in turn.

    A NOTIFY that is due waits while each connection has as many in flight as it may have. That counts as latency of the
    agent. What the load itself is late counts too, and :attr:`late` has it.

    :param rate: NOTIFYs a second.
    :param connections: returns the open connections.
    :param make_timer: makes its timer.
    :param now: the time in nanoseconds.
    """

    def __init__(
        self,
        rate: float,
        connections: Callable[[], Sequence[Paced]],
        make_timer: MakeTimer,
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        # In nanoseconds; whole numbers, so that no NOTIFY is a nanosecond too early.
        self._interval = max(1, round(_SECOND / rate))
        self._connections = connections
        self._make_timer = make_timer
        self._now = now
        self._timer: Timer | None = None
        self._begun_at = 0
        # How many NOTIFYs were sent, and how many will be due in all; None before end().
        self._sent = 0
        self._last: int | None = None
        # The connection that is the next in turn, as a place in connections().
        self._turn = 0
        # The number of the NOTIFY before which all connections were full: from there on, waiting is not the load's.
        self._full_until = 0
        #: How late the load sent the NOTIFYs that no full connection held up, in nanoseconds.
        self.late = Latencies()

    @property
    def waiting(self) -> int:
        """How many NOTIFYs are due and not sent."""
        return self._due_at(self._now()) - self._sent

    def begin(self) -> None:
        """Send the first NOTIFY now, and the others when they are due."""
        self._begun_at = self._now()
        self._timer = self._make_timer(self.on_time)
        self.on_time()

    def end(self) -> None:
        """No more NOTIFYs are due from now on. Those that wait are still sent."""
        self._last = self._due_at(self._now())
        if self._timer is not None:
            self._timer.stop()

    def give_up(self) -> int:
        """Send nothing any more. Return how many NOTIFYs have waited in vain."""
        waiting = self.waiting
        self._last = self._sent
        return waiting

    def on_time(self) -> None:
        """Send what is due, and set the timer for the next NOTIFY."""
        self.send()
        if self._last is None:
            assert self._timer is not None
            self._timer.wake_at(self._time_of(self._due_at(self._now())))

    def send(self) -> None:
        """Send the NOTIFYs that are due, as far as the connections have room."""
        now = self._now()
        due = self._due_at(now)
        if self._sent == due:
            return
        connections = self._connections()
        room = [connection.room for connection in connections]
        chosen: dict[int, list[int]] = defaultdict(list)
        number = min(due - self._sent, sum(room))
        for _ in range(number):
            # The loop ends, because there is room for each.
            while not room[self._turn % len(room)]:
                self._turn += 1
            place = self._turn % len(room)
            self._turn = place + 1
            room[place] -= 1
            when = self._time_of(self._sent)
            if self._sent >= self._full_until:
                self.late.add(now - when)
            chosen[place].append(when)
            self._sent += 1
        if self._sent < due:
            self._full_until = due
        for place, times in chosen.items():
            connections[place].send_due(times)

    def _due_at(self, now: int) -> int:
        """Return how many NOTIFYs are due until ``now``."""
        if self._last is not None:
            return self._last
        return (now - self._begun_at) // self._interval + 1

    def _time_of(self, number: int) -> int:
        """Return when NOTIFY ``number`` is due; the first one has the number 0."""
        return self._begun_at + number * self._interval

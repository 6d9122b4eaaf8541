"""Hands each new connection to the worker that has the fewest open ones.

Connections wait while no worker can take them: a few in this process, and the others in the queue of the kernel,
because the ports are paused then.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, final

from twisted.internet.interfaces import IReactorTime

#: How many connections are on their way to one worker. Linux limits the descriptors that are on their way between
#: processes: for all processes of a user together, to the number of files that one may open.
MAX_OFFERED: Final = 32

#: Seconds. A worker that has not taken a connection for this long stands still: others are preferred.
SLOW: Final = 0.1


class Recipient(Protocol):
    """A worker, as this module sees it."""

    #: The number of the worker.
    number: int

    def send_connection(self, descriptor: int, number: int, endpoint: int) -> None:
        """Send a connection to the worker."""


@dataclass(slots=True)
class Accepted:
    """A connection that a port has accepted."""

    connection: socket.socket
    #: The number of the endpoint.
    endpoint: int
    #: The number of the worker that the endpoint belongs to; 0 if it belongs to all.
    owner: int


@dataclass(slots=True)
class _Load:
    """What one worker has."""

    #: The number of its connections, those on their way included.
    open: int = 0
    #: The connections on their way, by a number, with the time at which they were sent. The oldest is the first.
    offered: dict[int, tuple[float, Accepted]] = field(default_factory=dict)


@final
class HandingOver:
    """Distributes connections among the workers.

    :param max_connections: how many connections all workers together may have. Others are closed at once.
    :param on_refused: called for each connection that is closed.
    :param pause: called with true when the ports must accept no more connections, and with false when they may again.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        max_connections: int,
        on_refused: Callable[[], None],
        pause: Callable[[bool], None],
    ) -> None:
        self._reactor = reactor
        self._max_connections = max_connections
        self._on_refused = on_refused
        self._pause = pause
        # The workers that can take connections, and those that cannot any more, but still have some.
        self._ready: dict[Recipient, _Load] = {}
        self._leaving: dict[Recipient, _Load] = {}
        self._waiting: deque[Accepted] = deque()
        self._paused = False
        self._last_number = 0

    @property
    def waiting(self) -> int:
        """The number of connections that no worker could take yet."""
        return len(self._waiting)

    @property
    def open(self) -> int:
        """The number of connections of all workers, those on their way included."""
        return sum(load.open for loads in (self._ready, self._leaving) for load in loads.values())

    def connections(self, worker: Recipient) -> int:
        """Return the number of connections of ``worker``."""
        load = self._load(worker)
        return 0 if load is None else load.open

    def add(self, worker: Recipient) -> None:
        """Begin to hand connections to ``worker``."""
        self._ready[worker] = _Load()
        self._hand_over()

    def leave(self, worker: Recipient) -> None:
        """Hand no more connections to ``worker``. It keeps those that it has, and takes those on their way."""
        load = self._ready.pop(worker, None)
        if load is not None:
            self._leaving[worker] = load
        self._hand_over()

    def remove(self, worker: Recipient) -> None:
        """Forget ``worker``, which has ended. The connections that it has not taken go to others."""
        load = self._ready.pop(worker, None) or self._leaving.pop(worker, None)
        if load is not None:
            self._waiting.extendleft(accepted for _, accepted in reversed(load.offered.values()))
        self._hand_over()

    def accept(self, connection: socket.socket, endpoint: int, owner: int) -> None:
        """Hand ``connection`` to a worker as soon as possible."""
        if self.open + len(self._waiting) >= self._max_connections:
            connection.close()
            self._on_refused()
            return
        self._waiting.append(Accepted(connection, endpoint, owner))
        self._hand_over()

    def on_taken(self, worker: Recipient, number: int) -> None:
        """Report that ``worker`` has the connection ``number``."""
        load = self._load(worker)
        if load is not None and number in load.offered:
            _, accepted = load.offered.pop(number)
            accepted.connection.close()
            self._hand_over()

    def on_returned(self, worker: Recipient, number: int) -> None:
        """Hand the connection ``number`` to another worker than ``worker``, which drains, and does not take it."""
        load = self._load(worker)
        if load is not None and number in load.offered:
            _, accepted = load.offered.pop(number)
            load.open -= 1
            # It has waited for longer than those that wait.
            self._waiting.appendleft(accepted)
            self._hand_over()

    def on_closed(self, worker: Recipient, count: int) -> None:
        """Report that ``count`` connections of ``worker`` were closed."""
        load = self._load(worker)
        if load is not None:
            load.open -= count

    def close_waiting(self) -> None:
        """Close the connections that no worker could take."""
        while self._waiting:
            self._waiting.popleft().connection.close()

    def _load(self, worker: Recipient) -> _Load | None:
        return self._ready.get(worker) or self._leaving.get(worker)

    def _hand_over(self) -> None:
        while self._waiting:
            worker = self._choose(self._waiting[0].owner)
            if worker is None:
                break
            accepted = self._waiting.popleft()
            load = self._ready[worker]
            load.open += 1
            self._last_number += 1
            load.offered[self._last_number] = (self._reactor.seconds(), accepted)
            worker.send_connection(accepted.connection.fileno(), self._last_number, accepted.endpoint)
        if self._paused != bool(self._waiting):
            self._paused = not self._paused
            self._pause(self._paused)

    def _choose(self, owner: int) -> Recipient | None:
        now = self._reactor.seconds()

        def order(worker: Recipient) -> tuple[bool, bool, int]:
            load = self._ready[worker]
            oldest = next(iter(load.offered.values()), (now, None))[0]
            return now - oldest > SLOW, worker.number != owner, load.open

        able = [worker for worker, load in self._ready.items() if len(load.offered) < MAX_OFFERED]
        return min(able, key=order, default=None)

"""With the capability ``async``, an ACK may take any connection of its engine (SPOE.txt, section 3.2.1).

HAProxy <= 3.0 gives all connections of one engine the same engine-id. When a connection ends while its handlers have
not finished, the engine takes over the pending answers, and sends each ACK on another connection of the same engine, or
on the next one that HAProxy opens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol, final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from spoa_twisted.observer import CancelFailed, IObserver

#: Seconds for which an engine without connections is remembered, with the ACKs that it is due.
ENGINE_TIMEOUT: Final = 10.0

# Of all engines together: how many answers may be pending without a connection, and how many bytes of actions may wait
# for a connection. A peer could otherwise fill the memory with engines that never come back.
_MAX_PENDING: Final = 1024
_MAX_WAITING_SIZE: Final = 2**20


class Carrier(Protocol):
    """A connection, as its engine sees it."""

    def acknowledge(self, ids: bytes, actions: bytes) -> None:
        """Send an ACK."""

    def has_disconnected(self) -> bool:
        """Return whether no further ACK can be sent."""


def cancel(answers: Iterable[Deferred[bytes]], observer: IObserver) -> None:
    """Cancel pending answers. An exception that one raises is reported, and does not keep the others."""
    for answer in answers:
        try:
            answer.cancel()
        except BaseException:
            observer.on_event(CancelFailed(Failure()))


@final
class Engines:
    """The engines that have connections, or had some a short time ago."""

    def __init__(self, reactor: IReactorTime, observer: IObserver) -> None:
        self._reactor = reactor
        self._observer = observer
        self._engines: dict[str, Engine] = {}
        self._usage = _Usage()

    def get(self, engine_id: str) -> Engine:
        """Return the engine of this id, which may be a new one."""
        engine = self._engines.get(engine_id)
        if engine is None:
            engine = self._engines[engine_id] = Engine(
                self._reactor, self._observer, self._usage, lambda: self._engines.pop(engine_id)
            )
        return engine

    def __len__(self) -> int:
        """Return how many engines are remembered."""
        return len(self._engines)

    def forget_all(self) -> None:
        """Cancel everything that is pending, and forget all engines."""
        for engine in list(self._engines.values()):
            engine.forget()


@final
class _Usage:
    """How much all engines together hold."""

    __slots__ = ("pending", "waiting_size")

    def __init__(self) -> None:
        self.pending = 0
        self.waiting_size = 0


@final
class Engine:
    """The connections of one engine, and the answers that ended connections have left to it.

    :param on_forgotten: called when the engine has no connection left, and gives up what is pending.
    """

    def __init__(
        self, reactor: IReactorTime, observer: IObserver, usage: _Usage, on_forgotten: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._observer = observer
        self._usage = usage
        self._on_forgotten = on_forgotten
        # A dict, because it keeps the order: the oldest connection carries the ACKs.
        self._connections: dict[Carrier, None] = {}
        # Answers that were left, with the ids that their ACKs repeat.
        self._pending: dict[Deferred[bytes], bytes] = {}
        # ACKs that wait for a connection: ids and actions.
        self._waiting: list[tuple[bytes, bytes]] = []
        self._timer: IDelayedCall | None = None

    def add(self, connection: Carrier) -> None:
        """Let ``connection`` carry ACKs, beginning with those that wait for one."""
        self._connections[connection] = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ids, actions in self._take_waiting():
            connection.acknowledge(ids, actions)

    def remove(self, connection: Carrier, pending: dict[Deferred[bytes], bytes]) -> None:
        """Take over ``pending`` from ``connection``, which closes. HAProxy opens a new one while it waits for ACKs."""
        self._connections.pop(connection, None)
        for answer, ids in pending.items():
            if self._usage.pending < _MAX_PENDING:
                self._usage.pending += 1
                self._pending[answer] = ids
            else:
                cancel([answer], self._observer)
        if not self._connections and self._timer is None:
            if self._pending:
                self._timer = self._reactor.callLater(ENGINE_TIMEOUT, self.forget)
            else:
                self.forget()

    def awaits(self, answer: Deferred[bytes]) -> bool:
        """Return whether ``answer`` was taken over, and is still pending."""
        return answer in self._pending

    def on_answer(self, answer: Deferred[bytes], actions: bytes) -> None:
        """Send the ACK for a pending answer on any connection."""
        ids = self._pending.pop(answer)
        self._usage.pending -= 1
        for connection in self._connections:
            if not connection.has_disconnected():
                connection.acknowledge(ids, actions)
                return
        if self._usage.waiting_size + len(actions) <= _MAX_WAITING_SIZE:
            self._usage.waiting_size += len(actions)
            self._waiting.append((ids, actions))

    def forget(self) -> None:
        """Cancel everything that is pending: the engine does not come back."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._on_forgotten()
        self._take_waiting()
        pending, self._pending = self._pending, {}
        self._usage.pending -= len(pending)
        cancel(pending, self._observer)

    def _take_waiting(self) -> list[tuple[bytes, bytes]]:
        waiting, self._waiting = self._waiting, []
        self._usage.waiting_size -= sum([len(actions) for _, actions in waiting])
        return waiting

"""With the capability ``async``, the agent may send an ACK on any connection of its engine (SPOE.txt, section 3.2.1).

HAProxy <= 3.0 sends the same engine-id on all connections of one engine. When a connection ends and handlers are
pending, :class:`Engine` takes over the pending answers. It sends each ACK on another connection of the same engine, or
on the next one that HAProxy opens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from spoa_twisted.handlers.pending import PendingAnswer

#: Seconds for which the agent keeps an engine that has pending answers but no connection.
ENGINE_TIMEOUT: Final = 10.0

# The largest number of pending answers whose connection has ended, and of the bytes of actions that wait for a
# connection, of all engines together. Otherwise a peer could fill the memory with engines that never connect again.
_MAX_PENDING: Final = 1024
_MAX_WAITING_SIZE: Final = 2**20


class Carrier(Protocol):
    """The methods of a connection that :class:`Engine` calls."""

    def acknowledge(self, ids: bytes, actions: bytes) -> None:
        """Send the ACK of the NOTIFY with ``ids``."""

    def has_disconnected(self) -> bool:
        """Return whether no further ACK can be sent."""


@final
class Engines:
    """The engines with open connections, and the engines that still have pending answers.

    :param cancel: cancels a pending answer.
    """

    def __init__(self, reactor: IReactorTime, cancel: Callable[[PendingAnswer], None]) -> None:
        self._reactor = reactor
        self._cancel = cancel
        self._engines: dict[str, Engine] = {}
        self._usage = _Usage()

    def get(self, engine_id: str) -> Engine:
        """Return the engine with this id. Create it if it does not exist."""
        engine = self._engines.get(engine_id)
        if engine is None:
            engine = self._engines[engine_id] = Engine(
                self._reactor, self._cancel, self._usage, lambda: self._engines.pop(engine_id)
            )
        return engine

    def __len__(self) -> int:
        """Return the number of engines."""
        return len(self._engines)

    def pending(self) -> list[PendingAnswer]:
        """Return the pending answers of ended connections, of all engines."""
        return [answer for engine in self._engines.values() for answer in engine.pending()]

    def forget_all(self) -> None:
        """Cancel all pending answers, and forget all engines."""
        for engine in list(self._engines.values()):
            engine.forget()


@final
class _Usage:
    """What all engines together hold: the number of pending answers, and the bytes of actions that wait."""

    __slots__ = ("pending", "waiting_size")

    def __init__(self) -> None:
        self.pending = 0
        self.waiting_size = 0


@final
class Engine:
    """The connections of one engine, and the pending answers of its ended connections.

    :param cancel: cancels a pending answer.
    :param usage: the object that all engines share.
    :param on_forgotten: called when the engine cancels its pending answers, because it has no connection.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        cancel: Callable[[PendingAnswer], None],
        usage: _Usage,
        on_forgotten: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._cancel = cancel
        self._usage = usage
        self._on_forgotten = on_forgotten
        # A dict, because it keeps the order: ACKs leave on the oldest connection.
        self._connections: dict[Carrier, None] = {}
        # The pending answers of ended connections, with the ids that their ACKs repeat.
        self._pending: dict[PendingAnswer, bytes] = {}
        # The ACKs that wait for a connection, each as ids and actions.
        self._waiting: list[tuple[bytes, bytes]] = []
        self._timer: IDelayedCall | None = None

    def add(self, connection: Carrier) -> None:
        """Add ``connection``. If ACKs wait for a connection, send them on this one."""
        self._connections[connection] = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ids, actions in self._take_waiting():
            connection.acknowledge(ids, actions)

    def remove(self, connection: Carrier, pending: dict[PendingAnswer, bytes]) -> None:
        """Take over ``pending`` from ``connection``, which has ended.

        If it was the last connection, HAProxy opens a new one, because it still waits for the ACKs.
        """
        self._connections.pop(connection, None)
        for answer, ids in pending.items():
            if self._usage.pending < _MAX_PENDING:
                self._usage.pending += 1
                self._pending[answer] = ids
            else:
                self._cancel(answer)
        if not self._connections and self._timer is None:
            if self._pending:
                self._timer = self._reactor.callLater(ENGINE_TIMEOUT, self.forget)
            else:
                self.forget()

    def pending(self) -> list[PendingAnswer]:
        """Return the answers that this engine has taken over, and that are still pending."""
        return list(self._pending)

    def awaits(self, answer: PendingAnswer) -> bool:
        """Return whether this engine has taken over ``answer``, and it is still pending."""
        return answer in self._pending

    def on_answer(self, answer: PendingAnswer, actions: bytes) -> None:
        """Send the ACK of a pending answer on the oldest connection, or keep it until there is a connection."""
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
        """Cancel all pending answers, because the engine has no connection."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._on_forgotten()
        self._take_waiting()
        pending, self._pending = self._pending, {}
        self._usage.pending -= len(pending)
        for answer in pending:
            self._cancel(answer)

    def _take_waiting(self) -> list[tuple[bytes, bytes]]:
        waiting, self._waiting = self._waiting, []
        self._usage.waiting_size -= sum([len(actions) for _, actions in waiting])
        return waiting

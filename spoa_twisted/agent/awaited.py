"""Waiting for the end of pending answers, as a reload does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from twisted.internet.defer import Deferred, succeed

from spoa_twisted.handlers.pending import PendingAnswer


@final
class Awaited:
    """The pending answers that others wait for."""

    __slots__ = ("_waits", "is_empty")

    def __init__(self) -> None:
        #: True if nobody waits. An attribute, because each answer that comes later reads it.
        self.is_empty = True
        # The answers of each wait.
        self._waits: list[tuple[set[PendingAnswer], Deferred[None]]] = []

    def when_ended(self, answers: Iterable[PendingAnswer]) -> Deferred[None]:
        """Return a Deferred that fires when all of ``answers`` have come, or were cancelled."""
        waiting = set(answers)
        if not waiting:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._waits.append((waiting, ended))
        self.is_empty = False
        return ended

    def end(self, answer: PendingAnswer) -> None:
        """Note that ``answer`` has come, or was cancelled."""
        for waiting, ended in list(self._waits):
            waiting.discard(answer)
            if not waiting:
                self._waits.remove((waiting, ended))
                self.is_empty = not self._waits
                # The caller may have cancelled it.
                if not ended.called:
                    ended.callback(None)

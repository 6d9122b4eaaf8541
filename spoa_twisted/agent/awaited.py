"""Waiting for the end of pending answers, as a reload does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from twisted.internet.defer import Deferred, succeed

from spoa_twisted.handlers.pending import PendingAnswer


@final
class Awaited:
    """The pending answers that others wait for."""

    __slots__ = ("waits",)

    def __init__(self) -> None:
        #: The answers of each wait that have not ended.
        self.waits: list[tuple[set[PendingAnswer], Deferred[None]]] = []

    def when_ended(self, answers: Iterable[PendingAnswer]) -> Deferred[None]:
        """Return a Deferred that fires when all of ``answers`` have come, or were cancelled."""
        waiting = set(answers)
        if not waiting:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self.waits.append((waiting, ended))
        return ended

    def end(self, answer: PendingAnswer) -> None:
        """Note that ``answer`` has come, or was cancelled."""
        for waiting, ended in list(self.waits):
            waiting.discard(answer)
            if not waiting:
                self.waits.remove((waiting, ended))
                # The caller may have cancelled it.
                if not ended.called:
                    ended.callback(None)

"""The NOTIFYs of one connection whose handlers have not finished."""

from __future__ import annotations

from typing import Final, final

from twisted.internet.defer import Deferred

from spoa_twisted.spop.connection import Notify

# Bytes that a pending message needs besides its arguments. A rough figure: a NOTIFY of a few kilobytes may hold
# thousands of empty messages.
_MESSAGE_SIZE: Final = 1024


@final
class InFlight:
    """Pending answers, each a Deferred, with the ids that the ACK will repeat.

    :param max_count: how many NOTIFYs may be pending.
    :param max_size: how many bytes they may take.
    """

    __slots__ = ("_answers", "_max_count", "_max_size", "_size", "count", "full")

    def __init__(self, max_count: int, max_size: int) -> None:
        self._max_count = max_count
        self._max_size = max_size
        self._answers: dict[Deferred[bytes], tuple[bytes, int]] = {}
        self._size = 0
        #: How many NOTIFYs are pending. A stored number, as ``full`` is: both are read several times for each read.
        self.count = 0
        #: Whether no further NOTIFY may be answered before one of these is.
        self.full = False

    def add(self, answer: Deferred[bytes], notify: Notify) -> None:
        """Remember that ``answer`` will fire with the actions for ``notify``."""
        size = notify.size + _MESSAGE_SIZE * len(notify.messages)
        self._answers[answer] = (notify.ids, size)
        self.count += 1
        self._size += size
        self.full = self.count >= self._max_count or self._size >= self._max_size

    def remove(self, answer: Deferred[bytes]) -> bytes | None:
        """Return the ids of the NOTIFY that ``answer`` is for, and forget it; ``None`` if it is not pending here."""
        pending = self._answers.pop(answer, None)
        if pending is None:
            return None
        ids, size = pending
        self.count -= 1
        self._size -= size
        self.full = self.count >= self._max_count or self._size >= self._max_size
        return ids

    def take_all(self) -> dict[Deferred[bytes], bytes]:
        """Return all pending answers with their ids, and forget them."""
        answers, self._answers = self._answers, {}
        self.count = self._size = 0
        self.full = False
        return {answer: ids for answer, (ids, _) in answers.items()}

"""The NOTIFYs of one connection whose handlers have not finished."""

from __future__ import annotations

from typing import Final, final

from spoa_twisted.handlers.pending import PendingAnswer
from spoa_twisted.spop.connection import Notify

# About how many bytes of memory a pending message takes besides its arguments. Without this, a NOTIFY of a few
# kilobytes would count as small, although it may hold thousands of empty messages.
_MESSAGE_SIZE: Final = 1024


@final
class InFlight:
    """The pending answers of one connection, each with the ids that its ACK will repeat.

    :param max_count: the largest number of pending NOTIFYs.
    :param max_size: the largest number of bytes that the pending NOTIFYs may take.
    """

    __slots__ = ("_answers", "_max_count", "_max_size", "_size", "count", "full")

    def __init__(self, max_count: int, max_size: int) -> None:
        self._max_count = max_count
        self._max_size = max_size
        self._answers: dict[PendingAnswer, tuple[bytes, int]] = {}
        self._size = 0
        #: The number of pending NOTIFYs. This and ``full`` are attributes, because properties would be slower: the
        #: protocol uses both several times for each read.
        self.count = 0
        #: True when a limit is reached: no other NOTIFY is handled until one of these is answered.
        self.full = False

    def add(self, answer: PendingAnswer, notify: Notify) -> None:
        """Add ``answer``, the one to ``notify``."""
        size = notify.size + _MESSAGE_SIZE * len(notify.messages)
        self._answers[answer] = (notify.ids, size)
        self.count += 1
        self._size += size
        self.full = self.count >= self._max_count or self._size >= self._max_size

    def remove(self, answer: PendingAnswer) -> bytes | None:
        """Remove ``answer``. Return the ids of its NOTIFY, or ``None`` if ``answer`` is not pending here."""
        pending = self._answers.pop(answer, None)
        if pending is None:
            return None
        ids, size = pending
        self.count -= 1
        self._size -= size
        self.full = self.count >= self._max_count or self._size >= self._max_size
        return ids

    def answers(self) -> list[PendingAnswer]:
        """Return all pending answers."""
        return list(self._answers)

    def take_all(self) -> dict[PendingAnswer, bytes]:
        """Remove all pending answers, and return them with their ids."""
        answers, self._answers = self._answers, {}
        self.count = self._size = 0
        self.full = False
        return {answer: ids for answer, (ids, _) in answers.items()}

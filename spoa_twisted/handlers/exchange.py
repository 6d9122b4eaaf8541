"""The answer to a NOTIFY with several messages, if some of their handlers wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import Actions, PendingAnswer
from spoa_twisted.handlers.pending_call import PendingCall
from spoa_twisted.spop.messages import Message


@final
class Exchange(PendingAnswer):
    """Collects the actions of all messages of one NOTIFY, as their handlers finish.

    :param parts: the actions of each message. The caller adds them in the order of the messages, and ``b""`` for each
        call that waits.
    :param max_size: the longest LIST-OF-ACTIONS that fits in the ACK, in bytes.
    :param find: returns the handler of a message.
    """

    __slots__ = ("_calls", "_find", "_max_size", "_messages", "_outcomes", "_parts", "_started", "_unfinished")

    def __init__(
        self,
        messages: list[Message],
        parts: list[bytes],
        max_size: int,
        find: Callable[[Message], Handler | None],
        outcomes: Outcomes,
    ) -> None:
        super().__init__()
        self._messages = messages
        self._parts = parts
        self._max_size = max_size
        self._find = find
        self._outcomes = outcomes
        self._calls: list[PendingCall] = []
        # The number of calls that have not ended.
        self._unfinished = 0
        self._started = False

    def add(self, call: PendingCall) -> None:
        """Wait for ``call``. It may end while the handlers of later messages are called."""
        self._calls.append(call)
        self._unfinished += 1
        call.on_actions = self._on_part

    def start(self) -> bytes | PendingAnswer:
        """Return this object, or the actions of all messages if all calls have ended. All handlers were called."""
        self._started = True
        return self if self._unfinished else self._join()

    def cancel(self) -> None:
        """Cancel all handlers that have not finished; see :meth:`PendingAnswer.cancel`."""
        self.on_actions = None
        for call in [call for call in self._calls if call.detach()]:
            call.drop()

    def _on_part(self, call: PendingAnswer, actions: Actions) -> None:
        assert isinstance(call, PendingCall)
        assert isinstance(actions, bytes)
        self._parts[call.position] = actions
        self._unfinished -= 1
        if not self._unfinished and self._started:
            self.finish(self._join())

    def _join(self) -> bytes:
        return self._outcomes.join(self._messages, self._parts, self._max_size, self._find)

"""A NOTIFY with handlers that have not finished: waits for all of them, and no longer than each may take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from spoa_twisted.handlers.coroutines import pass_on
from spoa_twisted.handlers.deadlines import Deadlines
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.spop.messages import Message


@final
class PendingCall:
    """The call of one handler that returned a Deferred."""

    __slots__ = ("deadline", "deferred", "exchange", "handler", "message", "position", "seconds")

    #: When it expires; see :class:`~spoa_twisted.handlers.deadlines.Expiring`. Not set without a timeout.
    deadline: float

    def __init__(self, handler: Handler, message: Message, position: int, deferred: Deferred[Any]) -> None:
        self.handler = handler
        self.message = message
        self.position = position
        self.deferred = deferred
        self.seconds = 0.0
        #: The exchange to notify; None once finished or given up.
        self.exchange: Exchange | None = None

    def on_result(self, result: Any) -> Any:
        """Take the result of the Deferred, and pass it on to callbacks that others added."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_result(self, result)
        return pass_on(result, self.deferred)

    def expire(self) -> None:
        """Give up the call: its time is over."""
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        exchange.on_timeout(self)


@final
class Exchange:
    """Puts the answer to one NOTIFY together, as its handlers finish.

    :param parts: the actions of each message; those of a pending call are filled in when it finishes.
    :param find: returns the handler of a message.
    """

    __slots__ = (
        "_calls",
        "_deadlines",
        "_find",
        "_max_size",
        "_messages",
        "_missing",
        "_outcomes",
        "_parts",
        "_result",
    )

    def __init__(
        self,
        messages: list[Message],
        parts: list[bytes],
        calls: list[PendingCall],
        max_size: int,
        find: Callable[[Message], Handler | None],
        outcomes: Outcomes,
        deadlines: Deadlines,
    ) -> None:
        self._messages = messages
        self._parts = parts
        self._calls = calls
        self._missing = len(calls)
        self._max_size = max_size
        self._find = find
        self._outcomes = outcomes
        self._deadlines = deadlines
        self._result: Deferred[bytes] | None = None

    def start(self, timeout: float) -> bytes | Deferred[bytes]:
        """Return the actions of all messages, or a Deferred of them.

        :param timeout: the seconds for a handler that has no timeout of its own; 0 for no limit.
        """
        for call in self._calls:
            call.exchange = self
            call.deferred.addBoth(call.on_result)
            seconds = timeout if call.handler.timeout is None else call.handler.timeout
            # A Deferred that had its result already has called on_result by now.
            if seconds and call.exchange is not None:
                self._deadlines.add(call, seconds)
        if not self._missing:
            return self._join()
        self._result = Deferred(self._cancel)
        return self._result

    def on_result(self, call: PendingCall, result: Any) -> None:
        """Take the result of one call: variables, or a Failure."""
        self._deadlines.discard(call)
        to_actions = self._outcomes.failed if isinstance(result, Failure) else self._outcomes.returned
        self._parts[call.position] = to_actions(call.position, call.handler, call.message, result)
        self._on_settled()

    def on_timeout(self, call: PendingCall) -> None:
        """Answer without one call, and cancel it."""
        self._parts[call.position] = self._outcomes.timed_out(call.position, call.handler, call.message, call.seconds)
        self._cancel_call(call)
        self._on_settled()

    def _on_settled(self) -> None:
        self._missing -= 1
        # To cancel one handler may end the connection, which cancels the whole exchange: then _result was called.
        if not self._missing and self._result is not None and not self._result.called:
            self._result.callback(self._join())

    def _join(self) -> bytes:
        parts = self._parts
        if len(parts) == 1 and len(parts[0]) <= self._max_size:
            # Nearly always.
            return parts[0]
        return self._outcomes.join(self._messages, self._parts, self._max_size, self._find)

    def _cancel(self, result: Deferred[bytes]) -> None:
        pending = [call for call in self._calls if call.exchange is not None]
        # To cancel one call may finish others: their results must not be reported any more.
        for call in pending:
            call.exchange = None
        for call in pending:
            self._deadlines.discard(call)
            self._cancel_call(call)

    def _cancel_call(self, call: PendingCall) -> None:
        try:
            call.deferred.cancel()
        except BaseException:
            self._outcomes.cancel_failed(Failure())

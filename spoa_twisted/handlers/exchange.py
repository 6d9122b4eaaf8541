"""Waiting for the pending handlers of one NOTIFY, each until its timeout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from spoa_twisted.handlers.coroutines import pass_on
from spoa_twisted.handlers.deadlines import Deadlines
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.threads import BlockingThreads
from spoa_twisted.spop.messages import Message
from spoa_twisted.status.counters import Tally


@final
class PendingCall:
    """The call of one handler that returned a Deferred."""

    __slots__ = (
        "deadline",
        "deferred",
        "exchange",
        "handler",
        "message",
        "position",
        "seconds",
        "started",
        "tally",
        "threads",
        "weight",
    )

    #: See :class:`~spoa_twisted.handlers.deadlines.Expiring`. A call without a timeout does not have this attribute.
    deadline: float

    def __init__(
        self,
        handler: Handler,
        message: Message,
        position: int,
        deferred: Deferred[Any],
        tally: Tally,
        started: float,
        weight: int,
        threads: BlockingThreads | None = None,
    ) -> None:
        self.handler = handler
        self.message = message
        self.position = position
        self.deferred = deferred
        #: The threads that run the call; None if the reactor's thread runs it.
        self.threads = threads
        #: The numbers of the message.
        self.tally = tally
        #: The value of ``reactor.seconds()`` before the call, and for how many calls this one stands in the durations;
        #: 0 if its time is not taken.
        self.started = started
        self.weight = weight
        self.seconds = 0.0
        #: The exchange to notify; None after the call has finished, timed out, or was cancelled.
        self.exchange: Exchange | None = None

    def on_result(self, result: Any) -> Any:
        """Report the result of the Deferred to the exchange, and pass it on to the next callback."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_result(self, result)
        return pass_on(result, self.deferred)

    def expire(self) -> None:
        """Give up the call, because its timeout has passed."""
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        exchange.on_timeout(self)


@final
class Exchange:
    """Collects the actions of all messages of one NOTIFY, as their handlers finish.

    :param parts: the actions of each message. The parts of pending calls are empty, and are set when the call finishes.
    :param calls: the pending calls.
    :param find: returns the handler of a message.
    """

    __slots__ = (
        "_calls",
        "_deadlines",
        "_find",
        "_max_size",
        "_messages",
        "_outcomes",
        "_parts",
        "_result",
        "_unfinished",
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
        # The number of calls that have neither finished nor timed out.
        self._unfinished = len(calls)
        self._max_size = max_size
        self._find = find
        self._outcomes = outcomes
        self._deadlines = deadlines
        self._result: Deferred[bytes] | None = None

    def start(self, timeout: float) -> bytes | Deferred[bytes]:
        """Wait for the calls. Return the actions of all messages, or a Deferred that fires with them.

        :param timeout: the timeout, in seconds, of a handler that has no timeout of its own; 0 for no limit.
        """
        for call in self._calls:
            call.exchange = self
            call.deferred.addBoth(call.on_result)
            seconds = timeout if call.handler.timeout is None else call.handler.timeout
            # If the Deferred has already fired, on_result was called by addBoth, and call.exchange is None.
            if call.exchange is not None:
                if seconds:
                    self._deadlines.add(call, seconds)
                if not call.weight:
                    call.started = call.deadline - seconds if seconds else self._deadlines.reactor.seconds()
                # A call that waits is timed always, and stands for itself only.
                call.weight = 1
        if not self._unfinished:
            return self._join()
        self._result = Deferred(self._cancel)
        return self._result

    def on_result(self, call: PendingCall, result: Any) -> None:
        """Store the actions of a call that has finished.

        :param result: the variables, or a Failure.
        """
        self._deadlines.discard(call)
        call.tally.calls += 1
        if call.weight:
            call.tally.durations.end(call.started, call.weight, self._deadlines.reactor.seconds())
        if call.threads is not None:
            self._outcomes.awaited_thread(call.message, call.threads.wait_of(call.deferred))
        to_actions = self._outcomes.failed if isinstance(result, Failure) else self._outcomes.returned
        self._parts[call.position] = to_actions(call.position, call.handler, call.message, result)
        self._on_finished()

    def on_timeout(self, call: PendingCall) -> None:
        """Store the actions of a call that has timed out, and cancel it."""
        call.tally.calls += 1
        call.tally.durations.end(call.started, call.weight, self._deadlines.reactor.seconds())
        wait = None if call.threads is None else call.threads.wait_of(call.deferred)
        self._parts[call.position] = self._outcomes.timed_out(
            call.position, call.handler, call.message, call.seconds, wait
        )
        self._outcomes.cancel(call.deferred)
        self._on_finished()

    def _on_finished(self) -> None:
        self._unfinished -= 1
        # While a handler is cancelled, its code may close the connection. This cancels the whole exchange, and _result
        # is then called already.
        if not self._unfinished and self._result is not None and not self._result.called:
            self._result.callback(self._join())

    def _join(self) -> bytes:
        return self._outcomes.join(self._messages, self._parts, self._max_size, self._find)

    def _cancel(self, result: Deferred[bytes]) -> None:
        pending = [call for call in self._calls if call.exchange is not None]
        # Cancelling one call may finish other calls. Their results must not be reported, so all are detached first.
        for call in pending:
            call.exchange = None
        for call in pending:
            self._deadlines.discard(call)
            call.tally.calls += 1
            self._outcomes.cancelled(call.handler)
            self._outcomes.cancel(call.deferred)

"""The call of one handler that waits, until its result or its timeout."""

from __future__ import annotations

from typing import Any, final

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from spoa_twisted.handlers.coroutines import Waiting, pass_on
from spoa_twisted.handlers.deadlines import Queue
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import PendingAnswer
from spoa_twisted.handlers.threads import BlockingThreads
from spoa_twisted.spop.messages import Message
from spoa_twisted.status.counters import Tally


@final
class PendingCall(PendingAnswer):
    """The call of one handler that waits. It is also the answer to a NOTIFY that has one message only.

    The call ends with a result, with its timeout, or when it is cancelled, whichever comes first.

    :param position: the position of the message in its NOTIFY, counted from 0.
    :param max_size: the longest LIST-OF-ACTIONS that the call may answer, in bytes.
    :param waiting: what the call waits for.
    :param tally: the numbers of the message.
    :param started: the value of ``reactor.seconds()`` before the call, and for how many calls this one stands in the
        durations; 0 if its time was not taken.
    :param threads: the threads that run the call; ``None`` if the reactor's thread runs it.
    """

    __slots__ = (
        "_ended",
        "_handler",
        "_max_size",
        "_message",
        "_outcomes",
        "_reactor",
        "_started",
        "_tally",
        "_threads",
        "_waiting",
        "_weight",
        "deadline",
        "position",
        "queue",
    )

    #: See :class:`~spoa_twisted.handlers.deadlines.Expiring`. A call without a timeout does not have this attribute.
    deadline: float

    def __init__(
        self,
        handler: Handler,
        message: Message,
        position: int,
        max_size: int,
        waiting: Waiting,
        reactor: IReactorTime,
        outcomes: Outcomes,
        tally: Tally,
        started: float,
        weight: int,
        threads: BlockingThreads | None,
    ) -> None:
        # Not super().__init__(), for speed.
        self.on_actions = None
        self.actions = None
        self._handler = handler
        self._message = message
        self.position = position
        self._max_size = max_size
        self._waiting = waiting
        self._reactor = reactor
        self._outcomes = outcomes
        self._tally = tally
        self._started = started
        self._weight = weight
        self._threads = threads
        self._ended = False
        #: The queue of those with the same timeout; ``None`` for no limit, and before :meth:`wait`.
        self.queue: Queue | None = None

    def wait(self, timeout: float) -> bytes | PendingCall:
        """Wait for the result. Return this object, or the actions if there is a result already.

        :param timeout: the timeout, in seconds, of a handler that has no timeout of its own; 0 for no limit.
        """
        self._waiting.addBoth(self._on_result)
        actions = self.actions
        if actions is not None:
            # A call never has a Failure for the agent.
            assert isinstance(actions, bytes)
            return actions
        seconds = self._handler.timeout
        if seconds is None:
            seconds = timeout
        if seconds:
            outcomes = self._outcomes
            (outcomes.deadlines or outcomes.deadlines_on(self._reactor)).add(self, seconds)
            if not self._weight:
                self._started = self.deadline - seconds
        elif not self._weight:
            self._started = self._reactor.seconds()
        # A call that waits is timed always, and stands for itself only.
        self._weight = 1
        return self

    def expire(self) -> None:
        """Give up the call, because its timeout has passed."""
        queue = self.queue
        assert queue is not None
        self._ended = True
        self._tally.calls += 1
        self._tally.durations.end(self._started, self._weight, self._reactor.seconds())
        wait = None if self._threads is None else self._threads.wait_of(self._waiting)
        outcomes = self._outcomes
        actions = outcomes.timed_out(self.position, self._handler, self._message, queue.seconds, wait)
        outcomes.cancel(self._waiting)
        # While a handler is cancelled, its code may close the connection, which cancels this answer. Then there is no
        # ACK in which the actions have to fit.
        if self.on_actions is not None:
            self.finish(self._fitting(actions))

    def cancel(self) -> None:
        """Cancel the handler; see :meth:`PendingAnswer.cancel`."""
        if self.detach():
            self.drop()

    def detach(self) -> bool:
        """End the call without a result. Return false if it has ended already.

        To cancel one call may finish other ones. So those who cancel several calls detach all of them first.
        """
        self.on_actions = None
        ended, self._ended = self._ended, True
        return not ended

    def drop(self) -> None:
        """Cancel the handler of a call that was detached."""
        if self.queue is not None:
            self.queue.discard(self)
        self._tally.calls += 1
        self._outcomes.cancelled(self._handler)
        self._outcomes.cancel(self._waiting)

    def _on_result(self, result: Any) -> Any:
        if not self._ended:
            self._ended = True
            queue, tally, outcomes = self.queue, self._tally, self._outcomes
            if queue is not None:
                queue.discard(self)
            tally.calls += 1
            if self._weight:
                tally.durations.end(self._started, self._weight, self._reactor.seconds())
            if self._threads is not None:
                outcomes.awaited_thread(self._message, self._threads.wait_of(self._waiting))
            if isinstance(result, Failure):
                actions = outcomes.failed(self.position, self._handler, self._message, result)
            else:
                actions = outcomes.returned(self.position, self._handler, self._message, result)
            if len(actions) > self._max_size:
                actions = self._fitting(actions)
            # This is finish() without the call, for speed.
            on_actions, self.on_actions = self.on_actions, None
            if on_actions is None:
                self.actions = actions
            else:
                on_actions(self, actions)
        return pass_on(result, self._waiting) if isinstance(result, Failure) else result

    def _fitting(self, actions: bytes) -> bytes:
        """Return ``actions``, or those of ``on_error`` if they do not fit."""
        return self._outcomes.join([self._message], [actions], self._max_size, lambda message: self._handler)

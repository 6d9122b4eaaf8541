"""``--log-slow``: where the time of a NOTIFY went that took long.

:class:`Stopwatch` belongs to a connection, and :class:`Timing` to a NOTIFY. Without the option, an agent creates
neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Any, Final, final

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted.agent.lateness import Lateness
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import Actions, FollowedAnswer, PendingAnswer
from spoa_twisted.handlers.threads import Wait
from spoa_twisted.observer import IObserver, MessageTime, NotifySlow
from spoa_twisted.spop.connection import AgentConnection, Notify, State
from spoa_twisted.spop.messages import Message

_RUNNING: Final = State.RUNNING

# The argument by which HAProxy tells which request a NOTIFY belongs to: args id=unique-id.
_ID: Final = "id"


@final
class Stopwatch:
    """Reports the NOTIFYs of one connection that take longer than ``threshold``.

    A NOTIFY ends when its ACK leaves, so the ACKs that are queued are followed: :meth:`on_sent` counts the bytes.

    :param peer: the peer's address as text.
    :param threshold: seconds.
    :param lateness: tells how long the reactor stood still. All connections of an agent share it.
    """

    __slots__ = (
        "_acks",
        "_connection",
        "_earliest",
        "_sent",
        "lateness",
        "observer",
        "peer",
        "reactor",
        "threshold",
        "times",
    )

    def __init__(
        self,
        connection: AgentConnection,
        peer: str,
        threshold: float,
        reactor: IReactorTime,
        observer: IObserver,
        lateness: Lateness,
    ) -> None:
        self._connection = connection
        self.peer = peer
        self.threshold = threshold
        self.reactor = reactor
        self.observer = observer
        self.lateness = lateness
        # The number of bytes that were sent on this connection.
        self._sent = 0
        # The NOTIFYs whose ACKs are queued, each with the number of bytes that are sent before its ACK.
        self._acks: deque[tuple[int, Timing]] = deque()
        # The earliest beginning of the NOTIFYs in _acks; inf if there is none.
        self._earliest = inf
        #: For the next NOTIFY; ``None`` if it is in use by a NOTIFY that is pending. To make one takes long.
        self.times: Times | None = None

    def timing(self, handlers: IHandlers, notify: Notify) -> IHandlers:
        """Return ``handlers`` for one NOTIFY, whose time is taken."""
        return Timing(self, handlers, notify)

    def on_finished(self, timing: Timing) -> None:
        """Follow the ACK of a NOTIFY. Called before it is queued."""
        connection = self._connection
        if connection.state is _RUNNING:
            if timing.began < self._earliest:
                self._earliest = timing.began
            self._acks.append((self._sent + connection.bytes_to_send, timing))
        else:
            # With the capability async, the ACK leaves on another connection.
            timing.end(timing.finished)

    def on_sent(self, size: int) -> None:
        """Count the bytes of a write, and report the NOTIFYs whose ACKs were among them."""
        self._sent += size
        acks = self._acks
        if not acks:
            return
        now = self.reactor.seconds()
        if acks[-1][0] < self._sent and now - self._earliest <= self.threshold:
            # The usual case: all were sent, and none took long.
            acks.clear()
        while acks and acks[0][0] < self._sent:
            acks.popleft()[1].end(now)
        if not acks:
            self._earliest = inf


@final
@implementer(IHandlers)
class Timing:
    """Wraps the handlers for one NOTIFY, to take its time."""

    __slots__ = (
        "_before",
        "_handlers",
        "_late",
        "_notify",
        "_returned",
        "_started",
        "_stopwatch",
        "began",
        "ended",
        "finished",
        "waited",
    )

    def __init__(self, stopwatch: Stopwatch, handlers: IHandlers, notify: Notify) -> None:
        self._stopwatch = stopwatch
        self._handlers = handlers
        self._notify = notify

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        """Let the handlers answer; see :meth:`IHandlers.respond`."""
        stopwatch = self._stopwatch
        lateness = stopwatch.lateness
        self._started = started = reactor.seconds()
        delay = started - lateness.due
        if delay < 0:
            delay = 0.0
        self._before = before = lateness.in_this_turn + delay
        self._late = lateness.sum + delay
        #: When the time of the NOTIFY began: before it was read, if the agent stood still.
        self.began = started - before
        self._returned: float | None = None
        #: The positions of the messages whose handlers have finished, with the time.
        self.ended: list[tuple[int, float]] = []
        #: How many seconds a message waited for a thread, by the id() of the message; ``None`` without threads.
        self.waited: dict[int, float] | None = None
        times = stopwatch.times
        if times is None or times.outcomes is not outcomes:
            times = stopwatch.times = Times(outcomes, reactor)
        times.timing = self
        answer = self._handlers.respond(messages, max_size, reactor, timeout, times)
        if type(answer) is not bytes and isinstance(answer, PendingAnswer):
            stopwatch.times = None
            self._returned = reactor.seconds()
            return FollowedAnswer(answer, self._on_end)
        #: When all handlers had finished.
        self.finished = self.ended[-1][1] if self.ended else reactor.seconds()
        stopwatch.on_finished(self)
        return answer

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        """Let the handlers answer. No handler is called, so nothing takes long; see :meth:`IHandlers.refuse`."""
        return self._handlers.refuse(names, max_size)

    def end(self, now: float, *, answered: bool = True) -> None:
        """Report the NOTIFY if it took long.

        :param now: the value of ``reactor.seconds()`` when the ACK left.
        :param answered: false if the connection ended before.
        """
        # Twisted's reactors use the time of day. After it was set back, the difference would be negative.
        seconds = max(0.0, now - self._started) + self._before
        if seconds > self._stopwatch.threshold:
            self._report(seconds, now, answered)

    def _on_end(self, actions: Actions | None) -> None:
        self.finished = self._stopwatch.reactor.seconds()
        if not isinstance(actions, bytes):
            # The connection ended, and the agent cancelled the answer, or the handlers failed as a whole.
            self.end(self.finished, answered=False)
        else:
            self._stopwatch.on_finished(self)

    def _report(self, seconds: float, now: float, answered: bool) -> None:
        stopwatch, notify = self._stopwatch, self._notify
        messages = self._message_times()
        stopwatch.observer.on_event(
            NotifySlow(
                stopwatch.peer,
                max(messages, key=lambda message: message.seconds).name if messages else "",
                seconds,
                messages,
                unread=self._before,
                held_back=max(0.0, now - self.finished),
                standstill=stopwatch.lateness.total(now) - self._late,
                stream_id=notify.stream_id,
                frame_id=notify.frame_id,
                id=_id_of(notify.messages),
                answered=answered,
            )
        )

    def _message_times(self) -> tuple[MessageTime, ...]:
        """Return the time of each message.

        Handlers are called one after the other. So a handler that has finished at once began when the one before had
        finished, and one that has waited began at the same time as the next one.
        """
        ended = dict(self.ended)
        waited = self.waited or {}
        began = self._started
        result = []
        for position, message in enumerate(self._notify.messages):
            end = ended.get(position)
            finished = end is not None
            if end is None:
                end = self.finished
            result.append(MessageTime(message.name, max(0.0, end - began), waited.get(id(message), 0.0), finished))
            if finished and (self._returned is None or end <= self._returned):
                began = end
        return tuple(result)


@final
class Times(Outcomes):
    """Does what ``outcomes`` does, and notes when each handler has finished."""

    __slots__ = ("_seconds", "outcomes", "timing")

    #: The NOTIFY that is answered.
    timing: Timing

    def __init__(self, outcomes: Outcomes, reactor: IReactorTime) -> None:
        # All state is that of outcomes.
        super().__init__(outcomes._observer, outcomes._record, outcomes.hold_ups, outcomes.counters, outcomes.deadlines)
        #: Does the work.
        self.outcomes = outcomes
        self._seconds = reactor.seconds

    def returned(self, position: int, handler: Handler, message: Message, result: Any) -> bytes:
        """See :meth:`Outcomes.returned`."""
        actions = self.outcomes.returned(position, handler, message, result)
        self.timing.ended.append((position, self._seconds()))
        return actions

    def failed(self, position: int, handler: Handler, message: Message, failure: Failure) -> bytes:
        """See :meth:`Outcomes.failed`."""
        actions = self.outcomes.failed(position, handler, message, failure)
        self.timing.ended.append((position, self._seconds()))
        return actions

    def timed_out(
        self, position: int, handler: Handler, message: Message, seconds: float, wait: Wait | None = None
    ) -> bytes:
        """See :meth:`Outcomes.timed_out`."""
        if wait is not None:
            self._note(message, wait)
        self.timing.ended.append((position, self._seconds()))
        return self.outcomes.timed_out(position, handler, message, seconds, wait)

    def awaited_thread(self, message: Message, wait: Wait) -> None:
        """See :meth:`Outcomes.awaited_thread`."""
        self._note(message, wait)
        self.outcomes.awaited_thread(message, wait)

    def unhandled(self, position: int, message: Message, known: Iterable[str] = ()) -> bytes:
        """See :meth:`Outcomes.unhandled`."""
        self.timing.ended.append((position, self._seconds()))
        return self.outcomes.unhandled(position, message, known)

    def report(self, position: int, outcome: Any, event: Any, actions: bytes) -> bytes:
        """See :meth:`Outcomes.report`."""
        return self.outcomes.report(position, outcome, event, actions)

    def _note(self, message: Message, wait: Wait) -> None:
        timing = self.timing
        if timing.waited is None:
            timing.waited = {}
        timing.waited[id(message)] = wait.seconds


def _id_of(messages: list[Message]) -> str | None:
    """Return the argument ``id`` of the first message that has it. No other value of a request is ever logged."""
    for message in messages:
        if _ID in message:
            value = message[_ID]
            return value if isinstance(value, str) else None
    return None

"""Handlers that hold up the agent: they keep the reactor's thread for long, and all other requests wait.

The agent reads the clock when it begins to handle the bytes of a read, and after each handler. So the time of a handler
is known for one reading of the clock.
"""

from __future__ import annotations

from math import inf
from typing import Final, final

from twisted.internet.interfaces import IReactorTime

from spoa_twisted.handlers.handler import Handler
from spoa_twisted.observer import HandlerBlocked, IObserver
from spoa_twisted.spop.messages import Message

#: Seconds. A handler that keeps the reactor's thread for longer is reported.
LONGEST_TURN: Final = 0.25


@final
class _HoldUp:
    """A handler that held the agent up, and is not reported yet."""

    __slots__ = ("handler", "name", "place", "seconds", "waiting")

    def __init__(self, handler: Handler, name: str, seconds: float) -> None:
        self.handler = handler
        self.name = name
        self.seconds = seconds
        self.place: str | None = None
        # The number of NOTIFYs that waited.
        self.waiting = 0


@final
class HoldUps:
    """Reports handlers that keep the reactor's thread for longer than ``LONGEST_TURN``.

    The report comes two turns of the reactor later. The NOTIFYs that are read until then have waited. To count them,
    ``limit`` is so small meanwhile that :meth:`check` finds every message late: otherwise, counting costs nothing.
    """

    __slots__ = ("_messages", "_observer", "_pending", "limit", "since", "threshold")

    def __init__(self, observer: IObserver) -> None:
        self._observer = observer
        self._pending: list[_HoldUp] = []
        # The messages of the last NOTIFY that was counted. One NOTIFY may have several messages.
        self._messages: list[Message] | None = None
        #: The value for ``limit`` while the agent handles the bytes of a read.
        self.threshold = LONGEST_TURN
        #: Seconds. While the agent does not handle a read, the value of ``since`` is old, so no message is late.
        self.limit = inf
        #: The value of ``reactor.seconds()`` at which the handler that runs now was called, or a moment before.
        self.since = 0.0

    def check(self, handler: Handler, message: Message, messages: list[Message], reactor: IReactorTime) -> None:
        """Measure the call of ``handler``, which has returned. ``Handlers.respond`` does this after each message."""
        now = reactor.seconds()
        if now - self.since > self.limit:
            self.on_late(handler, message, messages, now, reactor)
        self.since = now

    def on_late(
        self, handler: Handler, message: Message, messages: list[Message], now: float, reactor: IReactorTime
    ) -> None:
        """Count the NOTIFY, if others held it up. Note that ``handler`` held up others, if it did.

        :param messages: the messages of the NOTIFY.
        """
        if self._pending and messages is not self._messages:
            self._messages = messages
            for hold_up in self._pending:
                hold_up.waiting += 1
        # A blocking handler is called here only if the reactor has no threads, as in tests.
        if now - self.since > LONGEST_TURN and not handler.blocking:
            self._messages = messages
            self._note(handler, message, now - self.since, reactor)

    def on_resumed(self, handler: Handler, message: Message, started: float, reactor: IReactorTime) -> None:
        """Note that a coroutine held the agent up, if it did. Called after each step but the first.

        :param started: the value of ``reactor.seconds()`` before the step.
        """
        now = reactor.seconds()
        if now - started > LONGEST_TURN:
            # Another handler may have resumed the coroutine, by firing the Deferred that it awaits. The time of the
            # coroutine does not count for that handler.
            self.since = now
            self._note(handler, message, now - started, reactor)

    def explain(self, place: str | None) -> float:
        """Return for how many seconds the handlers that are not reported yet have held the agent up.

        :param place: the line of code in which the reactor's thread was meanwhile; ``None`` if it is not known. The
            report of the longest hold-up names it.
        """
        if self._pending:
            max(self._pending, key=lambda hold_up: hold_up.seconds).place = place
        return sum([hold_up.seconds for hold_up in self._pending])

    def _note(self, handler: Handler, message: Message, seconds: float, reactor: IReactorTime) -> None:
        hold_up = _HoldUp(handler, message.name, seconds)
        self._pending.append(hold_up)
        self.threshold = -inf
        if self.limit != inf:
            self.limit = -inf
        # This call runs at the beginning of the reactor's next turn, before the reactor reads what has arrived
        # meanwhile. The second call runs after that.
        reactor.callLater(0, reactor.callLater, 0, self._report, hold_up)

    def _report(self, hold_up: _HoldUp) -> None:
        self._pending.remove(hold_up)
        if not self._pending:
            self._messages = None
            self.threshold = LONGEST_TURN
        handler = hold_up.handler
        self._observer.on_event(
            HandlerBlocked(
                hold_up.name,
                hold_up.seconds,
                hold_up.waiting,
                coroutine=handler.is_coroutine,
                timeout=handler.timeout or 0.0,
                place=hold_up.place,
            )
        )

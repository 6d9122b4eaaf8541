"""Handlers that hold up the agent: they keep the reactor's thread for long, and all other requests wait.

The agent reads the clock at the beginning and at the end of each read. That tells that something blocked, but not which
handler. To tell that, the agent has to read the clock after each handler too, which is too slow for an agent that is
busy. So a busy agent does that only for a minute after a read that took too long. An agent that is less busy always
does.
"""

from __future__ import annotations

from random import getrandbits
from typing import Final, final

from twisted.internet.interfaces import IReactorTime

from spoa_twisted.handlers.handler import Handler
from spoa_twisted.observer import HandlerBlocked, IObserver
from spoa_twisted.spop.messages import Message

#: Seconds. A handler that keeps the reactor's thread for longer is reported.
LONGEST_TURN: Final = 0.25

#: After this number of reads, the agent decides whether to measure. An agent with 256 reads a second or more is busy.
READS: Final = 64

# A busy agent takes the time of one read of 17 to 48, of 32.5 on average.
_MIN_INTERVAL: Final = 17
_RANDOM_BITS: Final = 5

#: Seconds for which a busy agent measures each handler after a read that took too long.
MEASURED: Final = 60.0


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

    The report comes two turns of the reactor later. The NOTIFYs that are read until then have waited, and are counted.
    """

    __slots__ = (
        "_busy",
        "_decided",
        "_interval",
        "_measure_until",
        "_measuring",
        "_messages",
        "_observer",
        "_pending",
        "_since",
        "_undecided",
        "_until_timed",
        "_untimed",
        "active",
        "began",
        "reads",
        "weight",
    )

    def __init__(self, observer: IObserver) -> None:
        self._observer = observer
        self._pending: list[_HoldUp] = []
        # The messages of the last NOTIFY that was counted. One NOTIFY may have several messages.
        self._messages: list[Message] | None = None
        # The value of reactor.seconds() at which the handler that runs now was called, or a moment before.
        self._since = 0.0
        # When the agent last decided whether to measure, and until when it measures in any case.
        self._decided = 0.0
        self._measure_until = 0.0
        # Whether to measure each handler, and the number of measured reads until the agent decides that again.
        self._measuring = True
        self._undecided = READS
        #: The number of reads until :meth:`begin` has to be called. While each handler is measured, each read needs it.
        self.reads = 1
        #: Whether a read is handled now, and each handler is measured.
        self.active = False
        # The value that reads had at first.
        self._interval = 1
        # A busy agent that measures each handler still takes the time of few reads: the number of reads since the last
        # one whose time was taken, and the number at which the next one is taken.
        self._busy = False
        self._untimed = 0
        self._until_timed = 1
        #: For how many reads the read that is handled now stands, in the durations of the status; 0 if its time is not
        #: taken.
        self.weight = 0
        #: The value of reactor.seconds() at the beginning of the last read whose time was taken.
        self.began = 0.0

    def begin(self, now: float) -> tuple[bool, int]:
        """Begin to handle a read, and take its time if that is due.

        ``SPOAProtocol`` counts :attr:`reads` down, and calls this at 0.

        :param now: ``reactor.seconds()``.
        :return: the argument of :meth:`end`.
        """
        # A handler of another connection may have led to this read.
        outer = self.active, self.weight
        self._undecided -= self._interval
        if self._undecided <= 0:
            self._undecided = READS
            self._decide(now)
        self._untimed += self._interval
        self.weight = 0
        if self._untimed >= self._until_timed or not self._busy:
            self.weight, self._untimed = self._untimed, 0
            # A random number: HAProxy's connections often take turns, and each of them shall have its share.
            self._until_timed = _MIN_INTERVAL + getrandbits(_RANDOM_BITS)
        self._interval = self.reads = 1 if self._measuring else self._until_timed - self._untimed
        self.began = self._since = now
        self.active = self._measuring
        return outer

    def end(self, outer: tuple[bool, int]) -> None:
        """End a read for which :meth:`begin` was called."""
        self.active, self.weight = outer

    def measure_each(self, now: float) -> None:
        """Measure each handler for a minute, from the next read on. Called after a read that took too long.

        :param now: ``reactor.seconds()``.
        """
        self._measuring = True
        self.reads = self._interval = 1
        self._measure_until = now + MEASURED

    def restart(self, now: float) -> None:
        """Measure the next handler from ``now`` on. The time before ``now`` does not count for it."""
        self._since = now

    def check(self, handler: Handler, message: Message, messages: list[Message], reactor: IReactorTime) -> None:
        """Measure the call of ``handler``, which has returned. Do nothing if :attr:`active` is false.

        If other handlers have held the agent up, count the NOTIFY as one that waited. If ``handler`` has, note it.

        :param messages: the messages of the NOTIFY.
        """
        if not self.active:
            return
        if self._pending and messages is not self._messages:
            self._messages = messages
            for hold_up in self._pending:
                hold_up.waiting += 1
        now = reactor.seconds()
        seconds = now - self._since
        self._since = now
        # A blocking handler is called here only if the reactor has no threads, as in tests.
        if seconds > LONGEST_TURN and not handler.blocking:
            self._messages = messages
            self._note(handler, message, seconds, now, reactor)

    def on_long_step(
        self,
        handler: Handler,
        message: Message,
        messages: list[Message],
        seconds: float,
        now: float,
        reactor: IReactorTime,
    ) -> None:
        """Note that a step of a coroutine held the agent up.

        :param messages: the messages of the NOTIFY.
        :param now: ``reactor.seconds()``.
        """
        # Another handler may have resumed the coroutine, by firing the Deferred that it awaits. The time of the
        # coroutine does not count for that handler.
        self._since = now
        # The step may belong to the call that check() measures next. Its own NOTIFY has not waited.
        self._messages = messages
        self._note(handler, message, seconds, now, reactor)

    def explain(self, place: str | None) -> float:
        """Return for how many seconds the handlers that are not reported yet have held the agent up.

        :param place: the line of code in which the reactor's thread was meanwhile; ``None`` if it is not known. The
            report of the longest hold-up names it.
        """
        if self._pending:
            max(self._pending, key=lambda hold_up: hold_up.seconds).place = place
        return sum([hold_up.seconds for hold_up in self._pending])

    def _decide(self, now: float) -> None:
        busy = 0 <= now - self._decided < LONGEST_TURN
        self._decided = now
        self._busy = busy
        # If the clock was set back, the minute ends at once.
        self._measuring = not busy or bool(self._pending) or 0 < self._measure_until - now <= MEASURED

    def _note(self, handler: Handler, message: Message, seconds: float, now: float, reactor: IReactorTime) -> None:
        hold_up = _HoldUp(handler, message.name, seconds)
        self._pending.append(hold_up)
        self.measure_each(now)
        # This call runs at the beginning of the reactor's next turn, before the reactor reads what has arrived
        # meanwhile. The second call runs after that.
        reactor.callLater(0, reactor.callLater, 0, self._report, hold_up)

    def _report(self, hold_up: _HoldUp) -> None:
        self._pending.remove(hold_up)
        if not self._pending:
            self._messages = None
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


#: Says whose coroutine runs, for the report of a step that held the agent up: the arguments of :func:`end_step`. The
#: list has the messages of the NOTIFY, and the last part is the clock. It is a plain tuple, because each call of a
#: handler that returns an awaitable needs one.
Where = tuple[HoldUps, Handler, Message, list[Message], IReactorTime]


def end_step(where: Where, started: float) -> None:
    """Note that a step of a coroutine held the agent up, if it did. The coroutine waits now, or has ended.

    :param started: the value of ``reactor.seconds()`` before the step.
    """
    hold_ups, handler, message, messages, reactor = where
    now = reactor.seconds()
    if now - started > LONGEST_TURN:
        hold_ups.on_long_step(handler, message, messages, now - started, now, reactor)

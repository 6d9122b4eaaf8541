"""The result of each message: its actions for the ACK, and its report to the observers.

If a handler succeeds, its message sets the variables that the handler returned. If it fails in any way, its message
sets the variables of ``on_error``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from spoa_twisted.compiling import mypyc_attr
from spoa_twisted.handlers.asyncio_needed import explain
from spoa_twisted.handlers.deadlines import Deadlines
from spoa_twisted.handlers.errors import MissingArgument
from spoa_twisted.handlers.handler import Handler, as_variables
from spoa_twisted.handlers.hold_ups import HoldUps
from spoa_twisted.handlers.threads import Wait
from spoa_twisted.observer import (
    LONG_WAIT,
    ArgumentMissing,
    CancelFailed,
    HandlerFailed,
    HandlerTimedOut,
    IObserver,
    MessageEvent,
    MessageUnhandled,
    Outcome,
    ResultNotAsDeclared,
    ResultTooBig,
    ResultUnsendable,
    ThreadAwaited,
    VariableNameLong,
    VariableWithoutScope,
)
from spoa_twisted.spop.actions import LONGEST_SAFE_NAME, decode_actions, encode_actions
from spoa_twisted.spop.messages import Message
from spoa_twisted.status.counters import Counters


@mypyc_attr(allow_interpreted_subclasses=True)
class Outcomes:
    """Reports the results of the messages of a NOTIFY, and returns the actions of each message.

    A subclass that overrides :meth:`report` receives each failure.

    :param observer: receives the failures as events.
    :param record: a list with the result of each message, each ``Outcome.OK`` at first, which this object updates.
        Without a list, one ``Outcomes`` object is enough for all NOTIFYs.
    :param hold_ups: notices handlers that block. Without it, the object has one of its own.
    :param counters: counts the results. Without it, the object has one of its own.
    :param deadlines: the timeouts of handlers. Without it, the first handler that waits makes one.
    """

    __slots__ = ("_observer", "_record", "counters", "deadlines", "hold_ups")

    def __init__(
        self,
        observer: IObserver,
        record: list[Outcome] | None = None,
        hold_ups: HoldUps | None = None,
        counters: Counters | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._observer = observer
        self._record = record
        #: Notices handlers that block. All ``Outcomes`` of an agent share it.
        self.hold_ups = HoldUps(observer) if hold_ups is None else hold_ups
        #: Counts the results of each message. All ``Outcomes`` of an agent share it.
        self.counters = Counters() if counters is None else counters
        #: The timeouts of the handlers that wait. All ``Outcomes`` of an agent share it.
        self.deadlines = deadlines

    def deadlines_on(self, reactor: IReactorTime) -> Deadlines:
        """Return the :attr:`deadlines`. Make them if they are missing."""
        if self.deadlines is None:
            self.deadlines = Deadlines(reactor)
        return self.deadlines

    def returned(self, position: int, handler: Handler, message: Message, result: Any) -> bytes:
        """Return the actions for the ``result`` that a handler returned.

        :param position: the position of the message in its NOTIFY, counted from 0.
        """
        try:
            variables = result if type(result) is dict else as_variables(result)
            actions = encode_actions(variables, handler.doubtful)
        except BaseException as error:
            event = ResultUnsendable(message.name, error)
            return self._fail(position, Outcome.UNSENDABLE, event, handler)
        # The list is empty after nearly each result.
        if handler.doubtful:
            doubtful, handler.doubtful = handler.doubtful, []
            self._report_names(doubtful)
        # It is None after the first results of each handler.
        if handler.undeclared is not None:
            self._report_undeclared(handler, message, actions)
        return actions

    def failed(self, position: int, handler: Handler, message: Message, failure: Failure) -> bytes:
        """Return the actions for a handler that raised an exception, or could not be called."""
        event: MessageEvent
        if isinstance(failure.value, MissingArgument):
            event = ArgumentMissing(message.name, failure.value)
        else:
            # A reactor with an event loop does not help a thread.
            event = HandlerFailed(message.name, failure if handler.blocking else explain(failure))
        return self._fail(position, Outcome.ERROR, event, handler)

    def timed_out(
        self, position: int, handler: Handler, message: Message, seconds: float, wait: Wait | None = None
    ) -> bytes:
        """Return the actions for a handler that did not finish in time.

        :param seconds: the timeout of the handler.
        :param wait: how long the handler waited for a thread; ``None`` if it needs no thread.
        """
        if wait is None:
            event = HandlerTimedOut(message.name, seconds)
        else:
            event = HandlerTimedOut(message.name, seconds, wait.began, wait.seconds, wait.threads)
        return self._fail(position, Outcome.TIMEOUT, event, handler)

    def awaited_thread(self, message: Message, wait: Wait) -> None:
        """Report a handler that has finished, if it waited long for a thread."""
        if wait.seconds >= LONG_WAIT:
            self._observer.on_event(ThreadAwaited(message.name, wait.seconds, wait.threads))

    def unhandled(self, position: int, message: Message, known: Iterable[str] = ()) -> bytes:
        """Report a message without a handler. Return its actions, which are empty.

        :param known: the names of the messages that have a handler.
        """
        self.counters.unhandled += 1
        return self.report(position, Outcome.UNHANDLED, MessageUnhandled(message.name, known), b"")

    def report(self, position: int, outcome: Outcome, event: MessageEvent, actions: bytes) -> bytes:
        """Report a message that has failed. Return ``actions``, which its ACK has instead of the handler's result.

        :param actions: those of the handler's ``on_error``; ``b""`` if there are none, or they do not fit either.
        """
        self._observer.on_event(event)
        if self._record is not None:
            self._record[position] = outcome
        return actions

    def cancelled(self, handler: Handler) -> None:
        """Count a call of ``handler`` that is given up, because the connection has ended."""
        self.counters.failed(handler.label, Outcome.CANCELLED)

    def cancel(self, pending: Cancellable) -> None:
        """Cancel what a handler waits for. If that raises an exception, report it."""
        cancel(pending, self._observer)

    def join(
        self, messages: list[Message], parts: list[bytes], max_size: int, find: Callable[[Message], Handler | None]
    ) -> bytes:
        """Join ``parts``, the actions of each message, to one LIST-OF-ACTIONS of at most ``max_size`` bytes.

        If the actions of a message do not fit, those of its ``on_error`` replace them. If these do not fit either, the
        message has no actions.

        :param find: returns the handler of a message.
        """
        joined = b"".join(parts)
        if len(joined) <= max_size:
            return joined
        fitting: list[bytes] = []
        room = max_size
        for position, (message, actions) in enumerate(zip(messages, parts, strict=True)):
            if len(actions) > room:
                event = ResultTooBig(message.name, len(actions), room, _largest(actions))
                handler = find(message)
                if handler is None or len(handler.on_error) > room:
                    # If these are the actions of on_error, the handler has failed before, and is counted.
                    if handler is not None and actions is not handler.on_error:
                        self.counters.failed(handler.label, Outcome.TOO_BIG)
                    actions = self.report(position, Outcome.TOO_BIG, event, b"")
                else:
                    actions = self._fail(position, Outcome.TOO_BIG, event, handler)
            fitting.append(actions)
            room -= len(actions)
        return b"".join(fitting)

    def _fail(self, position: int, outcome: Outcome, event: MessageEvent, handler: Handler) -> bytes:
        """Report a failure of ``handler``. Return the actions of its ``on_error``."""
        self.counters.failed(handler.label, outcome)
        actions = self.report(position, outcome, event, handler.on_error)
        self._report_names(handler.doubtful_on_error)
        return actions

    def _report_names(self, doubtful: Iterable[str]) -> None:
        """Report names of variables that may not have the effect that the handler's author expects."""
        for variable in doubtful:
            scope, dot, name = variable.partition(".")
            if not dot:
                self._observer.on_event(VariableWithoutScope(variable))
            if len(name if dot else scope) > LONGEST_SAFE_NAME:
                self._observer.on_event(VariableNameLong(variable))

    def _report_undeclared(self, handler: Handler, message: Message, actions: bytes) -> None:
        """Report variables of a result that differ from what the handler declares. They are sent nevertheless."""
        undeclared = handler.undeclared
        assert undeclared is not None
        for difference in undeclared.compare(actions):
            self._observer.on_event(ResultNotAsDeclared(message.name, difference))
        if not undeclared.left:
            handler.undeclared = None


class Cancellable(Protocol):
    """A Deferred, or another object that has its method ``cancel``."""

    def cancel(self) -> None:
        """Give up waiting."""


def cancel(pending: Cancellable, observer: IObserver) -> None:
    """Cancel ``pending``. Report an exception that its canceller raises: the caller has others to cancel."""
    try:
        pending.cancel()
    except BaseException:
        observer.on_event(CancelFailed(Failure()))


def _largest(actions: bytes) -> str:
    """Return the name of the variable whose action is the longest of a LIST-OF-ACTIONS."""
    variables = decode_actions(actions)
    return max(variables, key=lambda name: len(encode_actions({name: variables[name]})), default="")

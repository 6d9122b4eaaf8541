"""The result of each message: its actions for the ACK, and its report to the observers.

If a handler succeeds, its message sets the variables that the handler returned. If it fails in any way, its message
sets the variables of ``on_error``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from spoa_twisted.handlers.binding import MissingArgument
from spoa_twisted.handlers.handler import Handler, as_variables
from spoa_twisted.handlers.hold_ups import HoldUps
from spoa_twisted.handlers.threads import Wait
from spoa_twisted.observer import (
    ArgumentMissing,
    CancelFailed,
    HandlerFailed,
    HandlerTimedOut,
    IObserver,
    MessageUnhandled,
    Outcome,
    ResultTooBig,
    ResultUnsendable,
    ThreadAwaited,
    VariableNameLong,
)
from spoa_twisted.spop.actions import decode_actions, encode_actions
from spoa_twisted.spop.messages import Message

#: HAProxy drops a variable if ``scope.prefix.name`` is longer than 63 characters. The agent does not know the prefix
#: (``option var-prefix``): a name of 40 characters leaves 17 characters for the prefix.
LONGEST_SAFE_NAME: Final = 40


@final
class Outcomes:
    """Reports the results of the messages of a NOTIFY, and returns the actions of each message.

    :param observer: receives the failures as events.
    :param record: a list with the result of each message, each ``Outcome.OK`` at first, which this object updates.
        Without a list, one ``Outcomes`` object is enough for all NOTIFYs.
    :param hold_ups: notices handlers that block. Without it, the object has one of its own.
    """

    __slots__ = ("_observer", "_record", "hold_ups")

    def __init__(
        self, observer: IObserver, record: list[Outcome] | None = None, hold_ups: HoldUps | None = None
    ) -> None:
        self._observer = observer
        self._record = record
        #: Notices handlers that block. All ``Outcomes`` of an agent share it.
        self.hold_ups = HoldUps(observer) if hold_ups is None else hold_ups

    def returned(self, position: int, handler: Handler, message: Message, result: Any) -> bytes:
        """Return the actions for the ``result`` that a handler returned.

        :param position: the position of the message in its NOTIFY, counted from 0.
        """
        try:
            variables = result if type(result) is dict else as_variables(result)
            actions = encode_actions(variables)
            # An action is longer than its variable's name. So no name can be too long if the actions are short. This
            # skips the check of most results.
            if len(actions) > LONGEST_SAFE_NAME:
                self._check_names(variables)
            return actions
        except BaseException as error:
            self._observer.on_event(ResultUnsendable(message.name, error))
            self._note(position, Outcome.UNSENDABLE)
            return handler.on_error

    def failed(self, position: int, handler: Handler, message: Message, failure: Failure) -> bytes:
        """Return the actions for a handler that raised an exception, or could not be called."""
        if isinstance(failure.value, MissingArgument):
            self._observer.on_event(ArgumentMissing(message.name, failure.value))
        else:
            self._observer.on_event(HandlerFailed(message.name, failure))
        self._note(position, Outcome.ERROR)
        return handler.on_error

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
        self._observer.on_event(event)
        self._note(position, Outcome.TIMEOUT)
        return handler.on_error

    def awaited_thread(self, message: Message, wait: Wait) -> None:
        """Report a handler that has finished, but waited long for a thread."""
        self._observer.on_event(ThreadAwaited(message.name, wait.seconds, wait.threads))

    def unhandled(self, position: int, message: Message) -> bytes:
        """Report a message without a handler. Return its actions, which are empty."""
        self._observer.on_event(MessageUnhandled(message.name))
        self._note(position, Outcome.UNHANDLED)
        return b""

    def cancel(self, deferred: Deferred[Any]) -> None:
        """Cancel the Deferred of a handler. If it raises an exception, report it."""
        cancel(deferred, self._observer)

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
                self._observer.on_event(ResultTooBig(message.name, len(actions), room, _largest(actions)))
                self._note(position, Outcome.TOO_BIG)
                handler = find(message)
                actions = handler.on_error if handler is not None else b""
                if len(actions) > room:
                    continue
            fitting.append(actions)
            room -= len(actions)
        return b"".join(fitting)

    def _check_names(self, variables: Any) -> None:
        for variable in variables:
            scope, dot, name = variable.partition(".")
            if len(name if dot else scope) > LONGEST_SAFE_NAME:
                self._observer.on_event(VariableNameLong(variable))

    def _note(self, position: int, outcome: Outcome) -> None:
        if self._record is not None:
            self._record[position] = outcome


def cancel(deferred: Deferred[Any], observer: IObserver) -> None:
    """Cancel ``deferred``. Report an exception that its canceller raises: the caller has others to cancel."""
    try:
        deferred.cancel()
    except BaseException:
        observer.on_event(CancelFailed(Failure()))


def _largest(actions: bytes) -> str:
    """Return the name of the variable whose action is the longest of a LIST-OF-ACTIONS."""
    variables = decode_actions(actions)
    return max(variables, key=lambda name: len(encode_actions({name: variables[name]})), default="")

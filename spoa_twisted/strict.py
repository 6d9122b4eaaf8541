"""How a test learns that a handler failed: its request raises the exception, or the failure is kept in a list.

:class:`~spoa_twisted.testing.FakeHAProxy` uses this module. A request raises the first of its failures, by the order of
its messages, for which the handler has no ``on_error``. All other failures are kept, and logged as an agent logs them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted import client
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import FollowedAnswer, PendingAnswer
from spoa_twisted.handlers.variable_types import has_type, show_type
from spoa_twisted.log import RESULT_TOO_BIG
from spoa_twisted.observer import (
    ArgumentMissing,
    ConnectionMade,
    Event,
    HandlerFailed,
    HandlerTimedOut,
    IObserver,
    LifeCycleFailed,
    MessageEvent,
    MessageUnhandled,
    Outcome,
    PayloadRefused,
    ProtocolError,
    RespondFailed,
    ResponseUnsendable,
    ResultNotAsDeclared,
    ResultTooBig,
    ResultUnsendable,
)
from spoa_twisted.spop.actions import Variables, decode_actions
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.hints import type_of
from spoa_twisted.spop.messages import Message

# The events that a request raises as an exception. They are not logged too, because trial fails a test that logs an
# exception.
_RAISED: Final = (
    ArgumentMissing,
    HandlerFailed,
    HandlerTimedOut,
    MessageUnhandled,
    PayloadRefused,
    ProtocolError,
    RespondFailed,
    ResponseUnsendable,
    ResultNotAsDeclared,
    ResultTooBig,
    ResultUnsendable,
)


# Characters of a value in an error text.
_MAX_SHOWN: Final = 100


class NotAsDeclared(AssertionError):
    """A handler sets a variable that its option ``sets`` does not declare, or declares with another type."""


class NoHandler(LookupError):
    """A message has no handler of its own, and there is no default handler. The text names similar messages."""


@final
@dataclass(frozen=True, slots=True)
class MessageFailure:
    """A message whose handler failed, while no request raised the exception; or an every or shutdown function."""

    #: The name of the message, or of the function with its module.
    name: str
    #: The exception of the handler or function, a ``TimeoutError``, or the error of a result that cannot be sent.
    error: BaseException


@final
class KeptFailure(Failure):
    """A Failure whose exception keeps its traceback, for pytest to show it."""

    value: BaseException

    def __init__(self, error: BaseException) -> None:
        super().__init__(error, type(error), error.__traceback__)  # type: ignore[no-untyped-call]

    def cleanFailure(self) -> None:
        """Do nothing. Old versions of Twisted call this when a Deferred fails, to remove the exception's traceback."""


@final
@dataclass(frozen=True, slots=True)
class Failed:
    """A failure that a request may raise."""

    #: The position of the message in its NOTIFY, counted from 0.
    position: int
    #: The name of the message.
    name: str
    #: The event that the agent reported.
    event: Event
    #: The exception that the request may raise, with its traceback.
    failure: KeptFailure


@final
class Request:
    """A NOTIFY that a test sends.

    :param names: the names of its messages.
    :param keep: receives each failure that the request does not raise.
    """

    __slots__ = ("_ended", "_failed", "_keep", "names", "refused")

    def __init__(self, names: Sequence[str], keep: Callable[[Failed], None]) -> None:
        self.names = names
        #: The event if the agent has refused the NOTIFY, and each of the messages has an ``on_error``.
        self.refused: PayloadRefused | None = None
        self._keep = keep
        # The failures that the request may raise.
        self._failed: list[Failed] = []
        self._ended = False

    def add(self, failed: Failed, *, has_on_error: bool) -> None:
        """Raise this failure when the request ends, unless ``on_error`` replaces it, or the request has ended before.

        A request that was cancelled has ended, but its handlers may still fail.
        """
        if has_on_error or self._ended:
            self._keep(failed)
        else:
            self._failed.append(failed)

    def end(self, result: dict[str, Any] | Failure) -> dict[str, Any] | Failure:
        """Return the result of the request: ``result``, or its first failure if the NOTIFY was acknowledged.

        :param result: the variables of the ACK, or the reason why there is no ACK.
        """
        self._ended = True
        if self.refused is not None and isinstance(result, Failure) and isinstance(result.value, client.PayloadRefused):
            self._keep(Failed(0, ", ".join(self.names), self.refused, KeptFailure(result.value)))
            return result.value.variables
        failed = sorted(self._failed, key=lambda failed: failed.position)
        if failed and not isinstance(result, Failure):
            result = failed.pop(0).failure
        for other in failed:
            self._keep(other)
        return result


@final
@implementer(IHandlers, IObserver)
class StrictHandlers:
    """Wraps the handlers under test, to add each of their failures to the request that caused it.

    This is also the first observer of the agent, and writes the agent's log: each event that no request raises.

    :param log: writes events to the log.
    """

    def __init__(self, handlers: IHandlers, log: IObserver) -> None:
        self._handlers = handlers
        self._log = log
        # The requests that the agent has not handled. It handles the NOTIFYs of a connection in the order of sending.
        self._sent: deque[Request] = deque()
        # The request that was answered last.
        self._answered: Request | None = None
        #: The failures that no request raised.
        self.failures: list[MessageFailure] = []

    def on_send(self, messages: Iterable[Message]) -> Request:
        """Return a new request. The agent receives its NOTIFY after those of all earlier requests."""
        request = Request([message.name for message in messages], self._keep)
        self._sent.append(request)
        return request

    def on_send_failed(self) -> None:
        """Forget the last request: its NOTIFY cannot be encoded."""
        self._sent.pop()

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        """Let the handlers under test answer; see :meth:`IHandlers.respond`."""
        request = self._answered = self._sent.popleft()
        answer = self._handlers.respond(messages, max_size, reactor, timeout, _StrictOutcomes(outcomes, request))
        if isinstance(answer, PendingAnswer):
            return FollowedAnswer(answer, lambda _: self._on_answer(request))
        return answer

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        """Let the handlers under test answer a NOTIFY that is too long; see :meth:`IHandlers.refuse`."""
        actions = self._handlers.refuse(names, max_size)
        request = self._answered
        assert request is not None
        if not all(self._handlers.refuse((name,), max_size) for name in request.names):
            request.refused = None
        return actions

    def on_event(self, event: Event) -> None:
        """Log ``event``, unless a request may raise it."""
        if isinstance(event, ConnectionMade):
            # The agent does not handle what was sent on an earlier connection.
            self._sent.clear()
        elif isinstance(event, PayloadRefused):
            # The agent calls refuse() next.
            self._answered = self._sent.popleft()
            self._answered.refused = event
        elif isinstance(event, (RespondFailed, ResponseUnsendable)):
            # The agent reports this right after respond() or _on_answer().
            request = self._answered
            assert request is not None
            failed = Failed(len(request.names), ", ".join(request.names), event, _failure(event))
            request.add(failed, has_on_error=False)
        elif isinstance(event, LifeCycleFailed):
            assert event.failure.value is not None
            self.failures.append(MessageFailure(event.function, event.failure.value))
        if not isinstance(event, _RAISED):
            self._log.on_event(event)

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Do nothing: each failure of a handler is also an event."""

    def _on_answer(self, request: Request) -> None:
        self._answered = request

    def _keep(self, failed: Failed) -> None:
        self.failures.append(MessageFailure(failed.name, failed.failure.value))
        self._log.on_event(failed.event)


@final
class _StrictOutcomes(Outcomes):
    """Reports failures as ``outcomes`` does, and adds each of them to ``request``."""

    __slots__ = ("_reports", "_request")

    def __init__(self, outcomes: Outcomes, request: Request) -> None:
        super().__init__(outcomes._observer, outcomes._record, outcomes.hold_ups, outcomes.counters, outcomes.deadlines)
        self._request = request
        # How many failures were reported.
        self._reports = 0

    def returned(self, position: int, handler: Handler, message: Message, result: Any) -> bytes:
        """Return the actions for a result; see :meth:`Outcomes.returned`. Compare it with what the handler declares."""
        reports = self._reports
        actions = super().returned(position, handler, message, result)
        sets = handler.declaration.sets
        # After a failure, these are the actions of on_error, which were compared when the handler was registered.
        if sets is not None and self._reports == reports:
            for text in _differences(decode_actions(actions), sets):
                error = NotAsDeclared(f"the message {message.name!r}: {text}")
                event = ResultUnsendable(message.name, error)
                # The test fails even if the handler has an on_error: the handler itself did not fail.
                self._request.add(Failed(position, message.name, event, KeptFailure(error)), has_on_error=False)
        return actions

    def report(self, position: int, outcome: Outcome, event: MessageEvent, actions: bytes) -> bytes:
        """Report a message that has failed; see :meth:`Outcomes.report`."""
        self._reports += 1
        failed = Failed(position, event.name, event, _failure(event))
        self._request.add(failed, has_on_error=bool(actions))
        return super().report(position, outcome, event, actions)


def _differences(variables: Variables, sets: Mapping[str, Any]) -> Iterator[str]:
    """Yield a text for each of ``variables`` that ``sets`` does not declare, or with another type."""
    for variable, value in variables.items():
        if variable not in sets:
            hint = did_you_mean(map(repr, nearest(variable, sets)))
            yield f"the handler sets {variable!r}, which its option sets does not declare{hint}"
        elif not has_type(value, sets[variable]):
            what = "unsets" if value is None else "sets"
            to = "" if value is None else f" to {type_of(value)}, {repr(value)[:_MAX_SHOWN]}"
            yield f"the handler {what} {variable!r}{to}; its option sets declares {show_type(sets[variable])}"


def _failure(event: Event) -> KeptFailure:
    """Return the exception that stands for ``event``: the exception of the handler, if there is one."""
    error: Any
    if isinstance(event, (HandlerFailed, RespondFailed)):
        error = event.failure.value
    elif isinstance(event, (ArgumentMissing, ResultUnsendable, ResponseUnsendable)):
        error = event.error
    elif isinstance(event, HandlerTimedOut):
        error = TimeoutError(f"the handler of the message {event.name!r} took longer than {event.timeout:g} s")
    elif isinstance(event, ResultTooBig):
        error = ValueError(
            RESULT_TOO_BIG.format(name=event.name, size=event.size, room=event.room, largest=event.largest)
        )
    else:
        assert isinstance(event, MessageUnhandled)
        error = NoHandler(_no_handler(event.name, sorted(event.known)))
    return KeptFailure(error)


def _no_handler(name: str, known: Sequence[str]) -> str:
    hint = did_you_mean(map(repr, nearest(name, known)))
    if known and not hint:
        hint = f"; there are handlers for {', '.join(map(repr, known))}"
    return f"no handler for {name!r}{hint}"

"""The log of an agent: an observer that writes a line for each event, and keeps what peers send from doing harm there.

Texts that come from a peer may be as long as a frame, and may hold control characters: they are cut and escaped. A
fault that repeats with every request or every connection is logged once.
"""

from __future__ import annotations

# PyPy opens this module's file when it first makes a text ASCII. That fails when the process may open no more files,
# and then a line in the log is needed most.
import encodings.ascii  # noqa: F401
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final, final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str
from zope.interface import implementer

from spoa_twisted.observer import (
    AcksHeldBack,
    CancelFailed,
    ConnectionEnded,
    ConnectionMade,
    ConnectionRefused,
    DisconnectReceived,
    DrainTimedOut,
    Event,
    HandlerFailed,
    HandlersReplaced,
    HandlerTimedOut,
    HelloReceived,
    HelloTimedOut,
    IObserver,
    MessageUnhandled,
    Outcome,
    PayloadRefused,
    PeerDropped,
    ProtocolError,
    RespondFailed,
    ResponseUnsendable,
    ResultTooBig,
    ResultUnsendable,
    VariableNameLong,
)
from spoa_twisted.spop.connection import Notify

# Seconds for which the same fault of the same host is not logged again: HAProxy <= 3.0 reconnects hundreds of times a
# second.
_LOG_INTERVAL: Final = 60.0

# How many faults, and how many names of messages and variables, are remembered. Peers choose both.
_MAX_FAULTS: Final = 1000
_MAX_NAMES: Final = 1000

# Characters of a message's or a variable's name that are logged.
_MAX_NAME_LENGTH: Final = 64

# Characters of an exception's text and of a traceback that are logged. A recursion error's traceback has 80,000.
_MAX_TEXT_LENGTH: Final = 2000
_MAX_TRACEBACK_LENGTH: Final = 10_000

_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_UNPRINTABLE_BUT_NEWLINE: Final = re.compile(r"[^ -~\n]")


# The line for each event that needs no special care: its level, and a format of the event's fields.
_LINES: Final[dict[type[Event], tuple[Any, str]]] = {
    ConnectionMade: (LogLevel.debug, "{peer}: connected"),
    HelloReceived: (LogLevel.debug, "{peer}: {hello!a}"),
    HelloTimedOut: (LogLevel.debug, "{peer}: sent no HAPROXY-HELLO within hello_timeout"),
    DisconnectReceived: (
        LogLevel.debug,
        "{peer}: HAPROXY-DISCONNECT: status code {disconnect.status_code}, {disconnect.message!a}",
    ),
    AcksHeldBack: (LogLevel.debug, "{peer}: holding back {size} bytes of ACKs until HAProxy has read others"),
    PayloadRefused: (
        LogLevel.warn,
        "{peer}: aborted a NOTIFY whose fragments exceed max_payload_size, {max_payload_size} bytes",
    ),
    PeerDropped: (LogLevel.warn, "{peer}: dropped: it left more than max_unsent, {max_unsent} bytes, unread"),
    ResponseUnsendable: (LogLevel.error, "{peer}: the response of the handlers cannot be sent: {error}"),
    DrainTimedOut: (LogLevel.warn, "closing {count} connections that were not drained within drain_timeout"),
}


@final
@implementer(IObserver)
class LogObserver:
    """Writes events to a log.

    :param log: receives the beginning and end of each connection at the level debug, faults at warn and above.
    :param reactor: tells the time.
    """

    def __init__(self, log: Logger, reactor: IReactorTime) -> None:
        self._log = log
        self._reactor = reactor
        # When each fault was last logged, by what makes two faults the same one.
        self._faults: dict[object, float] = {}
        # The messages and variables that were warned about.
        self._names: set[tuple[type[Event], str]] = set()
        self._special: dict[type[Event], Callable[[Any], None]] = {
            CancelFailed: self._cancel_failed,
            ConnectionEnded: self._connection_ended,
            ConnectionRefused: self._connection_refused,
            HandlerFailed: self._handler_failed,
            HandlerTimedOut: self._handler_timed_out,
            HandlersReplaced: self._handlers_replaced,
            MessageUnhandled: self._message_unhandled,
            ProtocolError: self._protocol_error,
            RespondFailed: self._respond_failed,
            ResultTooBig: self._result_too_big,
            ResultUnsendable: self._result_unsendable,
            VariableNameLong: self._variable_name_long,
        }

    def on_event(self, event: Event) -> None:
        """Log ``event``, if it is of a kind that has a line."""
        special = self._special.get(type(event))
        if special is not None:
            special(event)
        elif type(event) in _LINES:
            level, text = _LINES[type(event)]
            self._log.emit(level, text, **{known.name: getattr(event, known.name) for known in fields(event)})

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Log nothing: a handler that fails is an event too."""

    def _connection_ended(self, event: ConnectionEnded) -> None:
        self._log.debug("{peer}: ended: {reason}", peer=event.peer, reason=event.reason.getErrorMessage())

    def _connection_refused(self, event: ConnectionRefused) -> None:
        if not self._logged_lately(ConnectionRefused):
            self._log.warn(
                "{limit} connections are open, as many as max_connections allows: new ones are refused",
                limit=event.max_connections,
            )

    def _protocol_error(self, event: ProtocolError) -> None:
        code = event.error.status_code
        # HAProxy tries again from another port, so the port is not part of the fault.
        host, _, _ = event.peer.rpartition(":")
        log = self._log.debug if self._logged_lately((host, code)) else self._log.warn
        log(
            "{peer}: broke the protocol: {error} (status code {code})",
            peer=event.peer,
            error=event.error,
            code=int(code),
        )

    def _respond_failed(self, event: RespondFailed) -> None:
        log_failure(self._log, "{peer}: the handlers failed to respond", event.failure, peer=event.peer)

    def _message_unhandled(self, event: MessageUnhandled) -> None:
        if self._is_new(event, event.name):
            self._log.warn("no handler for the message {name!a}: it sets no variables", name=_cut(event.name))

    def _variable_name_long(self, event: VariableNameLong) -> None:
        if self._is_new(event, event.variable):
            self._log.warn(
                "the name of the variable {name!a} may be too long: HAProxy drops a variable silently when"
                " scope.prefix.name has more than 63 characters",
                name=_cut(event.variable),
            )

    def _handler_failed(self, event: HandlerFailed) -> None:
        log_failure(self._log, "the handler of the message {name!a} failed", event.failure, name=_cut(event.name))

    def _handler_timed_out(self, event: HandlerTimedOut) -> None:
        self._log.error(
            "the handler of the message {name!a} took longer than {timeout} s",
            name=_cut(event.name),
            timeout=event.timeout,
        )

    def _result_unsendable(self, event: ResultUnsendable) -> None:
        self._log.error(
            "the handler of the message {name!a} returned a value that cannot be sent: {error}",
            name=_cut(event.name),
            error=in_one_line(safe_str(event.error)),
        )

    def _result_too_big(self, event: ResultTooBig) -> None:
        self._log.error(
            "the variables of the message {name!a} do not fit in the ACK: they need {size} bytes, and {room} are left;"
            " the largest is {largest}",
            name=_cut(event.name),
            size=event.size,
            room=event.room,
            largest=_cut(event.largest),
        )

    def _cancel_failed(self, event: CancelFailed) -> None:
        log_failure(self._log, "a handler's Deferred failed to be cancelled", event.failure)

    def _handlers_replaced(self, event: HandlersReplaced) -> None:
        # The new handlers are warned about again.
        self._names.clear()

    def _is_new(self, event: Event, name: str) -> bool:
        """Return whether ``name`` was not logged before with an event of this kind. Remember it."""
        key = type(event), _cut(name)
        if key in self._names or len(self._names) >= _MAX_NAMES:
            return False
        self._names.add(key)
        return True

    def _logged_lately(self, fault: object) -> bool:
        """Return whether ``fault`` was logged within the last minute. If not, remember that it is logged now."""
        now = self._reactor.seconds()
        last = self._faults.get(fault)
        # If the clock was set back, now is before last: to compare only the upper bound would keep the fault silent.
        if last is not None and 0 <= now - last < _LOG_INTERVAL:
            return True
        if len(self._faults) >= _MAX_FAULTS:
            self._faults.clear()
        self._faults[fault] = now
        return False


def log_failure(log: Logger, text: str, failure: Failure, **values: Any) -> None:
    """Log ``failure`` with its traceback, cut and escaped: a peer's text can neither forge a line nor fill the log."""
    message = safe_str(failure.value)
    traceback = failure.getTraceback()
    harmless = not _UNPRINTABLE_BUT_NEWLINE.search(traceback) and len(traceback) <= _MAX_TRACEBACK_LENGTH
    if harmless and message.isprintable() and len(message) <= _MAX_TEXT_LENGTH:
        log.failure(text, failure, **values)
        return
    frames, found, _ = traceback.rpartition(f": {message}\n")
    if found:
        # The last frames tell most.
        frames = _UNPRINTABLE_BUT_NEWLINE.sub(_escape, frames[-_MAX_TRACEBACK_LENGTH:])
        traceback = f"{frames}: {in_one_line(message)}"
    else:
        traceback = in_one_line(traceback)
    text += "\n{traceback}"
    log.critical(text, traceback=traceback, **values)


def in_one_line(text: str) -> str:
    """Return the first 2,000 characters of ``text``, with all that is not printable ASCII escaped."""
    return _UNPRINTABLE.sub(_escape, text[:_MAX_TEXT_LENGTH])


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _cut(name: str) -> str:
    return name[:_MAX_NAME_LENGTH]

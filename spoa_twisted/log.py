"""The log of an agent: an observer that writes a line for each event.

Names and texts that come from a peer may be as long as a frame, and may hold control characters. The log cuts and
escapes them, so that a peer can neither forge a line nor fill the disk. A fault that would repeat with each request or
each connection is logged once, or once a minute.

A new kind of event is logged if :data:`_LINES` has a line for it, or if :class:`LogObserver` has a method for it.
"""

from __future__ import annotations

# PyPy loads this module from its file when a text is first encoded as ASCII. If the process has no file descriptor left
# at that time, loading fails, and the line of the log is lost. So the module is loaded now.
import encodings.ascii  # noqa: F401
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final, final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str
from zope.interface import implementer

from spoa_twisted.handlers.names import nearest
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
    LifeCycleFailed,
    LifeCycleIgnored,
    MessageUnhandled,
    Outcome,
    PayloadRefused,
    PeerDropped,
    ProtocolError,
    RespondFailed,
    ResponseUnsendable,
    ResultTooBig,
    ResultUnsendable,
    ShutdownTimedOut,
    VariableNameLong,
    VariableWithoutScope,
)
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.reassembly import MAX_PAYLOAD_SIZE

# The namespace of the events of agents in Twisted's log. Applications filter events by it.
_NAMESPACE: Final = "spoa_twisted.agent"

# Seconds. The same fault of the same host is logged only once in this time: HAProxy <= 3.0 reconnects hundreds of times
# a second.
_LOG_INTERVAL: Final = 60.0

# How many faults, and how many names of messages and variables, the log remembers. Peers choose both: without a limit,
# they could fill the memory.
_MAX_FAULTS: Final = 1000
_MAX_NAMES: Final = 1000

# Characters. A longer name of a message or a variable is cut in the log.
_MAX_NAME_LENGTH: Final = 64

# How many names of messages a line of the log has at most.
_MAX_NAMES_IN_LINE: Final = 5

# Characters. A longer text of an exception is cut in the log, and a longer traceback too. The traceback of a
# RecursionError has 80,000.
_MAX_TEXT_LENGTH: Final = 2000
_MAX_TRACEBACK_LENGTH: Final = 10_000

# Every character but printable ASCII. Terminals and log viewers may interpret the others.
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
# The same, without the line breaks of a traceback.
_UNPRINTABLE_BUT_NEWLINE: Final = re.compile(r"[^ -~\n]")


# The level and the text of each event that is logged every time, always in the same way. The text is a format: the
# names in it are fields of the event, and !a escapes a text that comes from the peer.
_LINES: Final[dict[type[Event], tuple[Any, str]]] = {
    ConnectionMade: (LogLevel.debug, "{peer}: connected"),
    HelloReceived: (LogLevel.debug, "{peer}: {hello!a}"),
    HelloTimedOut: (LogLevel.debug, "{peer}: sent no HAPROXY-HELLO within hello_timeout"),
    DisconnectReceived: (
        LogLevel.debug,
        "{peer}: HAPROXY-DISCONNECT: status code {disconnect.status_code}, {disconnect.message!a}",
    ),
    AcksHeldBack: (LogLevel.debug, "{peer}: holding back {size} bytes of ACKs until HAProxy has read others"),
    PeerDropped: (LogLevel.warn, "{peer}: dropped: it left more than max_unsent, {max_unsent} bytes, unread"),
    ResponseUnsendable: (LogLevel.error, "{peer}: the response of the handlers cannot be sent: {error}"),
    LifeCycleIgnored: (
        LogLevel.warn,
        "the handlers have startup, every or shutdown functions, which never run here: use SPOAService",
    ),
    ShutdownTimedOut: (LogLevel.warn, "the shutdown function {function} did not finish in time, and is cancelled"),
    DrainTimedOut: (LogLevel.warn, "closing {count} connections that were not drained in time"),
}


def agent_log(*, debug: bool = False) -> Logger:
    """Return the logger of an agent. It drops events of the level debug, unless ``debug`` is true.

    twistd writes events of all levels to its log. HAProxy's health checks would add lines every two seconds.
    """
    if debug:
        return Logger(_NAMESPACE)
    return Logger(
        _NAMESPACE, observer=FilteringLogObserver(globalLogPublisher, [LogLevelFilterPredicate(LogLevel.info)])
    )


@final
@implementer(IObserver)
class LogObserver:
    """Writes events to a log.

    :param log: receives the beginning and the end of each connection at the level debug, and faults at warn or above.
    :param reactor: the clock for the faults that are logged once a minute.
    """

    def __init__(self, log: Logger, reactor: IReactorTime) -> None:
        self._log = log
        self._reactor = reactor
        # The time at which each fault was last logged. Two faults with an equal key count as the same fault.
        self._faults: dict[object, float] = {}
        # The names that were logged, each with the kind of event. No name is logged a second time.
        self._names: set[tuple[type[Event], str]] = set()
        # The events that are not in _LINES.
        self._special: dict[type[Event], Callable[[Any], None]] = {
            CancelFailed: self._cancel_failed,
            ConnectionEnded: self._connection_ended,
            ConnectionRefused: self._connection_refused,
            HandlerFailed: self._handler_failed,
            HandlerTimedOut: self._handler_timed_out,
            HandlersReplaced: self._handlers_replaced,
            LifeCycleFailed: self._life_cycle_failed,
            MessageUnhandled: self._message_unhandled,
            PayloadRefused: self._payload_refused,
            ProtocolError: self._protocol_error,
            RespondFailed: self._respond_failed,
            ResultTooBig: self._result_too_big,
            ResultUnsendable: self._result_unsendable,
            VariableNameLong: self._variable_name_long,
            VariableWithoutScope: self._variable_without_scope,
        }

    def on_event(self, event: Event) -> None:
        """Log ``event``. Ignore a kind of event that this class does not know."""
        special = self._special.get(type(event))
        if special is not None:
            special(event)
        elif type(event) in _LINES:
            level, text = _LINES[type(event)]
            self._log.emit(level, text, **{field.name: getattr(event, field.name) for field in fields(event)})

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Do nothing: each failure of a handler is also an event, which :meth:`on_event` logs."""

    def _connection_ended(self, event: ConnectionEnded) -> None:
        # Twisted's text for the reason: "Connection was closed cleanly." is the usual one.
        self._log.debug("{peer}: ended: {reason}", peer=event.peer, reason=event.reason.getErrorMessage())

    def _connection_refused(self, event: ConnectionRefused) -> None:
        # One line a minute, because HAProxy may try again hundreds of times a second.
        if not self._logged_lately(ConnectionRefused):
            self._log.warn(
                "{limit} connections are open, as many as max_connections allows: new ones are refused",
                limit=event.max_connections,
            )

    def _payload_refused(self, event: PayloadRefused) -> None:
        names = ", ".join(f"{_cut(name)!a}" for name in event.names[:_MAX_NAMES_IN_LINE])
        if len(event.names) > _MAX_NAMES_IN_LINE:
            names += f" and {len(event.names) - _MAX_NAMES_IN_LINE} more"
        self._log.warn(
            "{peer}: refused a NOTIFY of {names}: {fragments} exceed {limit}, {max_size} bytes; raise --{option} to"
            " accept it",
            peer=event.peer,
            names=names or "unknown messages",
            fragments="its fragments" if event.limit == MAX_PAYLOAD_SIZE else "the fragments of all connections",
            limit=event.limit,
            max_size=event.max_size,
            option=event.limit.replace("_", "-"),
        )

    def _protocol_error(self, event: ProtocolError) -> None:
        code = event.error.status_code
        # HAProxy tries again from another port. So two errors of one host with the same status code count as the same
        # fault, and the second one is logged only at the level debug.
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
            similar = " or ".join([ascii(_cut(name)) for name in nearest(event.name, event.known)])
            self._log.warn(
                "no handler for the message {name!a}: it sets no variables{hint}",
                name=_cut(event.name),
                hint=f"; did you mean {similar}?" if similar else "",
            )

    def _variable_name_long(self, event: VariableNameLong) -> None:
        if self._is_new(event, event.variable):
            self._log.warn(
                "the name of the variable {name!a} may be too long: HAProxy drops a variable silently when"
                " scope.prefix.name has more than 63 characters",
                name=_cut(event.variable),
            )

    def _variable_without_scope(self, event: VariableWithoutScope) -> None:
        if self._is_new(event, event.variable):
            self._log.warn(
                "the variable {name!a} has no scope, so HAProxy sets it in proc, which all clients share: write"
                " {transaction!a} to set it for one request, or {process!a} if they shall share it",
                name=_cut(event.variable),
                transaction=_cut(f"txn.{event.variable}"),
                process=_cut(f"proc.{event.variable}"),
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

    def _life_cycle_failed(self, event: LifeCycleFailed) -> None:
        log_failure(
            self._log, "the {kind} function {function} failed", event.failure, kind=event.kind, function=event.function
        )

    def _handlers_replaced(self, event: HandlersReplaced) -> None:
        # Log the names again: with the new handlers, other messages may be without a handler.
        self._names.clear()

    def _is_new(self, event: Event, name: str) -> bool:
        """Return whether ``name`` is new for this kind of event, and remember it.

        After ``_MAX_NAMES`` names, no name is new any more: a peer may send any number of names.
        """
        key = type(event), _cut(name)
        if key in self._names or len(self._names) >= _MAX_NAMES:
            return False
        self._names.add(key)
        return True

    def _logged_lately(self, fault: object) -> bool:
        """Return whether ``fault`` was logged within the last minute. If not, remember that the caller logs it now.

        :param fault: a key that is equal for faults that count as the same.
        """
        now = self._reactor.seconds()
        last = self._faults.get(fault)
        # If the clock was set back, now is before last: to compare only the upper bound would keep the fault silent.
        if last is not None and 0 <= now - last < _LOG_INTERVAL:
            return True
        if len(self._faults) >= _MAX_FAULTS:
            # To forget all is simple, and adds at most one line for each fault that repeats.
            self._faults.clear()
        self._faults[fault] = now
        return False


def log_failure(log: Logger, text: str, failure: Failure, **values: Any) -> None:
    """Log ``failure`` with its traceback. Cut and escape the text, if it is long or has control characters.

    The text of an exception may hold what a peer has sent, for example in a ``KeyError``.

    :param text: a format for ``values``, the first line of what is logged.
    """
    message = safe_str(failure.value)
    traceback = failure.getTraceback()
    harmless = not _UNPRINTABLE_BUT_NEWLINE.search(traceback) and len(traceback) <= _MAX_TRACEBACK_LENGTH
    if harmless and message.isprintable() and len(message) <= _MAX_TEXT_LENGTH:
        # Log observers of the application then receive the Failure itself, not only its text.
        log.failure(text, failure, **values)
        return
    # A traceback ends with the type and the message of the exception. In the message, line breaks are escaped too: they
    # could look like lines of the log. The frames before it keep their line breaks.
    frames, found, _ = traceback.rpartition(f": {message}\n")
    if found:
        # The last frames are the most useful ones: the exception was raised there.
        frames = _UNPRINTABLE_BUT_NEWLINE.sub(_escape, frames[-_MAX_TRACEBACK_LENGTH:])
        traceback = f"{frames}: {in_one_line(message)}"
    else:
        traceback = in_one_line(traceback)
    text += "\n{traceback}"
    log.critical(text, traceback=traceback, **values)


def in_one_line(text: str) -> str:
    """Return the first 2,000 characters of ``text``. Line breaks, and all else but printable ASCII, are escaped."""
    return _UNPRINTABLE.sub(_escape, text[:_MAX_TEXT_LENGTH])


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _cut(name: str) -> str:
    return name[:_MAX_NAME_LENGTH]

"""The log of an agent: an observer that writes a line for each event.

A peer can neither forge a line nor fill the disk. Its names and texts are cut and escaped
(:mod:`spoa_twisted.escaping`). A fault that would repeat with each request or each connection is logged once, or once a
minute, or ten times a minute and then counted (:mod:`spoa_twisted.flood`).

A new kind of event is logged if :data:`_LINES` or :data:`_FAILURES` has a line for it, or if :class:`LogObserver` has a
method for it. ``docs/reference/log.rst`` explains each line to operators; a test fails until it has the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final, final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str
from zope.interface import implementer

from spoa_twisted.escaping import cut, in_one_line, log_failure
from spoa_twisted.flood import Flood, Key, Once, OncePerMinute
from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.haproxy.explanations.disconnects import explain_code
from spoa_twisted.observer import (
    LONG_WAIT,
    AcksHeldBack,
    ArgumentMissing,
    CancelFailed,
    ConnectionEnded,
    ConnectionMade,
    ConnectionRefused,
    DisconnectReceived,
    DrainTimedOut,
    Event,
    HandlerBlocked,
    HandlerFailed,
    HandlersReplaced,
    HandlerTimedOut,
    HelloReceived,
    HelloTimedOut,
    IObserver,
    LifeCycleFailed,
    LifeCycleIgnored,
    MessageTime,
    MessageUnhandled,
    NotifySlow,
    Outcome,
    PayloadRefused,
    PeerDropped,
    PipeliningChanged,
    ProtocolError,
    RespondFailed,
    ResponseUnsendable,
    ResultNotAsDeclared,
    ResultTooBig,
    ResultUnsendable,
    ShutdownTimedOut,
    Standstill,
    ThreadAwaited,
    VariableNameLong,
    VariableWithoutScope,
)
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.errors import STATUS_WORDS, StatusCode, with_words
from spoa_twisted.spop.reassembly import MAX_PAYLOAD_SIZE

# The namespace of the events of agents in Twisted's log. Applications filter events by it.
_NAMESPACE: Final = "spoa_twisted.agent"

# How many names of messages a line of the log has at most.
_MAX_NAMES_IN_LINE: Final = 5

#: The text of the event ``ResultTooBig``. :mod:`spoa_twisted.strict` raises an exception with it.
RESULT_TOO_BIG: Final = (
    "the variables of the message {name!a} do not fit in the ACK: they need {size} bytes, and {room} are left; the"
    " largest is {largest}; set less, or raise tune.bufsize in HAProxy"
)

# The fields of events that are names of a message or a variable.
_NAMES: Final = frozenset({"name", "largest"})

# Seconds. The line of a slow NOTIFY does not mention a shorter wait, because it would show as 0.000 s.
_SHORTEST_PART: Final = 0.001

# The text of the event ``DisconnectReceived``. A warning has the meaning of the status code behind it.
_DISCONNECT: Final = "{peer}: HAPROXY-DISCONNECT: status code {code}, {reason}"

# The status codes by which HAProxy <= 3.0 ends connections that it does not need, and those that are unused for long.
_USUAL_CODES: Final = frozenset({StatusCode.NORMAL, StatusCode.IO_ERROR, StatusCode.TIMEOUT})

# How many messages without a handler get a search for similar names. A peer may send thousands of names in one NOTIFY.
# With 100 handlers, the search took 6 ms for each.
_MAX_SEARCHES: Final = 20

# The level and the text of each event that is logged every time, always in the same way. The text is a format: the
# names in it are fields of the event, and !a escapes a text that comes from the peer.
_LINES: Final[dict[type[Event], tuple[Any, str]]] = {
    ConnectionMade: (LogLevel.debug, "{peer}: connected"),
    HelloTimedOut: (LogLevel.debug, "{peer}: sent no HAPROXY-HELLO within hello_timeout"),
    AcksHeldBack: (LogLevel.debug, "{peer}: holding back {size} bytes of ACKs until HAProxy has read others"),
    PeerDropped: (
        LogLevel.warn,
        (
            "{peer}: dropped: it left more than max_unsent, {max_unsent} bytes, unread; find out why it does not read,"
            " or raise --max-unsent"
        ),
    ),
    ResponseUnsendable: (LogLevel.error, "{peer}: the response of the handlers cannot be sent: {error}"),
    LifeCycleIgnored: (
        LogLevel.warn,
        "the handlers have startup, every or shutdown functions, which never run here: use SPOAService",
    ),
    ShutdownTimedOut: (
        LogLevel.warn,
        (
            "the shutdown function {function} did not finish in time, and is cancelled; if it needs longer, raise"
            " --drain-timeout"
        ),
    ),
    DrainTimedOut: (
        LogLevel.warn,
        ("closing {count} connections that were not drained in time; if handlers need longer, raise --drain-timeout"),
    ),
    ArgumentMissing: (
        LogLevel.error,
        (
            "the handler of the message {name!a} was not called: {error}; add it to the args of the spoe-message,"
            " rename the parameter, or give the parameter a default"
        ),
    ),
    ResultUnsendable: (
        LogLevel.error,
        "the handler of the message {name!a} returned a value that cannot be sent: {error}",
    ),
    ResultTooBig: (LogLevel.error, RESULT_TOO_BIG),
    ResultNotAsDeclared: (LogLevel.warn, "the handler of the message {name!a} {difference}"),
}

# The same for the events that have a failure: their lines have a traceback, and the level critical.
_FAILURES: Final[dict[type[Event], str]] = {
    CancelFailed: "a handler's Deferred failed to be cancelled",
    HandlerFailed: "the handler of the message {name!a} failed",
    LifeCycleFailed: "the {role} function {function} failed",
    RespondFailed: "{peer}: the handlers failed to respond",
}

# The faults that may repeat with each request, or with each run of an every function. Ten a minute are logged, of each
# message or function. Then the log counts them, and this is the text of the count: "the handler of the message 'm'
# failed 12,345 more times in the last minute".
_COUNTED: Final[dict[type[Event], tuple[Any, str]]] = {
    ArgumentMissing: (LogLevel.error, "{handler} was not called, for lack of an argument,"),
    CancelFailed: (LogLevel.error, "a handler's Deferred failed to be cancelled"),
    HandlerFailed: (LogLevel.error, "{handler} failed"),
    HandlerTimedOut: (LogLevel.error, "{handler} timed out"),
    LifeCycleFailed: (LogLevel.error, "{function} failed"),
    NotifySlow: (LogLevel.warn, "a NOTIFY of {message} was slow"),
    PayloadRefused: (LogLevel.warn, "a NOTIFY was refused, because its fragments exceed a limit,"),
    PipeliningChanged: (LogLevel.info, "engines got connections with or without pipelining"),
    RespondFailed: (LogLevel.error, "the handlers failed to respond"),
    ResponseUnsendable: (LogLevel.error, "the handlers responded with a value that cannot be sent"),
    ResultTooBig: (LogLevel.error, "{handler} returned variables that do not fit in the ACK"),
    ResultUnsendable: (LogLevel.error, "{handler} returned a value that cannot be sent"),
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
        self._flood = Flood(reactor, self._counted)
        self._faults = OncePerMinute(reactor)
        # The names of messages and variables, each with the kind of event.
        self._names = Once()
        # The number of searches for similar names.
        self._searches = 0
        # The events that are not in _LINES.
        self._special: dict[type[Event], Callable[[Any], None]] = {
            ConnectionEnded: self._connection_ended,
            ConnectionRefused: self._connection_refused,
            DisconnectReceived: self._disconnect_received,
            HandlerBlocked: self._handler_blocked,
            HandlerTimedOut: self._handler_timed_out,
            HandlersReplaced: self._handlers_replaced,
            HelloReceived: self._hello_received,
            MessageUnhandled: self._message_unhandled,
            NotifySlow: self._notify_slow,
            PayloadRefused: self._payload_refused,
            PipeliningChanged: self._pipelining_changed,
            ProtocolError: self._protocol_error,
            Standstill: self._standstill,
            ThreadAwaited: self._thread_awaited,
            VariableNameLong: self._variable_name_long,
            VariableWithoutScope: self._variable_without_scope,
        }

    def on_event(self, event: Event) -> None:
        """Log ``event``. Ignore a kind of event that this class does not know."""
        kind = type(event)
        if kind in _COUNTED:
            name = getattr(event, "name", getattr(event, "function", ""))
            if not self._flood.admits(kind, cut(name)):
                return
        special = self._special.get(kind)
        if special is not None:
            special(event)
        elif kind in _LINES:
            level, text = _LINES[kind]
            self._write(kind, level, text, **_values(event))
        elif kind in _FAILURES:
            failure: Failure = event.failure  # type: ignore[attr-defined]
            log_failure(self._log, _FAILURES[kind], failure, kind=kind.__name__, **_values(event))

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Do nothing: each failure of a handler is also an event, which :meth:`on_event` logs."""

    def flush(self) -> None:
        """Log the counts of the faults that were not logged, and stop the timer for them."""
        self._flood.flush()

    def _hello_received(self, event: HelloReceived) -> None:
        self._write(
            HelloReceived, LogLevel.debug, "{peer}: {hello}", peer=event.peer, hello=in_one_line(repr(event.hello))
        )

    def _pipelining_changed(self, event: PipeliningChanged) -> None:
        if event.pipelining:
            text = "{peer}: the answers to the engine {engine} are short: its next connections have pipelining"
        else:
            text = (
                "{peer}: answers to the engine {engine} are longer than {max_short} bytes: its next connections have no"
                " pipelining, so that long answers do not wait for each other"
            )
        engine = in_one_line(cut(event.engine_id))
        self._write(PipeliningChanged, LogLevel.info, text, peer=event.peer, engine=engine, max_short=event.max_short)

    def _disconnect_received(self, event: DisconnectReceived) -> None:
        code = event.disconnect.status_code
        values = {"peer": event.peer, "code": code, "reason": in_one_line(ascii(event.disconnect.message))}
        if code in _USUAL_CODES or not self._faults.admits(_fault(event, code)):
            self._write(DisconnectReceived, LogLevel.debug, _DISCONNECT, **values)
        else:
            self._write(
                DisconnectReceived,
                LogLevel.warn,
                "{peer}: HAPROXY-DISCONNECT: status code {code}, {reason}: {_meaning}",
                **values,
                _meaning=explain_code(code).first_sentence,
            )

    def _connection_ended(self, event: ConnectionEnded) -> None:
        # Twisted's text for the reason: "Connection was closed cleanly." is the usual one.
        reason = event.reason.getErrorMessage()
        self._write(ConnectionEnded, LogLevel.debug, "{peer}: ended: {reason}", peer=event.peer, reason=reason)

    def _connection_refused(self, event: ConnectionRefused) -> None:
        # One line a minute, because HAProxy may try again hundreds of times a second.
        if self._faults.admits(ConnectionRefused):
            self._write(
                ConnectionRefused,
                LogLevel.warn,
                "{limit} connections are open, as many as max_connections allows: new ones are refused; find out who"
                " opens them, or raise --max-connections",
                limit=event.max_connections,
            )

    def _notify_slow(self, event: NotifySlow) -> None:
        # A shorter part of the time explains nothing.
        shortest = max(_SHORTEST_PART, event.seconds / 20)
        parts = [
            (event.unread, "waited to be read for up to", " while the agent stood still"),
            (event.held_back, "its ACK was held back for", ""),
            (event.standstill, "the agent stood still for", " of that"),
        ]
        self._write(
            NotifySlow,
            LogLevel.warn,
            "{peer}: a NOTIFY took {seconds:.3f} s{_ended}: {messages}{_parts}; stream-id {stream_id}, frame-id"
            " {frame_id}{_id}",
            peer=event.peer,
            name=cut(event.name),
            seconds=event.seconds,
            messages=_describe_times(event.messages),
            handler=max((message.seconds for message in event.messages), default=0.0),
            waited=max((message.waited for message in event.messages), default=0.0),
            unread=event.unread,
            held_back=event.held_back,
            standstill=event.standstill,
            stream_id=event.stream_id,
            frame_id=event.frame_id,
            id=None if event.id is None else cut(event.id),
            _ended="" if event.answered else ", and the connection ended before its ACK",
            _parts="".join(f"; {text} {seconds:.3f} s{end}" for seconds, text, end in parts if seconds >= shortest),
            _id="" if event.id is None else f", id {cut(event.id)!a}",
        )

    def _payload_refused(self, event: PayloadRefused) -> None:
        names = ", ".join(f"{cut(name)!a}" for name in event.names[:_MAX_NAMES_IN_LINE])
        if len(event.names) > _MAX_NAMES_IN_LINE:
            names += f" and {len(event.names) - _MAX_NAMES_IN_LINE} more"
        whose = "its fragments" if event.limit == MAX_PAYLOAD_SIZE else "the fragments of all connections"
        self._write(
            PayloadRefused,
            LogLevel.warn,
            "{peer}: refused a NOTIFY of {names}: {_fragments} exceed {limit}, {max_size} bytes; raise --{_option} to"
            " accept it",
            peer=event.peer,
            names=names or "unknown messages",
            limit=event.limit,
            max_size=event.max_size,
            _fragments=whose,
            _option=event.limit.replace("_", "-"),
        )

    def _protocol_error(self, event: ProtocolError) -> None:
        code = event.error.status_code
        level = LogLevel.warn if self._faults.admits(_fault(event, code)) else LogLevel.debug
        self._write(
            ProtocolError,
            level,
            "{peer}: broke the protocol: {error} (status code {_code})",
            peer=event.peer,
            error=event.error,
            code=int(code),
            _code=with_words(code),
        )

    def _message_unhandled(self, event: MessageUnhandled) -> None:
        if self._is_new(event, event.name):
            self._searches += 1
            known = event.known if self._searches <= _MAX_SEARCHES else ()
            similar = [ascii(cut(name)) for name in nearest(event.name, known)]
            self._write(
                MessageUnhandled,
                LogLevel.warn,
                "no handler for the message {name!a}: it sets no variables{_hint}",
                name=cut(event.name),
                _hint=did_you_mean(similar),
            )

    def _variable_name_long(self, event: VariableNameLong) -> None:
        if self._is_new(event, event.variable):
            self._write(
                VariableNameLong,
                LogLevel.warn,
                "the name of the variable {variable!a} may be too long: HAProxy drops a variable silently when"
                " scope.prefix.name has more than 63 characters",
                variable=cut(event.variable),
            )

    def _variable_without_scope(self, event: VariableWithoutScope) -> None:
        if self._is_new(event, event.variable):
            self._write(
                VariableWithoutScope,
                LogLevel.warn,
                "the variable {variable!a} has no scope, so HAProxy sets it in proc, which all clients share: write"
                " {_transaction!a} to set it for one request, or {_process!a} if they shall share it",
                variable=cut(event.variable),
                _transaction=cut(f"txn.{event.variable}"),
                _process=cut(f"proc.{event.variable}"),
            )

    def _handler_timed_out(self, event: HandlerTimedOut) -> None:
        if not event.began:
            text = (
                "the handler of the message {name!a} did not begin within {timeout:g} s: all {threads} blocking_threads"
                " are busy; raise blocking_threads, or find the handler that is slow"
            )
        elif event.waited >= LONG_WAIT:
            text = (
                "the handler of the message {name!a} took longer than {timeout:g} s, {waited:.2f} s of it to get a"
                " thread: all {threads} blocking_threads were busy; raise blocking_threads, or find the handler that is"
                " slow"
            )
        else:
            text = (
                "the handler of the message {name!a} took longer than {timeout:g} s; to allow more, register it with"
                " timeout=, or start the agent with --handler-timeout, and let HAProxy's timeout processing be longer"
            )
        values = {"timeout": event.timeout, "waited": event.waited, "threads": event.threads}
        self._write(HandlerTimedOut, LogLevel.error, text, name=cut(event.name), **values)

    def _thread_awaited(self, event: ThreadAwaited) -> None:
        # All handlers share the threads, so one line a minute is enough.
        if self._faults.admits(ThreadAwaited):
            self._write(
                ThreadAwaited,
                LogLevel.warn,
                "the handler of the message {name!a} waited {waited:.2f} s for a thread: all {threads} blocking_threads"
                " were busy; raise blocking_threads, or find the handler that is slow",
                name=cut(event.name),
                waited=event.waited,
                threads=event.threads,
            )

    def _handler_blocked(self, event: HandlerBlocked) -> None:
        if not self._faults.admits((HandlerBlocked, cut(event.name))):
            return
        advice = "say blocking=True"
        if event.coroutine:
            advice = "a coroutine must not block; make it a plain function with blocking=True"
        elif 0 < event.timeout < event.seconds:
            advice += f"; its timeout of {event.timeout:g} s cannot interrupt a plain function"
        others = f"{event.waiting:,} other request{'' if event.waiting == 1 else 's'} waited"
        self._write(
            HandlerBlocked,
            LogLevel.warn,
            "the handler of the message {name!a} held the agent up for {seconds:.2f} s{_place}; {_others}: {_advice}",
            name=cut(event.name),
            seconds=event.seconds,
            place=event.place,
            waiting=event.waiting,
            _place=_place(event.place),
            _others=others if event.waiting else "no other request came meanwhile, else it would have waited",
            _advice=advice,
        )

    def _standstill(self, event: Standstill) -> None:
        self._write(
            Standstill,
            LogLevel.warn,
            "the agent stood still for {seconds:.2f} s, and all requests waited{_place}",
            seconds=event.seconds,
            place=event.place,
            _place=_place(event.place) or "; perhaps the process was stopped, or had no CPU",
        )

    def _handlers_replaced(self, event: HandlersReplaced) -> None:
        # Log the names again: with the new handlers, other messages may be without a handler.
        self._names.forget()
        self._searches = 0

    def _counted(self, key: Key, count: int) -> None:
        kind, name = key
        assert isinstance(kind, type)
        level, fault = _COUNTED[kind]
        message = "other messages" if name is None else f"the message {name!a}"
        handler = f"handlers of {message}" if name is None else f"the handler of {message}"
        function = "other functions" if name is None else f"the function {name}"
        self._write(
            kind,
            level,
            "{_fault} {count:,} more time{_s} in the last minute",
            name=name,
            count=count,
            _fault=fault.format(handler=handler, function=function, message=message),
            _s="" if count == 1 else "s",
        )

    def _write(self, kind: type[Event], level: Any, text: str, **values: Any) -> None:
        """Log a line.

        :param text: a format for ``values``. In a log of JSON lines, each of ``values`` is a field, but for those whose
            names begin with ``_``: these are only parts of the text.
        """
        # Seconds need no more than six digits.
        rounded = {name: round(value, 6) if type(value) is float else value for name, value in values.items()}
        self._log.emit(level, text, kind=kind.__name__, **rounded)

    def _is_new(self, event: Event, name: str) -> bool:
        return self._names.admits((type(event), cut(name)))


def _fault(event: DisconnectReceived | ProtocolError, code: int) -> object:
    """Return a key for :class:`OncePerMinute`, of a connection that ended with a status code other than 0.

    HAProxy tries again from another port. So two errors of one host with the same status code count as the same fault,
    and the second one is logged only at the level debug. A peer may send any number, so all codes that SPOE.txt does
    not list count as the same code.
    """
    host, _, _ = event.peer.rpartition(":")
    return type(event), host, code if code in STATUS_WORDS else None


def _describe_times(messages: Sequence[MessageTime]) -> str:
    """Return a text about the messages of a slow NOTIFY, those that took longest first."""
    slowest = sorted(messages, key=lambda message: message.seconds, reverse=True)
    texts = []
    for message in slowest[:_MAX_NAMES_IN_LINE]:
        text = f"{cut(message.name)!a} {message.seconds:.3f} s"
        if not message.finished:
            text += " without a result"
        if message.waited >= _SHORTEST_PART:
            text += f", {message.waited:.3f} s of it to get a thread"
        texts.append(text)
    hidden = len(messages) - _MAX_NAMES_IN_LINE
    return "; ".join(texts or ["no messages"]) + (f"; and {hidden} more messages" if hidden > 0 else "")


def _values(event: Event) -> dict[str, Any]:
    """Return the fields of ``event`` for a line. A name is cut, and the text of an error is escaped."""
    values = {field.name: getattr(event, field.name) for field in fields(event) if field.name != "failure"}
    for name in _NAMES & values.keys():
        values[name] = cut(values[name])
    if "error" in values:
        values["error"] = in_one_line(safe_str(values["error"]))
    if "kind" in values:
        # A line has the kind of the event under this name.
        values["role"] = values.pop("kind")
    return values


def _place(place: str | None) -> str:
    return "" if place is None else f"; after 1 s it was in {in_one_line(place)}"

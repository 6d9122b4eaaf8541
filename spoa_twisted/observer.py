"""The events of an agent, and :class:`IObserver`, which receives them: to count, measure, trace or log.

An application passes its observer to ``SPOAFactory(handlers, observer=...)``. The package's own log is an observer too
(:mod:`spoa_twisted.log`). To add a kind of event, write its class here, and call ``on_event`` where it happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, final

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.errors import SPOPError
from spoa_twisted.spop.frames import Disconnect, HAProxyHello


class Outcome(Enum):
    """The result of one message of a NOTIFY."""

    #: The handler of the message returned variables, or a result without variables.
    OK = "ok"
    #: The handler raised an exception, or its Deferred failed.
    ERROR = "error"
    #: The handler did not finish within its timeout.
    TIMEOUT = "timeout"
    #: The handler returned a value that SPOP cannot encode.
    UNSENDABLE = "unsendable"
    #: The variables that the handler returned do not fit in the ACK.
    TOO_BIG = "too_big"
    #: No handler is registered for the message.
    UNHANDLED = "unhandled"
    #: The connection ended before the ACK was ready.
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Event:
    """The base class of all events. A NOTIFY is not an event: see :meth:`IObserver.on_notify`."""


@dataclass(frozen=True, slots=True)
class ConnectionEvent(Event):
    """The base class of events of one connection."""

    #: The peer's address: ``127.0.0.1:12345``, ``[::1]:12345``, or the path of a Unix socket.
    peer: str


@final
@dataclass(frozen=True, slots=True)
class ConnectionMade(ConnectionEvent):
    """A peer connected. It has sent no bytes yet."""


@final
@dataclass(frozen=True, slots=True)
class ConnectionRefused(Event):
    """The agent closed a new connection at once, because ``max_connections`` connections are open already."""

    #: The agent's ``max_connections``.
    max_connections: int


@final
@dataclass(frozen=True, slots=True)
class HelloReceived(ConnectionEvent):
    """A peer sent a valid HAPROXY-HELLO."""

    #: The frame. ``hello.healthcheck`` is true for a health check.
    hello: HAProxyHello


@final
@dataclass(frozen=True, slots=True)
class HelloTimedOut(ConnectionEvent):
    """A peer sent no HAPROXY-HELLO within ``hello_timeout``. The agent closes the connection."""


@final
@dataclass(frozen=True, slots=True)
class DisconnectReceived(ConnectionEvent):
    """A peer sent HAPROXY-DISCONNECT."""

    #: The frame, with its status code and message.
    disconnect: Disconnect


@final
@dataclass(frozen=True, slots=True)
class ConnectionEnded(ConnectionEvent):
    """A connection is closed. That is seldom an error: HAProxy opens and closes connections all the time."""

    #: The reason that Twisted passed to ``connectionLost``.
    reason: Failure


@final
@dataclass(frozen=True, slots=True)
class ProtocolError(ConnectionEvent):
    """A peer broke the protocol. The agent answers with AGENT-DISCONNECT, and closes the connection."""

    #: The error. ``error.status_code`` is the status code of the AGENT-DISCONNECT.
    error: SPOPError


@final
@dataclass(frozen=True, slots=True)
class PayloadRefused(ConnectionEvent):
    """The fragments of a NOTIFY exceed a limit. No handler is called: the ACK sets the ``on_error`` variables.

    The ACK also has the flag ABORT, which HAProxy ignores, because it has sent all fragments.
    """

    #: The names of the messages that had arrived when the limit was exceeded. The peer chooses them, as in
    #: :class:`MessageEvent`.
    names: tuple[str, ...]
    #: The name of the limit: ``max_payload_size``, or ``max_reassembly_size`` for all connections together.
    limit: str
    #: The value of the limit, in bytes.
    max_size: int


@final
@dataclass(frozen=True, slots=True)
class PeerDropped(ConnectionEvent):
    """A peer does not read its ACKs: more than ``max_unsent`` bytes are unsent. The agent drops the connection."""

    #: The agent's ``max_unsent``, in bytes.
    max_unsent: int


@final
@dataclass(frozen=True, slots=True)
class AcksHeldBack(ConnectionEvent):
    """The agent begins to hold ACKs back until a HAProxy >= 3.1 has read the ACKs that were sent before."""

    #: How many bytes are held back now.
    size: int


@final
@dataclass(frozen=True, slots=True)
class PipeliningChanged(ConnectionEvent):
    """An engine of a HAProxy >= 3.1 gets connections with pipelining from now on, or without."""

    #: The engine-id, which HAProxy chooses at each start. A peer may send any text.
    engine_id: str
    #: True with pipelining, because the answers are short. False without, because long answers would wait for others.
    pipelining: bool
    #: The size of a short ACK, in bytes, up to which no ACK ever waits.
    max_short: int


class MessageTime(NamedTuple):
    """How long one message of a slow NOTIFY took."""

    #: The name of the message. The peer chooses it, as in :class:`MessageEvent`.
    name: str
    #: Seconds from the call of the handler to its result, the wait for a thread included.
    seconds: float
    #: Seconds that a handler with ``blocking=True`` waited for a thread.
    waited: float = 0.0
    #: False if the handler had not finished when the connection ended.
    finished: bool = True


@final
@dataclass(frozen=True, slots=True)
class NotifySlow(ConnectionEvent):
    """A NOTIFY took longer than ``log_slow``."""

    #: The name of the message that took longest; empty if the NOTIFY has none.
    name: str
    #: Seconds until the ACK left, :attr:`unread` included.
    seconds: float
    #: The time of each message, in the order of the NOTIFY. Handlers that wait do so at the same time.
    messages: tuple[MessageTime, ...]
    #: Seconds that the NOTIFY waited to be read, at most, because the agent stood still.
    unread: float = 0.0
    #: Seconds that the ACK was held back after all handlers had finished, because HAProxy had not read others.
    held_back: float = 0.0
    #: Seconds that the agent stood still meanwhile. They are a part of the time of the messages.
    standstill: float = 0.0
    stream_id: int = 0
    frame_id: int = 0
    #: The argument ``id`` of the first message that has one: ``args id=unique-id``. The peer chooses it.
    id: str | None = None
    #: False if the connection ended before the ACK.
    answered: bool = True


@final
@dataclass(frozen=True, slots=True)
class RespondFailed(ConnectionEvent):
    """``IHandlers.respond`` raised an exception, or its Deferred failed. The ACK sets no variables."""

    #: The exception.
    failure: Failure


@final
@dataclass(frozen=True, slots=True)
class ResponseUnsendable(ConnectionEvent):
    """``IHandlers.respond`` returned a value that is not ``bytes``, or does not fit in the ACK.

    The ACK sets no variables.
    """

    #: Its text says why the value cannot be sent.
    error: Exception


@dataclass(frozen=True, slots=True)
class MessageEvent(Event):
    """The base class of events of one message."""

    #: The name of the message. The peer chooses it: it may be as long as a frame, and may hold any character.
    name: str


@final
@dataclass(frozen=True, slots=True)
class MessageUnhandled(MessageEvent):
    """No handler is registered for a message. The message sets no variables."""

    #: The names that have a handler. The log shows similar ones.
    known: Iterable[str] = field(default=(), compare=False, repr=False)


@final
@dataclass(frozen=True, slots=True)
class HandlerFailed(MessageEvent):
    """The handler of a message raised an exception, or its Deferred failed."""

    #: The exception.
    failure: Failure


@final
@dataclass(frozen=True, slots=True)
class ArgumentMissing(MessageEvent):
    """The handler of a message was not called: a parameter without a default has no argument in the message."""

    #: Its text names the parameter, and the arguments that the message has.
    error: BaseException


@final
@dataclass(frozen=True, slots=True)
class HandlerTimedOut(MessageEvent):
    """The handler of a message did not finish within its timeout. The timeout includes the wait for a thread."""

    #: The handler's timeout, in seconds.
    timeout: float
    #: False for a handler with ``blocking=True`` that was never called, because no thread was free.
    began: bool = True
    #: Seconds that a handler with ``blocking=True`` waited for a thread.
    waited: float = 0.0
    #: The ``blocking_threads`` of a handler with ``blocking=True``; 0 for other handlers.
    threads: int = 0


#: Seconds. A shorter wait of a handler for a thread is no :class:`ThreadAwaited`.
LONG_WAIT: Final = 0.25


@final
@dataclass(frozen=True, slots=True)
class ThreadAwaited(MessageEvent):
    """A handler with ``blocking=True`` finished in time, but had to wait long for a thread."""

    #: Seconds that it waited.
    waited: float
    #: The ``blocking_threads`` of the handlers. All of them were busy.
    threads: int


@final
@dataclass(frozen=True, slots=True)
class HandlerBlocked(MessageEvent):
    """The handler of a message held the reactor's thread for so long that the agent stood still.

    The event comes two turns of the reactor later, because the agent counts the requests that waited.
    """

    #: Seconds that the handler held the thread without a pause.
    seconds: float
    #: How many NOTIFYs the agent read right afterwards: they waited for the handler.
    waiting: int
    #: True for a coroutine, which cannot be registered with ``blocking=True``.
    coroutine: bool = False
    #: The timeout of the handler, in seconds; 0 if it has none of its own. It cannot interrupt a plain function.
    timeout: float = 0.0
    #: The line that the handler was in after a second, if it is known: ``iprep.py, line 14, in get_score``.
    place: str | None = None


@final
@dataclass(frozen=True, slots=True)
class ResultUnsendable(MessageEvent):
    """The handler of a message returned a value that SPOP cannot encode."""

    #: Its text says which value, and why.
    error: BaseException


@final
@dataclass(frozen=True, slots=True)
class ResultTooBig(MessageEvent):
    """The variables that the handler of a message returned do not fit in the ACK."""

    #: How many bytes the variables need.
    size: int
    #: How many bytes are left in the ACK.
    room: int
    #: The name of the variable that needs most bytes.
    largest: str


@final
@dataclass(frozen=True, slots=True)
class ResultNotAsDeclared(MessageEvent):
    """The handler of a message set a variable that its ``sets`` does not declare, or declares with another type.

    The variable is sent nevertheless. Only the first 64 results of each handler are compared, and each name is
    reported once.
    """

    #: ``set 'txn.knwon', which its sets does not declare; did you mean 'txn.known'?``
    difference: str


@final
@dataclass(frozen=True, slots=True)
class VariableNameLong(Event):
    """A handler set a variable whose name is so long that HAProxy may drop it silently."""

    #: The variable with its scope: ``txn.name``.
    variable: str


@final
@dataclass(frozen=True, slots=True)
class VariableWithoutScope(Event):
    """A handler set a variable whose name has no scope. HAProxy sets it in ``proc``, which all clients share."""

    #: The name of the variable.
    variable: str


@final
@dataclass(frozen=True, slots=True)
class CancelFailed(Event):
    """A Deferred of a handler, or of ``IHandlers.respond``, raised an exception when it was cancelled."""

    #: The exception.
    failure: Failure


@final
@dataclass(frozen=True, slots=True)
class HandlersReplaced(Event):
    """The agent has new handlers in place of others, from ``SPOAFactory.use`` or ``SPOAService.reload``."""


@final
@dataclass(frozen=True, slots=True)
class LifeCycleFailed(Event):
    """A function registered with ``every`` or ``shutdown`` raised an exception, or its Deferred failed."""

    #: ``every`` or ``shutdown``.
    kind: str
    #: The name of the function, with its module.
    function: str
    #: The exception.
    failure: Failure


@final
@dataclass(frozen=True, slots=True)
class LifeCycleIgnored(Event):
    """The agent listens without a ``SPOAService``, so the handlers' startup, every and shutdown functions never run."""


@final
@dataclass(frozen=True, slots=True)
class ShutdownTimedOut(Event):
    """A shutdown function did not finish in time. It is cancelled."""

    #: The name of the function, with its module.
    function: str


@final
@dataclass(frozen=True, slots=True)
class Standstill(Event):
    """The reactor of ``twistd spoa`` came back late, and no :class:`HandlerBlocked` tells why.

    For example a callback of a handler's Deferred blocked, or the process was stopped or had no CPU.
    """

    #: Seconds since the reactor's last sign of life. The standstill was at most 0.25 seconds shorter.
    seconds: float
    #: The line that the reactor's thread was in after a second, if it is known: ``iprep.py, line 14, in get_score``.
    place: str | None


@final
@dataclass(frozen=True, slots=True)
class DrainTimedOut(Event):
    """Connections were still open at the end of ``drain_timeout``. The agent closes them despite pending NOTIFYs."""

    #: How many connections were open.
    count: int


class IObserver(Interface):
    """Receives the events of an agent, and the results of each NOTIFY.

    The agent calls both methods in the reactor's thread, so they must not block. If a method raises an exception, the
    agent logs it, and goes on.
    """

    def on_event(event: Event) -> None:
        """Receive an event. Later versions will have more kinds of events: ignore the kinds that you do not know."""

    def on_notify(peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Receive the results of a NOTIFY. Its ACK is ready, or the connection ended and the NOTIFY was cancelled.

        The agent calls this for every NOTIFY, so it must be fast. The arguments are not put into an :class:`Event`,
        because making one would take longer than most observers need.

        :param peer: the peer's address, as in :class:`ConnectionEvent`.
        :param outcomes: the result of each message in ``notify.messages``, in the same order.
        :param seconds: the time since the NOTIFY was decoded.
        """


@final
@implementer(IObserver)
class Observers:
    """Passes each call on to several observers. If an observer raises an exception, the next ones are still called.

    The log has the first exception of each observer for each kind of event. An observer that fails with every NOTIFY
    would otherwise fill the log.

    :raises TypeError: when one of ``observers`` does not provide :class:`IObserver`.
    """

    _log = Logger()

    def __init__(self, *observers: IObserver) -> None:
        for observer in observers:
            if not IObserver.providedBy(observer):
                raise TypeError(f"a {type(observer).__name__} does not provide IObserver")
        self._observers = observers
        # The position of each observer that has failed, with the kind of event.
        self._failed: set[tuple[int, str]] = set()

    def on_event(self, event: Event) -> None:
        """Pass ``event`` on to each observer."""
        for position, observer in enumerate(self._observers):
            try:
                observer.on_event(event)
            except BaseException:
                self._on_failure(position, type(event).__name__)

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Pass the results of a NOTIFY on to each observer."""
        for position, observer in enumerate(self._observers):
            try:
                observer.on_notify(peer, notify, outcomes, seconds)
            except BaseException:
                self._on_failure(position, "a NOTIFY")

    def _on_failure(self, position: int, kind: str) -> None:
        """Log the exception that is being handled, unless the observer failed with this kind of event before."""
        if (position, kind) not in self._failed:
            self._failed.add((position, kind))
            self._log.failure(
                "the observer {observer!r} failed with {kind}; later failures with this are not logged",
                observer=self._observers[position],
                kind=kind,
            )

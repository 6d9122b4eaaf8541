"""Events: what an agent tells those who count, measure, trace or log. :class:`IObserver` receives them.

An application hands its observer to ``SPOAFactory(handlers, observer=...)``. The package's own log is an observer too
(:mod:`spoa_twisted.log`). A new kind of event is a class here, and one call of ``on_event`` where it happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import final

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.errors import SPOPError
from spoa_twisted.spop.frames import Disconnect, HAProxyHello


class Outcome(Enum):
    """What became of one message of a NOTIFY."""

    #: Its handler returned variables, or none.
    OK = "ok"
    #: Its handler raised an exception, or the Deferred of its handler failed.
    ERROR = "error"
    #: Its handler did not finish within its timeout.
    TIMEOUT = "timeout"
    #: Its handler returned a value that SPOP cannot encode.
    UNSENDABLE = "unsendable"
    #: Its variables do not fit in the ACK.
    TOO_BIG = "too_big"
    #: No handler is registered for it.
    UNHANDLED = "unhandled"
    #: The connection ended before the ACK was ready.
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, other than a NOTIFY. The subclasses say what."""


@dataclass(frozen=True, slots=True)
class ConnectionEvent(Event):
    """Something that happened on one connection."""

    #: The peer's address: ``127.0.0.1:12345``, ``[::1]:12345``, or the path of a Unix socket.
    peer: str


@final
@dataclass(frozen=True, slots=True)
class ConnectionMade(ConnectionEvent):
    """A peer connected. It has sent nothing so far."""


@final
@dataclass(frozen=True, slots=True)
class ConnectionRefused(Event):
    """The agent closed a new connection at once: as many as it allows are open."""

    #: The agent's ``max_connections``.
    max_connections: int


@final
@dataclass(frozen=True, slots=True)
class HelloReceived(ConnectionEvent):
    """A peer sent a valid HAPROXY-HELLO. ``hello.healthcheck`` tells whether it is a health check."""

    hello: HAProxyHello


@final
@dataclass(frozen=True, slots=True)
class HelloTimedOut(ConnectionEvent):
    """A peer sent no HAPROXY-HELLO within ``hello_timeout``. The agent closes the connection."""


@final
@dataclass(frozen=True, slots=True)
class DisconnectReceived(ConnectionEvent):
    """A peer sent HAPROXY-DISCONNECT."""

    disconnect: Disconnect


@final
@dataclass(frozen=True, slots=True)
class ConnectionEnded(ConnectionEvent):
    """A connection is closed. That is seldom an error: HAProxy opens and closes connections all the time."""

    #: Twisted's reason.
    reason: Failure


@final
@dataclass(frozen=True, slots=True)
class ProtocolError(ConnectionEvent):
    """A peer broke the protocol. The agent answers with AGENT-DISCONNECT, and closes the connection."""

    #: Its ``status_code`` is that of the AGENT-DISCONNECT.
    error: SPOPError


@final
@dataclass(frozen=True, slots=True)
class PayloadRefused(ConnectionEvent):
    """The fragments of a NOTIFY are too long together. The agent answers with an ACK that has the flag ABORT."""

    #: The agent's ``max_payload_size``, in bytes.
    max_payload_size: int


@final
@dataclass(frozen=True, slots=True)
class PeerDropped(ConnectionEvent):
    """A peer left too much unread. The agent drops the connection."""

    #: The agent's ``max_unsent``, in bytes.
    max_unsent: int


@final
@dataclass(frozen=True, slots=True)
class AcksHeldBack(ConnectionEvent):
    """The agent begins to hold back ACKs until a HAProxy >= 3.1 has read the ACKs before them."""

    #: The bytes of the ACKs held back.
    size: int


@final
@dataclass(frozen=True, slots=True)
class RespondFailed(ConnectionEvent):
    """``IHandlers.respond`` raised an exception, or its Deferred failed. The ACK sets no variables."""

    failure: Failure


@final
@dataclass(frozen=True, slots=True)
class ResponseUnsendable(ConnectionEvent):
    """What ``IHandlers.respond`` returned is not ``bytes``, or does not fit in the ACK. The ACK sets no variables."""

    error: Exception


@dataclass(frozen=True, slots=True)
class MessageEvent(Event):
    """Something that happened to one message."""

    #: The message's name. It comes from the peer, may be as long as a frame, and may hold any character.
    name: str


@final
@dataclass(frozen=True, slots=True)
class MessageUnhandled(MessageEvent):
    """No handler is registered for a message. It sets no variables."""


@final
@dataclass(frozen=True, slots=True)
class HandlerFailed(MessageEvent):
    """The handler of a message raised an exception, or the Deferred of its handler failed."""

    failure: Failure


@final
@dataclass(frozen=True, slots=True)
class HandlerTimedOut(MessageEvent):
    """The handler of a message did not finish in time."""

    #: The handler's timeout, in seconds.
    timeout: float


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

    #: The bytes that its variables need.
    size: int
    #: The bytes that are left in the ACK.
    room: int
    #: The name of the variable that needs most.
    largest: str


@final
@dataclass(frozen=True, slots=True)
class VariableNameLong(Event):
    """A handler set a variable whose name is so long that HAProxy may drop it silently."""

    variable: str


@final
@dataclass(frozen=True, slots=True)
class CancelFailed(Event):
    """A Deferred of a handler, or of ``IHandlers.respond``, raised an exception when it was cancelled."""

    failure: Failure


@final
@dataclass(frozen=True, slots=True)
class HandlersReplaced(Event):
    """``SPOAFactory.use`` gave the agent other handlers."""


@final
@dataclass(frozen=True, slots=True)
class DrainTimedOut(Event):
    """Connections were still open at the end of ``drain_timeout``. The agent closes them, pending NOTIFYs or not."""

    #: How many connections.
    count: int


class IObserver(Interface):
    """Hears what happens in an agent.

    Both methods are called in the reactor's thread, and must not block. An exception that one raises is logged, and
    has no other effect.
    """

    def on_event(event: Event) -> None:
        """Something happened. There will be more kinds of events: skip those that you do not know."""

    def on_notify(peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """The ACK of a NOTIFY is ready, or the NOTIFY was cancelled because its connection ended.

        Called for every NOTIFY, so its time counts: it is not an :class:`Event` because to make one would take longer
        than most observers do.

        :param peer: the peer's address, as in :class:`ConnectionEvent`.
        :param outcomes: what became of each of ``notify.messages``, in the same order.
        :param seconds: the time since the NOTIFY was decoded.
        """


@final
@implementer(IObserver)
class Observers:
    """Passes everything on to several observers. One that raises an exception does not keep it from the others."""

    _log = Logger()

    def __init__(self, *observers: IObserver) -> None:
        self._observers = observers

    def on_event(self, event: Event) -> None:
        """Pass on ``event``."""
        for observer in self._observers:
            try:
                observer.on_event(event)
            except BaseException:
                kind = type(event).__name__
                self._log.failure("the observer {observer!r} failed with {kind}", observer=observer, kind=kind)

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Pass on what became of a NOTIFY."""
        for observer in self._observers:
            try:
                observer.on_notify(peer, notify, outcomes, seconds)
            except BaseException:
                self._log.failure("the observer {observer!r} failed with a NOTIFY", observer=observer)

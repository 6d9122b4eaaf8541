"""The observer that counts the events of an agent, and keeps its problems. Each ``SPOAFactory`` has one.

A new kind of event is a problem if :data:`_PROBLEMS` has an entry for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, final

from twisted.internet.interfaces import IReactorTime
from twisted.python.reflect import safe_str
from zope.interface import implementer

from spoa_twisted.agent.peers import host_of
from spoa_twisted.escaping import cut
from spoa_twisted.observer import (
    ArgumentMissing,
    CancelFailed,
    ConnectionMade,
    ConnectionRefused,
    DisconnectReceived,
    DrainTimedOut,
    Event,
    HandlerBlocked,
    HandlerFailed,
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
from spoa_twisted.spop.errors import StatusCode, with_words
from spoa_twisted.status.counters import Counters
from spoa_twisted.status.problems import Problems, describe
from spoa_twisted.status.report import DEFAULT

_CODES: Final = frozenset(map(int, StatusCode))

#: Seconds. A handler that blocked for a shorter time is a problem, but no standstill.
SHORTEST_STALL: Final = 1.0


@final
@implementer(IObserver)
class Recorder:
    """Counts events, and keeps those that are problems.

    :param counters: the numbers of the agent.
    :param reactor: the clock of ``counters``.
    """

    def __init__(self, counters: Counters, reactor: IReactorTime) -> None:
        self._counters = counters
        self._reactor = reactor
        #: The Unix time at which the agent was made.
        self.started = time.time()
        #: The problems since then.
        self.problems = Problems(time.time)
        self._counted: dict[type[Event], Callable[[Any], None]] = {
            ConnectionMade: self._connection_made,
            ConnectionRefused: self._connection_refused,
            DisconnectReceived: self._disconnect_received,
            HandlerBlocked: self._handler_blocked,
            HelloReceived: self._hello_received,
            HelloTimedOut: lambda event: self._dropped("hello_timeout"),
            PayloadRefused: lambda event: self._dropped("payload"),
            PeerDropped: lambda event: self._dropped("unread"),
            ProtocolError: self._protocol_error,
            Standstill: lambda event: self._stalled(event.seconds),
        }

    def on_event(self, event: Event) -> None:
        """Count ``event``, and keep it if it is a problem."""
        kind = type(event)
        counted = self._counted.get(kind)
        if counted is not None:
            counted(event)
        if kind in _PROBLEMS:
            subject, text = _PROBLEMS[kind]
            self.problems.add(kind.__name__, subject(event), lambda: text(event))

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Do nothing: the agent counts the results itself, which is faster; see :class:`Counters`."""

    def _connection_made(self, event: ConnectionMade) -> None:
        self._counters.connections += 1

    def _connection_refused(self, event: ConnectionRefused) -> None:
        self._counters.refused += 1

    def _hello_received(self, event: HelloReceived) -> None:
        self._counters.health_checks += event.hello.healthcheck

    def _disconnect_received(self, event: DisconnectReceived) -> None:
        code = event.disconnect.status_code
        # A peer may send any number, and each would be a label.
        known = code if code in _CODES else StatusCode.UNKNOWN
        self._counters.disconnected("haproxy", known)
        if code != StatusCode.NORMAL:
            text = f"HAPROXY-DISCONNECT: {cut(event.disconnect.message)} (status code {code})"
            self.problems.add("DisconnectReceived", _host(event), lambda: text)

    def _protocol_error(self, event: ProtocolError) -> None:
        self._counters.disconnected("agent", event.error.status_code)

    def _dropped(self, reason: str) -> None:
        self._counters.dropped[reason] += 1

    def _handler_blocked(self, event: HandlerBlocked) -> None:
        if event.seconds >= SHORTEST_STALL:
            self._stalled(event.seconds)
        # A busy agent takes the time of few calls, and has probably not taken that of this one.
        label = event.name if event.name in self._counters.tallies else DEFAULT
        self._counters.tallies[label].durations.note(event.seconds, self._reactor.seconds())

    def _stalled(self, seconds: float) -> None:
        self._counters.stalls += 1
        self._counters.stall_seconds += seconds


def _name(event: Any) -> str:
    name: str = event.name
    return name


def _function(event: Any) -> str:
    function: str = event.function
    return function


def _variable(event: Any) -> str:
    variable: str = event.variable
    return variable


def _host(event: Any) -> str:
    return host_of(event.peer)


def _nothing(event: Any) -> str:
    return ""


def _failure(event: Any) -> str:
    return describe(event.failure)


def _error(event: Any) -> str:
    return safe_str(event.error)


def _timed_out(event: HandlerTimedOut) -> str:
    busy = f": all {event.threads} blocking_threads are busy"
    if not event.began:
        return f"no thread was free within {event.timeout:g} s{busy}"
    if event.waited:
        return f"it took longer than {event.timeout:g} s, {event.waited:.2f} s of it to get a thread{busy}"
    return f"it took longer than {event.timeout:g} s"


def _place(place: str | None) -> str:
    return "" if place is None else f"; after 1 s it was in {place}"


def _blocked(event: HandlerBlocked) -> str:
    # The agent knows only of the requests that it has read. Without any, a 0 would say that none waited.
    others = f"; {event.waiting:,} other request{'' if event.waiting == 1 else 's'} waited" if event.waiting else ""
    return f"it held the agent up for {event.seconds:.2f} s{_place(event.place)}{others}"


def _too_big(event: ResultTooBig) -> str:
    return (
        f"its variables need {event.size:,} bytes, and {event.room:,} are left in the ACK; the largest is"
        f" {cut(event.largest)}"
    )


def _payload(event: PayloadRefused) -> str:
    return f"fragments exceed {event.limit}, {event.max_size:,} bytes; raise --{event.limit.replace('_', '-')}"


# The subject and the text of each kind of event that is a problem.
_PROBLEMS: Final[dict[type[Event], tuple[Callable[[Any], str], Callable[[Any], str]]]] = {
    ArgumentMissing: (_name, _error),
    CancelFailed: (_nothing, _failure),
    ConnectionRefused: (
        _nothing,
        lambda event: f"{event.max_connections:,} connections are open, as many as max_connections allows",
    ),
    DrainTimedOut: (_nothing, lambda event: f"{event.count:,} connections were not drained in time"),
    HandlerBlocked: (_name, _blocked),
    HandlerFailed: (_name, _failure),
    HandlerTimedOut: (_name, _timed_out),
    HelloTimedOut: (_host, lambda event: "no HAPROXY-HELLO within hello_timeout"),
    LifeCycleFailed: (_function, _failure),
    LifeCycleIgnored: (_nothing, lambda event: "startup, every and shutdown functions never run here: use SPOAService"),
    MessageUnhandled: (_name, lambda event: "no handler, so it sets no variables"),
    PayloadRefused: (lambda event: event.names[0] if event.names else "", _payload),
    PeerDropped: (_host, lambda event: f"it left more than max_unsent, {event.max_unsent:,} bytes, unread"),
    ProtocolError: (_host, lambda event: f"{_error(event)} (status code {with_words(event.error.status_code)})"),
    RespondFailed: (_nothing, _failure),
    ResponseUnsendable: (_nothing, _error),
    ResultNotAsDeclared: (_name, lambda event: f"it {event.difference}"),
    ResultTooBig: (_name, _too_big),
    ResultUnsendable: (_name, _error),
    ShutdownTimedOut: (_function, lambda event: "it did not finish in time, and is cancelled"),
    Standstill: (_nothing, lambda event: f"stood still for {event.seconds:.2f} s{_place(event.place)}"),
    ThreadAwaited: (
        _name,
        lambda event: f"it waited {event.waited:.2f} s for a thread: all {event.threads} blocking_threads were busy",
    ),
    VariableNameLong: (_variable, lambda event: "the name may be too long: HAProxy then drops the variable silently"),
    VariableWithoutScope: (
        _variable,
        lambda event: "it has no scope: HAProxy sets it in proc, which all clients share",
    ),
}

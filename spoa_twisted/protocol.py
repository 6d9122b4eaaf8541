"""Transport <-> AgentConnection: what HAProxy sends goes to the handlers, what they return goes back.

The way of one read: ``dataReceived`` -> ``AgentConnection.next_event`` -> ``IHandlers.respond`` ->
``AgentConnection.send_ack`` -> one ``Sender.send``. Nothing else in the package writes to an agent's transport.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, cast, final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted.drain import REST, Drain
from spoa_twisted.interfaces import IHandlers
from spoa_twisted.receipt import receipt
from spoa_twisted.sending import Sender
from spoa_twisted.spop.connection import (
    DEFAULT_MAX_FRAME_SIZE,
    DEFAULT_MAX_PAYLOAD_SIZE,
    AgentConnection,
    Notify,
    PayloadTooBig,
    State,
    check_max_frame_size,
)
from spoa_twisted.spop.errors import SPOPError, StatusCode
from spoa_twisted.spop.frames import Disconnect, HAProxyHello
from spoa_twisted.spop.unread import READ_INTERVAL, Receipt

#: How many NOTIFYs of one connection may wait for their handlers. HAProxy sends 20 unless told otherwise.
DEFAULT_MAX_IN_FLIGHT: Final = 256

#: How many bytes they may take, a message counting as ``MESSAGE_SIZE`` more than its own.
DEFAULT_MAX_IN_FLIGHT_SIZE: Final = 2 * 2**20

#: What a pending message takes besides its arguments, in bytes: a rough figure, for the many that a NOTIFY may hold.
MESSAGE_SIZE: Final = 1024

#: How many bytes may wait for a peer that stopped taking them.
DEFAULT_MAX_UNSENT: Final = 2**20

#: Seconds until the HELLO must have come.
DEFAULT_HELLO_TIMEOUT: Final = 10.0

#: Seconds that a handler may take. HAProxy's ``timeout processing`` is seldom longer than one.
DEFAULT_HANDLER_TIMEOUT: Final = 10.0

#: How many connections may be open at a time. One HAProxy opens 20 to a few hundred.
DEFAULT_MAX_CONNECTIONS: Final = 16384

#: Seconds that a peer has to take what was last written to it, once the connection is to be closed.
CLOSE_TIMEOUT: Final = 10.0

#: Seconds that a peer has to take all that was written to it, from when that is more than ``max_unsent``.
UNSENT_TIMEOUT: Final = 5.0

#: Seconds that HAProxy has to close a connection that was told goodbye while draining.
LEAVE_TIMEOUT: Final = 0.5

#: As ``CLOSE_TIMEOUT``, when there is no more time left for draining, or nothing left to be written.
ABORT_TIMEOUT: Final = 1.0

#: With the capability ``async``: seconds for which an engine without connections is remembered, with the ACKs due.
ENGINE_TIMEOUT: Final = 10.0

#: Seconds after which a silent TCP peer is asked whether it is there, between one such question and the next, and how
#: many may stay without an answer: HAProxy keeps idle connections for long, and a machine that is gone says no word.
KEEPALIVE_IDLE: Final = 60
KEEPALIVE_INTERVAL: Final = 15
KEEPALIVE_COUNT: Final = 4

# An ACK that follows another must not wait until the peer's kernel has acknowledged that, which takes 40 ms and more.
# The others are set where the system has them, as Linux does.
_TCP_OPTIONS: Final = tuple(
    (int(getattr(socket, name)), value)
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    )
    if hasattr(socket, name)
)

# What no peer may leave unread for any time, unless max_unsent allows more: 256 ACKs of HAProxy's frame size are less.
_MAX_BACKLOG: Final = 2**22

_RUNNING: Final = State.RUNNING
_CLOSED: Final = State.CLOSED

# So much is read ahead of what may be answered, to notice the end of a connection with too much pending.
_READ_AHEAD: Final = 2**16

# Seconds between two looks at what a peer has read that reads nothing.
_LONGEST_READ_INTERVAL: Final = 0.16

# ACKs of one read leave in one write, unless they grow longer than this: a small NOTIFY may have a large answer.
_WRITE_SIZE: Final = 2**16

# Seconds in which the same fault of the same peer is logged once: HAProxy <= 3.0 tries hundreds of times a second.
_LOG_INTERVAL: Final = 60.0
_MOST_FAULTS: Final = 1000

# With the capability async, of all engines: how many NOTIFYs may wait for handlers when their connection is gone, and
# how many bytes of ACKs for a connection to come.
_MOST_ORPHANS: Final = 1024
_MAX_HOMELESS_SIZE: Final = 2**20


@final
@implementer(IPushProducer, IHalfCloseableProtocol)
class SPOAProtocol(Protocol):
    """The agent's end of one connection from HAProxy. :class:`SPOAFactory` makes it."""

    factory: SPOAFactory
    transport: Connection

    def __init__(self, factory: SPOAFactory) -> None:
        self.factory = factory
        self._log = factory.log
        self._connection = AgentConnection(factory.max_frame_size, factory.max_payload_size, factory.async_)
        # The ids of each NOTIFY that waits for its handlers, and what it counts for.
        self._pending: dict[Deferred[bytes], tuple[bytes, int]] = {}
        self._pending_size = 0
        # The limit for what is due: the HELLO, the end.
        self._timer: IDelayedCall | None = None
        self._unsent_timer: IDelayedCall | None = None
        self._unread_timer: IDelayedCall | None = None
        self._read_interval = READ_INTERVAL
        self._engine: _Engine | None = None
        self._peer = ""
        self._tls = False
        self._reading_on = False
        self._serving = False
        self._reading = True
        self._holding = False
        # How often it was asked whether it has settled, since something came or left.
        self._quiet_for = 0
        # Said goodbye, and waits for HAProxy to close.
        self._leaving = False
        # Waits for the last ACKs to leave.
        self._parting = False
        self._closing = False
        # From when the transport holds more than it wants to until it has none left, what is written is unsent.
        self._clogged = False
        self._unsent = 0

    def connectionMade(self) -> None:
        """Wait for the HELLO, but not for ever."""
        self._sender = Sender(self.transport)
        self._peer = describe(self.transport.getPeer())
        self._tls = ISSLTransport.providedBy(self.transport)
        self.factory.connections.add(self)
        _set_tcp_options(self.transport)
        if self.factory.hello_timeout:
            self._timer = self.factory.reactor.callLater(
                self.factory.hello_timeout, self._time_is_up, self._hello_timed_out
            )
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Answer what the bytes complete, in one write as far as the answers are there at once."""
        self._quiet_for = 0
        if self._reading_on:
            self._connection.receive_more(data)
        else:
            self._connection.receive_data(data)
            if self._tls:
                # The records of one read come one by one, all in this turn of the reactor.
                self._reading_on = True
                self.factory.reactor.callLater(0, self._read_ended)
        self._serve()

    def readConnectionLost(self) -> None:
        """HAProxy is gone, but what was written already may yet reach it."""
        self._close()

    def writeConnectionLost(self) -> None:
        """The agent's side is never closed apart from the other: there is nothing to do."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give up what is pending. HAProxy >= 3.1 always ends so, a health check too: it is not an error."""
        self._log.debug("{peer}: ended: {reason}", peer=self._peer, reason=reason.getErrorMessage())
        if not self._closing:
            self._end()
        self._stop_timer()
        self.factory._forget(self)

    def pauseProducing(self) -> None:
        """Stop answering: the transport holds more than it wants to."""
        self._clogged = True
        self._read_or_pause()

    def resumeProducing(self) -> None:
        """Answer again: the transport has none left."""
        self._clogged = False
        self._stop_unsent_timer()
        self._unsent = 0
        # Not at once: the transport is in the middle of writing.
        self._serve(at_once=False)

    def stopProducing(self) -> None:
        """The transport goes: ``connectionLost`` follows."""

    def hold(self) -> None:
        """Keep ACKs back from now on, if they are not too many."""
        self._holding = True

    def release(self) -> None:
        """Let go those that were kept back so far."""
        self._write()
        self._serve()

    def settled(self) -> bool:
        """Return whether nothing is due, and nothing seems to come.

        Nothing has come since this was asked last. If no ACKs are kept back, HAProxy has some that it may not have
        acted on: then nothing has come or left since this was asked :data:`~spoa_twisted.drain.REST` times.
        """
        self._quiet_for += 1
        acting = self._connection.state is _RUNNING and not self.holds()
        quiet = self._quiet_for > (REST if acting else 1)
        return quiet and not self._pending and not self._connection.receiving

    def holds(self) -> bool:
        """Return whether ACKs are kept back."""
        return self._connection.bytes_to_send > 0

    def leave(self) -> None:
        """Let go all, and the goodbye behind it in the same write. HAProxy then closes, or else the agent does."""
        self._leaving = self._connection.state is _RUNNING
        self._say_goodbye()
        if not self._leaving:
            self._close_soon()
            return
        self._stop_timer()
        self._timer = self.factory.reactor.callLater(LEAVE_TIMEOUT, self._leave_timed_out)
        self._write()

    def left(self) -> bool:
        """Return whether the goodbye was said."""
        return self._connection.state is _CLOSED

    def abort(self) -> None:
        """Say goodbye and close whatever is pending. The peer has a second to take it."""
        self._cancel_pending()
        self._leaving = False
        self._say_goodbye()
        self._flush()
        if self._timer is not None:
            self._timer.reset(ABORT_TIMEOUT)

    def _serve(self, at_once: bool = True) -> None:
        if self._serving:
            # A handler's answer, or the transport, called back while this runs further up.
            return
        self._serving = True
        connection = self._connection
        try:
            may_answer = self._may_answer()
            while may_answer and (event := connection.next_event()) is not None:
                if type(event) is Notify:
                    self._notified(event)
                else:
                    self._occurred(event)
                if connection.bytes_to_send >= _WRITE_SIZE:
                    self._write(at_once)
                    may_answer = self._may_answer()
                elif self._pending:
                    may_answer = self._may_answer()
        except SPOPError as error:
            host, _, _ = self._peer.rpartition(":")
            known = self.factory._logged_lately((host, error.status_code))
            log = self._log.debug if known else self._log.warn
            log(
                "{peer}: broke the protocol: {error} (status code {code})",
                peer=self._peer,
                error=error,
                code=int(error.status_code),
            )
        finally:
            self._serving = False
        self._flush(at_once)

    def _occurred(self, event: HAProxyHello | PayloadTooBig | Disconnect) -> None:
        if isinstance(event, HAProxyHello):
            self._greeted(event)
        elif isinstance(event, PayloadTooBig):
            self._log.warn(
                "{peer}: gave up a NOTIFY whose fragments exceed max_payload_size, {limit} bytes",
                peer=self._peer,
                limit=self.factory.max_payload_size,
            )
        else:
            self._log.debug(
                "{peer}: disconnected: {code} {message!a}",
                peer=self._peer,
                code=event.status_code,
                message=event.message,
            )

    def _greeted(self, hello: HAProxyHello) -> None:
        self._stop_timer()
        self._log.debug("{peer}: {hello!a}", peer=self._peer, hello=hello)
        if self._connection.async_ and not hello.healthcheck:
            self._engine = self.factory._engine(hello.engine_id)
            self._engine.add(self)

    def _notified(self, notify: Notify) -> None:
        factory = self.factory
        ids = notify.ids
        room = self._connection.room_for_actions(ids)
        try:
            answer = factory.handlers.respond(notify.messages, room, factory.reactor, factory.handler_timeout)
        except BaseException:
            self._log.failure("{peer}: the handlers failed to respond", peer=self._peer)
            answer = b""
        if type(answer) is not bytes and isinstance(answer, Deferred):
            size = notify.size + MESSAGE_SIZE * len(notify.messages)
            self._pending[answer] = (ids, size)
            self._pending_size += size
            answer.addBoth(self._answered, answer)
        else:
            self._queue_ack(ids, answer)

    def _answered(self, actions: bytes | Failure, deferred: Deferred[bytes]) -> None:
        due = self._pending.pop(deferred, None)
        if due is not None:
            ids, size = due
            self._pending_size -= size
            self._acknowledge(ids, self._actions(actions))
        elif self._engine is not None and self._engine.awaits(deferred):
            self._engine.answered(self._actions(actions), deferred)
        # Else it was given up, and what became of it interests nobody.

    def _actions(self, answer: bytes | Failure) -> bytes:
        if isinstance(answer, Failure):
            self._log.failure("{peer}: the handlers failed to respond", answer, peer=self._peer)
            return b""
        return answer

    def _acknowledge(self, ids: bytes, actions: bytes) -> None:
        self._queue_ack(ids, actions)
        # Others that are pending may be answered in the same turn of the reactor: then all leave together.
        self._serve(at_once=not self._pending)

    def _queue_ack(self, ids: bytes, actions: bytes) -> None:
        if self._connection.state is not _RUNNING:
            return
        try:
            self._connection.send_ack(ids, actions)
        except (TypeError, ValueError) as error:
            # One that leaves on another connection of its engine may find a smaller frame there.
            self._log.error("{peer}: the handlers' response cannot be sent: {error}", peer=self._peer, error=error)
            self._connection.send_ack(ids)

    def _flush(self, at_once: bool = True) -> None:
        connection = self._connection
        # Long ACKs take their time as it is.
        if not self._holding or connection.state is _CLOSED or connection.held_back:
            self._write(at_once)
        if connection.state is _CLOSED and not self._leaving:
            self._close_when_written()
        if self._pending or self._clogged or connection.bytes_to_send or not self._reading:
            self._read_or_pause()

    def _say_goodbye(self, status_code: StatusCode = StatusCode.NORMAL, message: str = "normal") -> None:
        connection = self._connection
        if connection.state is State.HELLO and not connection.receiving:
            # Perhaps nobody speaks SPOP there, nor TLS: Twisted would keep a TLS connection to send it.
            connection.close()
        else:
            connection.disconnect(status_code, message)

    def _write(self, at_once: bool = True) -> None:
        connection = self._connection
        data = connection.data_to_send()
        if self._unread_timer is None and connection.unread:
            self._unread_timer = self.factory.reactor.callLater(self._read_interval, self._interval_ended)
        if self._closing:
            return
        if self._clogged:
            self._unsent += len(data)
            if self._unsent > self.factory.max_unsent and self._unsent_timer is None:
                self._unsent_timer = self.factory.reactor.callLater(UNSENT_TIMEOUT, self._unsent_time_is_up)
        if data:
            self._quiet_for = 0
            if at_once:
                self._sender.send(data)
            else:
                self._sender.send_later(data)
        waiting = self._unsent + connection.bytes_to_send
        if waiting and waiting > max(_MAX_BACKLOG, self.factory.max_unsent):
            self._drop()

    def _read_ended(self) -> None:
        self._reading_on = False

    def _interval_ended(self) -> None:
        # What was written before reaches the kernel in this turn of the reactor, and with TLS in the next one; what is
        # written until then perhaps not.
        self._connection.interval_ends()
        self._unread_timer = self.factory.reactor.callLater(0, self._turn_ended)

    def _turn_ended(self) -> None:
        self._unread_timer = self.factory.reactor.callLater(0, self._look_what_was_read)

    def _look_what_was_read(self) -> None:
        self._unread_timer = None
        known = receipt(self.transport)
        if known is Receipt.MISSING:
            # Who reads nothing is looked at less and less often.
            self._read_interval = min(2 * self._read_interval, _LONGEST_READ_INTERVAL)
        else:
            self._read_interval = READ_INTERVAL
        self._connection.interval_ended(known)
        # What leaves now makes room for what waits to be answered.
        self._flush()
        self._serve()

    def _may_answer(self) -> bool:
        if self._clogged or self._connection.bytes_to_send >= _WRITE_SIZE:
            return False
        return not self._pending or (
            len(self._pending) < self.factory.max_in_flight and self._pending_size < self.factory.max_in_flight_size
        )

    def _read_or_pause(self) -> None:
        # While the transport has something to write, it notices the end by itself.
        reading = self._may_answer() or (not self._clogged and self._connection.bytes_received < _READ_AHEAD)
        if reading is self._reading or self._closing:
            return
        self._reading = reading
        if reading:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def _close_when_written(self) -> None:
        # The last ACKs are perhaps held back.
        if not self._connection.bytes_to_send:
            self._close()
        elif not self._parting:
            self._parting = True
            self._stop_timer()
            self._timer = self.factory.reactor.callLater(CLOSE_TIMEOUT, self._close_timed_out)

    def _close_soon(self) -> None:
        self._flush()
        # With TLS, a peer that says nothing keeps the connection, though nothing is left to be written to it.
        if self._closing and not self._clogged and self._sender.written and self._timer is not None:
            self._timer.reset(ABORT_TIMEOUT)

    def _close(self) -> None:
        if self._closing:
            return
        self._end()
        # A peer that takes nothing must not keep the connection.
        self._timer = self.factory.reactor.callLater(CLOSE_TIMEOUT, self._close_timed_out)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _end(self) -> None:
        """Do what has to be done once, before the transport is told to close or after it did so by itself."""
        self._closing = True
        self._connection.close()
        self._stop_timer()
        self._stop_unsent_timer()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        if self._engine is None:
            self._cancel_pending()
        else:
            pending, self._pending = self._pending, {}
            self._engine.remove(self, {deferred: ids for deferred, (ids, _) in pending.items()})

    def _cancel_pending(self) -> None:
        pending, self._pending = self._pending, {}
        self._pending_size = 0
        _cancel(pending, self._log)

    def _time_is_up(self, timed_out: Callable[[], None]) -> None:
        # If the reactor was blocked, what is due may have come in time: that is read first.
        self._timer = self.factory.reactor.callLater(0, timed_out)

    def _hello_timed_out(self) -> None:
        self._timer = None
        self._log.debug("{peer}: sent no HELLO in time", peer=self._peer)
        self._say_goodbye(StatusCode.TIMEOUT, "no HELLO came in time")
        self._flush()

    def _unsent_time_is_up(self) -> None:
        self._unsent_timer = self.factory.reactor.callLater(0, self._unsent_timed_out)

    def _unsent_timed_out(self) -> None:
        self._unsent_timer = None
        self._drop()

    def _drop(self) -> None:
        self._log.warn(
            "{peer}: dropped: it left more than max_unsent, {limit} bytes, unread",
            peer=self._peer,
            limit=self.factory.max_unsent,
        )
        self._close()
        self.transport.abortConnection()

    def _leave_timed_out(self) -> None:
        self._timer = None
        self._leaving = False
        self._close_soon()

    def _close_timed_out(self) -> None:
        self._timer = None
        self._close()
        self.transport.abortConnection()

    def _stop_unsent_timer(self) -> None:
        timer, self._unsent_timer = self._unsent_timer, None
        if timer is not None:
            timer.cancel()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


@final
class _Engine:
    """The connections of one engine, with the capability ``async``: what one cannot deliver, another does."""

    def __init__(self, factory: SPOAFactory, engine_id: str) -> None:
        self._factory = factory
        self._engine_id = engine_id
        self._connections: dict[SPOAProtocol, None] = {}
        self._pending: dict[Deferred[bytes], bytes] = {}
        self._homeless: list[tuple[bytes, bytes]] = []
        self._timer: IDelayedCall | None = None

    def add(self, protocol: SPOAProtocol) -> None:
        """Let ``protocol`` carry the engine's ACKs, at once those that found no connection."""
        self._connections[protocol] = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ids, actions in self._take_homeless():
            protocol._acknowledge(ids, actions)

    def remove(self, protocol: SPOAProtocol, pending: dict[Deferred[bytes], bytes]) -> None:
        """Take over what ``protocol``, which closes, has pending. HAProxy opens another when ACKs are due."""
        self._connections.pop(protocol, None)
        for deferred, ids in pending.items():
            if self._factory._orphans < _MOST_ORPHANS:
                self._factory._orphans += 1
                self._pending[deferred] = ids
            else:
                _cancel([deferred], self._factory.log)
        if not self._connections and self._timer is None:
            if self._pending:
                self._timer = self._factory.reactor.callLater(ENGINE_TIMEOUT, self.forget)
            else:
                self.forget()

    def awaits(self, deferred: Deferred[bytes]) -> bool:
        """Return whether ``deferred`` was taken over and has not been answered."""
        return deferred in self._pending

    def answered(self, actions: bytes, deferred: Deferred[bytes]) -> None:
        """Deliver what one that was taken over came to, on any connection."""
        ids = self._pending.pop(deferred)
        self._factory._orphans -= 1
        for protocol in self._connections:
            if not protocol.left():
                protocol._acknowledge(ids, actions)
                return
        if self._factory._homeless_size + len(actions) <= _MAX_HOMELESS_SIZE:
            self._factory._homeless_size += len(actions)
            self._homeless.append((ids, actions))

    def forget(self) -> None:
        """Give up what is pending: the engine has no connection left, and does not come back."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        del self._factory._engines[self._engine_id]
        self._take_homeless()
        pending, self._pending = self._pending, {}
        self._factory._orphans -= len(pending)
        _cancel(pending, self._factory.log)

    def _take_homeless(self) -> list[tuple[bytes, bytes]]:
        homeless, self._homeless = self._homeless, []
        self._factory._homeless_size -= sum([len(actions) for _, actions in homeless])
        return homeless


@final
class _Refusal(Protocol):
    """Ends a connection that is one too many. With TLS, nothing but a protocol can."""

    transport: Connection

    def connectionMade(self) -> None:
        self.transport.abortConnection()
        # Its file is closed now: Twisted accepts more connections in a turn of the reactor than files are left.
        connection = getattr(self.transport, "transport", self.transport)
        if isinstance(connection, Connection):
            connection.connectionLost(Failure(ConnectionAborted()))


@final
class SPOAFactory(Factory):
    """Makes an agent of handlers: give it to any Twisted server endpoint's ``listen``.

    Every limit has a default that suits HAProxy's own. Sizes are bytes, times seconds.

    :param handlers: an :class:`IHandlers`, most often :class:`Handlers`.
    :param max_frame_size: the longest frame, whatever HAProxy offers; at least 256.
    :param max_payload_size: the longest NOTIFY that HAProxy <= 3.0 may send in fragments.
    :param max_in_flight: how many NOTIFYs of a connection may be pending; further ones wait, and when some have come,
        the connection is not read.
    :param max_in_flight_size: how many bytes they may take.
    :param max_unsent: how many bytes may wait for a peer that stopped taking them. While it does not take them it is
        not read, and when it leaves more than that for 5 seconds, or more than 4 MiB at all, it is dropped.
    :param max_connections: how many connections may be open; beyond, new ones are closed at once.
    :param hello_timeout: until when the HELLO must have come; 0 for any time.
    :param handler_timeout: how long a handler without a timeout of its own may take; 0 for any time.
    :param async_: announce the capability ``async`` (SPOE.txt, section 3.2.1): an ACK whose connection is gone then
        leaves on another one of the same engine. HAProxy <= 3.0 knows it.
    :param log: what the connections are logged to: their beginnings and ends at the level debug, what a peer or the
        handlers do wrong above.
    :param reactor: what tells the time and runs threads; Twisted's own unless given.
    :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`.
    :raises ValueError: for a limit that makes no sense.
    """

    noisy = False

    def __init__(
        self,
        handlers: IHandlers,
        *,
        max_frame_size: int = DEFAULT_MAX_FRAME_SIZE,
        max_payload_size: int = DEFAULT_MAX_PAYLOAD_SIZE,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        max_in_flight_size: int = DEFAULT_MAX_IN_FLIGHT_SIZE,
        max_unsent: int = DEFAULT_MAX_UNSENT,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        hello_timeout: float = DEFAULT_HELLO_TIMEOUT,
        handler_timeout: float = DEFAULT_HANDLER_TIMEOUT,
        async_: bool = False,
        log: Logger | None = None,
        reactor: IReactorTime | None = None,
    ) -> None:
        self.use(handlers)
        check_max_frame_size(max_frame_size)
        for name, limit in (
            ("max_payload_size", max_payload_size),
            ("max_in_flight", max_in_flight),
            ("max_in_flight_size", max_in_flight_size),
            ("max_unsent", max_unsent),
            ("max_connections", max_connections),
        ):
            if limit < 1:
                raise ValueError(f"{name} is {limit}; it must be at least 1")
        for name, seconds in (("hello_timeout", hello_timeout), ("handler_timeout", handler_timeout)):
            if not seconds >= 0:
                raise ValueError(f"{name} is {seconds}; it cannot be negative")
        if reactor is None:
            from twisted.internet import reactor as default_reactor

            reactor = cast("IReactorTime", default_reactor)
        self.max_frame_size = max_frame_size
        self.max_payload_size = max_payload_size
        self.max_in_flight = max_in_flight
        self.max_in_flight_size = max_in_flight_size
        self.max_unsent = max_unsent
        self.max_connections = max_connections
        self.hello_timeout = hello_timeout
        self.handler_timeout = handler_timeout
        self.async_ = async_
        self.log = log or Logger("spoa_twisted.protocol")
        self.reactor = reactor
        #: The open connections.
        self.connections: set[SPOAProtocol] = set()
        self._engines: dict[str, _Engine] = {}
        self._orphans = 0
        self._homeless_size = 0
        self._drain: Drain | None = None
        self._draining: list[Deferred[None]] = []
        self._logged: dict[object, float] = {}

    def use(self, handlers: IHandlers) -> None:
        """Let ``handlers`` answer from now on.

        :raises TypeError: when it does not provide :class:`IHandlers`.
        """
        if not IHandlers.providedBy(handlers):
            raise TypeError(f"a {type(handlers).__name__} does not provide IHandlers")
        self.handlers = handlers

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return a protocol for a new connection; when there are too many, one that ends it."""
        if len(self.connections) >= self.max_connections:
            if not self._logged_lately("max_connections"):
                self.log.warn("max_connections, {limit}, are open: new ones are refused", limit=self.max_connections)
            return _Refusal()
        return SPOAProtocol(self)

    def drain(self, timeout: float) -> Deferred[None]:
        """Answer what is in flight, say goodbye to every peer, and fire when all connections are closed.

        A connection is told goodbye when nothing is pending on it, and no more seems to come: until then further
        NOTIFYs are answered too, but their ACKs are kept back, for 20 ms at first, and for up to 0.32 s where that was
        not long enough for all to be answered. Connections that are still open after ``timeout`` seconds are closed
        with what they have pending, within another second. Close the ports first: connections that come later are
        waited for too.
        """
        if not self.connections:
            return succeed(None)
        if self._drain is None:
            self._drain = Drain(self.connections, self.reactor, self._drain_timed_out)
        self._drain.end_after(timeout)
        drained: Deferred[None] = Deferred()
        self._draining.append(drained)
        return drained

    def _engine(self, engine_id: str) -> _Engine:
        engine = self._engines.get(engine_id)
        if engine is None:
            engine = self._engines[engine_id] = _Engine(self, engine_id)
        return engine

    def _forget(self, protocol: SPOAProtocol) -> None:
        self.connections.discard(protocol)
        if self._draining and not self.connections:
            for engine in list(self._engines.values()):
                engine.forget()
            assert self._drain is not None
            self._drain.stop()
            self._drain = None
            draining, self._draining = self._draining, []
            for drained in draining:
                drained.callback(None)

    def _logged_lately(self, fault: object) -> bool:
        """Return whether this was asked about the same ``fault`` a short time ago."""
        now = self.reactor.seconds()
        last = self._logged.get(fault)
        if last is not None and now - last < _LOG_INTERVAL:
            return True
        if len(self._logged) >= _MOST_FAULTS:
            self._logged.clear()
        self._logged[fault] = now
        return False

    def _drain_timed_out(self) -> None:
        self.log.warn("{count} connections were not drained in time", count=len(self.connections))


def _cancel(pending: Iterable[Deferred[bytes]], log: Logger) -> None:
    for deferred in pending:
        try:
            deferred.cancel()
        except BaseException:
            log.failure("the handlers failed to be cancelled")


def _set_tcp_options(transport: Connection) -> None:
    """Let the kernel send at once what is small, and find out when the machine of a TCP peer is gone."""
    if not ITCPTransport.providedBy(transport) or isinstance(transport.getPeer(), UNIXAddress):
        return
    # A connection that was reset already cannot be asked for anything.
    with suppress(OSError):
        transport.setTcpKeepAlive(True)
        handle: socket.socket = transport.socket
        for option, value in _TCP_OPTIONS:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


def describe(address: IAddress) -> str:
    """Return ``address`` as a person writes it: ``127.0.0.1:12345``, ``[::1]:12345`` or a path."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, UNIXAddress):
        # A peer may have bound its end to any name: what would steer a log or a terminal is escaped.
        return repr(address.name.decode("utf-8", "surrogateescape"))[1:-1] if address.name else "unix socket"
    return str(address)

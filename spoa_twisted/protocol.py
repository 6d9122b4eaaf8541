"""Transport <-> AgentConnection: what HAProxy sends goes to the handlers, what they return goes back.

The way of one read: ``dataReceived`` -> ``AgentConnection.next_event`` -> ``IHandlers.respond`` ->
``AgentConnection.send_ack`` -> one ``transport.write``. Nothing else in the package writes to an agent's transport.
"""

from __future__ import annotations

from typing import Final, cast, final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted.interfaces import IHandlers
from spoa_twisted.spop.connection import (
    DEFAULT_MAX_FRAME_SIZE,
    DEFAULT_MAX_PAYLOAD_SIZE,
    AgentConnection,
    Notify,
    PayloadTooBig,
    State,
)
from spoa_twisted.spop.errors import SPOPError, StatusCode
from spoa_twisted.spop.frames import MIN_MAX_FRAME_SIZE, Disconnect, HAProxyHello

#: How many NOTIFYs of one connection may wait for their handlers. HAProxy sends 20 unless told otherwise.
DEFAULT_MAX_IN_FLIGHT: Final = 256

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

#: As ``CLOSE_TIMEOUT``, when there is no more time left for draining.
ABORT_TIMEOUT: Final = 1.0

#: With the capability ``async``: seconds for which an engine without connections is remembered, with the ACKs due.
ENGINE_TIMEOUT: Final = 10.0

# So much is read ahead of what may be answered, to notice the end of a connection with too much pending.
_READ_AHEAD: Final = 2**16

# ACKs of one read leave in one write, unless they grow longer than this: a small NOTIFY may have a large answer.
_WRITE_SIZE: Final = 2**16

# With the capability async: how many ACKs may wait for a connection of their engine.
_MOST_HOMELESS_ACKS: Final = 1024


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
        self._pending: dict[Deferred[bytes], bytes] = {}
        # The limit for what is due: the HELLO, the taking of what was written, the end.
        self._timer: IDelayedCall | None = None
        self._engine: _Engine | None = None
        self._peer = ""
        self._serving = False
        self._reading = True
        self._draining = False
        self._closing = False
        # From when the transport holds more than it wants to until it has none left, what is written is unsent.
        self._clogged = False
        self._unsent = 0

    def connectionMade(self) -> None:
        """Wait for the HELLO, but not for ever."""
        self._peer = describe(self.transport.getPeer())
        self.factory.connections.add(self)
        if self.factory.hello_timeout:
            self._timer = self.factory.reactor.callLater(self.factory.hello_timeout, self._hello_timed_out)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Answer what the bytes complete, in one write as far as the answers are there at once."""
        self._connection.receive_data(data)
        self._serve()

    def readConnectionLost(self) -> None:
        """HAProxy is gone, but what was written already may yet reach it."""
        self._close()

    def writeConnectionLost(self) -> None:
        """The agent's side is never closed apart from the other: there is nothing to do."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give up what is pending. HAProxy >= 3.1 always ends so, a health check too: it is not an error."""
        self._log.debug("{peer}: ended: {reason}", peer=self._peer, reason=reason.getErrorMessage())
        self._stop_timer()
        if not self._closing:
            self._closing = True
            self._connection.close()
            self._give_up_pending()
        self.factory.forget(self)

    def pauseProducing(self) -> None:
        """Stop answering: the transport holds more than it wants to."""
        self._clogged = True
        self._read_or_pause()

    def resumeProducing(self) -> None:
        """Answer again: the transport has none left."""
        self._clogged = False
        if self._unsent > self.factory.max_unsent:
            self._stop_timer()
        self._unsent = 0
        self._serve()

    def stopProducing(self) -> None:
        """The transport goes: ``connectionLost`` follows."""

    def drain(self) -> None:
        """Say goodbye and close as soon as nothing is pending; until then, go on answering."""
        self._draining = True
        self._serve()

    def abort(self) -> None:
        """Say goodbye and close whatever is pending. The peer has a second to take it."""
        self._connection.disconnect()
        self._flush()
        if self._timer is not None:
            self._timer.reset(ABORT_TIMEOUT)

    def acknowledge(self, ids: bytes, actions: bytes) -> None:
        """Send the ACK of the NOTIFY that had ``ids``, which with ``async`` may have come on another connection."""
        self._queue_ack(ids, actions)
        self._serve()

    def _serve(self) -> None:
        if self._serving:
            # A handler's answer, or the transport, called back while this runs further up.
            return
        self._serving = True
        try:
            while self._may_answer():
                event = self._connection.next_event()
                if event is None:
                    break
                if isinstance(event, Notify):
                    self._notified(event)
                    if self._connection.bytes_to_send >= _WRITE_SIZE:
                        self._write()
                elif isinstance(event, HAProxyHello):
                    self._greeted(event)
                elif isinstance(event, PayloadTooBig):
                    self._log.warn(
                        "{peer}: gave up a NOTIFY whose fragments exceed max_payload_size, {limit} bytes",
                        peer=self._peer,
                        limit=self.factory.max_payload_size,
                    )
                elif isinstance(event, Disconnect):
                    self._log.debug(
                        "{peer}: disconnected: {code} {message!r}",
                        peer=self._peer,
                        code=event.status_code,
                        message=event.message,
                    )
        except SPOPError as error:
            self._log.warn(
                "{peer}: broke the protocol: {error} (status code {code})",
                peer=self._peer,
                error=error,
                code=int(error.status_code),
            )
        finally:
            self._serving = False
        self._flush()

    def _greeted(self, hello: HAProxyHello) -> None:
        self._stop_timer()
        self._log.debug("{peer}: {hello!r}", peer=self._peer, hello=hello)
        if self._connection.async_ and not hello.healthcheck:
            self._engine = self.factory.engine(hello.engine_id)
            self._engine.add(self)

    def _notified(self, notify: Notify) -> None:
        factory = self.factory
        room = self._connection.room_for_actions(notify.ids)
        try:
            answer = factory.handlers.respond(notify.messages, room, factory.reactor, factory.handler_timeout)
        except BaseException:
            self._log.failure("{peer}: the handlers failed to respond", peer=self._peer)
            answer = b""
        if isinstance(answer, Deferred):
            self._pending[answer] = notify.ids
            answer.addBoth(self._answered, answer)
        else:
            self._queue_ack(notify.ids, answer)

    def _answered(self, actions: bytes | Failure, deferred: Deferred[bytes]) -> None:
        ids = self._pending.pop(deferred, None)
        if ids is None and self._engine is not None:
            self._engine.answered(actions, deferred)
        elif ids is not None:
            if isinstance(actions, Failure):
                self._log.failure("{peer}: the handlers failed to respond", actions, peer=self._peer)
                actions = b""
            self.acknowledge(ids, actions)
        # Else it was given up, and what became of it interests nobody.

    def _queue_ack(self, ids: bytes, actions: bytes) -> None:
        try:
            self._connection.send_ack(ids, actions)
        except (TypeError, ValueError):
            self._log.failure("{peer}: the handlers' response cannot be sent", peer=self._peer)
            if self._connection.state is State.RUNNING:
                self._connection.send_ack(ids)

    def _flush(self) -> None:
        connection = self._connection
        if self._draining and connection.state is not State.CLOSED and not self._pending and not connection.receiving:
            connection.disconnect()
        self._write()
        if connection.state is State.CLOSED:
            self._close()
        self._read_or_pause()

    def _write(self) -> None:
        data = self._connection.data_to_send()
        if not data or self._closing:
            return
        if self._clogged:
            self._unsent += len(data)
            if self._unsent > self.factory.max_unsent and self._timer is None:
                self._timer = self.factory.reactor.callLater(UNSENT_TIMEOUT, self._unsent_timed_out)
        self.transport.write(data)

    def _may_answer(self) -> bool:
        return not self._clogged and len(self._pending) < self.factory.max_in_flight

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

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._connection.close()
        self._stop_timer()
        self._give_up_pending()
        # A peer that takes nothing must not keep the connection.
        self._timer = self.factory.reactor.callLater(CLOSE_TIMEOUT, self._close_timed_out)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _give_up_pending(self) -> None:
        pending, self._pending = self._pending, {}
        if self._engine is not None:
            self._engine.remove(self, pending)
            return
        for deferred in pending:
            deferred.cancel()

    def _hello_timed_out(self) -> None:
        self._timer = None
        self._log.debug("{peer}: sent no HELLO in time", peer=self._peer)
        self._connection.disconnect(StatusCode.TIMEOUT, "no HELLO came in time")
        self._flush()

    def _unsent_timed_out(self) -> None:
        self._timer = None
        self._log.warn(
            "{peer}: dropped: it left more than max_unsent, {limit} bytes, unread",
            peer=self._peer,
            limit=self.factory.max_unsent,
        )
        self._close()
        self.transport.abortConnection()

    def _close_timed_out(self) -> None:
        self._timer = None
        self.transport.abortConnection()

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
        homeless, self._homeless = self._homeless, []
        for ids, actions in homeless:
            protocol.acknowledge(ids, actions)

    def remove(self, protocol: SPOAProtocol, pending: dict[Deferred[bytes], bytes]) -> None:
        """Take over what ``protocol``, which closes, has pending. HAProxy opens another when ACKs are due."""
        self._connections.pop(protocol, None)
        self._pending.update(pending)
        if not self._connections and self._timer is None:
            if self._pending:
                self._timer = self._factory.reactor.callLater(ENGINE_TIMEOUT, self._forget)
            else:
                self._forget()

    def answered(self, actions: bytes | Failure, deferred: Deferred[bytes]) -> None:
        """Deliver what one that was taken over came to, on any connection."""
        ids = self._pending.pop(deferred, None)
        if ids is None or isinstance(actions, Failure):
            return
        for protocol in self._connections:
            protocol.acknowledge(ids, actions)
            return
        if len(self._homeless) < _MOST_HOMELESS_ACKS:
            self._homeless.append((ids, actions))

    def _forget(self) -> None:
        self._timer = None
        del self._factory.engines[self._engine_id]
        pending, self._pending = self._pending, {}
        for deferred in pending:
            deferred.cancel()


@final
class SPOAFactory(Factory):
    """Makes an agent of handlers: give it to any Twisted server endpoint's ``listen``.

    Every limit has a default that suits HAProxy's own. Sizes are bytes, times seconds.

    :param handlers: an :class:`IHandlers`, most often :class:`Handlers`.
    :param max_frame_size: the longest frame, whatever HAProxy offers; at least 256.
    :param max_payload_size: the longest NOTIFY that HAProxy <= 3.0 may send in fragments.
    :param max_in_flight: how many NOTIFYs of a connection may be pending; further ones wait, and when some have come,
        the connection is not read.
    :param max_unsent: how many bytes may wait for a peer that stopped taking them. While it does not take them it is
        not read, and when it leaves more than that for 5 seconds, it is dropped.
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
        max_unsent: int = DEFAULT_MAX_UNSENT,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        hello_timeout: float = DEFAULT_HELLO_TIMEOUT,
        handler_timeout: float = DEFAULT_HANDLER_TIMEOUT,
        async_: bool = False,
        log: Logger | None = None,
        reactor: IReactorTime | None = None,
    ) -> None:
        self.use(handlers)
        if max_frame_size < MIN_MAX_FRAME_SIZE:
            raise ValueError(f"max_frame_size is {max_frame_size}; SPOP asks for at least {MIN_MAX_FRAME_SIZE}")
        for name, limit in (
            ("max_payload_size", max_payload_size),
            ("max_in_flight", max_in_flight),
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
        self.max_unsent = max_unsent
        self.max_connections = max_connections
        self.hello_timeout = hello_timeout
        self.handler_timeout = handler_timeout
        self.async_ = async_
        self.log = log or Logger("spoa_twisted.protocol")
        self.reactor = reactor
        #: The open connections.
        self.connections: set[SPOAProtocol] = set()
        self.engines: dict[str, _Engine] = {}
        self._full = False
        self._drained: Deferred[None] | None = None

    def use(self, handlers: IHandlers) -> None:
        """Let ``handlers`` answer from now on.

        :raises TypeError: when it does not provide :class:`IHandlers`.
        """
        if not IHandlers.providedBy(handlers):
            raise TypeError(f"a {type(handlers).__name__} does not provide IHandlers")
        self.handlers = handlers

    def buildProtocol(self, addr: IAddress | None) -> SPOAProtocol | None:  # type: ignore[override]
        """Return a protocol for a new connection, or ``None``, which closes it, when there are too many."""
        if len(self.connections) >= self.max_connections:
            if not self._full:
                self._full = True
                self.log.warn("max_connections, {limit}, are open: new ones are refused", limit=self.max_connections)
            return None
        return SPOAProtocol(self)

    def engine(self, engine_id: str) -> _Engine:
        """Return what the connections of the engine called ``engine_id`` have in common."""
        engine = self.engines.get(engine_id)
        if engine is None:
            engine = self.engines[engine_id] = _Engine(self, engine_id)
        return engine

    def forget(self, protocol: SPOAProtocol) -> None:
        """Count a connection that ended no more."""
        self.connections.discard(protocol)
        self._full = False
        if self._drained is not None and not self.connections:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def drain(self, timeout: float) -> Deferred[None]:
        """Answer what is in flight, say goodbye to every peer, and fire when all connections are closed.

        Those that are not after ``timeout`` seconds are closed with what they have pending, within another second.
        Close the ports first: a connection that comes later is not waited for.
        """
        if not self.connections:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained = drained
        # What has reached this machine is read first: one turn of the reactor.
        begin = self.reactor.callLater(0, self._drain_all)
        end = self.reactor.callLater(timeout, self._abort_all)

        def stop_timers(result: None) -> None:
            for call in (begin, end):
                if call.active():
                    call.cancel()

        return drained.addCallback(stop_timers)

    def _drain_all(self) -> None:
        for protocol in list(self.connections):
            protocol.drain()

    def _abort_all(self) -> None:
        self.log.warn("{count} connections were not drained in time", count=len(self.connections))
        for protocol in list(self.connections):
            protocol.abort()


def describe(address: IAddress) -> str:
    """Return ``address`` as a person writes it: ``127.0.0.1:12345``, ``[::1]:12345`` or a path."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, UNIXAddress):
        name = address.name
        return name.decode("utf-8", "surrogateescape") if name else "unix socket"
    return str(address)

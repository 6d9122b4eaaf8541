"""Transport <-> AgentConnection: HAProxy's bytes go to the handlers, their actions go back as ACKs.

The way of one read: ``dataReceived`` -> ``AgentConnection.next_event`` -> ``IHandlers.respond`` ->
``AgentConnection.send_ack`` -> ``Outbox.write``.
"""

from __future__ import annotations

from typing import Any, Final, cast, final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted.agent.answering import Answering
from spoa_twisted.agent.closing import Closing, Phase
from spoa_twisted.agent.drain import Drain
from spoa_twisted.agent.engines import Engines
from spoa_twisted.agent.outbox import Outbox
from spoa_twisted.agent.pacing import Pacing
from spoa_twisted.agent.peers import describe, set_tcp_options
from spoa_twisted.agent.refusal import Refusal
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.limits import Limits
from spoa_twisted.log import LogObserver
from spoa_twisted.observer import (
    AcksHeldBack,
    ConnectionEnded,
    ConnectionMade,
    ConnectionRefused,
    DisconnectReceived,
    DrainTimedOut,
    HandlersReplaced,
    HelloReceived,
    HelloTimedOut,
    IObserver,
    Observers,
    PayloadRefused,
    PeerDropped,
    ProtocolError,
)
from spoa_twisted.spop.connection import AgentConnection, Notify, PayloadTooBig, State
from spoa_twisted.spop.errors import SPOPError, StatusCode
from spoa_twisted.spop.frames import Disconnect, HAProxyHello

#: Seconds that a peer has to take the last bytes written to it. Then the connection is aborted.
CLOSE_TIMEOUT: Final = 10.0

#: The same, in seconds, when the time for draining is over, or when nothing is left to be written.
ABORT_TIMEOUT: Final = 1.0

#: Seconds that HAProxy has to close a connection after AGENT-DISCONNECT. Then the agent closes it.
DISCONNECT_TIMEOUT: Final = 0.5

# Read this many bytes beyond the in-flight limit, so that EOF is still noticed.
_READ_AHEAD: Final = 2**16

# Bytes. The ACKs of one read leave in one write, unless they are longer than this together.
_WRITE_SIZE: Final = 2**16

# To look a member up in its Enum takes several times as long.
_RUNNING: Final = State.RUNNING
_CLOSED: Final = State.CLOSED
_DISCONNECTING: Final = Phase.DISCONNECTING
_CLOSING: Final = Phase.CLOSING


@final
@implementer(IPushProducer, IHalfCloseableProtocol)
class SPOAProtocol(Protocol):
    """The agent's end of one connection from HAProxy. :class:`SPOAFactory` makes it."""

    factory: SPOAFactory
    transport: Connection

    def __init__(self, factory: SPOAFactory) -> None:
        self.factory = factory
        # The limits of this connection: the factory may get others for later connections.
        self._limits = limits = factory.limits
        self._observer = factory.observer
        self._connection = AgentConnection(limits.max_frame_size, limits.max_payload_size, factory.async_)
        self._closing = Closing(factory.reactor, self._on_phase_timeout)
        # Made when a HAProxy >= 3.1 may have unread ACKs for the first time: most connections never need it.
        self._pacing: Pacing | None = None
        # True while _serve runs. A handler's answer, or the transport, may call it again from within.
        self._serving = False
        # Whether the transport was asked to read.
        self._reading = True
        # Whether the TLS transport passes on further records of the read that dataReceived was called for.
        self._same_read = False
        # Whether a drain holds ACKs back.
        self._holding = False
        #: Grows with each read and each write: a drain compares it with an earlier value.
        self.activity = 0

    # The transport calls these.

    def connectionMade(self) -> None:
        """Wait for the HAPROXY-HELLO, for at most ``hello_timeout``."""
        factory = self.factory
        self._peer = describe(self.transport.getPeer())
        self._answering = Answering(factory, self._connection, self._peer, self._serve)
        self._outbox = Outbox(self.transport, factory.reactor, self._limits.max_unsent, self._drop)
        self._tls = ISSLTransport.providedBy(self.transport)
        factory.connections.add(self)
        set_tcp_options(self.transport)
        if self._limits.hello_timeout:
            self._closing.end_after(self._limits.hello_timeout)
        self.transport.registerProducer(self, True)
        self._observer.on_event(ConnectionMade(self._peer))

    def dataReceived(self, data: bytes) -> None:
        """Answer the NOTIFYs that ``data`` completes. ACKs that are ready at once leave in one write."""
        self.activity += 1
        if self._same_read:
            self._connection.receive_more(data)
        else:
            self._connection.receive_data(data)
            if self._tls:
                # A TLS transport calls dataReceived for each record of a read, all in one turn of the reactor.
                self._same_read = True
                self.factory.reactor.callLater(0, self._on_read_end)
        self._serve()

    def readConnectionLost(self) -> None:
        """HAProxy has closed its side. Bytes that were written before may still reach it."""
        self._close()

    def writeConnectionLost(self) -> None:
        """Do nothing: the agent never closes its side alone."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel what is pending. HAProxy >= 3.1 ends every connection this way, so it is not an error."""
        self._observer.on_event(ConnectionEnded(self._peer, reason))
        if self._closing.phase is not _CLOSING:
            self._end()
        self._closing.end()
        self.factory.on_connection_lost(self)

    def pauseProducing(self) -> None:
        """Stop answering: the transport's buffer is full."""
        self._outbox.clogged = True
        self._read_or_pause()

    def resumeProducing(self) -> None:
        """Answer again: the transport's buffer is empty."""
        self._outbox.resume()
        # Not at once: the transport is in the middle of a write.
        self._serve(False)

    def stopProducing(self) -> None:
        """Do nothing: ``connectionLost`` follows."""

    # A drain calls these; see Drainable.

    def hold(self) -> None:
        """Hold ACKs back from now on."""
        self._holding = True

    def release(self) -> None:
        """Send the ACKs that were held back so far."""
        self._write()
        self._serve()

    def is_idle(self) -> bool:
        """Return whether no answer is pending, and no frame has arrived in part."""
        return not self._answering.in_flight.count and not self._connection.receiving

    def may_have_unread_acks(self) -> bool:
        """Return whether ACKs were sent that HAProxy may not have acted on: all were sent, none is held back."""
        return self._connection.state is _RUNNING and not self.has_held_acks()

    def has_held_acks(self) -> bool:
        """Return whether ACKs are held back."""
        return self._connection.bytes_to_send > 0

    def disconnect(self) -> None:
        """Send held ACKs and AGENT-DISCONNECT in one write. HAProxy then closes the connection, or else the agent."""
        was_running = self._connection.state is _RUNNING
        self._queue_disconnect()
        if not was_running:
            self._close_soon()
            return
        self._closing.enter(Phase.DISCONNECTING)
        self._closing.end_after(DISCONNECT_TIMEOUT)
        self._write()

    def has_disconnected(self) -> bool:
        """Return whether AGENT-DISCONNECT was sent, or the connection is closed for another reason."""
        return self._connection.state is _CLOSED

    def abort(self) -> None:
        """Cancel what is pending, send AGENT-DISCONNECT, and close. The peer has a second to take the last bytes."""
        self._answering.cancel()
        self._queue_disconnect()
        if self._closing.phase is _DISCONNECTING:
            self._start_flushing()
        self._flush()
        self._closing.shorten(ABORT_TIMEOUT)

    # Reading and answering.

    def _serve(self, at_once: bool = True) -> None:
        """Answer the NOTIFYs that have arrived, as far as the limits allow, and write the ACKs.

        :param at_once: call the kernel now, not in the reactor's next turn.
        """
        if self._serving:
            return
        self._serving = True
        connection = self._connection
        answering = self._answering
        in_flight = answering.in_flight
        try:
            may_answer = self._may_answer()
            while may_answer and (event := connection.next_event()) is not None:
                if type(event) is Notify:
                    answering.on_notify(event)
                else:
                    self._on_other_frame(event)
                if connection.bytes_to_send >= _WRITE_SIZE:
                    self._write(at_once)
                    may_answer = self._may_answer()
                elif in_flight.full:
                    break
        except SPOPError as error:
            self._observer.on_event(ProtocolError(self._peer, error))
        finally:
            self._serving = False
        self._flush(at_once)

    def _on_other_frame(self, event: HAProxyHello | PayloadTooBig | Disconnect) -> None:
        if isinstance(event, HAProxyHello):
            self._on_hello(event)
        elif isinstance(event, PayloadTooBig):
            self._observer.on_event(PayloadRefused(self._peer, self._limits.max_payload_size))
        else:
            self._observer.on_event(DisconnectReceived(self._peer, event))

    def _on_hello(self, hello: HAProxyHello) -> None:
        self._closing.stop()
        self._observer.on_event(HelloReceived(self._peer, hello))
        if self._connection.async_ and not hello.healthcheck:
            self._answering.join(self.factory.engines.get(hello.engine_id))

    def _on_read_end(self) -> None:
        self._same_read = False

    def _may_answer(self) -> bool:
        return not (
            self._outbox.clogged or self._answering.in_flight.full or self._connection.bytes_to_send >= _WRITE_SIZE
        )

    def _read_or_pause(self) -> None:
        # While the transport has something to write, it notices by itself that the connection has ended.
        reading = self._may_answer() or (not self._outbox.clogged and self._connection.bytes_received < _READ_AHEAD)
        if reading is self._reading or self._closing.phase is _CLOSING:
            return
        self._reading = reading
        if reading:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    # Writing.

    def _queue_disconnect(self, status_code: StatusCode = StatusCode.NORMAL, message: str = "normal") -> None:
        connection = self._connection
        if connection.state is State.HELLO and not connection.receiving:
            # The peer has sent nothing: it may not speak SPOP, nor TLS. To send a frame, Twisted would wait for a TLS
            # handshake that never comes.
            connection.close()
        else:
            connection.disconnect(status_code, message)

    def _write(self, at_once: bool = True) -> None:
        connection = self._connection
        data = connection.data_to_send()
        if self._closing.phase is _CLOSING:
            return
        if connection.unread:
            self._watch_unread()
        if data:
            self.activity += 1
        held_back = connection.bytes_to_send
        if data or held_back:
            self._outbox.write(data, at_once, held_back)

    def _flush(self, at_once: bool = True) -> None:
        """Write what may be written, then close or pause the transport if it is time to."""
        connection = self._connection
        # A drain does not hold ACKs back that wait for HAProxy anyway: they take long enough.
        if not self._holding or connection.state is _CLOSED or connection.held_back:
            self._write(at_once)
        if connection.state is _CLOSED and self._closing.phase is not _DISCONNECTING:
            self._close_when_written()
        if self._answering.in_flight.count or self._outbox.clogged or connection.bytes_to_send or not self._reading:
            self._read_or_pause()

    def _watch_unread(self) -> None:
        if self._pacing is None:
            self._pacing = Pacing(
                self._connection, self.transport, self.factory.reactor, self._on_acks_read, self._on_acks_held_back
            )
        self._pacing.watch()

    def _on_acks_read(self) -> None:
        self._flush()
        # ACKs that have left make room for NOTIFYs that were not answered so far.
        self._serve()

    def _on_acks_held_back(self, size: int) -> None:
        self._observer.on_event(AcksHeldBack(self._peer, size))

    # Closing.

    def _close_when_written(self) -> None:
        if not self._connection.bytes_to_send:
            self._close()
        elif self._closing.phase is Phase.OPEN:
            self._start_flushing()

    def _start_flushing(self) -> None:
        self._closing.enter(Phase.FLUSHING)
        self._closing.end_after(CLOSE_TIMEOUT)

    def _close_soon(self) -> None:
        self._flush()
        # A TLS peer that says nothing more would keep the connection for CLOSE_TIMEOUT, though nothing is left to be
        # written to it.
        if self._closing.phase is _CLOSING and self._outbox.is_empty:
            self._closing.shorten(ABORT_TIMEOUT)

    def _close(self) -> None:
        if self._closing.phase is _CLOSING:
            return
        self._end()
        # A peer that takes nothing must not keep the connection.
        self._closing.end_after(CLOSE_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _drop(self) -> None:
        self._observer.on_event(PeerDropped(self._peer, self._limits.max_unsent))
        self._close()
        self.transport.abortConnection()

    def _end(self) -> None:
        """Stop all work, once: before the transport is told to close, or when it has closed by itself."""
        self._closing.enter(Phase.CLOSING)
        self._connection.close()
        self._outbox.end()
        if self._pacing is not None:
            self._pacing.end()
            self._pacing = None
        self._answering.end()

    def _on_phase_timeout(self, phase: Phase) -> None:
        if phase is Phase.OPEN:
            self._observer.on_event(HelloTimedOut(self._peer))
            self._queue_disconnect(StatusCode.TIMEOUT, "no HELLO came in time")
            self._flush()
        elif phase is _DISCONNECTING:
            # HAProxy has not closed the connection, so the agent does.
            self._start_flushing()
            self._close_soon()
        else:
            self._close()
            self.transport.abortConnection()


@final
class SPOAFactory(Factory):
    """Makes an agent of handlers. Give it to the ``listen`` method of any Twisted server endpoint.

    :param handlers: an :class:`IHandlers`, usually a :class:`Handlers`.
    :param async_: announce the capability ``async`` (SPOE.txt, section 3.2.1), which HAProxy <= 3.0 knows. An ACK whose
        connection has ended then leaves on another connection of the same engine.
    :param observer: an :class:`~spoa_twisted.observer.IObserver`, which hears of everything that happens.
    :param log: receives the beginning and end of each connection at the level debug, and faults above.
    :param reactor: tells the time, and runs threads. Without it, Twisted's global reactor.
    :param limits: the fields of :class:`~spoa_twisted.limits.Limits`, for example ``max_in_flight=64``. The defaults
        suit HAProxy's own.
    :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`, ``observer`` does not provide
        :class:`IObserver`, or a limit has an unknown name or is not a number.
    :raises ValueError: for a limit that is out of range.
    """

    noisy = False

    def __init__(
        self,
        handlers: IHandlers,
        *,
        async_: bool = False,
        observer: IObserver | None = None,
        log: Logger | None = None,
        reactor: IReactorTime | None = None,
        **limits: float,
    ) -> None:
        if observer is not None and not IObserver.providedBy(observer):
            raise TypeError(f"a {type(observer).__name__} does not provide IObserver")
        if reactor is None:
            from twisted.internet import reactor as default_reactor

            reactor = cast("IReactorTime", default_reactor)
        #: May be replaced as a whole: new connections have the new limits.
        self.limits = Limits(**cast("dict[str, Any]", limits))
        self.async_ = async_
        self.reactor = reactor
        log_observer = LogObserver(log or Logger("spoa_twisted.agent"), reactor)
        #: Hears of everything: the log, and the application's own observer.
        self.observer = Observers(log_observer) if observer is None else Observers(log_observer, observer)
        #: Hears of each NOTIFY. ``None`` when nobody but the log observes: then NOTIFYs cost nothing more.
        self.notify_observer: IObserver | None = None if observer is None else self.observer
        #: What reports failed handlers, when nobody observes each NOTIFY.
        self.outcomes = Outcomes(self.observer)
        #: The open connections.
        self.connections: set[SPOAProtocol] = set()
        #: The engines of the open connections, with the capability ``async``.
        self.engines = Engines(reactor, self.observer)
        self._drain: Drain | None = None
        # The Deferreds that drain() has returned.
        self._drained: list[Deferred[None]] = []
        #: Answers NOTIFYs.
        self.handlers = _checked(handlers)

    def use(self, handlers: IHandlers) -> None:
        """Let ``handlers`` answer from now on. Pending NOTIFYs finish with the handlers that they began with.

        :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`.
        """
        self.handlers = _checked(handlers)
        self.observer.on_event(HandlersReplaced())

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return a protocol for a new connection. When ``max_connections`` are open, it closes the connection."""
        if len(self.connections) >= self.limits.max_connections:
            self.observer.on_event(ConnectionRefused(self.limits.max_connections))
            return Refusal()
        return SPOAProtocol(self)

    def drain(self, timeout: float) -> Deferred[None]:
        """Answer what is in flight, send AGENT-DISCONNECT to every peer, and fire when all connections are closed.

        A connection is closed when nothing is pending on it, and no further NOTIFY seems to be on its way. Until then
        the agent answers further NOTIFYs too, but holds their ACKs back, for 20 ms at first, and for up to 0.32 s when
        that was not long enough to answer all. After ``timeout`` seconds the agent cancels what is still pending, and
        closes all connections within another second. Close the ports first: connections that are made later are waited
        for too.
        """
        if not self.connections:
            return succeed(None)
        if self._drain is None:
            self._drain = Drain(self.connections, self.reactor, self._on_drain_timeout)
        self._drain.end_after(timeout)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        return drained

    def on_connection_lost(self, protocol: SPOAProtocol) -> None:
        """Called by ``protocol``, whose connection is closed."""
        self.connections.discard(protocol)
        if self._drain is not None and not self.connections:
            self.engines.forget_all()
            self._drain.stop()
            self._drain = None
            waiting, self._drained = self._drained, []
            for drained in waiting:
                drained.callback(None)

    def _on_drain_timeout(self) -> None:
        self.observer.on_event(DrainTimedOut(len(self.connections)))


def _checked(handlers: IHandlers) -> IHandlers:
    if not IHandlers.providedBy(handlers):
        raise TypeError(f"a {type(handlers).__name__} does not provide IHandlers")
    return handlers

"""The agent's protocol and factory. They connect a Twisted transport, the codec ``AgentConnection``, and the handlers.

For each read, these methods are called in this order: ``dataReceived``, ``AgentConnection.next_event``,
``Answering.on_notify``, ``IHandlers.respond``, ``AgentConnection.send_ack``, ``Outbox.send``. ``Outbox.write`` takes
the place of the last one when the peer has left bytes unsent, or ACKs are held back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast, final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted.agent.answering import Answering
from spoa_twisted.agent.awaited import Awaited
from spoa_twisted.agent.closing import Closing, Phase, queue_disconnect
from spoa_twisted.agent.drain import Drain
from spoa_twisted.agent.engines import Engines
from spoa_twisted.agent.intake import WRITE_SIZE, Intake
from spoa_twisted.agent.lateness import Lateness
from spoa_twisted.agent.outbox import Outbox
from spoa_twisted.agent.pacing import Pacing
from spoa_twisted.agent.peers import describe, set_tcp_options
from spoa_twisted.agent.pipelining import AUTO, EngineAnswers, Pipelining
from spoa_twisted.agent.refusal import Refusal
from spoa_twisted.agent.slow import Stopwatch
from spoa_twisted.handlers.deadlines import Deadlines
from spoa_twisted.handlers.hold_ups import LONGEST_TURN
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.lifecycle import lifespan_of
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import PendingAnswer
from spoa_twisted.handlers.registry import responder_of
from spoa_twisted.limits import Limits
from spoa_twisted.log import LogObserver, agent_log
from spoa_twisted.observer import (
    ConnectionEnded,
    ConnectionMade,
    ConnectionRefused,
    DisconnectReceived,
    DrainTimedOut,
    HandlersReplaced,
    HelloReceived,
    HelloTimedOut,
    IObserver,
    LifeCycleIgnored,
    Observers,
    PeerDropped,
    ProtocolError,
)
from spoa_twisted.spop.connection import AgentConnection, Notify, PayloadTooBig, State
from spoa_twisted.spop.errors import SPOPError, StatusCode
from spoa_twisted.spop.frames import Disconnect, HAProxyHello
from spoa_twisted.spop.hints import type_of
from spoa_twisted.spop.reassembly import ReassemblyBudget
from spoa_twisted.status.counters import Counters
from spoa_twisted.status.recorder import Recorder

#: Seconds that a peer has to take the last bytes of a connection that closes. Then the agent aborts the connection.
CLOSE_TIMEOUT: Final = 10.0

#: The same, in seconds, after ``drain_timeout``, or if no bytes are left to be written.
ABORT_TIMEOUT: Final = 1.0

#: Seconds that HAProxy has to close a connection after ``SPOAProtocol.disconnect``. Then the agent closes it.
DISCONNECT_TIMEOUT: Final = 0.5

# To look a member up in its Enum takes several times as long.
_RUNNING: Final = State.RUNNING
_CLOSED: Final = State.CLOSED
_DISCONNECTING: Final = Phase.DISCONNECTING
_CLOSING: Final = Phase.CLOSING


@final
@implementer(IPushProducer, IHalfCloseableProtocol)
class SPOAProtocol(Protocol):
    """The agent's end of one connection from HAProxy. :class:`SPOAFactory` creates it."""

    factory: SPOAFactory
    transport: Connection

    def __init__(self, factory: SPOAFactory) -> None:
        self.factory = factory
        # The limits of this connection: the factory may get others for later connections.
        self._limits = factory.limits
        self._observer = factory.observer
        self._hold_ups = factory.outcomes.hold_ups
        self._counters = factory.outcomes.counters
        self._connection = factory.new_connection()
        self._closing = Closing(factory.reactor, self._on_phase_timeout)
        # Created when a HAProxy >= 3.1 may have unread ACKs for the first time: most connections never need it.
        self._pacing: Pacing | None = None
        # True while _serve runs. A handler that answers, or the transport, may call _serve again meanwhile.
        self._serving = False
        # True if a drain or a retirement holds ACKs back.
        self._holding = False
        # The answers to the engine, if they decide about pipelining.
        self._answers: EngineAnswers | None = None
        #: The number of reads and writes so far. A drain and a retirement compare it with an earlier value.
        self.activity = 0

    # The transport calls the next methods.

    def connectionMade(self) -> None:
        """Wait for HAPROXY-HELLO, for at most ``hello_timeout``."""
        factory, reactor = self.factory, self.factory.reactor
        self._peer = describe(self.transport.getPeer())
        self._answering = Answering(factory, self._connection, self._peer, self._on_acks)
        self._in_flight = self._answering.in_flight
        self._outbox = Outbox(self.transport, reactor, self._limits.max_unsent, self._drop)
        self._answering.stopwatch = factory.stopwatch(self._connection, self._peer, self._outbox)
        self._intake = Intake(self.transport, self._connection, self._in_flight, self._outbox, reactor, self._serve)
        factory.connections.add(self)
        set_tcp_options(self.transport)
        if self._limits.hello_timeout:
            self._closing.end_after(self._limits.hello_timeout)
        self.transport.registerProducer(self, True)
        self._observer.on_event(ConnectionMade(self._peer))

    def dataReceived(self, data: bytes) -> None:
        """Handle the frames that the bytes of a read complete. Send all ACKs that are ready at once in one write."""
        self.activity += 1
        self._intake.receive(data)

    def readConnectionLost(self) -> None:
        """Close the connection, because HAProxy has closed its side. ACKs that wait for the next turn are sent now."""
        self._intake.end_read()
        self._flush()
        self._close()

    def writeConnectionLost(self) -> None:
        """Do nothing: the agent never closes only its own side."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel pending handlers. HAProxy >= 3.1 ends every connection without DISCONNECT, so this is no error."""
        self._intake.end_read()
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
        # False: do not call the kernel at once, because the transport is in the middle of a write.
        self._serve(False)

    def stopProducing(self) -> None:
        """Do nothing: ``connectionLost`` follows."""

    # Drain and Retirement call the next methods; see Drainable and Retirable.

    def hold(self) -> None:
        """Hold ACKs back from now on."""
        self._holding = True

    def release(self, hold: bool = True) -> None:
        """Send the ACKs that were held back so far. Hold the next ACKs back if ``hold`` is true."""
        self._holding = hold
        self._write()
        self._serve()

    def can_end_at_once(self) -> bool:
        """Return whether no NOTIFY is pending, and AGENT-DISCONNECT would leave in one write with the held ACKs."""
        return not self._outbox.clogged and self._connection.can_end_at_once

    def is_idle(self) -> bool:
        """Return whether no handler is pending, and no frame is incomplete."""
        return not self._in_flight.count and not self._connection.receiving

    def may_have_unread_acks(self) -> bool:
        """Return whether HAProxy may not have acted on the last ACKs: none is held back, so all were sent."""
        return self._connection.state is _RUNNING and not self.has_held_acks()

    def has_held_acks(self) -> bool:
        """Return whether ACKs are held back."""
        return self._connection.bytes_to_send > 0

    def disconnect(self) -> None:
        """Send held ACKs and AGENT-DISCONNECT in one write. HAProxy closes the connection, or later the agent does."""
        was_running = self._connection.state is _RUNNING
        queue_disconnect(self._connection)
        if not was_running:
            self._close_soon()
            return
        self._counters.disconnected("agent", StatusCode.NORMAL)
        self._closing.enter(Phase.DISCONNECTING, DISCONNECT_TIMEOUT)
        self._write()

    def has_disconnected(self) -> bool:
        """Return whether AGENT-DISCONNECT was sent, or the connection is closed for another reason."""
        return self._answering.has_disconnected()

    def abort(self) -> None:
        """Cancel pending handlers, send AGENT-DISCONNECT, close. The peer has a second to take the last bytes."""
        self._answering.cancel()
        if self._connection.state is _RUNNING:
            self._counters.disconnected("agent", StatusCode.NORMAL)
        queue_disconnect(self._connection)
        if self._closing.phase is _DISCONNECTING:
            self._closing.enter(Phase.FLUSHING, CLOSE_TIMEOUT)
        self._flush()
        self._closing.shorten(ABORT_TIMEOUT)

    # Reading, answering, writing and closing.

    def _serve(self, at_once: bool = True) -> None:
        """Handle received frames until a limit is reached, and write the ACKs.

        :param at_once: call the kernel now, not in the reactor's next turn.
        """
        if self._serving:
            return
        self._serving = True
        connection, in_flight, answering = self._connection, self._in_flight, self._answering
        hold_ups, seconds = self._hold_ups, self.factory.reactor.seconds
        began = seconds()
        hold_ups.reads -= 1
        outer = hold_ups.begin(began) if hold_ups.reads <= 0 else None
        on_notify = answering.on_notify if outer is None else answering.on_timed_notify
        try:
            may_answer = self._intake.may_answer()
            while may_answer and (event := connection.next_event()) is not None:
                if type(event) is Notify:
                    on_notify(event)
                else:
                    self._on_other_frame(event)
                if connection.bytes_to_send >= WRITE_SIZE:
                    self._write(at_once)
                    may_answer = self._intake.may_answer()
                elif in_flight.full:
                    break
        except SPOPError as error:
            self._observer.on_event(ProtocolError(self._peer, error))
        finally:
            self._serving = False
            now = seconds()
            if outer is not None:
                answering.end_read(began, now)
                hold_ups.end(outer)
            if now - began > LONGEST_TURN:
                hold_ups.measure_each(now)
        self._flush(at_once)

    def _on_acks(self, at_once: bool) -> None:
        """Write the ACKs of NOTIFYs that were pending. Handle frames that waited for the in-flight limit, if any."""
        if not self._serving:
            (self._serve if self._connection.bytes_received else self._flush)(at_once)

    def _on_other_frame(self, event: HAProxyHello | PayloadTooBig | Disconnect) -> None:
        if isinstance(event, HAProxyHello):
            self._on_hello(event)
        elif isinstance(event, PayloadTooBig):
            self._answering.refuse(event)
        else:
            self._observer.on_event(DisconnectReceived(self._peer, event))

    def _on_hello(self, hello: HAProxyHello) -> None:
        self._closing.stop()
        self._observer.on_event(HelloReceived(self._peer, hello))
        if hello.healthcheck:
            return
        if self._connection.async_:
            self._answering.join(self.factory.engines.get(hello.engine_id))
        self._answers = answers = self.factory.pipelining.engine(hello)
        if answers is not None and self._connection.pipelined:
            answers.add(self)

    def _read_or_pause(self) -> None:
        if self._closing.phase is not _CLOSING:
            self._intake.read_or_pause()

    def _write(self, at_once: bool = True) -> None:
        connection = self._connection
        data = connection.data_to_send()
        if connection.state is _CLOSED and self._closing.phase is _CLOSING:
            return
        if connection.unread:
            self._watch_unread()
        if data:
            self.activity += 1
        outbox = self._outbox
        if (held_back := connection.bytes_to_send) or outbox.clogged or not at_once:
            outbox.write(data, at_once, held_back)
        elif data:
            # The usual case: nothing is unsent, so there is nothing to count.
            outbox.send(data)

    def _flush(self, at_once: bool = True) -> None:
        """Write the frames that are not held back. Then close or pause the transport, if that is due."""
        connection, answers, next_turn = self._connection, self._answers, self._answering.next_turn
        if next_turn.timer is not None:
            next_turn.cancel()
        if not (answers is None or connection.pipelined or self._holding) and (size := connection.longest_queued_ack):
            answers.on_ack(self, self._peer, size, connection.max_short_ack)
        # If ACKs are held back until HAProxy has read others, a drain does not delay them further.
        if not self._holding or connection.state is _CLOSED or connection.held_back:
            self._write(at_once)
        if connection.state is _CLOSED and self._closing.phase is not _DISCONNECTING:
            self._close_when_written()
        if self._in_flight.count or self._outbox.clogged or connection.bytes_to_send or not self._intake.reading:
            self._read_or_pause()

    def _watch_unread(self) -> None:
        if self._pacing is None:
            reactor = self.factory.reactor
            self._pacing = Pacing(
                self._connection, self.transport, reactor, self._send_held, self._peer, self._observer, self._answers
            )
        self._pacing.watch()

    def _send_held(self) -> None:
        self._flush()
        # While many ACKs are held back, may_answer() is false. NOTIFYs that waited for this can be answered now.
        self._serve()

    def _close_when_written(self) -> None:
        if not self._connection.bytes_to_send:
            self._close()
        elif self._closing.phase is Phase.OPEN:
            self._closing.enter(Phase.FLUSHING, CLOSE_TIMEOUT)

    def _close_soon(self) -> None:
        self._flush()
        # Twisted waits until a TLS peer replies to the end of TLS: for up to CLOSE_TIMEOUT, though no bytes are left.
        if self._closing.phase is _CLOSING and self._outbox.is_empty:
            self._closing.shorten(ABORT_TIMEOUT)

    def _close(self) -> None:
        if self._closing.phase is _CLOSING:
            return
        self._end()
        # loseConnection waits until all bytes are written. A peer that does not read must not keep the connection open.
        self._closing.end_after(CLOSE_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _drop(self) -> None:
        self._observer.on_event(PeerDropped(self._peer, self._limits.max_unsent))
        self._close()
        self.transport.abortConnection()

    def _end(self) -> None:
        """Stop all work of this connection. Called once: before ``loseConnection``, or in ``connectionLost``."""
        self._closing.enter(Phase.CLOSING)
        self._connection.close()
        self._outbox.end()
        self._intake.end()
        if self._pacing is not None:
            self._pacing.end()
            self._pacing = None
        if self._answers is not None:
            self._answers.remove(self)
        self._answering.end()

    def _on_phase_timeout(self, phase: Phase) -> None:
        if phase is Phase.OPEN:
            self._observer.on_event(HelloTimedOut(self._peer))
            queue_disconnect(self._connection, StatusCode.TIMEOUT, "no HELLO came in time")
            self._flush()
        elif phase is _DISCONNECTING:
            # HAProxy has not closed the connection in time, so the agent closes it.
            self._closing.enter(Phase.FLUSHING, CLOSE_TIMEOUT)
            self._close_soon()
        else:
            self._close()
            self.transport.abortConnection()


@final
class SPOAFactory(Factory):
    """An agent: it answers NOTIFYs with ``handlers``. Pass it to the ``listen`` method of any Twisted server endpoint.

    :param handlers: an :class:`IHandlers`, usually a :class:`Handlers`.
    :param async_: announce the capability ``async`` (SPOE.txt, section 3.2.1), which HAProxy <= 3.0 supports. If a
        connection ends before an ACK, the agent then sends the ACK on another connection of the same engine.
    :param pipelining: ``"auto"``, ``"always"`` or ``"never"``: whether the agent announces the capability
        ``pipelining``. With ``"auto"``, a HAProxy >= 3.1 gets it while the answers to its engine are short; see
        :mod:`spoa_twisted.agent.pipelining`.
    :param observer: an :class:`~spoa_twisted.observer.IObserver`. It receives all events, and the results of each
        NOTIFY.
    :param log: receives the beginning and end of each connection at the level debug, and faults at warn or above.
        Without it, Twisted's log gets the faults only.
    :param reactor: the clock for all timeouts; it also runs threads. Without it, Twisted's global reactor.
    :param limits: values for fields of :class:`~spoa_twisted.limits.Limits`, for example ``max_in_flight=64``. The
        defaults suit a HAProxy with its default settings.
    :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`, ``observer`` does not provide
        :class:`IObserver`, or a limit has an unknown name or is not a number.
    :raises ValueError: for a limit that is out of range, or another value of ``pipelining``.
    """

    noisy = False

    def __init__(
        self,
        handlers: IHandlers,
        *,
        async_: bool = False,
        pipelining: str = AUTO,
        observer: IObserver | None = None,
        log: Logger | None = None,
        reactor: IReactorTime | None = None,
        **limits: float,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as default_reactor

            reactor = cast("IReactorTime", default_reactor)
        #: The limits. Replace the whole object to change them: the new limits apply to new connections.
        self.limits = Limits.from_keywords(limits)
        self.async_ = async_
        self.reactor = reactor
        self._log_observer = LogObserver(agent_log() if log is None else log, reactor)
        counters = Counters()
        #: Counts events, and keeps the problems, for the status of the agent.
        self.recorder = Recorder(counters, reactor)
        #: Receives all events: it passes them on to the log, to the status and to the application's observer.
        self.observer = Observers(self._log_observer, self.recorder, *([] if observer is None else [observer]))
        #: Receives the results of each NOTIFY. ``None`` if the application has no observer: then results are not
        #: recorded, which saves time.
        self.notify_observer: IObserver | None = None if observer is None else self.observer
        #: Reports failed handlers to ``observer``. All NOTIFYs share it, unless the results of each are recorded.
        self.outcomes = Outcomes(self.observer, counters=counters, deadlines=Deadlines(reactor))
        #: The pending answers that :meth:`when_answered` waits for.
        self.awaited = Awaited()
        #: The open connections.
        self.connections: set[SPOAProtocol] = set()
        #: The engines of the open connections, with the capability ``async``.
        self.engines = Engines(reactor, self.cancel)
        #: How late the reactor is. It is measured with ``log_slow`` only.
        self.lateness = Lateness(reactor)
        #: Which connections have the capability ``pipelining``.
        self.pipelining = Pipelining(pipelining, reactor, self.observer)
        # Counts the incomplete NOTIFYs of all connections together.
        self._reassembly = ReassemblyBudget(self.limits.max_reassembly_size, reactor.seconds)
        self._drain: Drain | None = None
        # The Deferreds that drain() has returned.
        self._drained: list[Deferred[None]] = []
        self._wrapper: Callable[[IHandlers], IHandlers] | None = None
        self.handlers = checked(handlers)
        #: True if a ``SPOAService`` runs the startup, every and shutdown functions of the handlers.
        self.has_service = False

    def startFactory(self) -> None:
        """Report if no service runs the functions of the handlers. Twisted calls this before the first port opens."""
        if not self.has_service and lifespan_of(self.handlers, self.reactor, self.observer) is not None:
            self.observer.on_event(LifeCycleIgnored())

    @property
    def handlers(self) -> IHandlers:
        """The handlers, without a wrapper."""
        return self._handlers

    @handlers.setter
    def handlers(self, handlers: IHandlers) -> None:
        self._handlers = handlers
        self.wrap(self._wrapper)

    def wrap(self, wrapper: Callable[[IHandlers], IHandlers] | None) -> None:
        """Let ``wrapper(handlers)`` answer new NOTIFYs, after :meth:`use` too. With ``None``, there is no wrapper."""
        self._wrapper = wrapper
        #: Answers NOTIFYs: the handlers, or their wrapper.
        self.responder: IHandlers = responder_of(self._handlers) if wrapper is None else wrapper(self._handlers)

    def use(self, handlers: IHandlers) -> None:
        """Answer new NOTIFYs with ``handlers`` from now on. Pending NOTIFYs finish with the old handlers.

        This runs no startup functions: ``SPOAService.reload`` does.

        :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`.
        """
        self.handlers = checked(handlers)
        self.observer.on_event(HandlersReplaced())

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return a protocol for a new connection: a :class:`Refusal` if ``max_connections`` connections are open."""
        if len(self.connections) >= self.limits.max_connections:
            self.observer.on_event(ConnectionRefused(self.limits.max_connections))
            return Refusal()
        return SPOAProtocol(self)

    def new_connection(self) -> AgentConnection:
        """Return the codec of a new connection. ``SPOAProtocol`` calls this."""
        limits = self.limits
        self._reassembly.max_size = limits.max_reassembly_size
        return AgentConnection(
            limits.max_frame_size,
            limits.max_payload_size,
            self.async_,
            self._reassembly,
            self.pipelining.allows,
        )

    def stopwatch(self, connection: AgentConnection, peer: str, outbox: Outbox) -> Stopwatch | None:
        """Return what reports the slow NOTIFYs of a new connection; ``None`` without ``log_slow``."""
        if not self.limits.log_slow:
            return None
        stopwatch = Stopwatch(connection, peer, self.limits.log_slow, self.reactor, self.observer, self.lateness)
        outbox.report(stopwatch.on_sent)
        self.lateness.start()
        return stopwatch

    def drain(self, timeout: float) -> Deferred[None]:
        """Answer pending NOTIFYs, send AGENT-DISCONNECT on all connections, and fire when all of them are closed.

        A connection is closed when no handler is pending on it, and no bytes have arrived for a while. Until then, the
        agent answers new NOTIFYs too, but it holds the ACKs back, to slow HAProxy down: for 20 ms at first, and for up
        to 0.32 s if handlers are still pending. After ``timeout`` seconds, the agent cancels the handlers that are
        still pending, and closes all connections within another second. Close the ports first: the drain also waits
        for connections that are opened after this call.
        """
        if not self.connections:
            return succeed(None)
        self.pipelining.stop()
        if self._drain is None:
            self._drain = Drain(self.connections, self.reactor, self._on_drain_timeout)
        self._drain.end_after(timeout)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        return drained

    def when_answered(self) -> Deferred[None]:
        """Return a Deferred that fires when all NOTIFYs that are pending now have been answered or cancelled."""
        answered: Deferred[None] = Deferred()

        def wait() -> None:
            pending = self.engines.pending()
            for connection in self.connections:
                pending += connection._in_flight.answers()
            self.awaited.when_ended(pending).chainDeferred(answered)

        # In the next turn of the reactor, because a handler may make this call: its own NOTIFY is not pending yet.
        self.reactor.callLater(0, wait)
        return answered

    def cancel(self, answer: PendingAnswer) -> None:
        """Cancel ``answer``, because its connection has ended. ``Answering`` and ``Engines`` call this."""
        self.outcomes.cancel(answer)
        self.awaited.end(answer)

    def stopFactory(self) -> None:
        """Let the log write what it has counted. Twisted calls this when the last port is closed."""
        self._log_observer.flush()

    def on_connection_lost(self, protocol: SPOAProtocol) -> None:
        """Forget ``protocol``, whose connection is closed. ``SPOAProtocol`` calls this."""
        self.connections.discard(protocol)
        if not self.connections:
            self.lateness.stop()
            self.outcomes.deadlines_on(self.reactor).rest()
        if not self.connections and not self.numPorts:
            # All ports are closed, and this was the last connection, so the agent has ended.
            self._log_observer.flush()
        if self._drain is not None and not self.connections:
            self.engines.forget_all()
            self.pipelining.forget_all()
            self._drain.stop()
            self._drain = None
            waiting, self._drained = self._drained, []
            for drained in waiting:
                drained.callback(None)

    def _on_drain_timeout(self) -> None:
        self.observer.on_event(DrainTimedOut(len(self.connections)))


def checked(handlers: object) -> IHandlers:
    """Return ``handlers``.

    :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`.
    """
    if not IHandlers.providedBy(handlers):
        found = f"the class {handlers.__name__}" if isinstance(handlers, type) else type_of(handlers)
        raise TypeError(f"{found} does not provide IHandlers; pass an object, such as Handlers()")
    return handlers

"""A fake HAProxy in memory, for tests of handlers. It needs no socket and no reactor; the test advances its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.client import SPOEProtocol
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.lifecycle import lifespan_of
from spoa_twisted.lifespans import MIN_SHUTDOWN_TIMEOUT
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import Value

if TYPE_CHECKING:
    from typing_extensions import Self


class NotAcknowledged(Exception):
    """A handler has not finished, so there is no ACK yet. Use :meth:`FakeHAProxy.send` to wait for the handler."""


@final
class FakeHAProxy:
    """Sends messages to handlers and returns the variables that they set.

    Messages and variables are encoded, framed and decoded as on a real connection. So a test also finds values that
    SPOP cannot encode, payloads that exceed a limit, and arguments that arrive with another type::

        haproxy = FakeHAProxy(handlers)
        assert haproxy.notify("get-ip-reputation", ip=IPv4Address("192.0.2.1")) == {"txn.allowed": True}

    It connects when the first message is sent, and again when a message is sent after the agent closed the connection.
    Handlers registered with ``blocking=True`` run in the calling thread, because a ``Clock`` has no threads.

    The startup functions of the handlers run at once. If they wait, :meth:`send` waits for them. ``every`` functions
    run when the test advances the clock, and shutdown functions in :meth:`stop`, which the end of a ``with`` calls::

        with FakeHAProxy(handlers) as haproxy:
            haproxy.clock.advance(30)

    :param handlers: the handlers under test.
    :param hello: the HAPROXY-HELLO to send; :data:`~spoa_twisted.client.DEFAULT_HELLO` unless given.
    :param limits: keyword arguments for :class:`SPOAFactory`.
    :raises spoa_twisted.handlers.lifecycle.StartupFailed: if a startup function fails at once.
    """

    def __init__(self, handlers: IHandlers, *, hello: HAProxyHello | None = None, **limits: Any) -> None:
        #: The agent's clock, in seconds: ``haproxy.clock.advance(10)`` makes timeouts of up to 10 seconds expire.
        self.clock = Clock()
        self._factory = SPOAFactory(handlers, reactor=self.clock, **limits)
        self._hello = hello
        self._protocol: SPOEProtocol | None = None
        # The result of the startup functions, and the Deferreds of send() that wait for it.
        self._started: list[Failure | None] = []
        self._waiting: list[Deferred[None]] = []
        self._lifespan = lifespan_of(handlers, self.clock, self._factory.observer)
        if self._lifespan is None:
            self._started.append(None)
        else:
            self._lifespan.start().addBoth(self._on_started)
            if self._started and self._started[0] is not None:
                self._started[0].raiseException()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def notify(self, name: str, /, *unnamed: Value, **arguments: Value) -> dict[str, Value]:
        """Send one message, with the ``unnamed`` arguments before the named ones.

        Return the variables that the handler set, by ``"scope.name"``. The value ``None`` means that the handler unset
        the variable.

        :raises NotAcknowledged: when the handler, or a startup function, waits for a Deferred.
        :raises AgentDisconnected: when the agent sent AGENT-DISCONNECT.
        :raises PayloadRefused: when the message exceeds the agent's ``max_payload_size``.
        :raises TypeError: when an argument has a type that SPOP does not have.
        :raises ValueError: when an argument cannot be encoded.
        """
        return self.notify_all(Message(name, [*[("", value) for value in unnamed], *arguments.items()]))

    def notify_all(self, *messages: Message) -> dict[str, Value]:
        """Send ``messages`` in one NOTIFY, as HAProxy does when several have the same event.

        Return and raise as :meth:`notify` does.
        """
        # Everything happens in memory: the ACK arrives before send() returns, unless a handler waits.
        results: list[Any] = []
        acknowledged = self.send(*messages).addBoth(results.append)
        if not results:
            acknowledged.cancel()
            if not self._started:
                raise NotAcknowledged("startup has not finished; send() returns a Deferred that waits")
            names = ", ".join([message.name for message in messages])
            raise NotAcknowledged(f"the handlers of {names} have not finished; send() returns a Deferred that waits")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        variables: dict[str, Value] = results[0]
        return variables

    def send(self, *messages: Message) -> Deferred[dict[str, Value]]:
        """Send ``messages`` in one NOTIFY.

        The Deferred fires with the variables set, as :meth:`notify` returns them, when the last handler has finished.
        It fails with ``AgentDisconnected`` or ``PayloadRefused``, or with Twisted's reason when the connection is lost.
        If startup functions are pending, it sends the messages when they are done, and fails if one of them fails.

        :raises TypeError: when an argument has a type that SPOP does not have.
        :raises ValueError: when an argument cannot be encoded.
        """
        if not self._started:
            started: Deferred[None] = Deferred()
            self._waiting.append(started)
            return started.addCallback(lambda _: self.send(*messages))
        if self._started[0] is not None:
            return fail(self._started[0])
        if self._protocol is None or not self._protocol.usable:
            self._protocol = self._connect()
        return self._protocol.send(*messages)

    def disconnect(self) -> None:
        """Close the connection, as HAProxy does when it stops. Pending requests fail; their handlers are cancelled."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.disconnect()

    def stop(self) -> Deferred[None]:
        """Disconnect, and run the shutdown functions of the handlers.

        :return: a Deferred that fires when they have finished: at once, unless a shutdown function waits.
        """
        self.disconnect()
        if self._lifespan is None:
            return succeed(None)
        return self._lifespan.stop(max(self._factory.limits.drain_timeout, MIN_SHUTDOWN_TIMEOUT))

    def _on_started(self, failure: Failure | None) -> None:
        self._started.append(failure)
        if failure is not None:
            self.stop()
        waiting, self._waiting = self._waiting, []
        for started in waiting:
            started.callback(failure)

    def _connect(self) -> SPOEProtocol:
        agent = self._factory.buildProtocol(None)
        engine = SPOEProtocol(self._hello)
        engine_transport, agent_transport = _MemoryTransport(agent), _MemoryTransport(engine)
        engine_transport.other, agent_transport.other = agent_transport, engine_transport
        agent.makeConnection(agent_transport)
        # When the HELLO fails, the messages sent fail with the same reason: do not log it as unhandled too.
        engine.hello().addErrback(lambda failure: None)
        engine.makeConnection(engine_transport)  # type: ignore[no-untyped-call]
        return engine


@final
class _MemoryTransport(StringTransport):
    """One end of a connection in memory. ``write`` delivers the bytes to the other end's protocol at once."""

    #: The transport of the other end. Set after both transports exist, because each needs the other.
    other: _MemoryTransport

    def __init__(self, receiver: Protocol) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._receiver = receiver

    def write(self, data: bytes) -> None:
        assert self.connected
        self._receiver.dataReceived(data)

    def loseConnection(self) -> None:
        if self.connected:
            # Both flags first: connectionLost() of either protocol may call loseConnection() again.
            self.connected = self.other.connected = False
            self._receiver.connectionLost(Failure(ConnectionDone()))
            self.other._receiver.connectionLost(Failure(ConnectionDone()))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Do nothing: bytes are delivered at once, so there is never a reason to pause the producer."""

    def unregisterProducer(self) -> None:
        """Do nothing, because ``registerProducer`` does nothing."""

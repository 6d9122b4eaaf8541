"""A fake HAProxy in memory, for tests of handlers. It needs no socket and no reactor; the test advances its clock."""

from __future__ import annotations

from typing import Any, final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.client import SPOEProtocol
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import Value


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

    :param handlers: the handlers under test.
    :param hello: the HAPROXY-HELLO to send; :data:`~spoa_twisted.client.DEFAULT_HELLO` unless given.
    :param limits: keyword arguments for :class:`SPOAFactory`.
    """

    def __init__(self, handlers: IHandlers, *, hello: HAProxyHello | None = None, **limits: Any) -> None:
        #: The agent's clock, in seconds: ``haproxy.clock.advance(10)`` makes timeouts of up to 10 seconds expire.
        self.clock = Clock()
        self._factory = SPOAFactory(handlers, reactor=self.clock, **limits)
        self._hello = hello
        self._protocol: SPOEProtocol | None = None

    def notify(self, name: str, /, *unnamed: Value, **arguments: Value) -> dict[str, Value]:
        """Send one message, with the ``unnamed`` arguments before the named ones.

        Return the variables that the handler set, by ``"scope.name"``. The value ``None`` means that the handler unset
        the variable.

        :raises NotAcknowledged: when the handler has not finished, because it waits for a Deferred.
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

        :raises TypeError: when an argument has a type that SPOP does not have.
        :raises ValueError: when an argument cannot be encoded.
        """
        if self._protocol is None or not self._protocol.usable:
            self._protocol = self._connect()
        return self._protocol.send(*messages)

    def disconnect(self) -> None:
        """Close the connection, as HAProxy does when it stops. Pending requests fail; their handlers are cancelled."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.disconnect()

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

"""HAProxy in memory, for the tests of handlers: no socket and no reactor, only a clock that the test moves."""

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
    """A handler has not finished, so that there is no ACK. :meth:`FakeHAProxy.send` waits for it."""


@final
class FakeHAProxy:
    """Sends messages to handlers, through all that lies between, and gives back the variables that they set.

    ::

        haproxy = FakeHAProxy(handlers)
        assert haproxy.notify("get-ip-reputation", ip=IPv4Address("192.0.2.1")) == {"txn.allowed": True}

    It connects when it has something to send, and again after the agent closed the connection. Handlers registered
    with ``blocking=True`` run where they are called.

    :param handlers: what is to be tested.
    :param hello: what to say of this HAProxy; :data:`~spoa_twisted.client.DEFAULT_HELLO` unless given.
    :param limits: keyword arguments for :class:`SPOAFactory`.
    """

    def __init__(self, handlers: IHandlers, *, hello: HAProxyHello | None = None, **limits: Any) -> None:
        #: The agent's time: ``haproxy.clock.advance(10)`` lets a handler time out.
        self.clock = Clock()
        self._factory = SPOAFactory(handlers, reactor=self.clock, **limits)
        self._hello = hello
        self._protocol: SPOEProtocol | None = None

    def notify(self, name: str, /, *unnamed: Value, **arguments: Value) -> dict[str, Value]:
        """Send one message, its ``unnamed`` arguments first, and return the variables set; ``None`` for one unset.

        :raises NotAcknowledged: when the handler has not finished.
        :raises TypeError: :raises ValueError: for an argument that SPOP cannot hold.
        """
        return self.notify_all(Message(name, [*[("", value) for value in unnamed], *arguments.items()]))

    def notify_all(self, *messages: Message) -> dict[str, Value]:
        """Send ``messages`` in one NOTIFY, as HAProxy does when several have the same event; see :meth:`notify`."""
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
        """Send ``messages`` in one NOTIFY, and fire with the variables set when the last handler has finished.

        :raises TypeError: :raises ValueError: for an argument that SPOP cannot hold.
        """
        if self._protocol is None or not self._protocol.usable:
            self._protocol = self._connect()
        return self._protocol.send(*messages)

    def disconnect(self) -> None:
        """Close the connection, as a HAProxy that stops: what is pending is given up."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.disconnect()

    def _connect(self) -> SPOEProtocol:
        agent = self._factory.buildProtocol(None)
        engine = SPOEProtocol(self._hello)
        engine_transport, agent_transport = _Wire(agent), _Wire(engine)
        engine_transport.other, agent_transport.other = agent_transport, engine_transport
        agent.makeConnection(agent_transport)
        # What is sent fails as the HELLO does.
        engine.hello().addErrback(lambda failure: None)
        engine.makeConnection(engine_transport)  # type: ignore[no-untyped-call]
        return engine


@final
class _Wire(StringTransport):
    """One end of a connection in memory: what is written is received at the other end at once."""

    other: _Wire

    def __init__(self, receiver: Protocol) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._receiver = receiver

    def write(self, data: bytes) -> None:
        assert self.connected
        self._receiver.dataReceived(data)

    def loseConnection(self) -> None:
        if self.connected:
            self.connected = self.other.connected = False
            self._receiver.connectionLost(Failure(ConnectionDone()))
            self.other._receiver.connectionLost(Failure(ConnectionDone()))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """What is written is received at once: nobody has to wait."""

    def unregisterProducer(self) -> None:
        """As nobody was registered."""

"""HAProxy's side of SPOP on a Twisted endpoint: asks an agent what HAProxy would ask."""

from __future__ import annotations

from typing import Final, NoReturn, TypeVar, cast, final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from spoa_twisted.spop.connection import ASYNC, PIPELINING, EngineConnection, State
from spoa_twisted.spop.errors import SPOPError
from spoa_twisted.spop.frames import AgentHello, Disconnect, HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import Value

#: Seconds that an agent has to take a connection, to answer a HELLO, and to answer a NOTIFY.
DEFAULT_TIMEOUT: Final = 5.0


#: What HAProxy up to 3.0 says, less the name of its engine. An agent that knows HAProxy >= 3.1 by its HELLO holds long
#: ACKs back, lest that one stops reading; here they are read as they come.
DEFAULT_HELLO: Final = HAProxyHello(capabilities=frozenset({PIPELINING, ASYNC}))

ResultT = TypeVar("ResultT")


class AgentDisconnected(Exception):
    """The agent said goodbye while something was asked of it."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(status_code, message)
        #: A :class:`~spoa_twisted.spop.errors.StatusCode`, or a number of the agent's own (SPOE.txt, section 3.5).
        self.status_code = status_code
        self.message = message

    def __str__(self) -> str:
        return f"the agent disconnected: {self.message} (status code {self.status_code})"


class PayloadRefused(Exception):
    """The agent gave a NOTIFY up before its last fragment: it was too long."""


@final
class SPOEProtocol(Protocol):
    """HAProxy's end of one connection to an agent. Its HELLO goes as soon as it is connected.

    :param hello: what to say in it; :data:`DEFAULT_HELLO` unless given.
    """

    def __init__(self, hello: HAProxyHello | None = None) -> None:
        self._connection = EngineConnection(hello or DEFAULT_HELLO)
        self._hello: Deferred[AgentHello] = Deferred()
        self._waiting: dict[bytes, Deferred[dict[str, Value]]] = {}
        self._ended: Deferred[None] = Deferred()
        self._over: Failure | None = None

    @property
    def usable(self) -> bool:
        """Whether both HELLOs went and no goodbye did."""
        return self._connection.state is State.RUNNING

    def hello(self) -> Deferred[AgentHello]:
        """Fire with the agent's HELLO. To be called once.

        The Deferred fails with :class:`AgentDisconnected`, with :class:`~spoa_twisted.spop.errors.SPOPError` when
        the agent broke the protocol, or with Twisted's reason for the end of the connection.
        """
        return self._hello

    def send(self, *messages: Message) -> Deferred[dict[str, Value]]:
        """Send ``messages`` in one NOTIFY; fire with the variables that its ACK sets, ``None`` for one unset.

        Cancelling the Deferred forgets the NOTIFY. It fails as :meth:`hello` does.

        :raises TypeError: :raises ValueError: for a message that cannot be sent.
        """
        if self._over is not None:
            return fail(self._over)
        ids = self._connection.send_notify(messages)
        acknowledged: Deferred[dict[str, Value]] = Deferred(lambda _: self._forget(ids))
        self._waiting[ids] = acknowledged
        self._flush()
        return acknowledged

    def disconnect(self) -> Deferred[None]:
        """Say goodbye; fire when the connection is closed."""
        self._connection.disconnect()
        if self._over is None:
            self._flush()
            self._lose_connection()
        return self._ended

    def abort(self) -> None:
        """Close at once, without a goodbye."""
        self._connection.close()
        cast("ITCPTransport", self.transport).abortConnection()

    def connectionMade(self) -> None:
        """Send the HELLO."""
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Fire what the agent's frames answer."""
        self._connection.receive_data(data)
        reason: BaseException | None = None
        try:
            while True:
                event = self._connection.next_event()
                if event is None:
                    break
                if isinstance(event, AgentHello):
                    self._hello.callback(event)
                elif isinstance(event, Disconnect):
                    reason = AgentDisconnected(event.status_code, event.message)
                else:
                    acknowledged = self._waiting.pop(event.ids)
                    if event.aborted:
                        acknowledged.errback(PayloadRefused("the agent aborted the NOTIFY: it is too long"))
                    else:
                        acknowledged.callback(event.variables)
        except SPOPError as error:
            reason = error
        self._flush()
        if reason is not None:
            self._end(Failure(reason))
        if self._connection.state is State.CLOSED:
            self._lose_connection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail what the agent left unanswered."""
        self._connection.close()
        self._end(reason)
        self._ended.callback(None)

    def _forget(self, ids: bytes) -> None:
        self._waiting.pop(ids, None)
        self._connection.forget(ids)

    def _flush(self) -> None:
        data = self._connection.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    def _lose_connection(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def _end(self, reason: Failure) -> None:
        if self._over is not None:
            return
        self._over = reason
        waiting, self._waiting = self._waiting, {}
        if not self._hello.called:
            self._hello.errback(reason)
        for acknowledged in waiting.values():
            acknowledged.errback(reason)


@final
class SPOEClient:
    """Asks an agent, as HAProxy does. It connects when it has something to send, and again when it lost its connection.

    ::

        client = SPOEClient("tcp:127.0.0.1:12345")
        variables = await client.notify("get-ip-reputation", ip=IPv4Address("192.0.2.1"))
        await client.disconnect()

    :param endpoint: a Twisted client endpoint, or a string that describes one.
    :param hello: what to say of this side; :data:`DEFAULT_HELLO` unless given.
    :param timeout: the seconds for each of connecting, the HELLO and an ACK.
    :param reactor: what tells the time and resolves the string; Twisted's own unless given.
    :raises ValueError: for a string that describes no endpoint.
    """

    def __init__(
        self,
        endpoint: str | IStreamClientEndpoint,
        *,
        hello: HAProxyHello | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        reactor: IReactorTime | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as default_reactor

            reactor = cast("IReactorTime", default_reactor)
        self._endpoint = clientFromString(reactor, endpoint) if isinstance(endpoint, str) else endpoint
        self._hello = hello
        self._timeout = timeout
        self._reactor = reactor
        self._protocol: SPOEProtocol | None = None
        self._waiting: list[Deferred[SPOEProtocol]] = []
        self._connecting: Deferred[SPOEProtocol] | None = None

    def notify(self, name: str, /, *unnamed: Value, **arguments: Value) -> Deferred[dict[str, Value]]:
        """Send one message, its ``unnamed`` arguments first; see :meth:`send`."""
        return self.send(Message(name, [*[("", value) for value in unnamed], *arguments.items()]))

    async def _send(self, messages: tuple[Message, ...]) -> dict[str, Value]:
        protocol = self._protocol
        if protocol is None or not protocol.usable:
            protocol = await self._shared_connection()
        return await self._in_time(protocol.send(*messages))

    def send(self, *messages: Message) -> Deferred[dict[str, Value]]:
        """Send ``messages`` in one NOTIFY; fire with the variables that its ACK sets, ``None`` for one unset.

        The Deferred fails with ``TimeoutError``; with :class:`AgentDisconnected`, when the agent said goodbye; with
        :class:`~spoa_twisted.spop.errors.SPOPError`, when it broke the protocol; with ``TypeError`` or
        ``ValueError``, when a message cannot be sent; or with Twisted's reason why there is no connection.
        """
        return Deferred.fromCoroutine(self._send(messages))

    def ping(self) -> Deferred[AgentHello]:
        """Make a health check, on a connection of its own (SPOE.txt, section 3.2.4); fire with the agent's HELLO.

        The Deferred fails as that of :meth:`send` does.
        """
        return Deferred.fromCoroutine(self._ping())

    async def _ping(self) -> AgentHello:
        protocol = await self._connect(SPOEProtocol(HAProxyHello(healthcheck=True)))
        return await self._greeting(protocol)

    def disconnect(self) -> Deferred[None]:
        """Say goodbye; fire when the connection, if there is one, is closed. What waits for one is cancelled."""
        if self._connecting is not None:
            self._connecting.cancel()
        protocol, self._protocol = self._protocol, None
        return succeed(None) if protocol is None else protocol.disconnect()

    def _shared_connection(self) -> Deferred[SPOEProtocol]:
        waiting: Deferred[SPOEProtocol] = Deferred()
        self._waiting.append(waiting)
        if self._connecting is None:
            self._connecting = Deferred.fromCoroutine(self._greet())
            self._connecting.addBoth(self._connected)
        return waiting

    def _connected(self, result: SPOEProtocol | Failure) -> None:
        self._connecting = None
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            # A Deferred without a canceller ignores this call when it was cancelled before.
            deferred.callback(result)

    async def _greet(self) -> SPOEProtocol:
        protocol = await self._connect(SPOEProtocol(self._hello))
        await self._greeting(protocol)
        self._protocol = protocol
        return protocol

    async def _greeting(self, protocol: SPOEProtocol) -> AgentHello:
        try:
            return await self._in_time(protocol.hello())
        except BaseException:
            protocol.abort()
            raise

    async def _connect(self, protocol: SPOEProtocol) -> SPOEProtocol:
        return await self._in_time(connectProtocol(self._endpoint, protocol))

    def _in_time(self, deferred: Deferred[ResultT]) -> Deferred[ResultT]:
        return deferred.addTimeout(self._timeout, self._reactor, _no_answer)


def _no_answer(result: object, seconds: float) -> NoReturn:
    # Whatever the cancelled Deferred fails with: that of a TCP endpoint fails with ConnectingCancelledError.
    raise TimeoutError(f"no answer within {seconds:g} s")

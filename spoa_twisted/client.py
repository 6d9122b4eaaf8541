"""An SPOP client on a Twisted endpoint. It sends an agent the frames that HAProxy would send (SPOE.txt, section 3).

:class:`SPOEProtocol` is one connection. :class:`SPOEClient` opens connections when it needs them. Both are for tests,
probes and tools; ``spoactl`` and :class:`~spoa_twisted.testing.FakeHAProxy` use them.
"""

from __future__ import annotations

from typing import Final, NoReturn, TypeVar, cast, final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from spoa_twisted.spop.connection import ASYNC, PIPELINING, EngineConnection, State
from spoa_twisted.spop.errors import STATUS_WORDS, SPOPError, with_words
from spoa_twisted.spop.frames import AgentHello, Disconnect, HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import Value

#: The timeout, in seconds, of each of three steps: connecting, the agent's HELLO, the ACK of a NOTIFY.
DEFAULT_TIMEOUT: Final = 5.0

#: The HAPROXY-HELLO of HAProxy <= 3.0, without an engine-id. After the HELLO of HAProxy >= 3.1, which has no ``async``,
#: an agent delays long ACKs, because HAProxy >= 3.1 can stop reading. This client always reads, so it needs no delay.
DEFAULT_HELLO: Final = HAProxyHello(capabilities=frozenset({PIPELINING, ASYNC}))

ResultT = TypeVar("ResultT")


class AgentDisconnected(Exception):
    """The agent sent AGENT-DISCONNECT while a request was pending."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(status_code, message)
        #: A :class:`~spoa_twisted.spop.errors.StatusCode`, or a number that only this agent defines (SPOE.txt, 3.5).
        self.status_code = status_code
        #: The agent's explanation, for people.
        self.message = message

    def __str__(self) -> str:
        # Many agents send the words of the status code as the message.
        is_words = self.message == STATUS_WORDS.get(self.status_code)
        code = self.status_code if is_words else with_words(self.status_code)
        return f"the agent disconnected: {self.message} (status code {code})"


class PayloadRefused(Exception):
    """The agent refused a fragmented NOTIFY, because its payload was too long.

    :param variables: the variables of ``on_error``, which the ACK sets: HAProxy sets them.
    """

    def __init__(self, variables: dict[str, Value]) -> None:
        super().__init__("the agent refused the NOTIFY: it is too long")
        self.variables = variables


@final
class SPOEProtocol(Protocol):
    """HAProxy's end of one connection to an agent. It sends HAPROXY-HELLO as soon as it is connected.

    :param hello: the HAPROXY-HELLO to send; :data:`DEFAULT_HELLO` unless given.
    """

    def __init__(self, hello: HAProxyHello | None = None) -> None:
        self._connection = EngineConnection(hello or DEFAULT_HELLO)
        self._hello: Deferred[AgentHello] = Deferred()
        # The NOTIFYs without an ACK, by their encoded stream-id and frame-id.
        self._pending: dict[bytes, Deferred[dict[str, Value]]] = {}
        self._connection_lost: Deferred[None] = Deferred()
        # The reason why the connection ended; None before. Later requests fail with it.
        self._end_reason: Failure | None = None

    @property
    def usable(self) -> bool:
        """Whether both HELLOs were exchanged, and neither side has sent DISCONNECT or closed the connection."""
        return self._connection.state is State.RUNNING

    def hello(self) -> Deferred[AgentHello]:
        """Return a Deferred that fires with the agent's HELLO. Call this once: each call returns the same Deferred.

        The Deferred fails with :class:`AgentDisconnected`, with :class:`~spoa_twisted.spop.errors.SPOPError` when
        the agent broke the protocol, or with Twisted's reason when the connection was lost.
        """
        return self._hello

    def send(self, *messages: Message) -> Deferred[dict[str, Value]]:
        """Send ``messages`` in one NOTIFY.

        The Deferred fires with the variables that the ACK sets; the value ``None`` means that the variable is unset.
        It fails with the errors of :meth:`hello`, or with :class:`PayloadRefused` when the agent refused the NOTIFY.
        When it is cancelled, a later ACK of this NOTIFY is ignored.

        :raises TypeError: when an argument has a type that SPOP does not have.
        :raises ValueError: when an argument cannot be encoded, when the messages are too long for an agent without
            fragmentation, or when the HELLOs are not yet exchanged.
        """
        if self._end_reason is not None:
            return fail(self._end_reason)
        ids = self._connection.send_notify(messages)
        acknowledged: Deferred[dict[str, Value]] = Deferred(lambda _: self._forget(ids))
        self._pending[ids] = acknowledged
        self._flush()
        return acknowledged

    def disconnect(self) -> Deferred[None]:
        """Send HAPROXY-DISCONNECT and close. The Deferred fires when the connection is closed."""
        self._connection.disconnect()
        if self._end_reason is None:
            self._flush()
            self._lose_connection()
        return self._connection_lost

    def abort(self) -> None:
        """Close the connection at once, without HAPROXY-DISCONNECT."""
        self._connection.close()
        cast("ITCPTransport", self.transport).abortConnection()

    def connectionMade(self) -> None:
        """Send HAPROXY-HELLO, which the connection has already encoded."""
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Decode the agent's frames, and fire the Deferred of the HELLO or NOTIFY that each frame answers."""
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
                    acknowledged = self._pending.pop(event.ids)
                    if event.aborted:
                        acknowledged.errback(PayloadRefused(event.variables))
                    else:
                        acknowledged.callback(event.variables)
        except SPOPError as error:
            reason = error
        # After an SPOPError, this sends HAPROXY-DISCONNECT. It must be sent before the callers' errbacks run.
        self._flush()
        if reason is not None:
            self._fail_pending(Failure(reason))
        if self._connection.state is State.CLOSED:
            self._lose_connection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail all requests that the agent has not answered."""
        self._connection.close()
        self._fail_pending(reason)
        self._connection_lost.callback(None)

    def _forget(self, ids: bytes) -> None:
        # After forget(), the connection skips a late ACK. Otherwise dataReceived() would raise KeyError for it.
        self._pending.pop(ids, None)
        self._connection.forget(ids)

    def _flush(self) -> None:
        data = self._connection.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    def _lose_connection(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def _fail_pending(self, reason: Failure) -> None:
        if self._end_reason is not None:
            # Keep the first reason. The status code of AGENT-DISCONNECT is more useful than the reason of the
            # connectionLost() that follows.
            return
        self._end_reason = reason
        # Replaced before the first errback: an errback may call send() or cancel another request.
        pending, self._pending = self._pending, {}
        if not self._hello.called:
            self._hello.errback(reason)
        for acknowledged in pending.values():
            acknowledged.errback(reason)


@final
class SPOEClient:
    """Sends messages to an agent, as HAProxy does.

    It connects when the first message is sent, and connects again when a message is sent after the connection was lost.
    All messages share one connection::

        client = SPOEClient("tcp:127.0.0.1:12345")
        variables = await client.notify("get-ip-reputation", ip=IPv4Address("192.0.2.1"))
        await client.disconnect()

    :param endpoint: a Twisted client endpoint, or a string that describes one.
    :param hello: the HAPROXY-HELLO to send; :data:`DEFAULT_HELLO` unless given.
    :param timeout: seconds, for each of three steps: connecting, the agent's HELLO, the ACK of a NOTIFY.
    :param reactor: used for the timeouts, and to make an endpoint from a string; Twisted's global one unless given.
    :raises ValueError: when the string does not describe an endpoint.
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
            # Importing it installs the default reactor, so not at the top of the module.
            from twisted.internet import reactor as default_reactor

            reactor = cast("IReactorTime", default_reactor)
        self._endpoint = clientFromString(reactor, endpoint) if isinstance(endpoint, str) else endpoint
        self._hello = hello
        self._timeout = timeout
        self._reactor = reactor
        # The connection for all messages. If it is no longer usable, the next message opens another one.
        self._protocol: SPOEProtocol | None = None
        # The attempt to connect that is in progress, and the requests that wait for its result.
        self._connecting: Deferred[SPOEProtocol] | None = None
        self._waiting: list[Deferred[SPOEProtocol]] = []

    def notify(self, name: str, /, *unnamed: Value, **arguments: Value) -> Deferred[dict[str, Value]]:
        """Send one message, with the ``unnamed`` arguments before the named ones; see :meth:`send`."""
        return self.send(Message(name, [*[("", value) for value in unnamed], *arguments.items()]))

    async def _send(self, messages: tuple[Message, ...]) -> dict[str, Value]:
        protocol = self._protocol
        if protocol is None or not protocol.usable:
            protocol = await self._shared_connection()
        return await self._with_timeout(protocol.send(*messages))

    def send(self, *messages: Message) -> Deferred[dict[str, Value]]:
        """Send ``messages`` in one NOTIFY.

        The Deferred fires with the variables that the ACK sets; the value ``None`` means that the variable is unset.
        It fails with one of

        - ``TimeoutError``, when a step took longer than the timeout,
        - :class:`AgentDisconnected`, when the agent sent AGENT-DISCONNECT,
        - :class:`PayloadRefused`, when the agent refused the NOTIFY because it was too long,
        - :class:`~spoa_twisted.spop.errors.SPOPError`, when the agent broke the protocol,
        - ``TypeError`` or ``ValueError``, when a message cannot be encoded,
        - Twisted's reason, when the connection could not be opened or was lost.
        """
        return Deferred.fromCoroutine(self._send(messages))

    def ping(self) -> Deferred[AgentHello]:
        """Do a health check on a separate connection (SPOE.txt, section 3.2.4).

        The Deferred fires with the agent's HELLO. It fails with the errors of :meth:`send`.
        """
        return Deferred.fromCoroutine(self._ping())

    async def _ping(self) -> AgentHello:
        protocol = await self._connect(SPOEProtocol(HAProxyHello(healthcheck=True)))
        return await self._agent_hello(protocol)

    def disconnect(self) -> Deferred[None]:
        """Send HAPROXY-DISCONNECT and close the connection, if there is one.

        The Deferred fires when the connection is closed. An attempt to connect is cancelled, and the requests that
        wait for it fail.
        """
        if self._connecting is not None:
            self._connecting.cancel()
        protocol, self._protocol = self._protocol, None
        return succeed(None) if protocol is None else protocol.disconnect()

    def _shared_connection(self) -> Deferred[SPOEProtocol]:
        waiting: Deferred[SPOEProtocol] = Deferred()
        self._waiting.append(waiting)
        if self._connecting is None:
            self._connecting = Deferred.fromCoroutine(self._open_shared_connection())
            self._connecting.addBoth(self._on_connected)
        return waiting

    def _on_connected(self, result: SPOEProtocol | Failure) -> None:
        self._connecting = None
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            # The caller of send() may have cancelled its request, and with it this Deferred. A cancelled Deferred
            # ignores this call.
            deferred.callback(result)

    async def _open_shared_connection(self) -> SPOEProtocol:
        protocol = await self._connect(SPOEProtocol(self._hello))
        await self._agent_hello(protocol)
        self._protocol = protocol
        return protocol

    async def _agent_hello(self, protocol: SPOEProtocol) -> AgentHello:
        try:
            return await self._with_timeout(protocol.hello())
        except BaseException:
            # This includes CancelledError. Nothing else refers to the connection, so it must be closed here.
            protocol.abort()
            raise

    async def _connect(self, protocol: SPOEProtocol) -> SPOEProtocol:
        return await self._with_timeout(connectProtocol(self._endpoint, protocol))

    def _with_timeout(self, deferred: Deferred[ResultT]) -> Deferred[ResultT]:
        return deferred.addTimeout(self._timeout, self._reactor, _raise_timeout)


def _raise_timeout(result: object, seconds: float) -> NoReturn:
    # addTimeout() cancels the Deferred. Cancelled Deferreds fail with different errors, for example with
    # ConnectingCancelledError. Callers get TimeoutError instead of all of these.
    raise TimeoutError(f"no answer within {seconds:g} s")

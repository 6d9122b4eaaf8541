"""A fake HAProxy in memory, for tests of handlers. It needs no socket and no reactor; the test advances its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final, overload

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure

from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.client import SPOEProtocol
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.lifecycle import lifespan_of
from spoa_twisted.lifespans import MIN_SHUTDOWN_TIMEOUT
from spoa_twisted.log import LogObserver
from spoa_twisted.observer import IObserver, Observers
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import Value
from spoa_twisted.strict import MessageFailure, NoHandler, NotAsDeclared, StrictHandlers

__all__ = ["FakeHAProxy", "MessageFailure", "NoHandler", "NotAcknowledged", "NotAsDeclared"]

if TYPE_CHECKING:
    from typing_extensions import Self


class NotAcknowledged(Exception):
    """A handler has not finished, so there is no ACK yet. Use :meth:`FakeHAProxy.send` to wait for the handler."""


@final
class FakeHAProxy:
    """Sends messages to handlers and returns the variables that they set. A handler that fails makes the test fail.

    Messages and variables are encoded, framed and decoded as on a real connection. So a test also finds values that
    SPOP cannot encode, payloads that exceed a limit, and arguments that arrive with another type::

        haproxy = FakeHAProxy(handlers)
        assert haproxy.notify("get-ip-reputation", ip=IPv4Address("192.0.2.1")) == {"txn.allowed": True}

    If a handler fails, :meth:`notify` raises its exception, and the Deferred of :meth:`send` fails with it. If the
    handler has an ``on_error`` with variables, these are returned as on a real connection, and :attr:`failures` has the
    exception. An exception that is raised is not logged. Those in :attr:`failures` are logged as by a real agent.

    It connects when the first message is sent, and again when a message is sent after the agent closed the connection.
    Handlers registered with ``blocking=True`` run in the calling thread, because a ``Clock`` has no threads.

    The startup functions of the handlers run at once. If they wait, :meth:`send` waits for them. ``every`` functions
    run when the test advances the clock, and shutdown functions in :meth:`stop`, which the end of a ``with`` calls::

        with FakeHAProxy(handlers) as haproxy:
            haproxy.clock.advance(30)

    :param handlers: the handlers under test.
    :param hello: the HAPROXY-HELLO to send; :data:`~spoa_twisted.client.DEFAULT_HELLO` unless given.
    :param observer: receives all events, as the ``observer`` of :class:`SPOAFactory` does.
    :param log: the agent's log, as the ``log`` of :class:`SPOAFactory`.
    :param limits: other keyword arguments for :class:`SPOAFactory`.
    :raises TypeError, ValueError: as :class:`SPOAFactory` does.
    :raises spoa_twisted.handlers.lifecycle.StartupFailed: if a startup function fails at once.
    """

    def __init__(
        self,
        handlers: IHandlers,
        *,
        hello: HAProxyHello | None = None,
        observer: IObserver | None = None,
        log: Logger | None = None,
        **limits: Any,
    ) -> None:
        #: The agent's clock, in seconds: ``haproxy.clock.advance(10)`` makes timeouts of up to 10 seconds expire.
        self.clock = Clock()
        self._strict = StrictHandlers(handlers, LogObserver(log or Logger("spoa_twisted.agent"), self.clock))
        #: The failures so far that were not raised, each with the name of its message and its exception. Those of every
        #: and shutdown functions are among them. A test that expects none ends with ``assert haproxy.failures == []``.
        self.failures: list[MessageFailure] = self._strict.failures
        self._factory = SPOAFactory(
            handlers,
            observer=Observers(self._strict) if observer is None else Observers(self._strict, observer),
            # StrictHandlers writes the log. A LogPublisher without observers drops the lines of the agent itself.
            log=Logger(observer=LogPublisher()),
            reactor=self.clock,
            **limits,
        )
        # The factory has checked the handlers under test.
        self._factory.handlers = self._strict
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

    @overload
    def notify(self, name: str, /, *unnamed: Value, **arguments: Value) -> dict[str, Value]: ...

    @overload
    def notify(self, /, *messages: Message) -> dict[str, Value]: ...

    def notify(self, /, *message: Any, **arguments: Any) -> dict[str, Value]:
        """Send a message, and return the variables that its handler set, by ``"scope.name"``.

        The value ``None`` means that the handler unset the variable.

        ``notify("name", 7, ip=ip)`` sends one message, with the unnamed arguments before the named ones.
        ``notify(Message("a"), Message("b"))`` sends several messages in one NOTIFY, as HAProxy does when they have the
        same event. If several of their handlers fail, the failure of the first message is raised, and :attr:`failures`
        has the others.

        :raises BaseException: the exception of a handler without ``on_error``.
        :raises TimeoutError: when such a handler took longer than its timeout.
        :raises NotAsDeclared: (an ``AssertionError``) when a handler sets a variable that its option ``sets`` does not
            declare, or declares with another type.
        :raises NoHandler: when a message has no handler, and there is no default handler.
        :raises NotAcknowledged: when a handler has not finished, or a startup function, because it waits for a
            Deferred.
        :raises AgentDisconnected: when the agent sent AGENT-DISCONNECT.
        :raises PayloadRefused: when the messages exceed the agent's ``max_payload_size``, unless each of them has an
            ``on_error``: then its variables are returned.
        :raises TypeError: when an argument, or a variable that a handler without ``on_error`` returned, has a type that
            SPOP does not have.
        :raises ValueError: when an argument or such a variable cannot be encoded, or the variables do not fit in the
            ACK.
        """
        # Pytest shows the call of notify() in the test, and not the lines of this function.
        __tracebackhide__ = True
        messages = _messages(message, arguments)
        # Everything happens in memory: the ACK arrives before send() returns, unless a handler waits.
        results: list[Any] = []
        acknowledged = self.send(*messages).addBoth(results.append)
        if not results:
            acknowledged.cancel()
            if not self._started:
                raise NotAcknowledged("startup has not finished; send() returns a Deferred that waits")
            names = ", ".join([message.name for message in messages])
            raise NotAcknowledged(f"the handlers of {names} have not finished; send() returns a Deferred that waits")
        result = results[0]
        if isinstance(result, Failure):
            error: Any = result.value
            raise error.with_traceback(result.tb)
        variables: dict[str, Value] = result
        return variables

    @overload
    def send(self, name: str, /, *unnamed: Value, **arguments: Value) -> Deferred[dict[str, Value]]: ...

    @overload
    def send(self, /, *messages: Message) -> Deferred[dict[str, Value]]: ...

    def send(self, /, *message: Any, **arguments: Any) -> Deferred[dict[str, Value]]:
        """Send a message, or several, as :meth:`notify` does, and do not wait for the handlers.

        The Deferred fires with the variables when the last handler has finished, or fails with the exception that
        :meth:`notify` would raise. It fails with Twisted's reason when the connection is lost.
        If startup functions are pending, it sends the messages when they are done, and fails if one of them fails.

        :raises TypeError: when an argument has a type that SPOP does not have.
        :raises ValueError: when an argument cannot be encoded.
        """
        messages = _messages(message, arguments)
        if not self._started:
            started: Deferred[None] = Deferred()
            self._waiting.append(started)
            return started.addCallback(lambda _: self.send(*messages))
        if self._started[0] is not None:
            return fail(self._started[0])
        if self._protocol is None or not self._protocol.usable:
            self._protocol = self._connect()
        request = self._strict.on_send(messages)
        try:
            acknowledged = self._protocol.send(*messages)
        except BaseException:
            self._strict.on_send_failed()
            raise
        return acknowledged.addBoth(request.end)

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


def _messages(message: tuple[Any, ...], arguments: dict[str, Any]) -> list[Message]:
    """Return the messages that the arguments of :meth:`FakeHAProxy.notify` describe."""
    if message and isinstance(message[0], str):
        name, *unnamed = message
        return [Message(name, [*[("", value) for value in unnamed], *arguments.items()])]
    if arguments or not all(isinstance(each, Message) for each in message):
        raise TypeError("pass the name of a message and its arguments, or Message objects")
    return list(message)


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

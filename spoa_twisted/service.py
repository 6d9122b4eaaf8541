"""The agent as a Twisted service: it starts, listens, drains when it stops, and takes new handlers while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NoReturn, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IReactorCore, IReadDescriptor, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from spoa_twisted.agent.peers import describe
from spoa_twisted.agent.protocol import SPOAFactory, checked
from spoa_twisted.endpoints import DEFAULT_ENDPOINT, describe_failure, server_endpoint
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.lifespans import MIN_SHUTDOWN_TIMEOUT, Lifespans
from spoa_twisted.limits import LIMITS
from spoa_twisted.listening import first_failure, listen
from spoa_twisted.readiness import Readiness
from spoa_twisted.spop.hints import type_of

#: The largest number of connections that the kernel queues until the agent accepts them. Twisted's default is 50. When
#: the queue is full, a new TCP connection is tried again after a second, and a new connection to a Unix socket fails.
BACKLOG: Final = 1024
_TWISTED_BACKLOG: Final = 50

# How often ``doRead`` is called before a port is closed. A call without a waiting connection does nothing. Each call
# accepts up to 20 connections more than the call before, so together they accept more than BACKLOG, but not a flood.
_ACCEPTS: Final = 16


class SPOAService(Service):
    """Serves an agent on one or more endpoints, for .tac files and for applications that have services already.

    Under twistd, the service listens before twistd gives up root privileges, so that it may use any port. If one
    endpoint cannot listen, the service closes the others, and ``privilegedStartService`` or ``startService`` raises the
    error.
    If the handlers have startup functions, the service runs them in ``startService``, and listens when they are done:
    under twistd, the process has no root privileges then. :meth:`when_ready` tells when the service listens. If a
    startup function fails at once, ``startService`` raises ``StartupFailed``. If it fails later, that is logged, and
    the service does not listen.
    ``stopService`` closes the ports, answers the pending NOTIFYs, and sends AGENT-DISCONNECT on each connection. When
    all connections are closed, it runs the shutdown functions. It is complete when they have finished.

    :param factory: the agent.
    :param endpoints: a string that describes a Twisted server endpoint, such as ``tcp:12345``, or several endpoints,
        each of them a string or an ``IStreamServerEndpoint``.
    :param drain_timeout: seconds that ``stopService`` waits for pending NOTIFYs. After that, it closes connections
        although NOTIFYs are pending. Without it, ``factory.limits.drain_timeout`` applies. Shutdown functions have the
        time that is left of it, but at least a second.
    :param reactor: the reactor for endpoints that are strings. Without it, Twisted's global reactor.
    :raises TypeError: for an endpoint that is neither a string nor an ``IStreamServerEndpoint``, or a ``drain_timeout``
        that is not a number.
    :raises ValueError: for a string that does not describe an endpoint, for no endpoint at all, or for a
        ``drain_timeout`` out of range.
    """

    name = "spoa"

    _log = Logger()

    def __init__(
        self,
        factory: SPOAFactory,
        endpoints: str | Iterable[str | IStreamServerEndpoint] = DEFAULT_ENDPOINT,
        *,
        drain_timeout: float | None = None,
        reactor: IReactorCore | None = None,
    ) -> None:
        if drain_timeout is not None:
            LIMITS["drain_timeout"].check(drain_timeout)
        if reactor is None:
            from twisted.internet import reactor as default_reactor

            reactor = cast("IReactorCore", default_reactor)
        self.factory = factory
        self._own_drain_timeout = drain_timeout
        self._reactor = reactor
        # Pairs of a text and an endpoint: errors and the log name the endpoint by the text.
        self._endpoints: list[tuple[str, IStreamServerEndpoint]] = []
        for endpoint in (endpoints,) if isinstance(endpoints, str) else endpoints:
            if isinstance(endpoint, str):
                self._endpoints.append((endpoint, server_endpoint(reactor, endpoint)))
            elif not IStreamServerEndpoint.providedBy(endpoint):
                raise TypeError(f"an endpoint is a string or an IStreamServerEndpoint, not {type_of(endpoint)}")
            else:
                self._endpoints.append((repr(endpoint), endpoint))
        if not self._endpoints:
            raise ValueError("an agent needs an endpoint to listen on")
        self._ports: list[IListeningPort] = []
        self._listening = False
        factory.has_service = True
        # The lifespans of the present start, or of the last one.
        self._lifespans = Lifespans(factory)
        # True from privilegedStartService or startService to stopService.
        self._prepared = False
        # The service is ready when startup is done, and it listens.
        self._readiness = Readiness()

    @property
    def endpoints(self) -> list[str]:
        """The endpoints as text: the strings that were passed, and the ``repr`` of each endpoint that was an object."""
        return [text for text, _ in self._endpoints]

    @property
    def addresses(self) -> list[Any]:
        """The ``IAddress`` of each open port. For ``tcp:0``, the address has the port number that the system chose."""
        return [port.getHost() for port in self._ports]

    @property
    def drain_timeout(self) -> float:
        """Seconds that ``stopService`` waits for pending NOTIFYs."""
        # Read each time: an application may replace the limits of the factory while it runs.
        if self._own_drain_timeout is None:
            return self.factory.limits.drain_timeout
        return self._own_drain_timeout

    def privilegedStartService(self) -> None:
        """Listen, unless the handlers have startup functions. twistd calls this first, while it has root privileges.

        :raises twisted.internet.error.CannotListenError: if an endpoint cannot listen. Some endpoints raise another
            error.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._prepare()
        if not self._lifespans.has_startup:
            self._listen()

    def startService(self) -> None:
        """Run the startup functions of the handlers. Then listen, unless ``privilegedStartService`` did.

        :raises spoa_twisted.handlers.lifecycle.StartupFailed: if a startup function fails at once.
        :raises twisted.internet.error.CannotListenError: if an endpoint cannot listen. Some endpoints raise another
            error.
        """
        if self.running:
            return
        super().startService()  # type: ignore[no-untyped-call]
        self._prepare()
        lifespans = self._lifespans
        failures: list[Failure] = []
        starting = True

        def failed(failure: Failure) -> None:
            if not self.running or self._lifespans is not lifespans:
                # stopService has cancelled the startup.
                return
            self._readiness.on_failed(failure)
            self.stopService()
            if starting:
                failures.append(failure)
            else:
                assert failure.value is not None
                self.start_failed(failure.value)

        started = lifespans.start()
        started.addCallback(lambda _: self._listen())
        started.addCallback(lambda _: self._after_start())
        started.addCallback(lambda _: self._readiness.on_ready())
        started.addErrback(failed)
        starting = False
        if failures:
            failures[0].raiseException()

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires when the startup functions are done, and the service listens.

        It fails if a startup function or an endpoint fails, and with ``CancelledError`` if the service is stopped
        before. It does not wait for endpoints that take longer than Twisted's own to listen.
        """
        return self._readiness.when_ready()

    @property
    def state(self) -> str:
        """``starting`` at first, then ``ready``, and ``draining`` from the time when the service is stopped."""
        return self._readiness.state

    def when_stopped(self) -> Deferred[None]:
        """Return a Deferred that fires when ``stopService`` is complete; at once if the service is not stopping."""
        return self._readiness.when_stopped()

    def stopService(self) -> Deferred[None]:
        """Stop listening, drain the connections, and run the shutdown functions of the handlers.

        If startup functions are pending, they are cancelled, and the service does not listen.

        :return: a Deferred that fires when all connections are closed, and the shutdown functions have finished.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._prepared = self._listening = False
        lifespans, timeout, seconds = self._lifespans, self.drain_timeout, self.factory.reactor.seconds
        deadline = seconds() + timeout
        for port in self._ports:
            accept_queued(port)
        closed = self._close_ports()
        # drain() also waits for connections that are made after the call. So the ports are closed first.
        closed.addCallback(lambda _: self.factory.drain(timeout))
        # Only now: pending handlers may use what every functions renew, and what shutdown functions close.
        closed.addCallback(lambda _: lifespans.stop(max(deadline - seconds(), MIN_SHUTDOWN_TIMEOUT)))
        self._readiness.on_stop()
        return closed.addBoth(self._readiness.on_stopped)

    def reload(self, handlers: IHandlers) -> Deferred[None]:
        """Let ``handlers`` answer, after their startup functions. Pending NOTIFYs finish with the old handlers.

        When these NOTIFYs are answered, or after ``drain_timeout``, the ``every`` functions of the old handlers stop,
        and their shutdown functions run. If a startup function of ``handlers`` fails, the old handlers stay. If
        ``handlers`` have no startup functions, they answer at once.
        The shutdown functions of the old handlers must not close what the startup functions of ``handlers`` have opened
        before: do not pass the same handlers again, nor those of a module after ``importlib.reload``.

        :return: a Deferred that fires when ``handlers`` answer. It fails if a startup function fails, and with
            ``CancelledError`` if the service is stopped, or reloads again, before startup is done.
        :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`.
        """
        if not self.running:
            # startService will run their startup functions.
            self.factory.use(handlers)
            return succeed(None)
        checked(handlers)
        if not self._readiness.ready:
            return self.when_ready().addCallback(lambda _: self.reload(handlers))
        return self._lifespans.replace(handlers, self.drain_timeout)

    def start_failed(self, error: BaseException) -> None:
        """Log why the service does not listen. Called only for an error that comes after ``startService`` has returned.

        :param error: a ``StartupFailed``, or the error of an endpoint after startup functions that took their time.
        """
        # The traceback of a StartupFailed ends in this package, and that of its cause in the startup function.
        self._log.failure("the agent does not start: {error}", Failure(error.__cause__ or error), error=error)

    def listening_failed(self, description: str, error: BaseException) -> None:
        """Log that an endpoint cannot listen. Called only for an error that comes after ``startService`` has returned.

        The endpoints of Twisted itself fail at once. An endpoint that needs the network, for example a Tor service, may
        fail later.

        :param description: the endpoint as a string.
        """
        self._log.critical(
            "cannot listen on {endpoint}: {reason}", endpoint=description, reason=describe_failure(error)
        )

    def _before_start(self) -> None:
        """Do nothing. A subclass may prepare its process here, before startup functions run and ports open."""

    def _after_start(self) -> None:
        """Do nothing. A subclass may change its process here, when startup is done and the service listens."""

    def _cannot_listen(self, description: str, error: BaseException) -> NoReturn:
        """Raise the error of an endpoint that failed at once. A subclass may raise an error with another text."""
        raise error

    def _prepare(self) -> None:
        if not self._prepared:
            self._prepared = True
            self._readiness.on_start()
            self._before_start()
            self._lifespans = Lifespans(self.factory)

    def _listen(self) -> None:
        """Listen on all endpoints, or on none of them if one fails at once."""
        if self._listening:
            # twistd has called privilegedStartService before startService.
            return
        self._listening = True
        failure = first_failure(
            ((text, listen(endpoint, self.factory).addCallback(self._opened)) for text, endpoint in self._endpoints),
            self.listening_failed,
        )
        if failure is not None:
            self._listening = False
            self._close_ports()
            self._cannot_listen(*failure)

    def _opened(self, port: IListeningPort) -> None:
        self._ports.append(port)
        enlarge_backlog(port)
        self._log.info(
            "SPOA listening on {address}{_messages}",
            address=describe(port.getHost()),
            _messages=messages_of(self.factory.handlers),
        )
        if not self._listening:
            # The service was stopped, or another endpoint failed, before this endpoint was ready.
            self._close_ports()

    def _close_ports(self) -> Deferred[Any]:
        """Close all ports. The Deferred fires when all are closed, also if one of them fails to close."""
        ports, self._ports = self._ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)


def messages_of(handlers: IHandlers) -> str:
    """Return the end of a line about an agent that listens: `` for the messages check-ip, scan-body``."""
    # Other implementations of IHandlers have no names of messages.
    return f" for {handlers.describe()}" if isinstance(handlers, Handlers) else ""


def enlarge_backlog(port: IListeningPort) -> None:
    """Let the kernel queue more connections, unless the endpoint string has a backlog: ``tcp:12345:backlog=100``."""
    # Calling listen() again changes the backlog of the port.
    if getattr(port, "backlog", None) == _TWISTED_BACKLOG:
        port.socket.listen(BACKLOG)  # type: ignore[attr-defined]


def accept_queued(port: IListeningPort) -> None:
    """Accept the connections that wait in the queue of the kernel, so that the drain answers their NOTIFYs.

    When a port is closed, the kernel resets these connections. But for HAProxy they are established, and it may have
    sent NOTIFYs already. A port of Twisted may accept only one connection in each turn of the reactor.
    """
    if not IReadDescriptor.providedBy(port) or port.fileno() < 0:
        # A port of another package without a file descriptor, or a port that the application has closed.
        return
    for _ in range(_ACCEPTS):
        port.doRead()

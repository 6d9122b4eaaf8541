"""The agent as a Twisted service: it listens, drains when it stops, and takes new handlers while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NoReturn, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorCore, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from spoa_twisted.agent.peers import describe
from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.endpoints import DEFAULT_ENDPOINT, describe_failure, server_endpoint
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.limits import LIMITS
from spoa_twisted.unix_lock import remove_stale_lock

#: The largest number of connections that the kernel queues until the agent accepts them. Twisted's default is 50. When
#: the queue is full, a new TCP connection is tried again after a second, and a new connection to a Unix socket fails.
BACKLOG: Final = 1024
_TWISTED_BACKLOG: Final = 50


class SPOAService(Service):
    """Serves an agent on one or more endpoints, for .tac files and for applications that have services already.

    Under twistd, the service listens before twistd gives up root privileges, so that it may use any port. If one
    endpoint cannot listen, the service closes the others, and ``privilegedStartService`` or ``startService`` raises the
    error.
    ``stopService`` closes the ports, answers the pending NOTIFYs, sends AGENT-DISCONNECT on each connection, and is
    complete when all connections are closed.

    :param factory: the agent.
    :param endpoints: a string that describes a Twisted server endpoint, such as ``tcp:12345``, or several endpoints,
        each of them a string or an ``IStreamServerEndpoint``.
    :param drain_timeout: seconds that ``stopService`` waits for pending NOTIFYs. After that, it closes connections
        although NOTIFYs are pending. Without it, ``factory.limits.drain_timeout`` applies.
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
                raise TypeError(f"an endpoint is a string or an IStreamServerEndpoint, not a {type(endpoint).__name__}")
            else:
                self._endpoints.append((repr(endpoint), endpoint))
        if not self._endpoints:
            raise ValueError("an agent needs an endpoint to listen on")
        self._ports: list[IListeningPort] = []
        self._listening = False

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
        """Listen. twistd calls this first, while it still has root privileges.

        :raises twisted.internet.error.CannotListenError: if an endpoint cannot listen. Some endpoints raise another
            error.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._listen()

    def startService(self) -> None:
        """Listen, unless ``privilegedStartService`` did.

        :raises twisted.internet.error.CannotListenError: if an endpoint cannot listen. Some endpoints raise another
            error.
        """
        super().startService()  # type: ignore[no-untyped-call]
        self._listen()

    def stopService(self) -> Deferred[None]:
        """Stop listening, and drain the connections. The Deferred fires when all connections are closed."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._listening = False
        closed = self._close_ports()
        # drain() also waits for connections that are made after the call. So the ports are closed first.
        closed.addCallback(lambda _: self.factory.drain(self.drain_timeout))
        return closed

    def reload(self, handlers: IHandlers) -> None:
        """Let ``handlers`` answer from now on. NOTIFYs that are pending finish with the handlers before.

        :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`.
        """
        self.factory.use(handlers)

    def listening_failed(self, description: str, error: BaseException) -> None:
        """Log that an endpoint cannot listen. Called only for an error that comes after ``startService`` has returned.

        The endpoints of Twisted itself fail at once. An endpoint that needs the network, for example a Tor service, may
        fail later.

        :param description: the endpoint as a string.
        """
        self._log.critical(
            "cannot listen on {endpoint}: {reason}", endpoint=description, reason=describe_failure(error)
        )

    def _before_listening(self) -> None:
        """Do nothing. A subclass may prepare its process here, before the service opens its ports."""

    def _cannot_listen(self, description: str, error: BaseException) -> NoReturn:
        """Raise the error of an endpoint that failed at once. A subclass may raise an error with another text."""
        raise error

    def _listen(self) -> None:
        """Listen on all endpoints, or on none of them if one fails.

        Endpoints return Deferreds. Those of Twisted itself have fired when ``listen`` returns, so their errors can be
        raised here. Later errors go to :meth:`listening_failed`.
        """
        if self._listening:
            # twistd has called privilegedStartService before startService.
            return
        self._before_listening()
        self._listening = True
        failures: list[tuple[str, BaseException]] = []
        starting = True

        def failed(failure: Failure, description: str) -> None:
            assert failure.value is not None
            if starting:
                failures.append((description, failure.value))
            else:
                self.listening_failed(description, failure.value)

        for description, endpoint in self._endpoints:
            listening = maybeDeferred(endpoint.listen, self.factory)
            listening.addErrback(self._listen_again, endpoint)
            listening.addCallback(self._opened)
            listening.addErrback(failed, description)
        starting = False
        if failures:
            self._listening = False
            self._close_ports()
            self._cannot_listen(*failures[0])

    def _listen_again(self, failure: Failure, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        """Remove the lock of a killed agent, if that made ``endpoint`` fail, and try ``endpoint`` a second time."""
        failure.trap(CannotListenError)
        assert isinstance(failure.value, CannotListenError)
        remove_stale_lock(failure.value)
        return endpoint.listen(self.factory)

    def _opened(self, port: IListeningPort) -> None:
        self._ports.append(port)
        # Calling listen() again changes the backlog of the port. A backlog that is not Twisted's default is kept: the
        # endpoint string names it, as in "tcp:12345:backlog=100".
        if getattr(port, "backlog", None) == _TWISTED_BACKLOG:
            port.socket.listen(BACKLOG)  # type: ignore[attr-defined]
        handlers = self.factory.handlers
        self._log.info(
            "SPOA listening on {address}{messages}",
            address=describe(port.getHost()),
            # Other implementations of IHandlers have no names of messages.
            messages=f" for {handlers.describe()}" if isinstance(handlers, Handlers) else "",
        )
        if not self._listening:
            # The service was stopped, or another endpoint failed, before this endpoint was ready.
            self._close_ports()

    def _close_ports(self) -> Deferred[Any]:
        """Close all ports. The Deferred fires when all are closed, also if one of them fails to close."""
        ports, self._ports = self._ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)

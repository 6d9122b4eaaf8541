"""The agent as a Twisted service: listens, drains when it is stopped, takes new handlers while it runs."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorCore, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from spoa_twisted.agent.peers import describe
from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.handlers.interfaces import IHandlers

#: Where an agent listens unless told otherwise: the port of SPOE.txt's example, for HAProxy on the same machine.
DEFAULT_ENDPOINT: Final = "tcp:12345:interface=127.0.0.1"

#: How many connections may wait until they are accepted, where the endpoint leaves it to Twisted, which lets 50 wait:
#: of more that come together, TCP's try again after a second, and a Unix socket's fail.
BACKLOG: Final = 1024
_TWISTED_BACKLOG: Final = 50

#: Seconds that what is in flight may take when the service stops.
DEFAULT_DRAIN_TIMEOUT: Final = 10.0


class SPOAService(Service):
    """Serves an agent on one or more endpoints, for .tac files and for applications that have services already.

    It listens as soon as it may: with twistd, before privileges are shed. When one endpoint cannot be listened on,
    none is, and starting raises what was wrong. Stopping closes the ports, finishes what is in flight, says
    goodbye to each HAProxy, and is done when all connections are closed.

    :param factory: the agent.
    :param endpoints: Twisted server endpoints, or strings that describe them, or one such string.
    :param drain_timeout: the seconds that stopping may take; then connections are closed with what they have
        pending.
    :param reactor: what the strings are resolved with; Twisted's own unless given.
    :raises TypeError: for what is no endpoint.
    :raises ValueError: for a string that describes no endpoint, no endpoint at all, or a negative timeout.
    """

    name = "spoa"

    _log = Logger()

    def __init__(
        self,
        factory: SPOAFactory,
        endpoints: str | Iterable[str | IStreamServerEndpoint] = DEFAULT_ENDPOINT,
        *,
        drain_timeout: float = DEFAULT_DRAIN_TIMEOUT,
        reactor: IReactorCore | None = None,
    ) -> None:
        if not drain_timeout >= 0:
            raise ValueError(f"drain_timeout is {drain_timeout}; it cannot be negative")
        if reactor is None:
            from twisted.internet import reactor as default_reactor

            reactor = cast("IReactorCore", default_reactor)
        self.factory = factory
        self.drain_timeout = drain_timeout
        self._endpoints: list[tuple[str, IStreamServerEndpoint]] = []
        for endpoint in (endpoints,) if isinstance(endpoints, str) else endpoints:
            if isinstance(endpoint, str):
                self._endpoints.append((endpoint, _endpoint(reactor, endpoint)))
            elif not IStreamServerEndpoint.providedBy(endpoint):
                raise TypeError(f"a {type(endpoint).__name__} is no endpoint")
            else:
                self._endpoints.append((repr(endpoint), endpoint))
        if not self._endpoints:
            raise ValueError("an agent needs an endpoint to listen on")
        self._ports: list[IListeningPort] = []
        self._listening = False

    @property
    def addresses(self) -> list[Any]:
        """The ``IAddress`` of each port that is listened on: with ``tcp:0``, the number that the system chose."""
        return [port.getHost() for port in self._ports]

    def privilegedStartService(self) -> None:
        """Listen: twistd calls this while it still may open any port.

        :raises twisted.internet.error.CannotListenError: or whatever else an endpoint fails with.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._listen()

    def startService(self) -> None:
        """Listen, unless that was done.

        :raises twisted.internet.error.CannotListenError: or whatever else an endpoint fails with.
        """
        super().startService()  # type: ignore[no-untyped-call]
        self._listen()

    def stopService(self) -> Deferred[None]:
        """Stop listening, and drain. Fires when all connections are closed."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._listening = False
        closed = self._stop_listening()
        closed.addCallback(lambda _: self.factory.drain(self.drain_timeout))
        return closed

    def reload(self, handlers: IHandlers) -> None:
        """Let ``handlers`` answer from now on. What is pending finishes with those that it began with.

        :raises TypeError: when ``handlers`` does not provide :class:`IHandlers`.
        """
        self.factory.use(handlers)

    def listening_failed(self, description: str, error: BaseException) -> None:
        """Called when an endpoint that took its time, as few do, could not be listened on after all."""
        self._log.critical("cannot listen on {endpoint}: {error}", endpoint=description, error=error)

    def _listen(self) -> None:
        if self._listening:
            return
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
            self._stop_listening()
            self._cannot_listen(*failures[0])

    def _cannot_listen(self, description: str, error: BaseException) -> NoReturn:
        raise error

    def _listen_again(self, failure: Failure, endpoint: IStreamServerEndpoint) -> Deferred[IListeningPort]:
        failure.trap(CannotListenError)
        assert isinstance(failure.value, CannotListenError)
        _take_over(failure.value)
        return endpoint.listen(self.factory)

    def _opened(self, port: IListeningPort) -> None:
        self._ports.append(port)
        if getattr(port, "backlog", None) == _TWISTED_BACKLOG:
            port.socket.listen(BACKLOG)  # type: ignore[attr-defined]
        self._log.info("SPOA listening on {address}", address=describe(port.getHost()))
        if not self._listening:
            self._stop_listening()

    def _stop_listening(self) -> Deferred[Any]:
        ports, self._ports = self._ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)


def _endpoint(reactor: IReactorCore, text: str) -> IStreamServerEndpoint:
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
    except Exception as error:
        # Each plugin of an endpoint parser fails in its own way.
        raise ValueError(f"bad endpoint {text!r}: {type(error).__name__}: {error}") from error
    return endpoint


def _take_over(error: CannotListenError) -> None:
    """Remove what an agent that was killed has left of its Unix socket, if it had this process's number.

    Twisted does it for any number but its own, which a process in a container has each time.

    :raises CannotListenError: ``error``, when it is about anything else, or one that names the lock that stands in the
        way.
    """
    # What the system refuses is about no lock.
    if not isinstance(error.port, bytes) or isinstance(error.socketError, OSError):
        raise error
    path = Path(os.fsdecode(error.port))
    lock = Path(f"{path}.lock")
    try:
        process = os.readlink(lock)
    except FileNotFoundError:
        # Who held it has just gone.
        return
    if process != str(os.getpid()) or _is_listened_on(path):
        raise CannotListenError(None, error.port, f"process {process} holds its lock, {lock}")
    lock.unlink(missing_ok=True)
    if path.is_socket():
        path.unlink(missing_ok=True)


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        return client.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)

"""The ports of the master. They accept connections, and hand them on as sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast, final

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorCore, IStreamServerEndpoint
from twisted.internet.protocol import Factory

from spoa_twisted.endpoints import cannot_listen, server_endpoint
from spoa_twisted.listening import first_failure, listen
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.service import accept_queued, enlarge_backlog
from spoa_twisted.workers.binding import AcceptingReactor


@final
class Ports:
    """Listens on all endpoints.

    :param endpoints: the result of :func:`~spoa_twisted.workers.options.expand`.
    :param on_accepted: called with the socket of each connection, with the position of the endpoint in ``endpoints``,
        and with the number of the worker that the endpoint belongs to.
    :param on_failed: called with a text if an endpoint fails to listen after :meth:`listen` has returned.
    :raises ValueError: for a text that does not describe an endpoint.
    """

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[tuple[str, int]],
        on_accepted: Callable[[socket.socket, int, int], None],
        on_failed: Callable[[str], None],
    ) -> None:
        #: The open ports.
        self.ports: list[IListeningPort] = []
        self._on_failed = on_failed
        self._paused = False
        self._listening = False
        self._endpoints: list[tuple[str, AcceptingReactor, IStreamServerEndpoint]] = []
        for number, (text, owner) in enumerate(endpoints):

            def accepted(connection: socket.socket, number: int = number, owner: int = owner) -> None:
                on_accepted(connection, number, owner)

            stand_in = AcceptingReactor(reactor, accepted)
            self._endpoints.append((text, stand_in, server_endpoint(cast("IReactorCore", stand_in), text)))

    def listen(self) -> None:
        """Listen on all endpoints, or on none of them if one fails at once.

        :raises CannotStart: if one fails at once.
        """
        if self._listening:
            return
        self._listening = True
        failure = first_failure(
            (
                # The stand-in does not use this factory.
                (text, listen(endpoint, Factory()).addCallback(self._opened, text, stand_in))
                for text, stand_in, endpoint in self._endpoints
            ),
            lambda text, error: self._on_failed(cannot_listen(text, error)),
        )
        if failure is not None:
            self.close()
            _raise(*failure)

    def pause(self, paused: bool) -> None:
        """Accept no more connections, or accept them again. The kernel queues those that come meanwhile."""
        self._paused = paused
        for port in self.ports:
            _pause(port, paused)

    def close(self) -> Deferred[Any]:
        """Accept what is in the queues of the kernel, and close all ports."""
        self._listening = False
        ports, self.ports = self.ports, []
        for port in ports:
            accept_queued(port)
        return DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)

    def _opened(self, port: IListeningPort, text: str, stand_in: AcceptingReactor) -> None:
        self.ports.append(port)
        if not stand_in.used:
            self.close()
            raise ValueError("with --workers, an endpoint must be one of tcp, tcp6, unix, ssl or systemd, or wrap one")
        enlarge_backlog(port)
        _pause(port, self._paused)
        if not self._listening:
            # The agent was stopped, or another endpoint failed, before this endpoint was ready.
            self.close()


def _pause(port: Any, paused: bool) -> None:
    if hasattr(port, "stopReading"):
        (port.stopReading if paused else port.startReading)()


def _raise(text: str, error: BaseException) -> NoReturn:
    raise CannotStart(cannot_listen(text, error)) from error

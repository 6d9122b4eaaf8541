"""HTTP requests to the endpoint of an agent's ``--status``.

This module imports ``twisted.web``, which takes longer than a whole ``spoactl ping``. So a subcommand imports it only
when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from spoa_twisted.version import version


def get(
    reactor: Any, endpoint: str, path: str, on_connect: Callable[[Any], None] = lambda transport: None
) -> Deferred[Any]:
    """Return a Deferred of the response to GET.

    :param endpoint: a Twisted client endpoint of TCP, TLS or a Unix socket.
    :param path: the path, and the query if there is one.
    :param on_connect: gets the transport of the connection.
    """
    client = Agent.usingEndpointFactory(reactor, _Endpoint(reactor, endpoint, on_connect))
    headers = Headers({b"User-Agent": [f"spoactl/{version()}".encode("ascii", "replace")]})
    # The host is not used: the endpoint says where to connect. The agent answers to this name of its own machine.
    return cast("Deferred[Any]", client.request(b"GET", b"http://localhost" + path.encode(), headers))


def read_body(response: Any, max_length: int) -> Deferred[bytes]:
    """Return a Deferred of the body of ``response``. If it is cancelled, the connection is closed.

    :param max_length: bytes. The Deferred fails with a ``ValueError`` if the body is longer.
    """
    body = _Body(max_length)
    response.deliverBody(body)
    return body.finished


@final
@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Endpoint:
    """Connects to an endpoint, whatever the URL is."""

    def __init__(self, reactor: Any, endpoint: str, on_connect: Callable[[Any], None]) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._on_connect = on_connect

    def endpointForURI(self, uri: object) -> Any:
        """Return this object."""
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect, as a client endpoint does."""
        connecting: Deferred[Any] = clientFromString(self._reactor, self._endpoint).connect(factory)
        return connecting.addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        self._on_connect(protocol.transport)
        return protocol


@final
class _Body(Protocol):
    """Collects the body of a response. A body that is too long ends the connection."""

    def __init__(self, max_length: int) -> None:
        #: Fires with the body.
        self.finished: Deferred[bytes] = Deferred(self._cancel)
        self._max_length = max_length
        self._parts: list[bytes] = []
        self._length = 0

    def _cancel(self, finished: Deferred[bytes]) -> None:
        self._close()

    def _close(self) -> None:
        # The transport of a body is only a producer. stopProducing closes the connection.
        assert self.transport is not None
        self.transport.stopProducing()  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:
        """Collect ``data``."""
        self._length += len(data)
        if self._length <= self._max_length:
            self._parts.append(data)
        elif not self.finished.called:
            self.finished.errback(
                ValueError(f"the answer is longer than {self._max_length} bytes, so it is not from an agent")
            )
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Pass the body on if it is complete."""
        if self.finished.called:
            return
        # An answer without a length ends with the connection.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.finished.callback(b"".join(self._parts))
        else:
            self.finished.errback(reason)

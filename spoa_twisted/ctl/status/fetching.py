"""Fetches the status of an agent over HTTP, from a TCP or Unix endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn, final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from spoa_twisted.ctl.status.checking import check_status
from spoa_twisted.ctl.status.text import Answer
from spoa_twisted.ctl.values import show_text
from spoa_twisted.status.report import Status
from spoa_twisted.version import version

#: Bytes. A longer answer is none of an agent: the status of 1,000 messages and 100 workers has less than one MiB.
MAX_LENGTH: Final = 16 * 2**20

# The host is not used: the endpoint says where to connect. The agent answers to this name of its own machine.
_URL: Final = b"http://localhost/status.json"

_OK: Final = 200

_WHICH: Final = "is this the endpoint of --status?"


async def fetch(reactor: Any, agent: str, timeout: float) -> Answer:
    """Return the status of ``agent``, a client endpoint, or the reason why there is none."""
    try:
        return Answer(agent, await ask(reactor, agent, timeout))
    except ValueError as error:
        return Answer(agent, None, str(error))


async def ask(
    reactor: Any, agent: str, timeout: float, on_connect: Callable[[Any], None] = lambda transport: None
) -> Status:
    """Return the status of ``agent``, a client endpoint.

    :param on_connect: gets the transport of the connection.
    :raises ValueError: when there is none. The text is the reason, in one line.
    """
    request = _request(reactor, _Endpoints(reactor, agent, on_connect))
    # Not addTimeout(): what a request that is cancelled raises depends on how far it has come.
    limit = reactor.callLater(timeout, request.cancel)
    try:
        return check_status(json.loads(await request, parse_constant=_no_constant))
    except Exception as error:
        # Endpoints, name resolution, TLS and HTTP each raise exceptions of their own.
        reason = _reason(error) if limit.active() else f"no answer within {timeout:g} s: does the agent stand still?"
        raise ValueError(show_text(reason)) from error
    finally:
        if limit.active():
            limit.cancel()


def _no_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(f"the answer is no JSON: it has {text}")


def _reason(error: Exception) -> str:
    """Return what went wrong, for an operator."""
    if isinstance(error, ResponseFailed):
        if any(reason.check(ConnectionDone, ConnectionLost) for reason in error.reasons):
            return f"the connection was closed without an answer: {_WHICH}"
        return f"the answer is no HTTP: {_WHICH}"
    if isinstance(error, ConnectError):
        return f"{str(error).rstrip('.')}; does an agent run with --status there?"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"the answer is no JSON: {_WHICH}"
    return str(error) or type(error).__name__


def _request(reactor: Any, endpoints: _Endpoints) -> Deferred[bytes]:
    client = Agent.usingEndpointFactory(reactor, endpoints)
    headers = Headers({b"User-Agent": [f"spoactl/{version()}".encode("ascii", "replace")]})
    response: Deferred[Any] = client.request(b"GET", _URL, headers)
    return response.addCallback(_read)


def _read(response: Any) -> Deferred[bytes]:
    """Return the body of the response.

    :raises ValueError: when the server answers with something else than the status.
    """
    if response.code != _OK:
        raise ValueError(f"HTTP status {response.code} for /status.json: {_WHICH}")
    body = _Body()
    response.deliverBody(body)
    return body.finished


@final
@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Endpoints:
    """Connects to the endpoint of the agent, whatever the URL is."""

    def __init__(self, reactor: Any, agent: str, on_connect: Callable[[Any], None]) -> None:
        self._reactor = reactor
        self._agent = agent
        self._on_connect = on_connect

    def endpointForURI(self, uri: object) -> Any:
        """Return the endpoint."""
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect, as a client endpoint does."""
        connecting: Deferred[Any] = clientFromString(self._reactor, self._agent).connect(factory)
        return connecting.addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        self._on_connect(protocol.transport)
        return protocol


@final
class _Body(Protocol):
    """Collects the body of a response. One that is too long ends the connection."""

    def __init__(self) -> None:
        #: Fires with the body.
        self.finished: Deferred[bytes] = Deferred(self._cancel)
        self._parts: list[bytes] = []
        self._length = 0

    def _cancel(self, finished: Deferred[bytes]) -> None:
        self._close()

    def _close(self) -> None:
        # The transport of a body is only a producer. To stop it closes the connection.
        assert self.transport is not None
        self.transport.stopProducing()  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:
        """Collect ``data``."""
        self._length += len(data)
        if self._length <= MAX_LENGTH:
            self._parts.append(data)
        elif not self.finished.called:
            self.finished.errback(ValueError(f"the answer is longer than {MAX_LENGTH} bytes, so it is no status"))
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

"""Listening on endpoints: the stale locks of Unix sockets, and errors that come at once or later.

Endpoints return Deferreds. Those of Twisted itself have fired when ``listen`` returns, so their errors can be raised
there. An endpoint that needs the network, for example a Tor service, may fail later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.python.failure import Failure

from spoa_twisted.unix_lock import remove_stale_lock


def listen(endpoint: IStreamServerEndpoint, factory: Any) -> Deferred[IListeningPort]:
    """Listen, also if a killed agent has left the lock of the Unix socket."""
    return maybeDeferred(endpoint.listen, factory).addErrback(_listen_again, endpoint, factory)


def first_failure(
    listening: Iterable[tuple[str, Deferred[Any]]], on_later: Callable[[str, BaseException], object]
) -> tuple[str, BaseException] | None:
    """Return the first endpoint that has failed already, as text, and its error; ``None`` if there is none.

    :param listening: each endpoint as text, and the Deferred of its port.
    :param on_later: called with the endpoint and the error if an endpoint fails later.
    """
    failures: list[tuple[str, BaseException]] = []
    starting = True

    def failed(failure: Failure, text: str) -> None:
        assert failure.value is not None
        if starting:
            failures.append((text, failure.value))
        else:
            on_later(text, failure.value)

    for text, port in listening:
        port.addErrback(failed, text)
    starting = False
    return failures[0] if failures else None


def _listen_again(failure: Failure, endpoint: IStreamServerEndpoint, factory: Any) -> Deferred[IListeningPort]:
    """Remove the lock of a killed agent, if that made ``endpoint`` fail, and try ``endpoint`` a second time."""
    failure.trap(CannotListenError)
    assert isinstance(failure.value, CannotListenError)
    remove_stale_lock(failure.value)
    return endpoint.listen(factory)

"""Watch an agent by HTTP: a resource that answers with a line of JSON for each of the next NOTIFYs.

This module imports ``twisted.web``, so other modules import it only if it was asked for.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final, final

from twisted.internet.address import UNIXAddress
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from spoa_twisted.status.rebinding import is_loopback, names_a_site
from spoa_twisted.status.watch import Seen, TooManyWatchers, ValuesNotAllowed, Watcher, Watchers

DEFAULT_COUNT: Final = 10
MAX_COUNT: Final = 10_000

#: In seconds.
DEFAULT_SECONDS: Final = 60.0
MAX_SECONDS: Final = 600.0

#: Bytes that may wait for a client that does not read at present. The lines above this are dropped, and counted.
MAX_UNREAD: Final = 2**20

# Seconds that the client has to read the last lines.
_GRACE: Final = 10.0

_HEADERS: Final = {
    b"server": b"spoa_twisted",
    b"cache-control": b"no-store",
    b"content-type": b"application/x-ndjson",
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'",
}


class _Refused(Exception):
    """A request is refused.

    :param status: of the answer.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@final
class WatchResource(Resource):
    """Streams the next NOTIFYs of an agent. Put it into a site with ``putChild(b"watch", ...)``.

    The query has ``count`` (NOTIFYs), ``seconds`` (until it ends), and ``values=1`` for the values. Each line is an
    object with ``time``, ``seconds``, ``messages`` and ``actions``; with workers, with ``worker``, too. Only clients on
    the same machine are answered, because the lines tell about the requests of users.

    :param reactor: the clock.
    """

    isLeaf = True

    def __init__(self, watch: Watchers, reactor: IReactorTime) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch
        self._reactor = reactor

    def render(self, request: Request) -> Any:
        """Answer ``request``; see ``IResource.render``."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        try:
            _check(request)
            count = int(_number(request, b"count", DEFAULT_COUNT, MAX_COUNT))
            seconds = _number(request, b"seconds", DEFAULT_SECONDS, MAX_SECONDS)
            stream = _Stream(request)
            values = _argument(request, b"values") == b"1"
            watcher = self._watch.begin(count, values=values, deliver=stream.deliver)
        except (_Refused, TooManyWatchers, ValuesNotAllowed) as error:
            status = error.status if isinstance(error, _Refused) else 503 if isinstance(error, TooManyWatchers) else 403
            request.setResponseCode(status)
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return f"{error}\n".encode()
        stream.begin(watcher, self._reactor, seconds)
        return NOT_DONE_YET


@final
@implementer(IPushProducer)
class _Stream:
    """The lines of one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_paused = self._is_gone = False
        self._dropped = 0
        # Bytes written since the last call of pauseProducing.
        self._unread = 0
        self._watcher: Watcher | None = None

    def begin(self, watcher: Watcher, reactor: IReactorTime, seconds: float) -> None:
        """Send the headers at once, so that the client knows that the watch has begun."""
        self._watcher = watcher
        # The site of the status ends a connection soon.
        extend = getattr(getattr(self._request.channel, "transport", None), "extend", None)
        if extend is not None:
            extend(seconds + _GRACE)
        self._request.registerProducer(self, True)
        self._request.write(b"")
        ending = reactor.callLater(seconds, watcher.end)

        def finish(_: object) -> None:
            with suppress(AlreadyCalled, AlreadyCancelled):
                ending.cancel()
            if not self._is_gone:
                self._report_dropped()
                self._request.unregisterProducer()
                self._request.finish()

        self._request.notifyFinish().addErrback(lambda _: self.stopProducing())
        watcher.finished.addCallback(finish)

    def deliver(self, seen: Seen) -> None:
        """Write a line, unless too much waits for the client already."""
        if self._is_paused and self._unread > MAX_UNREAD:
            # A worker may have dropped some before.
            self._dropped += seen.get("dropped", 1)
        else:
            self._report_dropped()
            self._write(seen)

    def pauseProducing(self) -> None:
        """The client does not read."""
        self._is_paused = True
        self._unread = 0

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._is_paused = False

    def stopProducing(self) -> None:
        """The client has gone."""
        self._is_gone = True
        assert self._watcher is not None
        self._watcher.end()

    def _report_dropped(self) -> None:
        if self._dropped:
            self._write({"dropped": self._dropped})
            self._dropped = 0

    def _write(self, line: Seen) -> None:
        data = json.dumps(line).encode() + b"\n"
        self._unread += len(data)
        self._request.write(data)


def _check(request: Request) -> None:
    """Refuse a request that is no GET, or does not come from this machine.

    :raises _Refused: if so.
    """
    if request.method != b"GET":
        request.setHeader(b"allow", b"GET")
        raise _Refused(405, "only GET is allowed")
    address = request.getClientAddress()
    if isinstance(address, UNIXAddress):
        return
    if not is_loopback(getattr(address, "host", "")):
        raise _Refused(
            403, "NOTIFYs are shown on the same machine only: use an address of the loopback, or a Unix socket"
        )
    if names_a_site(request):
        raise _Refused(403, "the Host header must be an IP address or localhost")


def _argument(request: Request, name: bytes) -> bytes | None:
    values = (request.args or {}).get(name)
    return values[0] if values else None


def _number(request: Request, name: bytes, default: float, largest: float) -> float:
    """Return an argument of the query.

    :raises _Refused: if it is not a number above 0, up to ``largest``.
    """
    text = _argument(request, name)
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= largest:
        raise _Refused(400, f"{name.decode()} is a number above 0, up to {largest:g}")
    return number

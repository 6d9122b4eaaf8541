"""The status by HTTP: ``/`` is a page, ``/status.json`` and ``/metrics`` are for programs.

``/health`` says whether the agent answers NOTIFYs, and ``/live`` whether its process runs: a supervisor must not kill
an agent that drains. This module imports ``twisted.web``, so other modules import it only if a status was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final, Protocol, cast, final

from twisted.internet import threads
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from spoa_twisted.status.local import LocalSource
from spoa_twisted.status.merged import why_not_ready
from spoa_twisted.status.page import render
from spoa_twisted.status.rebinding import may_be_rebound
from spoa_twisted.status.report import Status

#: Connections that may be open at the same time.
MAX_CONNECTIONS: Final = 32

#: Seconds until a connection is closed, however slow the client is: each connection has one request only.
LONGEST_CONNECTION: Final = 20.0

#: Seconds. While all places are taken, a new connection takes the place of the oldest one that has lasted for so long:
#: otherwise a few slow clients could keep a supervisor from ``/health``, and it would end the agent.
PATIENCE: Final = 2.0

#: What ``/metrics`` answers without the extra.
NO_METRICS: Final = 'metrics need the package prometheus-client: pip install "spoa_twisted[metrics]"\n'

#: What the page and ``/status.json`` answer to a web page.
OTHER_HOST: Final = (
    "a web page of another site must not read this: ask by an IP address or localhost; a proxy on this machine can set"
    " the Host header to localhost\n"
)

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_HTML: Final = "text/html; charset=utf-8"

_METHODS: Final = (b"GET", b"HEAD")

_HEADERS: Final = {
    b"server": b"spoa_twisted",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}

#: The status code, the content type and the body of an answer.
_Answer = tuple[int, str, str | bytes]


class Source(Protocol):
    """Where the status comes from."""

    def status(self) -> Status | Deferred[Status]:
        """Return the present status."""


class _Resource(Resource):
    """Answers GET and HEAD.

    :param answer: returns the answer to a request.
    """

    isLeaf = True

    _log = Logger()

    def __init__(self, answer: Callable[[Request], _Answer | Deferred[_Answer]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answer = answer

    def render(self, request: Request) -> Any:
        """Answer ``request``; see ``IResource.render``."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        if request.method not in _METHODS:
            request.setHeader(b"allow", b"GET, HEAD")
            return _body(request, (405, _TEXT, "only GET and HEAD are allowed\n"))
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def finish(answer: _Answer) -> None:
            # The client may have closed the connection meanwhile.
            if not gone:
                request.write(_body(request, answer))
                request.finish()

        answered: Deferred[Any] = maybeDeferred(self._answer, request)
        answered.addErrback(self._failed)
        answered.addCallback(finish)
        return NOT_DONE_YET

    def _failed(self, failure: Failure) -> _Answer:
        self._log.failure("the status cannot be made", failure)
        return 500, _TEXT, "the status cannot be made: the log says why\n"


@final
@implementer(IResource)
class StatusResource(Resource):
    """The status of an agent, for ``twisted.web``. Put it into the site of an application with ``putChild``.

    :param agent: a ``SPOAService`` or a ``SPOAFactory``, or another source of a status.
    :param page: returns the page for a status, as HTML. Without it, the package's own.
    :param reactor: runs the thread that makes the metrics. Without it, Twisted's global reactor.
    :param check_host: refuses the page and ``/status.json`` to clients on the loopback that ask for another host than
        an IP address or ``localhost``: a web page may have sent the request.
    """

    def __init__(
        self,
        agent: object,
        page: Callable[[Status], bytes | str] | None = None,
        *,
        reactor: Any = None,
        check_host: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if reactor is None:
            from twisted.internet import reactor as default_reactor

            reactor = default_reactor
        #: Where the status comes from.
        self.source: Source = agent if hasattr(agent, "status") else LocalSource(agent)
        self._page = render if page is None else page
        self._reactor = reactor
        # One thread at a time makes metrics: slow collectors of the application cannot use up the reactor's threads.
        self._lock = DeferredLock()
        self._check_host = check_host
        # Prometheus and probes ask by any name, so the others do not check it.
        self._answers: dict[bytes, _Resource] = {
            b"": _Resource(lambda request: self._refuse(request) or self._index(request)),
            b"status.json": _Resource(lambda request: self._refuse(request) or self._json(request)),
            b"metrics": _Resource(self._metrics),
            b"health": _Resource(self._health),
            b"live": _Resource(lambda request: (200, _TEXT, "live\n")),
        }
        self._missing = _Resource(lambda request: (404, _TEXT, "no such page; see /\n"))

    def getChild(self, path: bytes, request: Request) -> _Resource:
        """Return the resource with this name; see ``IResource.getChildWithDefault``."""
        return self._missing if request.postpath else self._answers.get(path, self._missing)

    def render(self, request: Request) -> Any:
        """Redirect to the same address with a slash at the end: the page's links are relative to it."""
        request.redirect(request.prePathURL().rpartition(b"/")[2] + b"/")
        return b""

    def _refuse(self, request: Request) -> _Answer | None:
        return (403, _TEXT, OTHER_HOST) if self._check_host and may_be_rebound(request) else None

    def _status(self) -> Deferred[Status]:
        status: Callable[[], Any] = self.source.status
        return maybeDeferred(status)

    def _index(self, request: Request) -> Deferred[_Answer]:
        def answer(status: Status) -> _Answer:
            return 200, _HTML, self._page(status)

        return self._status().addCallback(answer)

    def _json(self, request: Request) -> Deferred[_Answer]:
        return self._status().addCallback(lambda status: (200, _JSON, json.dumps(status)))

    def _health(self, request: Request) -> Deferred[_Answer]:
        def answer(status: Status) -> _Answer:
            reason = why_not_ready(status)
            return (503, _TEXT, f"{reason}\n") if reason else (200, _TEXT, "ready\n")

        return self._status().addCallback(answer)

    def _metrics(self, request: Request) -> _Answer | Deferred[_Answer]:
        if find_spec("prometheus_client") is None:
            return 501, _TEXT, NO_METRICS
        accept = (request.getHeader(b"accept") or b"").decode("latin-1")

        def expose(status: Status) -> Deferred[_Answer]:
            return cast(
                "Deferred[_Answer]",
                threads.deferToThreadPool(self._reactor, self._reactor.getThreadPool(), _expose, status, accept),
            )

        return cast("Deferred[_Answer]", self._lock.run(lambda: self._status().addCallback(expose)))


def _expose(status: Status, accept: str) -> _Answer:
    # Only now: without the extra, this module cannot be imported.
    from spoa_twisted.status.metrics import expose

    body, content_type = expose(status, accept)
    return 200, content_type, body


def _body(request: Request, answer: _Answer) -> bytes:
    code, content_type, body = answer
    data = body.encode() if isinstance(body, str) else body
    request.setResponseCode(code)
    request.setHeader(b"content-type", content_type.encode())
    request.setHeader(b"content-length", str(len(data)).encode())
    return data


def site(resource: IResource, reactor: IReactorTime) -> WrappingFactory:
    """Return the factory of a port that serves ``resource`` and no more than :data:`MAX_CONNECTIONS` connections."""
    root = Site(resource, requestFactory=_OneRequest, reactor=reactor)
    # Twisted logs "Starting factory" and each request. A supervisor asks every few seconds.
    root.noisy = False
    root.log = lambda request: None  # type: ignore[method-assign]
    root.displayTracebacks = False
    bounded = _Bounded(root)  # type: ignore[no-untyped-call]
    bounded.clock = reactor
    return bounded


@final
class _OneRequest(Request):
    """The only request of its connection. Its body is dropped: GET and HEAD have none."""

    def gotLength(self, length: int | None) -> None:
        """Expect no body; see ``http.Request``. Without this, Twisted would wait for the whole body."""
        super().gotLength(0)  # type: ignore[no-untyped-call]
        self.channel.length = 0

    def handleContentChunk(self, data: bytes) -> None:
        """Drop ``data``, which Twisted would write to a file of any size."""

    def process(self) -> None:
        """Answer, and close the connection."""
        if self.path == b"*":
            # Twisted answers OPTIONS * with its version, before our resources are asked.
            self.path = b"/*"
        self.channel.persistent = False
        self.setHeader(b"connection", b"close")  # type: ignore[no-untyped-call]
        super().process()  # type: ignore[no-untyped-call]


@final
class _ShortLived(ProtocolWrapper):
    """A connection that ends after :data:`LONGEST_CONNECTION`, whatever the client does."""

    factory: _Bounded
    #: The time until which it keeps its place while others want one.
    keeps_until = 0.0
    #: Whether it was closed to make room: its transport reports its end later.
    closed = False
    _timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.keeps_until = self.factory.clock.seconds() + PATIENCE
        self._timer = self.factory.clock.callLater(LONGEST_CONNECTION, self._on_timeout)
        super().connectionMade()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def extend(self, seconds: float) -> None:
        """Let the connection live for ``seconds`` from now on."""
        if self._timer is not None and self._timer.active():
            self._timer.reset(seconds)
            self.keeps_until = self.factory.clock.seconds() + seconds

    def close(self) -> None:
        """Close the connection, with what is unsent."""
        self.closed = True
        transport: Any = self.transport
        transport.abortConnection()

    def _on_timeout(self) -> None:
        self.close()


@final
class _Bounded(WrappingFactory):
    """Has no more connections than :data:`MAX_CONNECTIONS`."""

    protocol = _ShortLived
    noisy = False
    clock: IReactorTime

    def logPrefix(self) -> str:
        """Return the name that Twisted logs when it opens the port."""
        return "StatusService"

    def buildProtocol(self, addr: Any) -> Any:
        """Return a protocol, or ``None`` to close the connection at once."""
        # The oldest one is the first.
        present: list[_ShortLived] = [protocol for protocol in self.protocols if not protocol.closed]
        if len(present) >= MAX_CONNECTIONS:
            now = self.clock.seconds()
            oldest = next((protocol for protocol in present if protocol.keeps_until <= now), None)
            if oldest is None:
                return None
            oldest.close()
        return super().buildProtocol(addr)

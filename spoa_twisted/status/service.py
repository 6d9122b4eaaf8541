"""The status of an agent as a Twisted service, on an endpoint of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from spoa_twisted.agent.peers import describe
from spoa_twisted.endpoints import describe_failure, endpoint_options, server_endpoint
from spoa_twisted.listening import first_failure, listen
from spoa_twisted.status.history import INTERVAL
from spoa_twisted.status.local import LocalSource
from spoa_twisted.status.report import Status
from spoa_twisted.status.site import Source, StatusResource, site
from spoa_twisted.status.watch import Watchers
from spoa_twisted.status.watch_resource import WatchResource

# The kinds of endpoints without an interface: a path has permissions, and systemd's unit names the address.
_WITHOUT_INTERFACE = ("unix", "systemd")


# The option in an endpoint within the endpoint, as in haproxy:tcp:8404:interface=127.0.0.1.
_INTERFACE = re.compile(r":interface=[^:]")


class StatusService(Service):
    """Serves the status of an agent by HTTP: a page, ``/status.json``, ``/metrics``, ``/health`` and ``/live``.

    It goes on while the agent drains, if both are stopped together.

    :param agent: a ``SPOAService`` or a ``SPOAFactory``; with ``source``, any object, which may have a method
        ``when_stopped`` as ``SPOAService`` has.
    :param endpoint: a string that describes a Twisted server endpoint, such as ``tcp:8404:interface=127.0.0.1``.
    :param page: returns the page for a status, as HTML.
    :param source: the source of the status. Without it, the status is that of ``agent`` alone.
    :param watch: lets ``spoactl watch`` see NOTIFYs, at ``/watch``.
    :param reactor: the reactor. Without it, Twisted's global reactor.
    :raises ValueError: for a string that does not describe an endpoint, or an endpoint of TCP without ``interface=``:
        the status has no password.
    """

    name = "spoa-status"

    _log = Logger("spoa_twisted.status")

    def __init__(
        self,
        agent: object,
        endpoint: str,
        *,
        page: Callable[[Status], bytes | str] | None = None,
        source: Source | None = None,
        watch: Watchers | None = None,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as default_reactor

            reactor = default_reactor
        self._endpoint_text = endpoint
        self._endpoint = server_endpoint(reactor, endpoint)
        check_interface(endpoint)
        self._reactor = reactor
        self._agent = agent
        self._resource = StatusResource(agent if source is None else source, page, reactor=reactor, check_host=True)
        self._source = self._resource.source
        if watch is not None:
            self._resource.putChild(b"watch", WatchResource(watch, reactor))
        self._port: IListeningPort | None = None
        self._listening = False
        # Lets the source know the numbers of the last minute, also if nobody asks.
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor

    @property
    def address(self) -> Any:
        """The ``IAddress`` of the port; ``None`` if it is not open."""
        return None if self._port is None else self._port.getHost()

    def privilegedStartService(self) -> None:
        """Listen. twistd calls this first, while it has root privileges.

        :raises twisted.internet.error.CannotListenError: if the endpoint cannot listen.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._listen()

    def startService(self) -> None:
        """Listen, unless ``privilegedStartService`` did.

        :raises twisted.internet.error.CannotListenError: if the endpoint cannot listen.
        """
        if self.running:
            return
        super().startService()  # type: ignore[no-untyped-call]
        self._listen()
        if isinstance(self._source, LocalSource):
            self._source.start()
        self._loop.start(INTERVAL)

    def stopService(self) -> Deferred[Any]:
        """Close the port: when the agent has stopped, if it is stopping."""
        super().stopService()  # type: ignore[no-untyped-call]
        # In the next turn: a MultiService stops the services that were added last first, and the agent may be next.
        return deferLater(self._reactor, 0, self._when_agent_stopped).addCallback(lambda _: self._close())

    def _when_agent_stopped(self) -> Deferred[None]:
        when_stopped = getattr(self._agent, "when_stopped", None)
        return succeed(None) if when_stopped is None else when_stopped()

    def _close(self) -> Deferred[Any]:
        if self._loop.running:
            self._loop.stop()
        if isinstance(self._source, LocalSource):
            self._source.stop()
        self._listening = False
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)

    def _listen(self) -> None:
        if self._listening:
            return
        self._listening = True
        listening = listen(self._endpoint, site(self._resource, self._reactor)).addCallback(self._opened)
        failure = first_failure([(self._endpoint_text, listening)], self._failed_later)
        if failure is not None:
            self._listening = False
            self._cannot_listen(*failure)

    def _failed_later(self, text: str, error: BaseException) -> None:
        self._log.critical("the status cannot listen on {text}: {reason}", text=text, reason=describe_failure(error))

    def _opened(self, port: IListeningPort) -> None:
        if not self._listening:
            # The service was stopped before the endpoint was ready.
            port.stopListening()
            return
        self._port = port
        self._log.info("the status is at {address}", address=describe(port.getHost()))

    def _cannot_listen(self, description: str, error: BaseException) -> NoReturn:
        """Raise the error of an endpoint that failed at once. A subclass may raise an error with another text."""
        raise error

    def _tick(self) -> Deferred[Any]:
        return maybeDeferred(self._source.status).addErrback(
            lambda failure: self._log.failure("the status cannot be made", failure)
        )


def check_interface(endpoint: str) -> None:
    """Check that ``endpoint`` names an interface, if it has one.

    :raises ValueError: if it does not. Twisted would listen on all interfaces.
    """
    kind, options = endpoint_options(endpoint)
    if kind in _WITHOUT_INTERFACE or options.get("interface") or _INTERFACE.search(endpoint):
        return
    interface = r"\:\:1" if kind == "tcp6" else "127.0.0.1"
    raise ValueError(
        f"the status has no password, and {endpoint!r} would let anybody read it who reaches this machine: write"
        f" {endpoint}:interface={interface}, or the address of an interface that only your own machines reach"
    )

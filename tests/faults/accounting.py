"""Web clients that record each request, and the rules by which a fault explains failed requests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.haproxy.harness import HAProxy, Load, Response

#: Seconds for a response. It is longer than each timeout of HAProxy, so it only ends a request that hangs.
RESPONSE_LIMIT = 15.0

#: Seconds that a client waits before its next request, at most.
PAUSE = 0.1


@dataclass
class Request:
    """A request of a web client. The times are those of the reactor's clock.

    :param error: the number that HAProxy set by ``option set-on-error``; a text for any other failure; or ``None``.
    :param pid: the process id of the agent that answered.
    """

    path: str
    began: float
    ended: float = math.inf
    error: str | None = None
    pid: int | None = None


@dataclass
class Allowed:
    """The failures that a fault explains.

    A failed request must have been in flight between :attr:`opened` and :attr:`closed`, and its error must be one of
    :attr:`errors`.

    :param fault: the name of the fault, and its target.
    :param limit: the largest number of failed requests.
    """

    fault: str
    errors: frozenset[str] = frozenset()
    limit: int = 0
    opened: float = math.inf
    closed: float = math.inf
    failed: list[Request] = field(default_factory=list)
    #: The number of the agent that HAProxy may mark DOWN because of the fault.
    target: int | None = None

    def open(self, limit: int) -> None:
        """Explain at most ``limit`` failures of requests that are in flight now, or that begin before :meth:`close`."""
        self.limit = limit
        self.opened = reactor.seconds()

    def close(self) -> None:
        """Explain no failure of a request that begins after now."""
        self.closed = reactor.seconds()

    def explains(self, request: Request) -> bool:
        return (
            request.error in self.errors
            and request.ended >= self.opened
            and request.began <= self.closed
            and len(self.failed) < self.limit
        )


def account(requests: Iterable[Request], active: Iterable[Allowed]) -> list[Request]:
    """Assign each failed request to a fault that explains it. Return the failed requests that no fault explains."""
    unexplained = []
    active = list(active)
    for request in sorted(requests, key=lambda request: request.ended):
        if request.error is None:
            continue
        explanation = next((allowed for allowed in active if allowed.explains(request)), None)
        if explanation is None:
            unexplained.append(request)
        else:
            explanation.failed.append(request)
    return unexplained


class RecordedLoad(Load):
    """Clients that open a new connection for each request, and pause before the next one.

    HAProxy may close a connection that is kept alive when it is reloaded. With a new connection for each request, no
    request can be lost in that way, so each failed request is a failure of the agents or of HAProxy.

    :param random: decides how long the clients pause.
    :param expected: the variables that the agents must set for each path, besides ``txn.pid``.
    """

    def __init__(self, random: Random, expected: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__()
        #: The requests that are in flight.
        self.pending: list[Request] = []
        self._random = random
        self._expected = expected
        self._done: list[Request] = []

    def take(self) -> list[Request]:
        """Return the requests that have ended since the last call."""
        done, self._done = self._done, []
        return done

    async def request(self, haproxy: HAProxy, path: str) -> Request:
        """Send a request, and record it."""
        request = Request(path, reactor.seconds())
        self.pending.append(request)
        try:
            response = await Deferred.fromCoroutine(haproxy.get(path)).addTimeout(RESPONSE_LIMIT, reactor)
        except Exception as error:
            request.error = repr(error)
            self.failures[request.error] += 1
        else:
            self._count(response)
            self._record(request, response)
        request.ended = reactor.seconds()
        self.pending.remove(request)
        self._done.append(request)
        self._changed()
        return request

    async def settle(self) -> None:
        """Wait until all requests that are in flight now have ended, and each client has begun another one."""
        before = self.pending.copy()
        await self.until(lambda: all(request.ended < math.inf for request in before))
        await self.wait_for_more(2 * len(before))

    async def _run(self, haproxy: HAProxy, path: str) -> None:
        try:
            while not self._stopped:
                await self.request(haproxy, path)
                await deferLater(reactor, self._random.random() * PAUSE)
        finally:
            self._ended = True
            self._changed()

    def _record(self, request: Request, response: Response) -> None:
        pid = response["txn.spoa.pid"]
        request.pid = None if pid is None else int(pid)
        variables = {name: response[name] for name in self._expected[request.path]}
        if response.error is not None:
            request.error = response.error
        elif response.status != 200:
            request.error = f"status {response.status}"
        elif pid is None or variables != self._expected[request.path]:
            request.error = f"wrong answer {response.headers}"

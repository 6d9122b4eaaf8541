"""Every request gets its answer: with many requests in flight, at a soft stop of HAProxy, and at reloads."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from spoa_twisted import Handlers, Variables

from .branches import Branch
from .conftest import Serve, StartHAProxy, StartRelay
from .harness import HAProxy, Response, bounded, listening_socket

#: More requests than HAProxy has in flight on one connection, which is at most 20.
MANY = 60

#: Seconds until the handler answers.
PAUSE = 0.1

ECHO = """\
    messages echo

spoe-message echo
    args number=req.hdr(number)
    event on-frontend-http-request
"""

SHOW_ECHO = """\
    http-request return status 200 hdr echo %[var(txn.spoa.echo)]
"""


def echo(number: str) -> Deferred[Variables]:
    return deferLater(reactor, PAUSE, lambda: {"txn.echo": number})


@pytest.mark.parametrize(
    ("option", "threads", "async_", "max_in_flight"),
    [
        ("", 1, False, 20),
        ("no option pipelining", 1, False, 1),
        ("", 1, True, 20),
        ("no option async", 1, True, 20),
        ("", 4, False, 20),
        ("", 4, True, 20),
    ],
    ids=["pipelining", "none", "async", "no-async", "threads", "threads-async"],
)
@bounded
async def test_many_at_a_time(
    serve: Serve,
    start_haproxy: StartHAProxy,
    start_relay: StartRelay,
    agent_log: list[str],
    option: str,
    threads: int,
    async_: bool,
    max_in_flight: int,
    branch: Branch,
    record_property: Callable[[str, object], None],
) -> None:
    """Each of many requests gets its own answer. No connection has more NOTIFYs in flight than HAProxy's limit."""
    relay, server = await start_relay(serve(Handlers({"echo": echo}), async_=async_))
    haproxy = start_haproxy(server, spoe=f"    {option}\n{ECHO}", web=SHOW_ECHO, threads=threads)

    # HAProxy >= 3.1 shares only a connection that is already established, so open one first.
    await haproxy.get(number="first")
    requests = [Deferred.fromCoroutine(haproxy.get(number=str(number))) for number in range(MANY)]
    responses = await gatherResults(requests, consumeErrors=True)

    assert [(response.error, response["echo"]) for response in responses] == [(None, str(n)) for n in range(MANY)]
    assert sum(connection.sent_types().count("NOTIFY") for connection in relay.connections) == MANY + 1
    assert 1 <= max(connection.max_in_flight for connection in relay.connections) <= max_in_flight
    if branch.rewritten:
        assert len({connection.engine_id for connection in relay.connections}) == 1
    # The number of connections depends on timing, so it is not checked. "pytest --junit-xml" writes it into the report.
    record_property("connections", len(relay.connections))
    assert agent_log == []


@bounded
async def test_soft_stop(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """After a soft stop (SIGUSR1), all requests in flight get their answers, and then HAProxy ends."""
    waiting: list[tuple[str, Deferred[Variables]]] = []
    all_called: Deferred[None] = Deferred()

    def hold(number: str) -> Deferred[Variables]:
        waiting.append((number, Deferred()))
        if len(waiting) == MANY:
            all_called.callback(None)
        return waiting[-1][1]

    haproxy = start_haproxy(serve(Handlers({"echo": hold})), spoe=ECHO, web=SHOW_ECHO)
    requests = [Deferred.fromCoroutine(haproxy.get(number=str(number))) for number in range(MANY)]
    await all_called

    haproxy.signal(signal.SIGUSR1)
    await haproxy.said("Proxy web stopped")
    for number, result in waiting:
        result.callback({"txn.echo": number})
    responses = await gatherResults(requests, consumeErrors=True)

    assert [(response.error, response["echo"]) for response in responses] == [(None, str(n)) for n in range(MANY)]
    assert await haproxy.ended() == 0
    assert agent_log == []


@dataclass
class Clients:
    """Clients that send their next request as soon as they get a response. Each request has a different number."""

    get: Callable[[int], Deferred[Response]]
    responses: list[tuple[int, Response]] = field(default_factory=list)
    stopping: bool = False
    _sent: int = 0
    _waiting: list[Deferred[None]] = field(default_factory=list)

    async def run(self) -> None:
        """Send requests as one client, until ``stopping`` is true."""
        while not self.stopping:
            self._sent += 1
            number = self._sent
            self.responses.append((number, await self.get(number)))
            waiting, self._waiting = self._waiting, []
            for change in waiting:
                change.callback(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` is true. It is checked now and after each response."""
        while not condition():
            change: Deferred[None] = Deferred()
            self._waiting.append(change)
            await change


@bounded
async def test_reload(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """While HAProxy is reloaded twice, each request of clients that never pause gets its own answer."""
    # The handler takes 20 ms, so that requests are in flight during each reload.
    server = serve(Handlers({"echo": lambda number: deferLater(reactor, 0.02, lambda: {"txn.echo": number})}))
    with listening_socket() as web, listening_socket() as origin:

        def start(generation: int, *options: str) -> HAProxy:
            rules = f"    http-after-response set-header generation {generation}\n{SHOW_ECHO}"
            return start_haproxy(server, spoe=ECHO, web=rules, listeners=(web, origin), options=options)

        haproxy = start(0)
        # ``haproxy`` is another HAProxy after each reload, but all of them listen on the same port.
        clients = Clients(lambda number: Deferred.fromCoroutine(haproxy.get(number=str(number))))
        running = [Deferred.fromCoroutine(clients.run()) for _ in range(8)]

        def answered_by(generation: int) -> int:
            return [response["generation"] for _, response in clients.responses].count(str(generation))

        await clients.until(lambda: answered_by(0) >= 20)
        for generation in (1, 2):
            old, haproxy = haproxy, start(generation, "-sf", str(haproxy.pid))
            assert await old.ended() == 0
            await clients.until(lambda generation=generation: answered_by(generation) >= 20)  # type: ignore[misc]
        clients.stopping = True
        await gatherResults(running, consumeErrors=True)

    outcomes = [(number, response.status, response.error, response["echo"]) for number, response in clients.responses]
    assert [outcome for outcome in outcomes if outcome[1:] != (200, None, str(outcome[0]))] == []
    assert len({number for number, *_ in outcomes}) == len(outcomes) >= 60
    assert agent_log == []

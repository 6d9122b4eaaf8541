"""Many requests at a time, and a HAProxy that stops or is replaced among them: none is without its answer."""

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

#: More requests than HAProxy sends over one connection at a time, which is 20.
MANY = 60

#: Seconds that a handler takes.
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
    ("option", "threads", "async_", "most"),
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
    most: int,
    branch: Branch,
    record_property: Callable[[str, object], None],
) -> None:
    """Each of many requests gets its own answer, over connections none of which has more than HAProxy's limit."""
    relay, server = await start_relay(serve(Handlers({"echo": echo}), async_=async_))
    haproxy = start_haproxy(server, spoe=f"    {option}\n{ECHO}", web=SHOW_ECHO, threads=threads)

    # HAProxy >= 3.1 shares a connection when it is there before the requests.
    await haproxy.get(number="first")
    requests = [Deferred.fromCoroutine(haproxy.get(number=str(number))) for number in range(MANY)]
    responses = await gatherResults(requests, consumeErrors=True)

    assert [(response.error, response["echo"]) for response in responses] == [(None, str(n)) for n in range(MANY)]
    assert sum(connection.sent_types().count("NOTIFY") for connection in relay.connections) == MANY + 1
    assert 1 <= max(connection.max_in_flight for connection in relay.connections) <= most
    if branch.rewritten:
        assert len({connection.engine_id for connection in relay.connections}) == 1
    # It depends on what comes first, so it is only told: "pytest --junit-xml" writes it.
    record_property("connections", len(relay.connections))
    assert agent_log == []


@bounded
async def test_soft_stop(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """All requests that are under way when HAProxy is told to stop softly get their answers, and then it ends."""
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
    """Clients that ask again as soon as they have an answer, each request with a number of its own."""

    get: Callable[[int], Deferred[Response]]
    responses: list[tuple[int, Response]] = field(default_factory=list)
    stopping: bool = False
    _asked: int = 0
    _waiting: list[Deferred[None]] = field(default_factory=list)

    async def ask(self) -> None:
        while not self.stopping:
            self._asked += 1
            number = self._asked
            self.responses.append((number, await self.get(number)))
            waiting, self._waiting = self._waiting, []
            for change in waiting:
                change.callback(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds after an answer."""
        while not condition():
            change: Deferred[None] = Deferred()
            self._waiting.append(change)
            await change


@bounded
async def test_reload(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """While HAProxy is replaced, and replaced again, each request of clients that never pause has its own answer."""
    # They take long enough for some to be under way whenever it happens.
    server = serve(Handlers({"echo": lambda number: deferLater(reactor, 0.02, lambda: {"txn.echo": number})}))
    with listening_socket() as web, listening_socket() as origin:

        def start(generation: int, *options: str) -> HAProxy:
            rules = f"    http-after-response set-header generation {generation}\n{SHOW_ECHO}"
            return start_haproxy(server, spoe=ECHO, web=rules, listeners=(web, origin), options=options)

        haproxy = start(0)
        # The port is the same for all of them.
        clients = Clients(lambda number: Deferred.fromCoroutine(haproxy.get(number=str(number))))
        asking = [Deferred.fromCoroutine(clients.ask()) for _ in range(8)]

        def answered_by(generation: int) -> int:
            return [response["generation"] for _, response in clients.responses].count(str(generation))

        await clients.until(lambda: answered_by(0) >= 20)
        for generation in (1, 2):
            old, haproxy = haproxy, start(generation, "-sf", str(haproxy.pid))
            assert await old.ended() == 0
            await clients.until(lambda generation=generation: answered_by(generation) >= 20)  # type: ignore[misc]
        clients.stopping = True
        await gatherResults(asking, consumeErrors=True)

    outcomes = [(number, response.status, response.error, response["echo"]) for number, response in clients.responses]
    assert [outcome for outcome in outcomes if outcome[1:] != (200, None, str(outcome[0]))] == []
    assert len({number for number, *_ in outcomes}) == len(outcomes) >= 60
    assert agent_log == []

"""The status of an agent behind HAProxy: its counts are those of the requests that were sent."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from twisted.application.service import MultiService
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from spoa_twisted import Handlers, SPOAFactory, SPOAService, Variables
from spoa_twisted.status.service import StatusService
from tests.conftest import Logged
from tests.status.test_site import Answer, exchange

from .branches import Branch
from .conftest import StartHAProxy
from .harness import as_server, bounded, shown

reactor: Any = default_reactor

LOCAL = "tcp:0:interface=127.0.0.1"

#: How many requests each message gets, and the result.
REQUESTS = {
    "score": (5, "ok"),
    "fails": (2, "error"),
    "late": (1, "timeout"),
    "list": (1, "unsendable"),
    "big": (1, "too_big"),
}

NAMES = (*REQUESTS, "forgotten", "never")

SPOE = f"    messages {' '.join(NAMES)}\n" + "".join(
    f"\nspoe-message {name}\n    event on-frontend-http-request if {{ path /{name} }}\n" for name in NAMES
)


def handlers_of(pending: list[Deferred[Variables]]) -> Handlers:
    handlers = Handlers()

    @handlers.message("score")
    def score() -> Variables:
        return {"txn.score": 42}

    @handlers.message("fails")
    def fails() -> NoReturn:
        raise LookupError("no such row")

    @handlers.message("late", timeout=0.1)
    def late() -> Deferred[Variables]:
        return Deferred()

    @handlers.message("list")
    def as_list() -> Any:
        return [42]

    @handlers.message("big")
    def big() -> Variables:
        return {"txn.score": b"x" * 20_000}

    @handlers.message("never")
    def never() -> Deferred[Variables]:
        pending.append(Deferred())
        return pending[-1]

    return handlers


@bounded
async def test_counts(branch: Branch, start_haproxy: StartHAProxy, logged: Logged) -> None:
    """Each result counts once for each request, in /status.json and in /metrics."""
    pending: list[Deferred[Variables]] = []
    agent = SPOAService(SPOAFactory(handlers_of(pending)), LOCAL)
    status = StatusService(agent, LOCAL)
    both = MultiService()
    agent.setServiceParent(both)
    status.setServiceParent(both)
    both.startService()

    async def ask(path: str) -> bytes:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        answer = Answer(await deferToThread(exchange, (status.address.host, status.address.port), request))
        assert answer.code == 200
        return answer.body

    haproxy = start_haproxy(as_server(agent.addresses[0]), spoe=SPOE, web=shown("txn.spoa.score"))
    for name, (count, _) in {**REQUESTS, "forgotten": (3, "")}.items():
        for _ in range(count):
            await haproxy.get(f"/{name}")
    made = json.loads(await ask("/status.json"))
    assert made["engines"]
    assert sum(engine["connections"] for engine in made["engines"]) == made["processes"][0]["connections"] > 0
    never = Deferred.fromCoroutine(haproxy.get("/never"))
    while not pending:
        await deferLater(reactor, 0.001)
    assert json.loads(await ask("/status.json"))["processes"][0]["in_flight"] == 1
    await haproxy.kill()
    await never.addErrback(lambda failure: None)
    while agent.factory.connections:
        await deferLater(reactor, 0.001)

    expected = {name: {result: count} for name, (count, result) in REQUESTS.items()}
    expected |= {"never": {"cancelled": 1}, "(none)": {"unhandled": 3}}
    made = json.loads(await ask("/status.json"))
    assert {name: totals["results"] for name, totals in made["totals"]["messages"].items()} == expected
    # The cancelled NOTIFY has no duration.
    assert sum(made["totals"]["notify"]["buckets"]) == sum(count for count, _ in REQUESTS.values()) + 3
    assert sum(made["totals"]["messages"]["score"]["duration"]["buckets"]) == REQUESTS["score"][0]
    problems = {problem["subject"]: (problem["kind"], problem["count"]) for problem in made["problems"]}
    assert problems["fails"] == ("HandlerFailed", 2)
    assert problems["forgotten"] == ("MessageUnhandled", 3)
    metrics = (await ask("/metrics")).decode()
    for name, results in expected.items():
        for result, number in results.items():
            assert f'spoa_messages_total{{message="{name}",result="{result}"}} {number}.0\n' in metrics
    assert len(logged.take()) == 6
    await both.stopService()

"""HAProxy >= 3.1 gets connections with pipelining only while the answers are short. No request fails by the changes."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, gatherResults

from spoa_twisted import Handlers
from spoa_twisted.agent import pipelining
from spoa_twisted.observer import PipeliningChanged
from tests.handlers.answers import Recorder

from .branches import Branch
from .conftest import Serve, StartHAProxy
from .harness import SHOW_LENGTH, HAProxy, bounded, sized

HANDLERS = Handlers({"long": lambda size: {"txn.value": "x" * int(size)}})

CLIENTS = 20

SHORT, LONG = 100, 4000


async def send(haproxy: HAProxy, size: int, requests: int) -> None:
    """Let 20 clients request ``requests`` answers of ``size`` bytes each, and check all of them."""

    async def one_client() -> None:
        async with haproxy.client() as client:
            for number in range(requests):
                response = await client.get(f"/?size={size}")
                assert (number, response.error, response["length"]) == (number, None, str(size))

    await gatherResults([Deferred.fromCoroutine(one_client()) for _ in range(CLIENTS)], consumeErrors=True)


@pytest.mark.parametrize("threads", [1, 2])
@bounded
async def test_it_follows_the_size_of_the_answers(
    branch: Branch, serve: Serve, start_haproxy: StartHAProxy, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Short answers, long ones, and short ones again: with the change and after it, each request is answered."""
    # By default, 20,000 short answers are needed.
    monkeypatch.setattr(pipelining, "SHORT_ACKS", 100)
    monkeypatch.setattr(pipelining, "FIRST_QUIET_TIME", 0.0)
    recorder = Recorder()

    def changes() -> list[bool]:
        return [event.pipelining for event in recorder.events if isinstance(event, PipeliningChanged)]

    haproxy = start_haproxy(serve(HANDLERS, observer=recorder), spoe=sized("long"), web=SHOW_LENGTH, threads=threads)
    await send(haproxy, SHORT, 20)
    assert changes() == ([True] if branch.rewritten else [])
    await send(haproxy, LONG, 10)
    assert changes() == ([True, False] if branch.rewritten else [])
    # HAProxy may go on to use the connections with pipelining.
    await send(haproxy, SHORT, 20)
    await send(haproxy, LONG, 10)


@bounded
async def test_long_answers_from_the_first_request_on(
    branch: Branch, serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]
) -> None:
    """No answer waits for another one."""
    haproxy = start_haproxy(serve(HANDLERS), spoe=sized("long"), web=SHOW_LENGTH)
    await send(haproxy, 16_000, 10)
    lines = [line for line in agent_log if "pipelining" in line]
    assert len(lines) == branch.rewritten
    assert lines == agent_log

"""What a handler has returned -> variables, or a Deferred of them."""

from __future__ import annotations

import subprocess
import sys
from types import MappingProxyType
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed

from spoa_twisted.handlers import awaitables
from tests.programs import ENVIRONMENT


async def check(ip: str, awaited: Deferred[None] | None = None) -> dict[str, Any]:
    """Wait for ``awaited`` if there is one."""
    if awaited is not None:
        await awaited
    return {"sess.ip": ip}


class TestBegin:
    """What a handler returned -> variables, or a Deferred."""

    @pytest.mark.parametrize("result", [None, {"sess.a": 1}, MappingProxyType({}), [1], "text", 0, object()])
    def test_an_object_that_is_not_awaitable_stays(self, result: Any) -> None:
        """Whether it can be sent is checked later."""
        assert awaitables.begin(result) is result

    def test_a_deferred_stays(self) -> None:
        """Whether it has fired or not."""
        for deferred in (Deferred[Any](), succeed(None)):
            assert awaitables.begin(deferred) is deferred

    def test_a_coroutine_that_does_not_wait_needs_no_deferred(self) -> None:
        """Its result is there at once."""
        assert awaitables.begin(check("a")) == {"sess.ip": "a"}

    def test_a_coroutine_that_waits(self) -> None:
        """The callback receives the result. To cancel the coroutine cancels the awaited Deferred."""
        cancelled: list[object] = []
        awaited: list[Deferred[None]] = [Deferred(), Deferred(cancelled.append)]
        finishing, hanging = [awaitables.begin(check("a", awaited=deferred)) for deferred in awaited]
        results: list[Any] = []
        finishing.addBoth(results.append)
        awaited[0].callback(None)
        assert results == [{"sess.ip": "a"}]
        hanging.addBoth(results.append)
        hanging.cancel()
        assert cancelled == [awaited[1]]
        assert results[1:] == []

    def test_a_coroutine_that_waits_twice(self) -> None:
        """For Deferreds that have not fired."""
        awaited: list[Deferred[int]] = [Deferred(), Deferred()]

        async def add() -> int:
            return await awaited[0] + await awaited[1]

        waiting = awaitables.begin(add())
        results: list[Any] = []
        waiting.addBoth(results.append)
        awaited[0].callback(1)
        assert results == []
        awaited[1].callback(2)
        assert results == [3]

    @pytest.mark.parametrize("error", [LookupError, SystemExit, GeneratorExit, CancelledError])
    def test_an_exception_before_the_first_wait_is_raised(self, error: type[BaseException]) -> None:
        """The caller handles it like the exception of a plain function."""

        async def raising() -> None:
            raise error

        with pytest.raises(error):
            awaitables.begin(raising())


ASYNCIO = """
import asyncio
from contextvars import ContextVar

from twisted.internet import asyncioreactor

loop = asyncio.new_event_loop()
asyncioreactor.install(loop)

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from twisted.logger import Logger

from spoa_twisted import Handlers, Message
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.log import LogObserver
from spoa_twisted.spop.actions import decode_actions

request = ContextVar("request", default="none")
handlers = Handlers(on_error={"sess.e": 1})
futures = []


@handlers.message("future")
def future():
    futures.append(loop.create_future())
    loop.call_later(0, futures[-1].set_result, {"sess.future": 1})
    return futures[-1]


@handlers.message("wrapped")
async def wrapped():
    request.set("own")
    await Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0)))
    return {"sess.wrapped": request.get()}


@handlers.message("bare")
async def bare():
    await asyncio.sleep(0)
    return {"sess.bare": 1}


@handlers.message("hangs", timeout=0.01)
def hangs():
    futures.append(loop.create_future())
    return futures[-1]


async def main():
    outcomes = Outcomes(LogObserver(Logger(), reactor))
    answer = handlers.respond([Message(name) for name in handlers], 1000, reactor, 10, outcomes)
    answered = Deferred()
    answer.on_actions = lambda _, actions: answered.callback(actions)
    print(decode_actions(await answered))
    print(request.get(), futures[-1].cancelled(), len(reactor.getDelayedCalls()))


def run():
    ensureDeferred(main()).addErrback(print).addBoth(lambda _: reactor.stop())


reactor.callLater(0, run)
reactor.run()
"""


def test_on_twisteds_asyncio_reactor() -> None:
    """A future that a handler returns is awaited, and cancelled when the handler times out.

    A coroutine may await an asyncio future with a Deferred around it, or without.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", ASYNCIO],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "{'sess.future': 1, 'sess.wrapped': 'own', 'sess.bare': 1, 'sess.e': 1}",
        "none True 0",
    ], done.stderr

"""Handlers that use asyncio where no asyncio event loop runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from twisted.internet.defer import fail, succeed
from twisted.python.failure import Failure

from spoa_twisted.handlers.asyncio_needed import AsyncioNeeded, explain
from tests.conftest import Logged
from tests.handlers.answers import answer_of, line_of

HINT = "this needs twistd --reactor=asyncio"


async def sleeps() -> None:
    await asyncio.sleep(1)


async def sleeps_later() -> None:
    await succeed(None)
    await asyncio.sleep(1)


async def yields() -> None:
    await asyncio.sleep(0)


async def gets() -> None:
    await asyncio.Queue().get()


async def awaits_a_future() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


def returns_a_future() -> Any:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop.create_future()


async def fetches() -> None:
    async with httpx.AsyncClient() as client:
        await client.get("http://127.0.0.1:9/")


async def has_its_own_error() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise LookupError("no data") from error


def makes_a_future() -> Any:
    return asyncio.get_running_loop().create_future()


async def waits_for() -> None:
    await asyncio.wait_for(succeed(None), 1)


#: Handlers that fail where no asyncio event loop runs.
FAILING = [
    sleeps,
    sleeps_later,
    yields,
    gets,
    awaits_a_future,
    returns_a_future,
    fetches,
    has_its_own_error,
    makes_a_future,
    waits_for,
]

if sys.version_info >= (3, 11):  # Python 3.10 has no asyncio.timeout.

    async def has_a_timeout() -> None:
        async with asyncio.timeout(1):
            await succeed(None)

    FAILING.append(has_a_timeout)


class TestFailures:
    @pytest.mark.parametrize("function", FAILING)
    def test_the_log_says_what_is_needed(self, function: Callable[[], Any], logged: Logged) -> None:
        """The handler has failed, and its on_error is sent."""
        assert answer_of(function) == {"sess.error": True}
        (text,) = logged.take()
        assert "the handler of the message 'tested' failed" in text
        assert "AsyncioNeeded: " in text
        assert HINT in text

    @pytest.mark.parametrize(
        "error", [RuntimeError("other"), LookupError("no running event loop"), AttributeError("x")]
    )
    def test_other_failures_stay(self, error: Exception, logged: Logged) -> None:
        """Whatever their text is."""
        assert answer_of(lambda: fail(error)) == {"sess.error": True}
        assert HINT not in line_of(logged)

    def test_a_thread_is_not_helped_by_another_reactor(self, logged: Logged) -> None:
        """So the failure of a blocking handler stays."""

        def blocks() -> None:
            asyncio.get_running_loop()

        assert answer_of(blocks, blocking=True) == {"sess.error": True}
        assert HINT not in line_of(logged)


class TestExplain:
    def test_the_traceback_stays(self) -> None:
        """It leads to the line of the handler. The error of asyncio is the cause."""
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            failure = explain(Failure())
            assert isinstance(failure.value, AsyncioNeeded)
            assert failure.value.__cause__ is error
        assert "in test_the_traceback_stays" in failure.getTraceback()
        assert str(failure.value).startswith(f"no running event loop: {HINT}")
        assert explain(failure) is failure

    def test_where_a_loop_runs(self) -> None:
        """The reason must be another one."""

        async def test() -> None:
            failure = Failure(RuntimeError("no running event loop"))
            assert explain(failure) is failure

        asyncio.run(test())

    def test_a_chain_without_end(self) -> None:
        """An error may be its own context, by way of another one."""
        first, second = LookupError(), LookupError()
        first.__cause__, second.__cause__ = second, first
        failure = Failure(first)
        assert explain(failure) is failure

"""The result of a handler, which may be an awaitable -> variables, or what the handler waits for."""

from __future__ import annotations

import inspect
from asyncio import _get_running_loop as get_running_loop
from asyncio import isfuture
from collections.abc import Awaitable, Mapping
from types import CoroutineType
from typing import Any

from twisted.internet.defer import Deferred

from spoa_twisted.handlers.asyncio_needed import without_loop
from spoa_twisted.handlers.coroutines import step
from spoa_twisted.handlers.hold_ups import Where
from spoa_twisted.handlers.tasks import may_wait, run


def begin(result: Any, where: Where | None = None) -> Any:
    """Return ``result``, which a handler returned. If it is an awaitable, run it until it ends or waits.

    Return the result of an awaitable that has ended, or else a :class:`WaitingCoroutine` or a Deferred that fires with
    the result. To cancel it cancels the object that the awaitable waits for.

    :param where: whose coroutine it is, to measure its steps.
    :raises BaseException: any exception that a coroutine raises before it waits for the first time.
    """
    if isinstance(result, CoroutineType):
        # On Twisted's asyncio reactor, an event loop calls the handlers.
        loop = get_running_loop()
        if loop is None or not may_wait(result.cr_code):
            return step(result, where)
        return run(result, loop, where)
    if result is None or isinstance(result, (Deferred, Mapping)):
        return result
    if isfuture(result):
        if get_running_loop() is None:
            raise without_loop(result)
        return Deferred.fromFuture(result)
    if inspect.isawaitable(result):
        return begin(_await(result), where)
    return result


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable

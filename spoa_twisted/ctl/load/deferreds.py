"""Waiting for several Deferreds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

ResultT = TypeVar("ResultT")


async def all_of(deferreds: Sequence[Deferred[ResultT]]) -> list[ResultT]:
    """Return the results of all Deferreds in order. If a Deferred fails, raise its exception at once.

    ``gatherResults`` alone would raise FirstError, whose text users would not understand.
    """
    try:
        return await gatherResults(deferreds, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()

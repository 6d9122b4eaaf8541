"""The handlers of an agent on Twisted's asyncio reactor: each uses a package for asyncio, and a Deferred."""

from __future__ import annotations

import asyncio

import httpx
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables

assert IReactorTime.providedBy(reactor)

# A slow machine may take more than the default of one second for many requests with httpx at once.
handlers = Handlers(timeout=30, on_error={"txn.failed": "handler"})
log = Logger()
web = httpx.AsyncClient(timeout=None)
held: list[Deferred[None]] = []


@handlers.message("fetch")
async def fetch(url: str, number: str) -> Variables:
    """Answer with what the web server says to ``number``. Its answer comes before a Deferred, or after it."""
    if int(number) % 2:
        await deferLater(reactor, 0)
    response = await web.get(url, params={"number": number})
    return {"txn.body": await deferLater(reactor, 0, lambda: response.text), "txn.number": number}


@handlers.message("hang", timeout=0.2, on_error={"txn.late": True})
async def hang(url: str) -> Variables:
    """Wait for a web server that never answers."""
    try:
        await web.get(url)
    except asyncio.CancelledError:
        log.info("cancelled: httpx")
        raise
    return {"txn.late": False}


@handlers.message("gone", timeout=0)
async def gone(url: str, deferred: bool) -> None:
    """Wait for a request that is given up."""
    log.info("gone: pending")
    try:
        await (Deferred(lambda _: log.info("cancelled: Deferred")) if deferred else web.get(url))
    except asyncio.CancelledError:
        log.info("cancelled: {what}", what="await of a Deferred" if deferred else "await of httpx")
        raise


@handlers.message("raise")
async def raise_(url: str) -> None:
    """Fail after both were awaited."""
    await web.get(url)
    await deferLater(reactor, 0)
    raise LookupError("after httpx")

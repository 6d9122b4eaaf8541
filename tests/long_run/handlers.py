"""The handlers of the agents in these runs: one for each kind of NOTIFY."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from spoa_twisted import Handlers, Variables

handlers = Handlers()

#: Seconds until a late handler is given up. The load waits for it, so it is short.
TIMEOUT = 0.05


@handlers.message("echo")
def echo(x: int) -> Variables:
    return {"txn.x": x}


@handlers.message("fired")
def fired(x: int) -> Deferred[Variables]:
    return succeed({"txn.fired": x})


@handlers.message("later")
def later(x: int) -> Deferred[Variables]:
    return deferLater(reactor, 0, lambda: {"txn.later": x})


@handlers.message("coroutine")
async def coroutine(x: int) -> Variables:
    await deferLater(reactor, 0)
    return {"txn.coroutine": x}


@handlers.message("blocking", blocking=True)
def blocking(x: int) -> Variables:
    return {"txn.blocking": x}


@handlers.message("raising", on_error={"txn.raised": True})
def raising(x: int) -> NoReturn:
    raise RuntimeError(f"this handler always fails, also for {x}")


@handlers.message("raising-later", on_error={"txn.raised_later": True})
async def raising_later(x: int) -> NoReturn:
    await deferLater(reactor, 0)
    raise RuntimeError(f"this handler always fails, also for {x}")


@handlers.message("late", timeout=TIMEOUT, on_error={"txn.late": True})
def late(x: int) -> Deferred[Variables]:
    return Deferred()


@handlers.message("late-coroutine", timeout=TIMEOUT, on_error={"txn.late_coroutine": True})
async def late_coroutine(x: int) -> Variables:
    await Deferred()
    return {}


@handlers.message("body", on_error={"txn.too_big": True})
def body(x: int, content: bytes) -> Variables:
    return {"txn.body": x, "txn.length": len(content)}


@handlers.message("blocks")
def blocks() -> Variables:
    """Return how many objects Python has in memory, about: blocks of its allocator, without garbage."""
    gc.collect()
    # PyPy has no such function.
    return {"txn.blocks": sys.getallocatedblocks() if hasattr(sys, "getallocatedblocks") else 0}

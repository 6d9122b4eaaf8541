"""The handlers of the agents in these tests."""

from __future__ import annotations

from typing import Any, NoReturn

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from spoa_twisted import Handlers, Message, Variables

handlers = Handlers()
log = Logger()

_held: list[Deferred[Variables]] = []
_cancelled = 0


@handlers.message("echo")
def echo(x: Any) -> Variables:
    return {"txn.x": x}


@handlers.message("big")
def big(size: int) -> Variables:
    return {"txn.big": bytes(size)}


@handlers.message("big-later")
async def big_later(size: int) -> Variables:
    await deferLater(reactor, 0)
    return {"txn.big": bytes(size)}


@handlers.message("long")
def long(size: str) -> Variables:
    return {"txn.value": "x" * int(size)}


def _hold(message: Message) -> Deferred[Variables]:
    """Return a Deferred that fires at a message "release", or is cancelled. It keeps the message in memory."""

    def cancelled(held: Deferred[Variables]) -> None:
        global _cancelled
        _cancelled += 1
        _held.remove(held)

    held: Deferred[Variables] = Deferred(cancelled)
    held.message = message  # type: ignore[attr-defined]
    _held.append(held)
    return held


handlers.message("hold")(_hold)
handlers.message("hold-half-a-second", timeout=0.5, on_error={"txn.late": True})(_hold)


@handlers.message("release")
def release() -> None:
    held = _held.copy()
    _held.clear()
    for deferred in held:
        deferred.callback({"txn.released": True})


@handlers.message("count")
def count() -> Variables:
    return {"txn.held": len(_held), "txn.cancelled": _cancelled}


@handlers.message("block")
def block(path: str) -> None:
    """Block the reactor until the test opens the FIFO for writing."""
    log.info("blocking the reactor")
    open(path, "rb").close()


@handlers.message("block-a-thread", blocking=True, timeout=0.5, on_error={"txn.late": True})
def block_a_thread(path: str) -> Variables:
    """Block a thread of the pool until the test opens the FIFO for writing."""
    log.info("blocking a thread")
    open(path, "rb").close()
    return {"txn.released": True}


@handlers.message("fail", on_error={"txn.failed": True})
def fail() -> NoReturn:
    # The agent itself logs only ten failures a minute.
    log.error("a line of the handler that always fails")
    raise RuntimeError("this handler always fails")

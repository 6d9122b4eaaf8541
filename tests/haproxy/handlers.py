"""The handlers of the agents that run in a process of their own."""

from __future__ import annotations

from typing import NoReturn

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables

SCORE = {"txn.score": 42}

handlers = Handlers()
log = Logger()


@handlers.message("score")
def score() -> Variables:
    return SCORE


@handlers.message("raise", on_error={"txn.raised": True})
def raise_() -> NoReturn:
    raise RuntimeError("boom")


@handlers.message("unsendable", on_error={"txn.unsendable": True})
def unsendable() -> Variables:
    return {"txn.score": 4.2}  # type: ignore[dict-item]


@handlers.message("late", timeout=0.2, on_error={"txn.late": True})
def late() -> Deferred[Variables]:
    return Deferred()


@handlers.message("never")
def never() -> Deferred[Variables]:
    log.info("never: pending")
    return Deferred()


@handlers.message("after-stop")
def after_stop() -> Deferred[Variables]:
    """Answer when the agent has been told to stop, and a while after that."""
    stopping: Deferred[Variables] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", reactor.callLater, 0.2, stopping.callback, SCORE)
    log.info("after-stop: pending")
    return stopping

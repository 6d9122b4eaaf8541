"""The handlers of the agents that run in a process of their own."""

from __future__ import annotations

import os
import time
from typing import NoReturn

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables

SCORE = {"txn.score": 42}
PID = {"txn.pid": os.getpid()}

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


class Together:
    """Answers many NOTIFYs in one turn of the reactor, as a result that all wait for does, and says how many it were.

    :param patience: seconds after which those that wait are answered though there are no more.
    """

    def __init__(self, most: int, patience: float) -> None:
        self._most = most
        self._patience = patience
        self._waiting: list[tuple[Deferred[Variables], int]] = []
        self._timer: IDelayedCall | None = None

    def __call__(self, size: int) -> Deferred[Variables]:
        result: Deferred[Variables] = Deferred()
        self._waiting.append((result, size))
        if self._timer is None:
            self._timer = reactor.callLater(self._patience, self._answer)
        if len(self._waiting) == self._most:
            self._timer.cancel()
            self._answer()
        return result

    def _answer(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        for result, size in waiting:
            result.callback({**_long(size), "txn.together": len(waiting)})


def _long(size: int) -> Variables:
    return {"txn.value": "x" * int(size)}


handlers.message("together")(Together(20, patience=0.5))
handlers.message("long")(_long)


@handlers.message("stand-still")
def stand_still(size: int) -> Variables:
    """Answer at last, but nobody else meanwhile."""
    log.info("stand-still: begins")
    time.sleep(1.5)
    return _long(size)


@handlers.message("pid-now")
def pid_now() -> Variables:
    return PID


@handlers.message("pid-later")
def pid_later() -> Deferred[Variables]:
    return deferLater(reactor, 0.02, lambda: PID)


@handlers.message("mixed")
def mixed(size: int) -> Deferred[Variables] | Variables:
    """Answer at once or a little later, as a cache does."""
    size = int(size)
    return deferLater(reactor, size % 19 / 1000, _long, size) if size % 2 else _long(size)

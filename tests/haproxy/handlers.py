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

from spoa_twisted import Handlers, SPOAProtocol, Variables
from spoa_twisted.spop.connection import Notify

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


class Asking:
    """Knows on which connection the NOTIFY has come that is answered now.

    HAProxy reads from each connection by itself, so the tests have to know how much an agent wrote to each. A handler
    is not told where its message comes from, hence this look into the protocol.
    """

    def __init__(self) -> None:
        #: The number of the connection, from 1 on.
        self.connection = 0
        self._numbers: dict[SPOAProtocol, int] = {}
        answer = SPOAProtocol._notified

        def note_and_answer(protocol: SPOAProtocol, notify: Notify) -> None:
            self.connection = self._numbers.setdefault(protocol, len(self._numbers) + 1)
            answer(protocol, notify)

        SPOAProtocol._notified = note_and_answer  # type: ignore[method-assign, assignment]


asking = Asking()


class Together:
    """Answers many NOTIFYs of one connection in one turn of the reactor, and says how many there were.

    This is what happens when handlers wait for one result.

    :param most: how many to wait for.
    :param patience: seconds after which those that wait are answered though there are no more.
    """

    def __init__(self, most: int, patience: float) -> None:
        self._most = most
        self._patience = patience
        self._waiting: dict[int, list[tuple[Deferred[Variables], int]]] = {}
        self._timers: dict[int, IDelayedCall] = {}

    def __call__(self, size: int) -> Deferred[Variables]:
        result: Deferred[Variables] = Deferred()
        connection = asking.connection
        waiting = self._waiting.setdefault(connection, [])
        waiting.append((result, size))
        if len(waiting) == 1:
            self._timers[connection] = reactor.callLater(self._patience, self._answer, connection)
        if len(waiting) == self._most:
            self._timers[connection].cancel()
            self._answer(connection)
        return result

    def _answer(self, connection: int) -> None:
        waiting = self._waiting.pop(connection)
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

"""The handlers of the agents that run in processes of their own; see :class:`.harness.AgentProcess`."""

from __future__ import annotations

import os
import time
from typing import NoReturn

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.internet.tcp import Server
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables
from spoa_twisted.agent.answering import Answering
from spoa_twisted.agent.receipt import receipt
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
    """Answer 0.2 s after the agent has begun to shut down."""
    stopping: Deferred[Variables] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", reactor.callLater, 0.2, stopping.callback, SCORE)
    log.info("after-stop: pending")
    return stopping


class Asking:
    """Records the connection of the NOTIFY whose handlers are called now.

    HAProxy reads each connection separately, so the tests must know how much the agent wrote to each connection. The
    agent does not pass the connection to a handler, so this class wraps the method that calls the handlers.
    """

    def __init__(self) -> None:
        #: The number of the current connection, counted from 1.
        self.connection = 0
        self._numbers: dict[Answering, int] = {}
        answer = Answering.on_notify

        def note_and_answer(connection: Answering, notify: Notify) -> bool:
            self.connection = self._numbers.setdefault(connection, len(self._numbers) + 1)
            return answer(connection, notify)

        Answering.on_notify = note_and_answer  # type: ignore[method-assign, assignment]


asking = Asking()


class Together:
    """Answers several NOTIFYs of one connection in one turn of the reactor, and sets ``txn.together`` to their number.

    This happens in practice when several handlers wait for the same result.

    :param count: the number of NOTIFYs to wait for.
    :param timeout: seconds after which the pending NOTIFYs are answered although fewer than ``count`` have come.
    """

    def __init__(self, count: int, timeout: float) -> None:
        self._count = count
        self._timeout = timeout
        self._waiting: dict[int, list[tuple[Deferred[Variables], int]]] = {}
        self._timers: dict[int, IDelayedCall] = {}

    def __call__(self, size: int) -> Deferred[Variables]:
        result: Deferred[Variables] = Deferred()
        connection = asking.connection
        waiting = self._waiting.setdefault(connection, [])
        waiting.append((result, size))
        if len(waiting) == 1:
            self._timers[connection] = reactor.callLater(self._timeout, self._answer, connection)
        if len(waiting) == self._count:
            self._timers[connection].cancel()
            self._answer(connection)
        return result

    def _answer(self, connection: int) -> None:
        waiting = self._waiting.pop(connection)
        for result, size in waiting:
            result.callback({**_long(size), "txn.together": len(waiting)})


def _long(size: int) -> Variables:
    return {"txn.value": "x" * int(size)}


handlers.message("together")(Together(20, timeout=0.5))
handlers.message("long")(_long)


@handlers.message("block")
def block(size: int) -> Variables:
    """Block the reactor for 1.5 s, so that the agent answers no NOTIFY meanwhile, and then answer."""
    log.info("block: begins")
    time.sleep(1.5)
    return _long(size)


@handlers.message("pid-now")
def pid_now() -> Variables:
    return PID


@handlers.message("pid-later")
def pid_later() -> Deferred[Variables]:
    return deferLater(reactor, 0.02, lambda: PID)


@handlers.message("coroutine")
async def coroutine() -> Variables:
    await deferLater(reactor, 0.02)
    return {"txn.coroutine": True}


@handlers.message("receipts")
def receipts() -> Variables:
    """Set ``txn.receipts`` to what the kernel knows about the connections from HAProxy."""
    connections = [reader for reader in reactor.getReaders() if isinstance(reader, Server)]
    return {"txn.receipts": " ".join(sorted({receipt(connection).name for connection in connections}))}


@handlers.message("mixed")
def mixed(size: int) -> Deferred[Variables] | Variables:
    """Answer even sizes at once and odd sizes up to 18 ms later, as a handler with a cache does."""
    size = int(size)
    return deferLater(reactor, size % 19 / 1000, _long, size) if size % 2 else _long(size)

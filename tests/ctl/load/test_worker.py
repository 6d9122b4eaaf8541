"""ctl.load.worker: what a worker process does with the lines that it reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from spoa_twisted.ctl.load.worker import Requests, serve

from .memory import PLAN, Connection

PLAN_LINE = json.dumps(asdict(PLAN)).encode() + b"\n"


class Worker:
    """A worker without its process: the test writes its stdin and reads its stdout."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.requests = Requests()
        self.stdout = StringTransport()
        self.requests.makeConnection(self.stdout)
        #: The result of serve(), when it has returned.
        self.ended: list[Any] = []
        Deferred.fromCoroutine(serve(self.reactor, self.requests)).addBoth(self.ended.append)

    def client(self) -> Any:
        """Return the connection that the worker opens."""
        return self.reactor.tcpClients[0][2]


def test_stdin_is_closed_before_the_plan() -> None:
    """The worker ends, and does nothing."""
    worker = Worker()
    worker.requests.connectionLost()
    assert worker.ended == [None]
    assert (worker.reactor.tcpClients, worker.stdout.value()) == ([], b"")


@pytest.mark.parametrize(("error", "text"), [(LookupError("gone"), "gone"), (LookupError(), "LookupError")])
def test_the_worker_cannot_connect(error: Exception, text: str) -> None:
    """The answer is the text of the exception, or its name if it has no text."""
    worker = Worker()
    worker.requests.dataReceived(PLAN_LINE)
    worker.client().clientConnectionFailed(None, Failure(error))
    assert worker.ended == [None]
    assert json.loads(worker.stdout.value()) == {"failed": text}


def test_stdin_is_closed_before_the_window() -> None:
    """The worker ends, and sends no NOTIFY."""
    worker = Worker()
    worker.requests.dataReceived(PLAN_LINE)
    connection = Connection(worker.client())
    connection.receive(connection.hello())
    assert json.loads(worker.stdout.value())["version"] == "2.0"
    assert worker.ended == []
    worker.requests.connectionLost()
    assert worker.ended == [None]
    assert connection.sent() == []


def test_the_window_is_ended() -> None:
    """The answer is the outcome. A second "end" is ignored."""
    worker = Worker()
    worker.requests.dataReceived(PLAN_LINE)
    connection = Connection(worker.client())
    connection.receive(connection.hello())
    worker.requests.dataReceived(b"[0, 300]\n")
    worker.reactor.advance(0)
    connection.acknowledge()
    worker.requests.dataReceived(b'"end"\n"end"\n')
    connection.acknowledge()
    connection.lose()
    assert worker.ended == [None]
    _, outcome = worker.stdout.value().splitlines()
    assert (json.loads(outcome)["notifys"], json.loads(outcome)["errors"]) == (2, {})

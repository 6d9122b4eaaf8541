"""A worker process of the load: it takes its plan from stdin, and writes what came of it to stdout.

Each line is a JSON value. The process that measures sends the plan, and the worker answers with the greeting, or with
``{"failed": text}``. Then the process that measures sends the seconds of the window, and the worker answers with the
outcome. Before that, "end" ends the window early. When stdin is closed, the worker ends.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from spoa_twisted.ctl.load.local import Load
from spoa_twisted.ctl.load.plan import Plan
from spoa_twisted.ctl.load.window import Window

#: The line that ends the window.
END: Final = "end"

#: The key of the answer of a worker that cannot do its work.
FAILED: Final = "failed"


class Requests(LineOnlyReceiver):
    """The lines from the process that measures, and the answers to it."""

    delimiter = b"\n"
    #: In bytes. The longest line is the plan, which has the messages in hexadecimal.
    MAX_LENGTH = 2**26

    def __init__(self) -> None:
        self._requests: DeferredQueue[Any] = DeferredQueue()
        self._closed: Deferred[None] = Deferred()
        #: Called when "end" is received, and when stdin is closed, because the outcome then has no reader.
        self.on_end: Callable[[], object] = lambda: None

    def next(self) -> Deferred[Any]:
        """Fire with the next request; with ``None`` when stdin is closed."""
        return self._requests.get()

    def answer(self, value: object) -> None:
        """Send an answer."""
        assert self.transport is not None
        self.transport.write(json.dumps(value).encode() + b"\n")

    def close(self) -> Deferred[None]:
        """Close the pipes; fire when all answers are written."""
        assert self.transport is not None
        self.transport.loseConnection()
        return self._closed

    def lineReceived(self, line: bytes) -> None:
        """Take in a request."""
        request = json.loads(line)
        if request == END:
            self.on_end()
        else:
            self._requests.put(request)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End: the process that measures has closed the pipes, or does not exist any more."""
        self.on_end()
        self._requests.put(None)
        self._closed.callback(None)


def main() -> None:
    """Run a worker process."""
    react(lambda reactor: Deferred.fromCoroutine(_run(reactor)))


async def _run(reactor: Any) -> None:
    """Serve the requests of stdin, and end when all answers are written."""
    # A terminal sends Ctrl-C to all processes of the command. The one that measures ends the window of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = Requests()
    StandardIO(requests, reactor=reactor)
    try:
        await serve(reactor, requests)
    finally:
        await requests.close()


async def serve(reactor: Any, requests: Requests) -> None:
    """Run the load that the requests ask for. Return early when stdin is closed or the load cannot connect."""
    plan = await requests.next()
    if plan is None:
        return
    load = Load(reactor, Plan(**plan))
    try:
        requests.answer(asdict(await load.connect()))
    except Exception as error:
        # Whatever it is, the process that measures prints it as one line, as it prints its own errors.
        requests.answer({FAILED: str(error) or type(error).__name__})
        return
    seconds = await requests.next()
    if seconds is None:
        return
    # Its own clock, and not messages for the begin and the end, so that the pipes do not change the time measured.
    window = Window(reactor, *seconds)
    requests.on_end = window.interrupt
    requests.answer(asdict(await load.run(window)))

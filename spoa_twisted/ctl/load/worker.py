"""A worker process of the load. Its parent is the process of ``spoactl bench``, and the pipes are stdin and stdout.

Each line is a JSON value:

1. The parent sends the ``Plan``. The worker answers with the ``Greeting``, or with ``{"failed": text}``.
2. The parent sends the seconds of the window. The worker answers with the ``Outcome`` after the window. If the parent
   sends "end", the worker ends the window early.

When the parent closes stdin, the worker ends.
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

#: The key of the answer that reports an error. The value is the text of the error.
FAILED: Final = "failed"


class Requests(LineOnlyReceiver):
    """The requests of the parent process, and the answers to it."""

    delimiter = b"\n"
    #: In bytes. The longest line is the plan, which has the messages in hexadecimal.
    MAX_LENGTH = 2**26

    def __init__(self) -> None:
        self._requests: DeferredQueue[Any] = DeferredQueue()
        self._closed: Deferred[None] = Deferred()
        #: Called when "end" arrives. Also called when stdin is closed, because then nothing reads the outcome.
        self.on_end: Callable[[], object] = lambda: None

    def next(self) -> Deferred[Any]:
        """Return a Deferred that fires with the next request, or with ``None`` when stdin is closed."""
        return self._requests.get()

    def answer(self, value: object) -> None:
        """Write an answer to stdout, as one line."""
        assert self.transport is not None
        self.transport.write(json.dumps(value).encode() + b"\n")

    def close(self) -> Deferred[None]:
        """Close the pipes. The Deferred fires when all answers are written."""
        assert self.transport is not None
        self.transport.loseConnection()
        return self._closed

    def lineReceived(self, line: bytes) -> None:
        """Handle a request."""
        request = json.loads(line)
        if request == END:
            self.on_end()
        else:
            self._requests.put(request)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the load, because the parent process has closed the pipes, or has ended."""
        self.on_end()
        self._requests.put(None)
        self._closed.callback(None)


def main() -> None:
    """Run a worker process."""
    react(lambda reactor: Deferred.fromCoroutine(_run(reactor)))


async def _run(reactor: Any) -> None:
    """Serve the requests of stdin, and return when all answers are written."""
    # A terminal sends Ctrl-C to the workers too. They ignore it: the parent ends their windows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = Requests()
    StandardIO(requests, reactor=reactor)
    try:
        await serve(reactor, requests)
    finally:
        await requests.close()


async def serve(reactor: Any, requests: Requests) -> None:
    """Run the load that ``requests`` asks for. Return early if stdin is closed or the load cannot connect."""
    plan = await requests.next()
    if plan is None:
        return
    load = Load(reactor, Plan(**plan))
    try:
        requests.answer(asdict(await load.connect()))
    except Exception as error:
        # The parent prints every exception as one line, as it prints its own.
        requests.answer({FAILED: str(error) or type(error).__name__})
        return
    seconds = await requests.next()
    if seconds is None:
        return
    # The worker has its own clock. If the parent sent messages for the begin and the end, the delay of the pipes would
    # change the measured time.
    window = Window(reactor, *seconds)
    requests.on_end = window.interrupt
    requests.answer(asdict(await load.run(window)))

"""A load in a worker process. A process uses one core only, so a fast agent needs the load of several processes."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from spoa_twisted.ctl.load import worker
from spoa_twisted.ctl.load.plan import Greeting, Outcome, Plan
from spoa_twisted.ctl.load.window import Window


class LoadFailed(Exception):
    """A worker process could not do its work. The text says why."""


class RemoteLoad:
    """Load from a worker process. It has the methods of :class:`local.Load`, and :meth:`abort`.

    :param reactor: the reactor that starts the process.
    :param plan: the parameters of the load.
    """

    def __init__(self, reactor: Any, plan: Plan) -> None:
        self._plan = plan
        self._process = WorkerProcess()
        # The worker must import the same copy of this package. Its folder may be only in sys.path of this process.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", f"from {worker.__name__} import main; main()"]
        # The worker writes to the stderr of this process.
        reactor.spawnProcess(self._process, command[0], command, environment, childFDs={0: "w", 1: "r", 2: 2})

    async def connect(self) -> Greeting:
        """Open the connections. Return the facts about the agent.

        :raises LoadFailed: if the worker cannot connect, or has ended.
        """
        return Greeting(**await self._process.ask(asdict(self._plan)))

    async def run(self, window: Window) -> Outcome:
        """Load the agent until the window ends. Then wait for the last ACKs, and close the connections.

        The worker has its own window with the same length. When ``window`` ends, it ends the worker's window too.

        :raises LoadFailed: if the worker has ended.
        """
        window.watch(lambda: None, lambda: self._process.send(worker.END))
        return Outcome(**await self._process.ask(window.seconds))

    def abort(self) -> None:
        """Kill the process, if it still runs."""
        self._process.kill()


class WorkerProcess(ProcessProtocol):
    """The pipes to a worker process. Each value is one line of JSON."""

    def __init__(self) -> None:
        # The received bytes of an incomplete answer.
        self._buffer = b""
        # The Deferred of the pending request; None while no request is pending.
        self._answer: Deferred[dict[str, Any]] | None = None
        # The error of all requests after the end of the process; None while it runs.
        self._ended: LoadFailed | None = None

    def ask(self, request: object) -> Deferred[dict[str, Any]]:
        """Send a request, and return a Deferred that fires with the answer. Call this again only after the answer.

        The Deferred fails with LoadFailed if the worker reports an error, or ends.
        """
        if self._ended is not None:
            return fail(self._ended)
        self._answer = Deferred()
        self.send(request)
        return self._answer

    def send(self, value: object) -> None:
        """Send a value that has no answer. If the process has ended, this does nothing."""
        assert self.transport is not None
        if self._ended is None:
            self.transport.write(json.dumps(value).encode() + b"\n")

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        assert self.transport is not None
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def outReceived(self, data: bytes) -> None:
        """Receive an answer, or a part of it."""
        self._buffer += data
        line, newline, rest = self._buffer.partition(b"\n")
        if newline and self._answer is not None:
            self._buffer = rest
            answer, self._answer = self._answer, None
            value = json.loads(line)
            if worker.FAILED in value:
                answer.errback(LoadFailed(value[worker.FAILED]))
            else:
                answer.callback(value)

    def processEnded(self, reason: Failure) -> None:
        """Fail the pending request, and every later one."""
        self._ended = LoadFailed(f"a process of the load ended: {reason.getErrorMessage()}")
        if self._answer is not None:
            answer, self._answer = self._answer, None
            answer.errback(self._ended)

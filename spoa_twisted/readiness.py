"""Whether a service is ready, and the Deferreds that wait for it."""

from __future__ import annotations

from typing import TypeVar, final

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

ResultT = TypeVar("ResultT")


@final
class Readiness:
    """The state of a service that starts: not ready at first, then ready, or failed."""

    def __init__(self) -> None:
        #: True between ``on_ready`` and ``on_stop``.
        self.ready = False
        self._failure: Failure | None = None
        self._waiting: list[Deferred[None]] = []
        # True from on_stop to on_start.
        self._stopped = False
        # The Deferreds of when_stopped(), which on_stopped() fires; None if the service is not stopping.
        self._stopping: list[Deferred[None]] | None = None

    @property
    def state(self) -> str:
        """``starting``, ``ready`` or ``draining``."""
        if self._stopped:
            return "draining"
        return "ready" if self.ready else "starting"

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires when the service is ready. It fails if the service fails, or is stopped."""
        if self.ready:
            return succeed(None)
        if self._failure is not None:
            return fail(self._failure)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def when_stopped(self) -> Deferred[None]:
        """Return a Deferred that fires when the service has stopped; at once if it is not stopping."""
        if self._stopping is None:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        return stopped

    def on_ready(self) -> None:
        """Report that the service is ready."""
        self.ready = True
        self._fire(None)

    def on_failed(self, failure: Failure) -> None:
        """Report that the service has failed to start."""
        self._failure = failure
        self._fire(failure)

    def on_start(self) -> None:
        """Report that the service starts: forget an earlier failure."""
        self._failure = None
        self._stopped = False

    def on_stop(self) -> None:
        """Report that the service begins to stop."""
        self.ready = False
        self._stopped = True
        self._stopping = self._stopping or []
        self._fire(Failure(CancelledError()))

    def on_stopped(self, result: ResultT) -> ResultT:
        """Report that the service has stopped. Return ``result``."""
        stopping, self._stopping = self._stopping or [], None
        for deferred in stopping:
            deferred.callback(None)
        return result

    def _fire(self, result: Failure | None) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(result)

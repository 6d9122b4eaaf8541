"""Whether a service is ready, and the Deferreds that wait for it."""

from __future__ import annotations

from typing import final

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure


@final
class Readiness:
    """The state of a service that starts: not ready at first, then ready, or failed."""

    def __init__(self) -> None:
        #: True between ``on_ready`` and ``on_stop``.
        self.ready = False
        self._failure: Failure | None = None
        self._waiting: list[Deferred[None]] = []

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires when the service is ready. It fails if the service fails, or is stopped."""
        if self.ready:
            return succeed(None)
        if self._failure is not None:
            return fail(self._failure)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

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

    def on_stop(self) -> None:
        """Report that the service is stopped."""
        self.ready = False
        self._fire(Failure(CancelledError()))

    def _fire(self, result: Failure | None) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(result)

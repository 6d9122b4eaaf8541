"""SIGHUP: new workers with the present code take the places of the old ones, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from spoa_twisted.status.merged import no_reloads
from spoa_twisted.status.report import Reloads
from spoa_twisted.workers.slots import Slot, WorkerFailed

OK: Final = "ok"
FAILED: Final = "failed"


@final
class Reload:
    """Reloads, one at a time.

    At most one process more than usual runs at any time: a new worker is started when the old one, whose place the last
    new worker has taken, has ended. If a new worker cannot start, the reload ends, and the old workers stay.
    """

    _log = Logger()

    def __init__(
        self,
        slots: Sequence[Slot],
        reactor: IReactorTime,
        time: Callable[[], float],
        on_change: Callable[[bool], None] = lambda running: None,
    ) -> None:
        #: The results so far, for the status.
        self.results: Reloads = {**no_reloads(), "results": {OK: 0, FAILED: 0}}
        #: True while workers are replaced.
        self.running = False
        self._slots = slots
        self._reactor = reactor
        self._time = time
        self._on_change = on_change
        self._again = False
        # The requests that the running reload answers.
        self._answers = 0

    def request(self) -> None:
        """Reload now. If a reload is running, reload once more afterwards: it may have missed a change of a file."""
        self.results["requested"] += 1
        self._begin()

    def _begin(self) -> None:
        if self.running:
            if not self._again:
                self._log.info("a reload is running: another one follows")
            self._again = True
            return
        self.running = True
        self._on_change(True)
        self._again = False
        Deferred.fromCoroutine(self._run()).addErrback(self._on_bug).addCallback(lambda _: self._on_end())

    async def _run(self) -> None:
        began = self._reactor.seconds()
        self._answers = self.results["requested"]
        self._log.info(
            "reloading: {_workers} replaced, one after the other",
            count=len(self._slots),
            _workers=self._workers("is", "are"),
        )
        for replaced, slot in enumerate(self._slots):
            try:
                old = await slot.replace()
            except CancelledError:
                self._again = False
                return
            except WorkerFailed as error:
                self._on_failed(str(error), replaced)
                return
            if old is not None:
                await old.when_ended()
        self._set_result(OK, "")
        self._log.info(
            "reloaded: {_workers} replaced in {seconds:.2f} s",
            count=len(self._slots),
            _workers=self._workers("was", "were"),
            seconds=self._reactor.seconds() - began,
        )

    def _workers(self, one: str, several: str) -> str:
        """Return how many workers there are, with the verb for one or several."""
        count = len(self._slots)
        return f"1 worker {one}" if count == 1 else f"{count} workers {several}"

    def _on_failed(self, reason: str, replaced: int) -> None:
        self._set_result(FAILED, reason)
        if replaced:
            kept = (
                f"{replaced} of {len(self._slots)} workers were replaced before; the others go on with their old code"
            )
        else:
            kept = "the workers go on with their old code"
        self._log.error("reload failed: {reason}; {kept}", reason=reason, kept=kept)

    def _set_result(self, result: str, reason: str) -> None:
        self.results["results"][result] += 1
        self.results["last_ok"] = result == OK
        self.results["last_time"] = self._time()
        self.results["reason"] = reason
        self.results["answered"] = self._answers

    def _on_bug(self, failure: Failure) -> None:
        self._set_result(FAILED, f"{type(failure.value).__name__}; the log has its traceback")
        self._log.failure("the reload ended", failure)

    def _on_end(self) -> None:
        self.running = False
        self._on_change(False)
        if self._again:
            self._begin()

"""Keeps one worker alive. The agent has as many slots as it has workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, final

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from spoa_twisted.workers.backoff import Backoff
from spoa_twisted.workers.child import Owner, Worker
from spoa_twisted.workers.handing_over import HandingOver

#: The reasons in :attr:`Staff.restarts`.
REASONS: Final = ("exit", "signal", "stall", "reload")


class WorkerFailed(Exception):
    """A worker has ended before it was ready. The text says why, in one line."""


class Staff(Protocol):
    """What the slots share: the master."""

    #: How often a worker was replaced, by the reason.
    restarts: dict[str, int]

    def start_worker(self, number: int, owner: Owner) -> Worker:
        """Start a worker process."""

    def on_ready(self, worker: Worker) -> None:
        """Report that ``worker`` is ready."""

    def may_retry(self, worker: Worker) -> bool:
        """Return whether ``worker``, which could not start, may be started again. Otherwise, the agent ends."""

    def on_ended(self, worker: Worker) -> None:
        """Report that the process of ``worker`` has ended."""

    def on_lost(self, worker: Worker, reason: str, *, crashed: bool) -> None:
        """Report that ``worker`` was ready, and has to be replaced without a reload.

        :param reason: how it ended, in one line.
        :param crashed: false if it was stopped.
        """


@final
class Slot(Owner):
    """One worker, and the process that is about to replace it.

    :param number: the number of the worker.
    :param drain_timeout: returns the seconds for a drain.
    """

    _log = Logger()

    def __init__(
        self,
        number: int,
        reactor: IReactorTime,
        staff: Staff,
        handing_over: HandingOver,
        drain_timeout: Callable[[], float],
    ) -> None:
        self.number = number
        #: The worker that takes connections.
        self.current: Worker | None = None
        #: The worker that is not ready yet.
        self.starting: Worker | None = None
        #: How the last worker ended, if it is not replaced yet; otherwise empty.
        self.lost = ""
        self._reactor = reactor
        self._staff = staff
        self._handing_over = handing_over
        self._drain_timeout = drain_timeout
        self._backoff = Backoff()
        self._retry: IDelayedCall | None = None
        self._replacing: Deferred[Worker | None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Start a worker."""
        self._stop_retry()
        self.starting = self._staff.start_worker(self.number, self)

    def replace(self) -> Deferred[Worker | None]:
        """Start a worker that takes the place of the current one.

        :return: a Deferred that fires when the new worker is ready, with the old one, which drains now. It fails with
            :class:`WorkerFailed` if the new worker cannot start, and with ``CancelledError`` if the agent stops.
        """
        if self._stopped:
            return fail(CancelledError())
        replacing: Deferred[Worker | None] = Deferred()
        self._replacing = replacing
        self._backoff.reset()
        if self.starting is not None:
            # It was started before the operator asked for a reload, and may have the old code.
            starting, self.starting = self.starting, None
            starting.drain(0)
        self.start()
        return replacing

    def stop(self) -> None:
        """Let the workers drain, and start no other."""
        self._stopped = True
        self._stop_retry()
        for worker in (self.current, self.starting):
            if worker is not None:
                self._retire(worker)
        replacing, self._replacing = self._replacing, None
        if replacing is not None:
            replacing.errback(Failure(CancelledError()))

    def on_ready(self, worker: Worker) -> None:
        """Let ``worker`` take connections, and let the old worker drain."""
        if worker is not self.starting:
            return
        old, self.current, self.starting, self.lost = self.current, worker, None, ""
        self._staff.on_ready(worker)
        self._handing_over.add(worker)
        if old is not None:
            self._staff.restarts["reload"] += 1
            self._retire(old)
        replacing, self._replacing = self._replacing, None
        if replacing is not None:
            replacing.callback(old)

    def on_leaving(self, worker: Worker) -> None:
        """Let ``worker`` drain, and start another one: its process has received SIGTERM, or has stopped itself."""
        self._log.info(
            "worker {worker} (process {pid}) was stopped: it drains, and is replaced",
            worker=worker.number,
            pid=worker.pid,
        )
        self._retire(worker)
        # It was the current one: a worker that is not ready yet, or that drains already, does not report this.
        self.current = None
        self._staff.on_lost(worker, "it was stopped", crashed=False)
        self._replace_lost(worker, "it was stopped", "exit")

    def on_taken(self, worker: Worker, number: int) -> None:
        """Note that ``worker`` has taken the connection ``number``."""
        self._handing_over.on_taken(worker, number)

    def on_returned(self, worker: Worker, number: int) -> None:
        """Let another worker take the connection ``number``, which ``worker`` does not take."""
        self._handing_over.on_returned(worker, number)

    def on_closed(self, worker: Worker, count: int) -> None:
        """Note that ``worker`` has closed ``count`` connections."""
        self._handing_over.on_closed(worker, count)

    def on_ended(self, worker: Worker) -> None:
        """Start another worker, unless ``worker`` was to end."""
        self._handing_over.remove(worker)
        self._staff.on_ended(worker)
        if worker is self.current:
            self.current = None
            if not self._stopped:
                self._log.error(
                    "worker {worker} (process {pid}) has ended: {reason}",
                    worker=self.number,
                    pid=worker.pid,
                    reason=worker.reason,
                )
                self._staff.on_lost(worker, worker.reason, crashed=True)
                self._replace_lost(worker, worker.reason, worker.ending)
        elif worker is self.starting:
            self.starting = None
            if not self._stopped:
                self._on_start_failed(worker)

    def _on_start_failed(self, worker: Worker) -> None:
        replacing, self._replacing = self._replacing, None
        if not self._staff.may_retry(worker):
            return
        if replacing is None:
            self._log.error("worker {worker} cannot start: {reason}", worker=self.number, reason=worker.reason)
        if self.current is None:
            self._replace_lost(worker, worker.reason, worker.ending)
        if replacing is not None:
            replacing.errback(WorkerFailed(worker.reason))

    def _retire(self, worker: Worker) -> None:
        self._handing_over.leave(worker)
        worker.drain(self._drain_timeout())

    def _replace_lost(self, worker: Worker, reason: str, ending: str) -> None:
        self.lost = reason
        if self.starting is not None or self._stopped:
            return
        was_ready = self._reactor.seconds() - worker.ready_since if worker.ready_since else 0.0
        delay = self._backoff.next_delay(was_ready)
        if worker.ready_since:
            self._staff.restarts[ending] += 1
        self._log.info("worker {worker}: the next start is in {delay:g} s", worker=self.number, delay=delay)
        self._stop_retry()
        self._retry = self._reactor.callLater(delay, self._start_again)

    def _start_again(self) -> None:
        self._retry = None
        self.start()

    def _stop_retry(self) -> None:
        retry, self._retry = self._retry, None
        if retry is not None:
            retry.cancel()

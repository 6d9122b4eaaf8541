"""The reports of all workers, for the status.

This is where the status joins the workers: :meth:`Collector.collect` returns the reports of the present workers, and
``retired`` receives the last report of each worker that has ended, so that counters never fall.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from spoa_twisted.status.report import Report
from spoa_twisted.workers.child import Worker
from spoa_twisted.workers.reporting import empty_process, report_of
from spoa_twisted.workers.slots import Slot

#: Seconds. A worker that does not answer within this time is ``silent``: its last report stands for it.
ANSWER_TIMEOUT: Final = 0.5


@final
class Collector:
    """Asks all workers for their reports.

    :param workers: the processes that run now. The collection changes.
    :param time: returns the Unix time.
    """

    def __init__(
        self, reactor: IReactorTime, workers: Collection[Worker], slots: Sequence[Slot], time: Callable[[], float]
    ) -> None:
        #: Called with the last report of each worker that has ended. If it is set before the workers start, each ping
        #: asks for a report, so that the last one of a killed worker is about a second old.
        self.retired: Callable[[Report], None] | None = None
        self._reactor = reactor
        self._workers = workers
        self._slots = slots
        self._time = time

    def collect(self) -> Deferred[list[Report]]:
        """Return a Deferred of one report for each process, and for each worker that is ``lost``."""
        workers = self._in_order()

        def on_answers(answers: list[Report]) -> list[Report]:
            reports = dict(zip(workers, answers, strict=True))
            # The numbers of a worker that has ended meanwhile are in ``retired`` already: do not count them twice. Its
            # successor was not asked.
            present = [reports.get(worker) or self._last(worker, worker.state) for worker in self._in_order()]
            return [*present, *self._lost()]

        return gatherResults([self._ask(worker) for worker in workers]).addCallback(on_answers)

    def _in_order(self) -> list[Worker]:
        return sorted(self._workers, key=lambda worker: (worker.number, worker.pid))

    def on_ended(self, worker: Worker) -> None:
        """Pass on the last report of ``worker``."""
        if self.retired is not None and worker.last_report:
            self.retired(json.loads(worker.last_report))

    def _ask(self, worker: Worker) -> Deferred[Report]:
        def on_answer(answer: bytes) -> Report:
            return self._with_state(json.loads(answer), worker, worker.state)

        def on_silent(failure: Failure) -> Report:
            return self._last(worker, "silent" if worker.state == "ready" else worker.state)

        return worker.get_report().addTimeout(ANSWER_TIMEOUT, self._reactor).addCallbacks(on_answer, on_silent)

    def _last(self, worker: Worker, state: str) -> Report:
        if worker.last_report:
            return self._with_state(json.loads(worker.last_report), worker, state)
        return report_of(empty_process(worker.number, worker.pid, state, self._unix(worker.started)), [])

    def _with_state(self, report: Any, worker: Worker, state: str) -> Report:
        report["process"]["state"] = state
        if state == "silent":
            report["process"]["detail"] = worker.stands_in
        if worker.answered:
            report["process"]["age"] = self._reactor.seconds() - worker.answered
        result: Report = report
        return result

    def _lost(self) -> list[Report]:
        return [
            report_of(empty_process(slot.number, 0, "lost", 0.0, slot.lost), [])
            for slot in self._slots
            if slot.current is None and slot.lost
        ]

    def _unix(self, seconds: float) -> float:
        """Return the Unix time for a time of the reactor's clock, which need not count from 1970."""
        return self._time() - (self._reactor.seconds() - seconds)

"""The status of an agent with workers, which the master puts together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, final

from twisted.internet.defer import Deferred

from spoa_twisted.status.merged import Merged
from spoa_twisted.status.report import Ending, Report, Status
from spoa_twisted.workers.collecting import Collector
from spoa_twisted.workers.reload import Reload


class Staff(Protocol):
    """The attributes of the master that the status needs."""

    collector: Collector
    reload: Reload
    restarts: dict[str, int]
    endings: deque[Ending]
    refused: int

    @property
    def stopping(self) -> bool:
        """True while the workers drain."""


@final
class MasterSource:
    """Asks all workers for their reports, and adds them up.

    Make it before the workers start: it keeps the numbers of those that end.

    :param listen: the endpoints, for the status.
    :param options: the options that differ from their defaults, by their names on the command line, without ``--``.
    :param time: returns the Unix time.
    """

    def __init__(
        self, master: Staff, listen: Sequence[str], options: Mapping[str, str], time: Callable[[], float]
    ) -> None:
        self._master = master
        self._time = time
        self._merged = Merged(listen, options, time(), workers=True)
        master.collector.retired = self._merged.retire

    def status(self) -> Deferred[Status]:
        """Return a Deferred of the present status. It waits half a second at most for workers that stand still."""
        return self._master.collector.collect().addCallback(self._merge)

    def _merge(self, reports: list[Report]) -> Status:
        master = self._master
        return self._merged.status(
            reports,
            self._time(),
            state="draining" if master.stopping else None,
            reloads=master.reload.results,
            restarts=master.restarts,
            endings=master.endings,
            refused=master.refused,
        )

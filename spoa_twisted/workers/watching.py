"""``spoactl watch`` with workers, in the master: all workers send what they see, and the master delivers it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import final

from spoa_twisted.status.watch import Watcher, Watchers
from spoa_twisted.workers.child import Worker


@final
class WorkersWatch(Watchers):
    """Lets others see the NOTIFYs of all workers.

    Each worker is asked for as many NOTIFYs as a watcher still needs, because any worker may get them. The watcher
    takes the NOTIFYs that arrive first.

    :param workers: the processes that run now. The collection changes.
    :param allow_values: whether a watcher may see the values of arguments and variables, or their types only.
    """

    def __init__(self, workers: Collection[Worker], *, allow_values: bool) -> None:
        super().__init__(allow_values=allow_values)
        self._workers = workers

    def add(self, worker: Worker) -> None:
        """Let the present watchers see the NOTIFYs of ``worker``, which has just been started.

        The process reads these commands before it takes a connection, so it misses no NOTIFY.
        """
        worker.on_watched = self.on_watched
        for watcher in self._watchers:
            _begin(worker, watcher)

    def on_watched(self, number: int, lines: bytes) -> None:
        """Deliver what a worker has sent. The watcher ``number`` may be over."""
        watcher = next((watcher for watcher in self._watchers if watcher.number == number), None)
        if watcher is None:
            return
        for line in lines.splitlines():
            seen = json.loads(line)
            if watcher.take(seen.get("dropped", 1)):
                watcher.answered(seen)

    def _begun(self, watcher: Watcher) -> None:
        for worker in self._workers:
            _begin(worker, watcher)

    def _ended(self, watcher: Watcher) -> None:
        for worker in self._workers:
            worker.end_watch(watcher.number)


def _begin(worker: Worker, watcher: Watcher) -> None:
    worker.begin_watch(watcher.number, watcher.left, values=watcher.values)

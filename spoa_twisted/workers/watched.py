"""``spoactl watch`` with workers, in a worker: it sends the master the NOTIFYs that it answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, final

from twisted.internet.defer import Deferred

from spoa_twisted.status.watch import Seen, Watch, Watcher
from spoa_twisted.workers import control

#: Bytes of lines that may wait for the answer to the last batch. The lines above this are dropped, and counted.
MAX_WAITING: Final = 2**18


@final
class WatchedWorker:
    """The watchers of the master, as a worker sees them.

    :param watch: of the agent in this process.
    :param worker: the number of this worker.
    :param ask: sends a command to the master.
    """

    def __init__(self, watch: Watch, worker: int, ask: Callable[..., Deferred[Any]]) -> None:
        self._watch = watch
        self._worker = worker
        self._ask = ask
        self._watchers: dict[int, tuple[Watcher, _Batches]] = {}

    def begin(self, number: int, count: int, *, values: bool) -> None:
        """Send the next ``count`` NOTIFYs for the watcher ``number`` of the master.

        The master has checked that it may see values, and that there are not too many watchers.
        """
        batches = _Batches(number, self._worker, self._ask)
        watcher = self._watch.begin(count, values=values, deliver=batches.add)
        self._watchers[number] = watcher, batches
        watcher.finished.addCallback(lambda _: self._watchers.pop(number))

    def end(self, number: int) -> None:
        """Send no more. The watcher ``number`` may be over here already."""
        if number in self._watchers:
            self._watchers[number][0].end()

    def flush(self) -> None:
        """Send the lines that wait: this process has drained, and ends."""
        for _, batches in self._watchers.values():
            batches.send()

    def end_all(self) -> None:
        """Send no more: the master has gone."""
        for watcher, _ in list(self._watchers.values()):
            watcher.end()


@final
class _Batches:
    """Sends the lines of one watcher. One batch at a time is on its way, so that a slow master does not fill memory.

    A batch has all the lines that have come since the last one was sent.
    """

    def __init__(self, number: int, worker: int, ask: Callable[..., Deferred[Any]]) -> None:
        self._number = number
        self._worker = worker
        self._ask = ask
        self._lines: list[bytes] = []
        self._size = self._dropped = 0
        self._in_flight = False

    def add(self, seen: Seen) -> None:
        """Send a NOTIFY."""
        line = self._line(seen)
        if self._in_flight and self._size + len(line) > MAX_WAITING:
            self._dropped += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if not self._in_flight:
            self.send()

    def send(self, _: object = None) -> None:
        """Send the lines that wait."""
        self._in_flight = bool(self._lines)
        if not self._in_flight:
            return
        if self._dropped:
            self._lines.append(self._line({"dropped": self._dropped}))
        lines = b"\n".join(self._lines)
        self._lines, self._size, self._dropped = [], 0, 0
        # If the answer does not come, the master has gone.
        self._ask(control.Watched, number=self._number, lines=lines).addCallbacks(self.send, lambda failure: None)

    def _line(self, seen: Seen) -> bytes:
        return json.dumps({"worker": self._worker, **seen}).encode()

"""Write lines to stdout in a thread, so that a slow terminal does not stop the traffic."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Final, final

#: The most bytes that wait for the terminal. Lines beyond it are dropped, and counted.
MAX_WAITING: Final = 2**22


@final
class Output:
    """Lines that a thread writes to a file descriptor. No method blocks, but :meth:`close`.

    :param descriptor: where to write.
    :param dropped_line: returns the line that stands for a number of dropped lines.
    :param on_broken: called once, in the thread, when the reader has ended, as in ``spoactl proxy | head``.
    :param max_waiting: the most bytes that wait.
    """

    def __init__(
        self,
        descriptor: int,
        dropped_line: Callable[[int], str],
        on_broken: Callable[[], None],
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._descriptor = descriptor
        self._dropped_line = dropped_line
        self._on_broken = on_broken
        self._max_waiting = max_waiting
        self._condition = Condition()
        self._waiting: deque[bytes] = deque()
        # The bytes of the lines in _waiting, and of those that the thread is writing.
        self._size = 0
        # The lines that were dropped since the last line that was not.
        self._dropped = 0
        self._closed = False
        # A daemon: a terminal that was stopped with Ctrl-S must not keep the process from ending.
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Write ``line``, or drop it if the lines before it still wait for the terminal."""
        # A name may have lone surrogates, which are bytes that are not UTF-8.
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._condition:
            if self._closed:
                return
            if self._size + len(data) > self._max_waiting:
                self._dropped += 1
                return
            self._report_dropped()
            self._add(data)

    def close(self, seconds: float) -> None:
        """Write no more lines. Wait until those before are written, but no longer than ``seconds``."""
        with self._condition:
            self._report_dropped()
            self._closed = True
            self._condition.notify()
        self._thread.join(seconds)

    def _report_dropped(self) -> None:
        if self._dropped:
            self._add(self._dropped_line(self._dropped).encode() + b"\n")
            self._dropped = 0

    def _add(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)
        self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closed:
                    self._condition.wait()
                data = b"".join(self._waiting)
                self._waiting.clear()
            if not data:
                return
            try:
                self._write(data)
            except OSError:
                # BrokenPipeError if the reader has ended, EIO if the terminal was closed.
                with self._condition:
                    self._closed = True
                    self._waiting.clear()
                self._on_broken()
                return
            with self._condition:
                self._size -= len(data)

    def _write(self, data: bytes) -> None:
        # Not sys.stdout: at its end, the interpreter would wait for the lock that this thread holds while it writes.
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                # Another program has made the terminal non-blocking.
                select.select([], [self._descriptor], [])

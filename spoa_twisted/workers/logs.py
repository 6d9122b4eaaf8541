"""The log of a worker: its events go as lines of JSON through a pipe, and the master emits them again.

So there is one log, in the order of the arrival, for all observers and for all kinds of logs that twistd has. An event
from a worker has the fields ``worker``, its number, ``log_text``, and ``traceback`` if it is a failure. The fields of
the original event that are numbers or texts are kept too.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from spoa_twisted.escaping import TRACEBACK
from spoa_twisted.workers.stacks import MAX_LINES

# Bytes. A longer line is cut into several. A handler may print a line of any length.
_MAX_LINE: Final = 2**20

# The fields of an event that the master sets itself, or that only Python objects of the worker can have.
_NOT_SENT: Final = frozenset(
    {"log_format", "log_level", "log_namespace", "log_time", "log_failure", "worker", "traceback"}
)

# "Main loop terminated.", "Received SIGTERM, shutting down."
_REACTOR: Final = "twisted.internet.base"

#: The namespace of what a worker has written to its stdout and stderr.
OUTPUT: Final = "spoa_twisted.workers"


@final
@implementer(ILogObserver)
class PipeObserver:
    """Writes events to a pipe. It is the only observer of a worker's log.

    :param descriptor: the end of the pipe that is written to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Threads of handlers log too.
        self._lock = threading.Lock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write ``event``, but not that the reactor was stopped: the master logs the end of a worker."""
        if event.get("log_namespace") == _REACTOR and event.get("log_level") is LogLevel.info:
            return
        self.write(to_line(event))

    def write(self, line: Mapping[str, Any]) -> None:
        """Write an object as one line of JSON. Do nothing if the master has ended: nobody reads the pipe."""
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                # A handler that logs must not fail because of it: the worker drains now, and ends.
                return


def to_line(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object that stands for ``event``."""
    level = event.get("log_level")
    failure = event.get("log_failure")
    traceback = None if failure is None else failure.getTraceback().rstrip()
    text = event.get("log_format")
    if isinstance(text, str) and text.endswith(TRACEBACK):
        # log_failure() has put the traceback into the text.
        traceback = event.get("traceback")
        event = {**event, "log_format": text.removesuffix(TRACEBACK)}
    line = {
        "time": event.get("log_time", 0.0),
        "level": level.name if level is not None else "info",
        "namespace": str(event.get("log_namespace", "")),
        "text": formatEvent(dict(event)),
        "fields": {
            name: value
            for name, value in event.items()
            # An item whose name begins with "_" is only a part of the text, as in spoa_twisted.log.
            if isinstance(value, (str, int, float)) and name not in _NOT_SENT and not name.startswith("_")
        },
    }
    if traceback is not None:
        line["traceback"] = traceback
    return line


def emit_again(line: Mapping[str, Any], worker: int, publish: Callable[[dict[str, Any]], None]) -> None:
    """Emit the event that ``line`` stands for, with the number of its worker."""
    event = {
        **line["fields"],
        "log_time": line["time"],
        "log_level": LogLevel.lookupByName(line["level"]),
        "log_namespace": line["namespace"],
        "log_format": "worker {worker}: {log_text}",
        "worker": worker,
        "log_text": line["text"],
    }
    if "traceback" in line:
        event |= {"traceback": line["traceback"], "log_format": f"{event['log_format']}{TRACEBACK}"}
    publish(event)


@final
class Lines:
    """Splits the bytes of a pipe into lines.

    :param on_line: called with each line that is not empty, without its line break.
    """

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line.strip():
                self._on_line(line)

    def end(self) -> None:
        """Pass on the last line, which has no line break. Call it when the pipe is closed."""
        self.feed(b"\n")


@final
class WorkerLog:
    """Reads the pipes of one worker: its events, its stdout and its stderr.

    :param worker: the number of the worker.
    :param on_cannot_start: called with the reason and with a list of files, if the worker says that it cannot start.
    :param on_standstill: called with the line of code in which the worker stands still, if the worker tells.
    :param publish: receives the events.
    """

    def __init__(
        self,
        worker: int,
        on_cannot_start: Callable[[str, list[str]], None],
        on_standstill: Callable[[str], None],
        publish: Callable[[dict[str, Any]], None] = globalLogPublisher,
    ) -> None:
        self._worker = worker
        self._on_cannot_start = on_cannot_start
        self._on_standstill = on_standstill
        self._publish = publish
        #: The pipes, by the number of the descriptor in the worker: 1 is stdout, 2 is stderr.
        self.pipes: dict[int, Lines] = {
            1: Lines(lambda line: self._on_output(line, "info")),
            2: Lines(self._on_error_output),
        }
        #: The last lines of stderr.
        self.errors: deque[str] = deque(maxlen=MAX_LINES)

    def add_events(self, descriptor: int) -> None:
        """Read events from the pipe that is ``descriptor`` in the worker."""
        self.pipes[descriptor] = Lines(self._on_event)

    def _on_event(self, data: bytes) -> None:
        try:
            line = json.loads(data)
            if "cannot_start" in line:
                self._on_cannot_start(line["cannot_start"], line["files"])
            elif "stands_in" in line:
                self._on_standstill(line["stands_in"])
            else:
                emit_again(line, self._worker, self._publish)
        except (ValueError, TypeError, KeyError, LookupError):
            # The handlers of a worker could write to the pipe.
            self._on_output(data, "warn")

    def _on_error_output(self, data: bytes) -> None:
        self.errors.append(data.decode(errors="replace"))
        self._on_output(data, "warn")

    def _on_output(self, data: bytes, level: str) -> None:
        text = data.decode(errors="replace").rstrip("\r")
        line = {"time": time.time(), "level": level, "namespace": OUTPUT, "text": text, "fields": {}}
        emit_again(line, self._worker, self._publish)

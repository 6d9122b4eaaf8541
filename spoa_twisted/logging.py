"""The log as lines of JSON, for log collectors: one flat object for each event.

- ``twistd spoa --log-format json`` writes such a log, and so does ``twist spoa --log-format json``.
- ``twistd -n --logger spoa_twisted.logging.json`` does so for any service, for example in a ``.tac`` file.
- An application passes ``json_observer(sys.stdout)`` to ``globalLogBeginner.beginLoggingTo``.

:mod:`spoa_twisted.json_lines` says which fields a line has.
"""

from __future__ import annotations

import logging as standard
import signal
import sys
from typing import IO, Any, Final, final

from twisted.logger import FileLogObserver, ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from spoa_twisted.json_lines import json_line

__all__ = ["StandardHandler", "json", "json_observer"]

# From the highest level to the lowest one.
_LEVELS: Final = (
    (standard.CRITICAL, LogLevel.critical),
    (standard.ERROR, LogLevel.error),
    (standard.WARNING, LogLevel.warn),
    (standard.INFO, LogLevel.info),
)


def json_observer(file: IO[Any]) -> ILogObserver:
    """Return an observer of Twisted's log that writes a line of JSON for each event to ``file``.

    What libraries log with Python's ``logging`` goes to the same log from now on, unless the application has
    configured ``logging``: Python would write it to stderr as text.
    """
    standard.lastResort = StandardHandler(standard.WARNING)
    return FileLogObserver(file, json_line)


@final
class JSONLog:
    """Makes the observer of twistd's log. ``twistd --logger spoa_twisted.logging.json`` calls :data:`json`."""

    def __init__(self) -> None:
        #: The path of the log file; empty for stdout. The command line of ``spoa`` sets it to twistd's ``--logfile``.
        self.path = ""

    def __call__(self) -> ILogObserver:
        """Return an observer that writes to :attr:`path`, which twistd opens like its own log file.

        :raises SystemExit: if the file cannot be opened.
        """
        if not self.path:
            return json_observer(sys.stdout)
        # As twistd does without --logger. The file is rotated when it has 1 MB, and on SIGUSR1.
        try:
            file: Any = LogFile.fromFullPath(self.path)
        except OSError as error:
            raise SystemExit(f"spoa: cannot open the log file {self.path}: {error.strerror}") from None
        if not signal.getsignal(signal.SIGUSR1):
            signal.signal(signal.SIGUSR1, lambda number, frame: _rotate_soon(file))
        return json_observer(file)


def _rotate_soon(file: Any) -> None:
    from twisted.internet import reactor

    # A signal handler may interrupt any line of Python code, also one that writes to the file.
    reactor.callFromThread(file.rotate)  # type: ignore[attr-defined]


#: The name that ``twistd --logger`` expects.
json: Final = JSONLog()


@final
class StandardHandler(standard.Handler):
    """Passes what is logged with Python's ``logging`` on to Twisted's log, with its level and its traceback."""

    def emit(self, record: standard.LogRecord) -> None:
        """Log ``record``. Python calls this."""
        # Twisted's own STDLibLogObserver passes events on to the logger "twisted". They are in Twisted's log already.
        if record.name == "twisted":
            return
        try:
            values: dict[str, Any] = {"log_text": record.getMessage()}
            if record.exc_info and record.exc_info[1] is not None:
                values["log_failure"] = Failure(record.exc_info[1], record.exc_info[0], record.exc_info[2])
        except Exception:
            self.handleError(record)
            return
        level = next((level for number, level in _LEVELS if record.levelno >= number), LogLevel.debug)
        Logger(record.name).emit(level, "{log_text}", **values)

"""The option ``--log-format`` of ``twistd spoa`` and ``twist spoa``.

The log belongs to twistd or twist, and their options are parsed before ours. Their program reads the options again when
all are parsed, and opens the log then. So this option changes theirs.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

from twisted.logger import textFileLogObserver

from spoa_twisted import logging
from spoa_twisted.runner.errors import CannotStart

TEXT: Final = "text"
JSON: Final = "json"

_HELP: Final = (
    "The format of the log: text, or json, a JSON object on each line. "
    "Without it, twistd logs text, and twist logs text on a terminal and its own JSON elsewhere."
)

# The value of twistd's --logger.
_LOGGER: Final = "spoa_twisted.logging.json"
# twistd's log file when it becomes a daemon without --logfile.
_DAEMON_LOG: Final = "twistd.log"


def _format(text: str) -> str:
    if text not in (TEXT, JSON):
        raise CannotStart(f"--log-format is {text!r}, which is none of {TEXT}, {JSON}")
    return text


#: The row of the option in ``optParameters``.
ROW: Final = ("log-format", None, None, _HELP, _format)


def apply(value: str | None, program: MutableMapping[str, Any] | None) -> None:
    """Let the program that is the parent of ``spoa`` write its log in the format ``value``.

    :param value: ``None`` without the option.
    :param program: the options of twistd or twist; ``None`` if there are none, as in tests.
    :raises CannotStart: if twistd's own options ask for another log.
    """
    if program is None:
        return
    if "fileLogObserverFactory" in program:
        if value is not None:
            program["fileLogObserverFactory"] = logging.json_observer if value == JSON else textFileLogObserver
        return
    logger = program.get("logger")
    if value is not None and logger not in (None, _LOGGER):
        raise CannotStart(f"--logger {logger} decides about the log: leave out --log-format or --logger")
    if value == TEXT and logger == _LOGGER:
        raise CannotStart(f"--logger {_LOGGER} writes JSON: leave out --log-format text or --logger")
    if value == JSON and program.get("syslog"):
        raise CannotStart("lines for syslog are text: leave out --log-format json or --syslog")
    if value == JSON or logger == _LOGGER:
        program["logger"] = _LOGGER
        logging.json.path = _path(program)


def _path(twistd: MutableMapping[str, Any]) -> str:
    """Return the path of twistd's log file; empty for stdout.

    :raises CannotStart: for a daemon that would log to stdout, as twistd itself does.
    """
    path: str = twistd.get("logfile") or ("-" if twistd.get("nodaemon") else _DAEMON_LOG)
    if path != "-":
        return path
    if not twistd.get("nodaemon"):
        raise CannotStart("a daemon cannot log to stdout: leave out --logfile -, or start twistd with -n")
    return ""

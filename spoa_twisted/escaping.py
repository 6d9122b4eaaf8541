"""Texts from peers and from exceptions in a line of the log: cut, and escaped.

Such a text may be as long as a frame, and may have line breaks and other control characters.
"""

from __future__ import annotations

# PyPy loads this module from its file when a text is first encoded as ASCII. If the process has no file descriptor left
# at that time, loading fails, and the line of the log is lost. So the module is loaded now.
import encodings.ascii  # noqa: F401
import re
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

# Characters. A longer name of a message or a variable is cut in the log.
_MAX_NAME_LENGTH: Final = 64

# Characters. A longer text of an exception is cut in the log, and a longer traceback too. The traceback of a
# RecursionError has 80,000.
_MAX_TEXT_LENGTH: Final = 2000
_MAX_TRACEBACK_LENGTH: Final = 10_000

#: The end of the format of a line whose traceback was escaped. A log of JSON lines has it in a field instead.
TRACEBACK: Final = "\n{traceback}"

# Every character but printable ASCII. Terminals and log viewers may interpret the others.
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
# The same, without the line breaks of a traceback.
_UNPRINTABLE_BUT_NEWLINE: Final = re.compile(r"[^ -~\n]")


def cut(name: str) -> str:
    """Return the first 64 characters of ``name``, the name of a message or of a variable. They are not escaped."""
    return name[:_MAX_NAME_LENGTH]


def in_one_line(text: str) -> str:
    """Return the first 2,000 characters of ``text``. Line breaks, and all else but printable ASCII, are escaped."""
    return _UNPRINTABLE.sub(_escape, text[:_MAX_TEXT_LENGTH])


def log_failure(log: Logger, text: str, failure: Failure, **values: Any) -> None:
    """Log ``failure`` with its traceback. Cut and escape the text, if it is long or has control characters.

    The text of an exception may hold what a peer has sent, for example in a ``KeyError``.

    :param text: a format for ``values``, the first line of what is logged.
    """
    message = safe_str(failure.value)
    traceback = failure.getTraceback()
    harmless = not _UNPRINTABLE_BUT_NEWLINE.search(traceback) and len(traceback) <= _MAX_TRACEBACK_LENGTH
    if harmless and message.isprintable() and len(message) <= _MAX_TEXT_LENGTH:
        # Log observers of the application then receive the Failure itself, not only its text.
        log.failure(text, failure, **values)
        return
    # A traceback ends with the type and the message of the exception. In the message, line breaks are escaped too: they
    # could look like lines of the log. The frames before it keep their line breaks.
    frames, found, _ = traceback.rpartition(f": {message}\n")
    if found:
        # The last frames are the most useful ones: the exception was raised there.
        frames = _UNPRINTABLE_BUT_NEWLINE.sub(_escape, frames[-_MAX_TRACEBACK_LENGTH:])
        traceback = f"{frames}: {in_one_line(message)}"
    else:
        traceback = in_one_line(traceback)
    log.critical(f"{text}{TRACEBACK}", traceback=traceback, **values)  # noqa: G004 - the format is a constant


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")

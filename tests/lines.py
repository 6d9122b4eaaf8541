"""The lines of a log, and failures for them."""

from __future__ import annotations

from typing import Any

from twisted.logger import ILogObserver, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(ILogObserver)
class Lines:
    """The lines of a log, at all levels."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __call__(self, event: dict[str, Any]) -> None:
        line = f"{event['log_level'].name}: {formatEvent(event)}"
        failure = event.get("log_failure")
        self._lines.append(line if failure is None else f"{line}\n{failure.getTraceback()}".rstrip())

    def take(self) -> list[str]:
        """Return the lines since the last call, and forget them. A traceback stands behind its line."""
        lines, self._lines = self._lines, []
        return lines


def failure_of(error: BaseException) -> Failure:
    """Return the Failure of an exception that was raised, with a traceback."""
    try:
        raise error
    except BaseException:
        return Failure()

"""The error of an agent that cannot start."""

from __future__ import annotations

from typing import final


@final
class CannotStart(SystemExit, Exception):
    """The agent cannot start. The process prints one line with the reason, and its exit status is 1.

    It is a ``SystemExit``, so that Python prints the line without a traceback. It is an ``Exception`` too, because a
    daemon of twistd reports only an ``Exception`` to the process that the user started.

    :param reason: one line, without a line break.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"spoa: {reason}")

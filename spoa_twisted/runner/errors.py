"""The error of an agent that cannot start, and the place in the user's code where it came from."""

from __future__ import annotations

import traceback
from typing import Final, final

# place_of skips these packages: the user needs a line of the handlers' module, not of the code that calls it.
_FRAMEWORK_PACKAGES: Final = ("asyncio", "importlib", "spoa_twisted", "twisted")


@final
class CannotStart(SystemExit, Exception):
    """The agent cannot start. The process prints one line with the reason, and its exit status is 1.

    It is a ``SystemExit``, so that Python prints the line without a traceback. It is an ``Exception`` too, because a
    daemon of twistd reports only an ``Exception`` to the process that the user started.

    :param reason: one line, without a line break.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"spoa: {reason}")


def place_of(error: BaseException) -> str:
    """Return the file and the line of the user's own code where ``error`` came from, in parentheses.

    It is the innermost line that is not in one of ``_FRAMEWORK_PACKAGES``. The text is empty if there is no such line.
    """
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        package, _, _ = frame.f_globals.get("__name__", "").partition(".")
        file = frame.f_code.co_filename
        # A name like "<frozen importlib._bootstrap>" is not a file that the user can open.
        if package not in _FRAMEWORK_PACKAGES and not file.startswith("<"):
            place = f" ({file}, line {line})"
    return place

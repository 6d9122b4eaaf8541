"""The error of an agent that cannot start, and the place in the user's code where it came from."""

from __future__ import annotations

import traceback
from typing import final

from spoa_twisted.runner.stalls import Frame


@final
class CannotStart(SystemExit, Exception):
    """The agent cannot start. The process prints one line with the reason, and its exit status is 1.

    It is a ``SystemExit``, so that Python prints the line without a traceback. It is an ``Exception`` too, because a
    daemon of twistd reports only an ``Exception`` to the process that the user started.

    :param reason: one line, without a line break.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"spoa: {reason}")
        #: For a program other than twistd, which writes its own name in front.
        self.reason = reason


def place_of(error: BaseException) -> str:
    """Return the file and the line of the user's own code where ``error`` came from, in parentheses.

    It is the innermost line that is in no library: if a file is missing, that is the line that opens it, and not the
    line of ``pathlib`` that raised the exception. If the handlers are in an installed package, it is the innermost line
    of an installed package. The text is empty if there is no such line.
    """
    lines = traceback.walk_tb(error.__traceback__)
    frames = [Frame(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in lines]
    foreign = [frame for frame in frames if not frame.is_library()]
    own = [frame for frame in foreign if not frame.is_installed()] or foreign
    return f" ({own[-1].file}, line {own[-1].line})" if own else ""

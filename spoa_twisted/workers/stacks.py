"""Finds the user's line in the stack that faulthandler writes when a process crashes, or is ended by SIGABRT."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from spoa_twisted.runner.stalls import Frame, find_place

_FRAME: Final = re.compile(r'  File "(.*)", line (\d+) in (.*)')

# Above the frames of the thread that got the signal, which is the main thread as a rule. PyPy writes the second line,
# and its numbers of lines are those of the beginning of the function.
_CURRENT: Final = ("Current thread ", "Stack (most recent call first")
_OTHER: Final = "Thread "

#: Lines. Deeper stacks are cut by faulthandler itself, at 100 frames a thread.
MAX_LINES: Final = 1000


def find_line(lines: Iterable[str]) -> str:
    """Return the innermost line of the user's code, after ``" in "``. It is empty if there is no stack.

    :param lines: the stderr of the process, without line breaks.
    """
    frames: list[Frame] = []
    current = False
    for line in lines:
        match = _FRAME.match(line)
        if match and current:
            frames.append(Frame(match[1], int(match[2]), match[3]))
        elif line.startswith((*_CURRENT, _OTHER)):
            current = line.startswith(_CURRENT)
    place = find_place(frames)
    return f" in {place}" if place else ""

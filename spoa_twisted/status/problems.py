"""What went wrong: each kind of event with each subject once, with a count and the text of the last one."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final, final

from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

import spoa_twisted
import twisted
from spoa_twisted.escaping import cut, in_one_line
from spoa_twisted.status.report import Problem

#: How many subjects are kept of each kind of event: those of the last events. Peers choose the names of messages, so
#: the number must be limited.
MAX_SUBJECTS: Final = 16

# Characters of a text.
_MAX_TEXT: Final = 400

# Seconds. A text is made at most once in this time: that takes longer than to count, and handlers may fail with each
# request.
_TEXT_INTERVAL: Final = 1.0

# The innermost frames of a traceback that are searched for the user's own code.
_MAX_FRAMES: Final = 100

# The beginnings of the names of files that are not the user's own code.
_LIBRARIES: Final = tuple(
    [os.path.dirname(str(module.__file__)) + os.sep for module in (twisted, spoa_twisted, os)]
    + ["<"],  # code without a file
)


@final
class Problems:
    """The problems of one agent.

    :param seconds: the clock: Unix times.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        # By the kind and the subject, the one that happened last at the end.
        self._problems: dict[str, dict[str, Problem]] = {}
        self._texts_made: dict[tuple[str, str], float] = {}

    def add(self, kind: str, subject: str, text: Callable[[], str]) -> None:
        """Count a problem.

        :param kind: the name of the event's class.
        :param subject: the name of a message, function or variable, or a host. It may be any text.
        :param text: returns more about this time.
        """
        now = self._seconds()
        subject = in_one_line(cut(subject))
        problems = self._problems.setdefault(kind, {})
        problem = problems.pop(subject, None)
        if problem is None:
            if len(problems) >= MAX_SUBJECTS:
                oldest = next(iter(problems))
                del problems[oldest], self._texts_made[kind, oldest]
            problem = {"kind": kind, "subject": subject, "text": "", "count": 0, "first": now, "last": now}
            self._texts_made[kind, subject] = now - _TEXT_INTERVAL
        problem["count"] += 1
        problem["last"] = now
        if not 0 <= now - self._texts_made[kind, subject] < _TEXT_INTERVAL:
            self._texts_made[kind, subject] = now
            problem["text"] = in_one_line(text()[:_MAX_TEXT])
        problems[subject] = problem

    def snapshot(self) -> list[Problem]:
        """Return all problems, the one that happened last first."""
        problems = [problem.copy() for kind in self._problems.values() for problem in kind.values()]
        return sorted(problems, key=lambda problem: problem["last"], reverse=True)


def describe(failure: Failure) -> str:
    """Return the exception in one line: ``ValueError: no such user (users.py, line 14, in find)``."""
    error = failure.value
    assert error is not None
    text = safe_str(error)
    name = type(error).__name__
    # Of a long text, the place must be left.
    text = f"{name}: {text[: _MAX_TEXT // 2]}" if text else name
    frames = list(islice(traceback.walk_tb(failure.getTracebackObject()), _MAX_FRAMES))
    own = [(frame, line) for frame, line in frames if not _is_library(frame.f_code.co_filename)] or frames
    if not own:
        return text
    frame, line = own[-1]
    return f"{text} ({os.path.basename(frame.f_code.co_filename)}, line {line}, in {frame.f_code.co_name})"


def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARIES) or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)

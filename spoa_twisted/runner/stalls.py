"""Standstills of the process: for how long the reactor called nothing, and in which line of code it was meanwhile.

The monitor is a timer that the reactor calls every 0.25 seconds. Each call also arms the timer of Python's
``faulthandler``. This is a thread that writes the tracebacks of all threads to a file after one second, unless it is
armed again before. It needs no lock of Python, so it works also when the reactor's thread blocks in an extension.

A process has one such timer. If the handlers' module calls ``faulthandler.dump_traceback_later``, the monitor cancels
that.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

import spoa_twisted
import twisted
from spoa_twisted.handlers.hold_ups import HoldUps
from spoa_twisted.observer import IObserver, Standstill

#: Seconds between two calls of the monitor.
INTERVAL: Final = 0.25

#: Seconds. A shorter standstill is not reported.
SHORTEST: Final = 1.0

_THREAD: Final = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME: Final = re.compile(r'  File "(.*)", line (\d+) in (.*)')

# The functions in which a reactor waits for events. If the process was stopped, or had no CPU, it was there.
_WAITING: Final = frozenset({"doPoll", "doSelect", "doKEvent", "select"})

_TWISTED: Final = os.path.dirname(twisted.__file__) + os.sep
# The beginnings of the names of files that are not the user's own code.
_LIBRARIES: Final = (
    _TWISTED,
    os.path.dirname(spoa_twisted.__file__) + os.sep,
    os.path.dirname(os.__file__) + os.sep,
    # Code without a file, such as <frozen importlib._bootstrap>.
    "<",
)


class Frame(NamedTuple):
    """One line of a traceback."""

    file: str
    line: int
    function: str

    def is_installed(self) -> bool:
        """Return whether the file is part of an installed package."""
        return not {"site-packages", "dist-packages"}.isdisjoint(Path(self.file).parts)

    def is_library(self) -> bool:
        """Return whether the file is part of Python, Twisted or this package."""
        if self.is_installed():
            # Some systems have their site-packages in the folder of the standard library.
            return self.file.startswith(_LIBRARIES[:2])
        return self.file.startswith(_LIBRARIES)

    def __str__(self) -> str:
        folder = os.getcwd() + os.sep
        return f"{self.file.removeprefix(folder)}, line {self.line}, in {self.function}"


class Tracebacks(Protocol):
    """Where :class:`Stalls` gets the traceback of a standstill from."""

    def arm(self) -> None:
        """Write the tracebacks of all threads in one second, unless this method or ``disarm`` is called before."""

    def disarm(self) -> str:
        """Write no more. Return the tracebacks that were written, and forget them."""

    def close(self) -> None:
        """Write no more, and close the file."""


@final
class FaultHandler:
    """The tracebacks of Python's ``faulthandler``, in a file in memory."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file = open(os.memfd_create("spoa-tracebacks"), "w+b", buffering=0)  # noqa: SIM115 - see close()
        else:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - see close()

    def arm(self) -> None:
        """See :class:`Tracebacks`."""
        faulthandler.dump_traceback_later(SHORTEST, file=self._file)

    def disarm(self) -> str:
        """See :class:`Tracebacks`."""
        faulthandler.cancel_dump_traceback_later()
        self._file.seek(0)
        tracebacks = self._file.read()
        self._file.seek(0)
        self._file.truncate()
        return tracebacks.decode(errors="replace")

    def close(self) -> None:
        """See :class:`Tracebacks`."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()


@final
class NoTracebacks:
    """Takes the place of :class:`FaultHandler` where Python has no timer for tracebacks."""

    def arm(self) -> None:
        """Do nothing."""

    def disarm(self) -> str:
        """Return no traceback."""
        return ""

    def close(self) -> None:
        """Do nothing."""


@final
class Stalls:
    """Reports standstills of the reactor.

    If a handler has held up the agent, its ``HandlerBlocked`` gets the place, and there is no ``Standstill``.

    :param hold_ups: the handlers that have held up the agent.
    :param seconds: a clock that is never set. Setting the reactor's own clock forward looks like a standstill.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        observer: IObserver,
        hold_ups: HoldUps,
        tracebacks: Tracebacks,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._observer = observer
        self._hold_ups = hold_ups
        self._tracebacks = tracebacks
        self._seconds = seconds
        self._thread = 0
        self._last = (0.0, 0.0)
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Begin in the reactor's first turn. Before that, the process starts, and this is not a standstill."""
        self._timer = self._reactor.callLater(0, self._begin)

    def stop(self) -> None:
        """End the monitor."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._tracebacks.close()

    def _begin(self) -> None:
        self._thread = threading.get_ident()
        self._arm(self._now())

    def _arm(self, now: tuple[float, float]) -> None:
        self._last = now
        self._tracebacks.arm()
        self._timer = self._reactor.callLater(INTERVAL, self._on_timer)

    def _now(self) -> tuple[float, float]:
        return self._seconds(), self._reactor.seconds()

    def _on_timer(self) -> None:
        # The smaller one counts: when the reactor's clock was set back, this call is late although nothing stood still.
        now = self._now()
        elapsed = min(now[0] - self._last[0], now[1] - self._last[1])
        if elapsed >= SHORTEST:
            place = find_place(frames_of(self._tracebacks.disarm(), self._thread))
            # The handlers of the reactor's last turn are not reported yet.
            if elapsed - self._hold_ups.explain(place) >= SHORTEST:
                self._observer.on_event(Standstill(elapsed, place))
        # With the time at which this call began: an observer, or a log that nobody reads, may block too.
        self._arm(now)


def tracebacks_of_this_python() -> Tracebacks:
    """Return a ``FaultHandler``, or ``NoTracebacks`` if this Python or this operating system has no such timer."""
    if sys.implementation.name == "cpython" and hasattr(faulthandler, "dump_traceback_later"):
        try:
            return FaultHandler()
        except OSError:
            # No file can be opened.
            pass
    return NoTracebacks()


def frames_of(tracebacks: str, thread: int) -> list[Frame]:
    """Return the frames of ``thread``, the innermost first.

    :param tracebacks: the text of ``faulthandler``, with the tracebacks of all threads.
    :param thread: the thread's ``threading.get_ident()``.
    """
    frames: list[Frame] = []
    current = False
    for line in tracebacks.splitlines():
        if begin := _THREAD.match(line):
            current = int(begin[1], 16) == thread
        elif current and (frame := _FRAME.fullmatch(line)):
            frames.append(Frame(frame[1], int(frame[2]), frame[3]))
    return frames


def find_place(frames: list[Frame]) -> str | None:
    """Return the innermost line of the user's own code. Without such a line, return the innermost one.

    ``None`` if there are no frames, or if the reactor was waiting for events or calling the monitor itself: then the
    process was stopped, or had no CPU.

    :param frames: the frames of the reactor's thread, the innermost first.
    """
    twisted_frames = [number for number, frame in enumerate(frames) if frame.file.startswith(_TWISTED)]
    if twisted_frames:
        # The frames outside of Twisted are those of the program twistd, which has called Twisted.
        frames = frames[: twisted_frames[-1] + 1]
    foreign = [frame for frame in frames if not frame.is_library()]
    own = [frame for frame in foreign if not frame.is_installed()]
    for candidates in (own, foreign):
        if candidates:
            return str(candidates[0])
    if not frames or frames[0].function in _WAITING or frames[0].file == __file__:
        return None
    return str(frames[0])

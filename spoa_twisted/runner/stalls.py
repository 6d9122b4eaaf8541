"""Standstills of the process: for how long the reactor called nothing, and in which line of code it was meanwhile.

The monitor is a timer that the reactor calls every 0.25 seconds. If it is not called for one second, a thread reads the
frames of the reactor's thread. An extension that keeps Python's lock, such as ``re``, delays this thread until its call
has returned: the line may then be the next one.

``faulthandler.dump_traceback_later`` would need no lock. But on CPython 3.10, 3.11 and PyPy it crashes the process if
the frames change while it reads them: a handler that computes for a second could end the agent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
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


class Frames(Protocol):
    """Where :class:`Stalls` gets the frames of a standstill from."""

    def arm(self) -> None:
        """Read the frames of the calling thread in one second, unless this method is called before."""

    def take(self) -> list[Frame]:
        """Return the frames that were read since the last call of ``arm``, the innermost first."""

    def close(self) -> None:
        """Read no more."""


@final
class FrameReader:
    """Reads the frames of a thread in another thread.

    :param on_read: called in that other thread with the frames, the innermost first.
    """

    def __init__(self, on_read: Callable[[list[Frame]], object] = lambda frames: None) -> None:
        self._on_read = on_read
        self._deadline = 0.0
        self._watched = 0
        # The deadline at which frames were read, and the frames. They count until arm() sets another deadline.
        self._read: tuple[float, list[Frame]] = (0.0, [])
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def arm(self) -> None:
        """See :class:`Frames`."""
        self._deadline = time.monotonic() + SHORTEST
        if self._thread is None:
            # Not in __init__: a daemon forks after that, and threads do not survive a fork.
            self._watched = threading.get_ident()
            self._thread = threading.Thread(target=self._run, name="spoa-standstills", daemon=True)
            # If the system allows no more threads, standstills are reported without their place.
            with suppress(RuntimeError):
                self._thread.start()

    def take(self) -> list[Frame]:
        """See :class:`Frames`."""
        deadline, frames = self._read
        return frames if deadline == self._deadline else []

    def close(self) -> None:
        """See :class:`Frames`."""
        self._closed.set()

    def _run(self) -> None:
        wait = SHORTEST
        while not self._closed.wait(wait):
            deadline = self._deadline
            wait = deadline - time.monotonic()
            if wait <= 0:
                if self._read[0] != deadline:
                    self._read = (deadline, frames_of(sys._current_frames().get(self._watched)))
                    self._on_read(self._read[1])
                # When arm() is called again, its deadline is at least one second later.
                wait = SHORTEST


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
        frames: Frames,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._observer = observer
        self._hold_ups = hold_ups
        self._frames = frames
        self._seconds = seconds
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
            self._frames.close()

    def _begin(self) -> None:
        self._arm(self._now())

    def _arm(self, now: tuple[float, float]) -> None:
        self._last = now
        self._frames.arm()
        self._timer = self._reactor.callLater(INTERVAL, self._on_timer)

    def _now(self) -> tuple[float, float]:
        return self._seconds(), self._reactor.seconds()

    def _on_timer(self) -> None:
        # The smaller one counts: when the reactor's clock was set back, this call is late although nothing stood still.
        now = self._now()
        elapsed = min(now[0] - self._last[0], now[1] - self._last[1])
        if elapsed >= SHORTEST:
            place = find_place(self._frames.take())
            # The handlers of the reactor's last turn are not reported yet.
            if elapsed - self._hold_ups.explain(place) >= SHORTEST:
                self._observer.on_event(Standstill(elapsed, place))
        # With the time at which this call began: an observer, or a log that nobody reads, may block too.
        self._arm(now)


def frames_of(frame: FrameType | None) -> list[Frame]:
    """Return ``frame`` and those that called it, the innermost first."""
    if frame is None:
        return []
    return [
        Frame(caller.f_code.co_filename, line, caller.f_code.co_name) for caller, line in traceback.walk_stack(frame)
    ]


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

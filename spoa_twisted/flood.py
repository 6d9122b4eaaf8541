"""Which lines of a flood are logged, and which are left out or only counted.

A fault may repeat with each request or each connection. Peers choose many of the keys that are passed here, such as
the names of messages, so each class remembers a limited number of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds for which a fault is not logged again, or for which its repetitions are counted.
INTERVAL: Final = 60.0

# How many lines with the same key are logged in one interval. The others are counted.
_MAX_LINES: Final = 10

# How many keys OncePerMinute and Once remember. Without this limit, peers could fill the memory.
_MAX_KEYS: Final = 1000

# How many keys Flood remembers. A default handler that fails may log ten tracebacks for each name that a peer invents.
_MAX_COUNTED_KEYS: Final = 100

#: The kind of a fault, and the name of the message. ``None`` instead of the name stands for the faults of all messages
#: that are too many to be counted one by one.
Key = tuple[object, str | None]


@final
class _Minute:
    """The lines with one key, in one interval."""

    __slots__ = ("began", "lines", "unlogged")

    def __init__(self, began: float) -> None:
        self.began = began
        self.lines = 0
        self.unlogged = 0


@final
class Flood:
    """Allows the first ten lines with the same key in a minute, and counts the others.

    A timer runs only while there are counted lines, and for one minute at most. :meth:`flush` ends it.

    :param on_counted: called at the end of the minute with the key and the number of lines that were not logged.
    """

    def __init__(self, reactor: IReactorTime, on_counted: Callable[[Key, int], None]) -> None:
        self._reactor = reactor
        self._on_counted = on_counted
        self._minutes: dict[Key, _Minute] = {}
        self._timer: IDelayedCall | None = None

    def admits(self, kind: object, name: str) -> bool:
        """Return whether to log a line. If not, count it."""
        now = self._reactor.seconds()
        key: Key = (kind, name)
        minute = self._minutes.get(key)
        if minute is None and len(self._minutes) >= _MAX_COUNTED_KEYS:
            self._end_minutes(now)
            if len(self._minutes) >= _MAX_COUNTED_KEYS:
                key = (kind, None)
                minute = self._minutes.get(key)
        if minute is None or _is_over(minute.began, now):
            self._report(key)
            minute = self._minutes[key] = _Minute(now)
        if minute.lines < _MAX_LINES:
            minute.lines += 1
            return True
        minute.unlogged += 1
        if self._timer is None:
            self._timer = self._reactor.callLater(max(0.0, minute.began + INTERVAL - now), self._on_timer)
        return False

    def flush(self) -> None:
        """Report the lines that were counted so far, and stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for key in list(self._minutes):
            self._report(key)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        self._end_minutes(now)
        counting = [minute.began for minute in self._minutes.values() if minute.unlogged]
        if counting:
            self._timer = self._reactor.callLater(max(0.0, min(counting) + INTERVAL - now), self._on_timer)

    def _end_minutes(self, now: float) -> None:
        for key in [key for key, minute in self._minutes.items() if _is_over(minute.began, now)]:
            self._report(key)
            del self._minutes[key]

    def _report(self, key: Key) -> None:
        minute = self._minutes.get(key)
        if minute is not None and minute.unlogged:
            count, minute.unlogged = minute.unlogged, 0
            self._on_counted(key, count)


@final
class OncePerMinute:
    """Tells whether a fault was logged within the last minute."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        # The time at which each fault was last logged.
        self._logged: dict[object, float] = {}

    def admits(self, fault: object) -> bool:
        """Return whether to log ``fault``, and remember that the caller logs it now.

        :param fault: a key that is equal for faults that count as the same.
        """
        now = self._reactor.seconds()
        last = self._logged.get(fault)
        if last is not None and not _is_over(last, now):
            return False
        if len(self._logged) >= _MAX_KEYS:
            # To forget all is simple, and adds at most one line for each fault that repeats.
            self._logged.clear()
        self._logged[fault] = now
        return True


@final
class Once:
    """Tells whether a fault was logged before."""

    def __init__(self) -> None:
        self._logged: set[object] = set()

    def admits(self, fault: object) -> bool:
        """Return whether ``fault`` is new, and remember it. After 1,000 faults, no fault is new any more."""
        if fault in self._logged or len(self._logged) >= _MAX_KEYS:
            return False
        self._logged.add(fault)
        return True

    def forget(self) -> None:
        """Forget all faults."""
        self._logged.clear()


def _is_over(began: float, now: float) -> bool:
    # If the clock was set back, now is before the beginning. Comparing only the end would keep the fault silent for as
    # long as the clock was set back.
    return not 0 <= now - began < INTERVAL

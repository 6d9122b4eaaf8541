"""How long to wait before a worker is started again."""

from __future__ import annotations

from typing import Final, final

#: Seconds before each start after the first one, which is at once. A handlers' module that cannot be imported costs a
#: start of Python each time.
DELAYS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

#: Seconds. A worker that has been ready for this long has shown that it works: the next start is at once again.
LONG_ENOUGH: Final = 30.0


@final
class Backoff:
    """The delays before the starts of one worker: 0, 1, 2, 4, 8, 16, and then always 30 seconds."""

    def __init__(self) -> None:
        self._failures = 0

    def next_delay(self, was_ready: float) -> float:
        """Return the seconds to wait before the next start.

        :param was_ready: for how many seconds the worker that has ended was ready; 0 if it never was.
        """
        if was_ready >= LONG_ENOUGH:
            self._failures = 0
        delay = DELAYS[min(self._failures, len(DELAYS) - 1)]
        self._failures += 1
        return delay

    def reset(self) -> None:
        """Forget the failures: an operator asks for a start."""
        self._failures = 0

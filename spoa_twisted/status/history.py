"""The totals of the last minute, to tell what an agent does now from what it has done since its start."""

from __future__ import annotations

from collections import deque
from typing import Final, final

from spoa_twisted.status.report import Totals
from spoa_twisted.status.totals import empty, subtract

#: Seconds that ``recent`` looks back.
SPAN: Final = 60.0

#: Seconds between two entries.
INTERVAL: Final = 5.0


@final
class History:
    """Keeps earlier totals of an agent, one for each :data:`INTERVAL`.

    :param started: when the agent was started, with totals that are all 0.
    """

    def __init__(self, started: float) -> None:
        self._entries: deque[tuple[float, Totals]] = deque([(started, empty())])

    def add(self, now: float, totals: Totals) -> None:
        """Keep ``totals``, unless the last entry is younger than :data:`INTERVAL`."""
        if now < self._entries[-1][0]:
            # The clock was set back. The entries are of no use: nobody knows how old they are.
            self._entries = deque([(now, totals)])
        elif now - self._entries[-1][0] >= INTERVAL:
            self._entries.append((now, totals))
            # The oldest entry is at least SPAN old, and all others are younger.
            while len(self._entries) > 1 and now - self._entries[1][0] >= SPAN:
                self._entries.popleft()

    def recent(self, now: float, totals: Totals) -> tuple[Totals, float]:
        """Return how much ``totals`` have grown in the last minute, and the number of seconds that this covers.

        It is 60 seconds or up to :data:`INTERVAL` more, or the time since the start.
        """
        entries = [entry for entry in self._entries if now - entry[0] >= SPAN]
        then, earlier = entries[-1] if entries else self._entries[0]
        return subtract(totals, earlier), max(0.0, now - then)

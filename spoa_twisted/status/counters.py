"""What an agent counts while it answers: the results of each message, how long handlers and NOTIFYs took, connections.

All numbers are plain integers and floats, because the agent changes some of them with each NOTIFY. They are put
together when somebody asks; see :mod:`spoa_twisted.status.local`.

A NOTIFY takes a few microseconds, and to take the time of each handler would cost a tenth of that. So an agent that is
busy takes it in one read of about 32 only. Each observation then counts as often as there were reads since the last one
whose time was taken. An agent that is less busy takes the time in each read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from typing import Final, final

from spoa_twisted.observer import Outcome
from spoa_twisted.status.report import BOUNDS, Histogram, MessageTotals

# Seconds. The longest duration is that of the last one to two such spans.
_SPAN: Final = 30.0

# This many durations are put into the buckets together, which takes less time than one by one.
_BATCH: Final = 128


@final
class Durations:
    """A histogram of durations, and the longest duration of the last minute."""

    __slots__ = ("_added", "_buckets", "_longest", "_previous", "_span_began", "_span_ends", "_sum")

    def __init__(self) -> None:
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        # Durations of the present span that are not in the buckets yet. Each stands for itself only.
        self._added: list[float] = []
        # The longest duration of the present span and of the one before, and the times of the present one.
        self._longest = 0.0
        self._previous = 0.0
        self._span_began = 0.0
        self._span_ends = 0.0

    def end(self, started: float, weight: int, now: float) -> None:
        """Add a duration, which has ended.

        :param started: ``reactor.seconds()`` at the beginning.
        :param weight: how many durations this one stands for.
        :param now: ``reactor.seconds()``.
        """
        if not self._span_began <= now < self._span_ends:
            self._next_span(now)
        if weight == 1:
            added = self._added
            added.append(now - started)
            if len(added) == _BATCH:
                self._sort_added()
        else:
            # Twisted's reactors use the time of day. If it was set back, the difference is negative.
            seconds = max(0.0, now - started)
            self._buckets[bisect_left(BOUNDS, seconds)] += weight
            self._sum += seconds * weight
            self._longest = max(self._longest, seconds)

    def note(self, seconds: float, now: float) -> None:
        """Let a duration count as the longest one, if it is. The histogram stays as it is."""
        # If the clock was set back, the span ends at once.
        if not self._span_began <= now < self._span_ends:
            self._next_span(now)
        if seconds > self._longest:
            self._longest = seconds

    def longest(self, now: float) -> float:
        """Return the longest duration of the last 30 to 60 seconds; 0 if there was none."""
        if not self._span_began <= now < self._span_ends:
            self._next_span(now)
        self._sort_added()
        return max(self._longest, self._previous)

    def snapshot(self) -> Histogram:
        """Return the histogram."""
        self._sort_added()
        return {"buckets": list(self._buckets), "sum": self._sum}

    def _sort_added(self) -> None:
        """Put the durations that :meth:`end` has only stored into the buckets."""
        if not self._added:
            return
        added, self._added = sorted(self._added), []
        if added[0] < 0:
            # See end().
            added = [max(0.0, seconds) for seconds in added]
        self._sum += sum(added)
        self._longest = max(self._longest, added[-1])
        position = 0
        while position < len(added):
            # Mostly two or three buckets have all durations, so it is faster to go from bucket to bucket.
            bucket = bisect_left(BOUNDS, added[position])
            end = len(added) if bucket == len(BOUNDS) else bisect_right(added, BOUNDS[bucket], position)
            self._buckets[bucket] += end - position
            position = end

    def _next_span(self, now: float) -> None:
        self._sort_added()
        self._previous = self._longest if 0 <= now - self._span_ends < _SPAN else 0.0
        self._longest = 0.0
        self._span_began = now
        self._span_ends = now + _SPAN


@final
class Tally:
    """The numbers of one registered message."""

    __slots__ = ("_ok", "calls", "durations", "failures")

    def __init__(self) -> None:
        #: How many calls of the handler have finished. A call that lacked an argument counts too.
        self.calls = 0
        #: How many calls ended with each result other than ``OK``.
        self.failures: Counter[Outcome] = Counter()
        self.durations = Durations()
        self._ok = 0

    def results(self) -> dict[str, int]:
        """Return how many messages had each result, by the values of :class:`Outcome`. No number ever falls."""
        # A call that has not failed is ok, so ok need not be counted for each message. But if a NOTIFY has
        # several messages, the last handler may use up the room of the ACK that an earlier result needs: then the
        # result is no longer ok. Until other calls make up for that, ok stays at its last value.
        self._ok = max(self._ok, self.calls - sum(self.failures.values()))
        results = {Outcome.OK.value: self._ok} if self._ok else {}
        return results | {outcome.value: count for outcome, count in self.failures.items()}

    def totals(self) -> MessageTotals:
        """Return the results and the durations."""
        return {"results": self.results(), "duration": self.durations.snapshot()}


@final
class Counters:
    """The numbers of one agent. ``SPOAFactory`` has one object, and all its connections share it."""

    def __init__(self) -> None:
        #: The numbers of each message that was called, by the label of its handler.
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        #: How many messages had no handler.
        self.unhandled = 0
        #: How long NOTIFYs took, from the read of their last byte to their ACK.
        self.notify = Durations()
        self.connections = 0
        self.refused = 0
        self.health_checks = 0
        #: By the sender and the status code: ``agent 0``.
        self.disconnects: Counter[str] = Counter()
        #: By the reason: ``unread``.
        self.dropped: Counter[str] = Counter()
        self.stalls = 0
        self.stall_seconds = 0.0

    def disconnected(self, sender: str, status_code: int) -> None:
        """Count a connection that ends with a DISCONNECT frame of ``sender``, ``agent`` or ``haproxy``."""
        self.disconnects[f"{sender} {int(status_code)}"] += 1

    def failed(self, label: str, outcome: Outcome) -> None:
        """Count a call of the handler with this label that did not end with ``OK``."""
        self.tallies[label].failures[outcome] += 1

"""The counters that all connections of a load share."""

from __future__ import annotations

from collections import Counter
from typing import final

from spoa_twisted.ctl.latency import Latencies


@final
class Tally:
    """The good ACKs, their latencies, and the errors."""

    def __init__(self) -> None:
        #: The number of good ACKs since the window began.
        self.answered = 0
        #: The latencies of these ACKs.
        self.latencies = Latencies()
        #: Errors by kind, since the first NOTIFY: an error during the warm-up is an error too.
        self.errors: Counter[str] = Counter()

    def begin(self) -> None:
        """Forget the good ACKs of the warm-up."""
        self.answered = 0
        self.latencies = Latencies()

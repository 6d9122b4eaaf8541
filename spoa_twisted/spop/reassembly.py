"""The fragments of one NOTIFY, and the limit for the fragments of all connections together.

Only HAProxy <= 3.0 sends a payload in fragments; see :class:`~spoa_twisted.spop.connection.AgentConnection`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, final

from spoa_twisted.spop.messages import decode_names

#: The default limit for the incomplete payloads of all connections together, in bytes.
DEFAULT_MAX_REASSEMBLY_SIZE: Final = 2**26

#: The names of the two limits, as :class:`~spoa_twisted.limits.Limits` has them.
MAX_PAYLOAD_SIZE: Final = "max_payload_size"
MAX_REASSEMBLY_SIZE: Final = "max_reassembly_size"

#: Seconds. A NOTIFY whose first fragment arrived longer ago may be discarded to make room for others. HAProxy sends all
#: fragments at once, and its ``timeout processing`` is seldom longer.
STALE_AFTER: Final = 10.0


def _without_clock() -> float:
    return 0.0


@final
class ReassemblyBudget:
    """Counts the bytes of all incomplete payloads. The connections of one agent share it.

    Without it, each connection could hold ``max_payload_size`` bytes, and thousands of connections may be open.

    A peer may never send the last fragments of its NOTIFYs. When the budget is used up, it discards the fragments of
    NOTIFYs that began more than :data:`STALE_AFTER` seconds ago. Otherwise that peer would keep all others from sending
    fragments for as long as its connections are open.

    :param max_size: the largest number of bytes.
    :param seconds: the clock. Without it, no payload becomes stale.
    """

    __slots__ = ("_incomplete", "_seconds", "max_size", "size")

    def __init__(
        self, max_size: int = DEFAULT_MAX_REASSEMBLY_SIZE, seconds: Callable[[], float] = _without_clock
    ) -> None:
        #: The largest number of bytes. It may be changed at any time: a lower value affects the next fragments.
        self.max_size = max_size
        #: The number of bytes of all incomplete payloads.
        self.size = 0
        self._seconds = seconds
        # The payloads that are counted, each with the time of its first fragment. The oldest is the first. It is
        # an OrderedDict, because a dict finds its first key slowly after earlier keys were removed.
        self._incomplete: OrderedDict[Reassembly, float] = OrderedDict()

    def take(self, reassembly: Reassembly, size: int) -> bool:
        """Count ``size`` more bytes of ``reassembly``. Return whether they fit. If not, nothing is counted."""
        if self.size + size > self.max_size:
            self._make_room(size, reassembly)
            if self.size + size > self.max_size:
                return False
        if reassembly not in self._incomplete:
            self._incomplete[reassembly] = self._seconds()
        self.size += size
        return True

    def release(self, reassembly: Reassembly, size: int) -> None:
        """Count ``reassembly`` no longer. It has ``size`` bytes."""
        self._incomplete.pop(reassembly, None)
        self.size -= size

    def _make_room(self, size: int, needy: Reassembly) -> None:
        """Discard stale payloads, the oldest first, until ``size`` more bytes of ``needy`` fit."""
        now = self._seconds()
        while self._incomplete and self.size + size > self.max_size:
            oldest, began = next(iter(self._incomplete.items()))
            # If the clock was set back, the age is unknown, and the payload counts as stale.
            if oldest is needy or 0 <= now - began < STALE_AFTER:
                break
            oldest.discard()


@final
class Reassembly:
    """The fragments of one NOTIFY that have arrived. Call :meth:`clear` when it is no longer needed.

    Once the fragments exceed a limit, they are discarded, and so are all fragments that follow.

    :param ids: the encoded stream-id and frame-id of the NOTIFY.
    :param max_size: the longest payload, in bytes.
    :param budget: the limit for all incomplete payloads together.
    """

    __slots__ = ("_budget", "_max_size", "_payload", "exceeded", "exceeded_size", "ids", "names", "size")

    def __init__(self, ids: bytes, max_size: int, budget: ReassemblyBudget) -> None:
        #: The encoded stream-id and frame-id of the NOTIFY.
        self.ids = ids
        #: The number of bytes that have arrived, those that were discarded included.
        self.size = 0
        #: The name of the limit that the fragments exceed, and its value in bytes; empty and 0 if they exceed none.
        self.exceeded = ""
        self.exceeded_size = 0
        #: The names of the messages that had arrived when the limit was exceeded.
        self.names: tuple[str, ...] = ()
        self._max_size = max_size
        self._budget = budget
        self._payload = bytearray()

    def add(self, fragment: bytes) -> None:
        """Add ``fragment``. If it exceeds a limit, set :attr:`exceeded`, and discard all fragments."""
        self.size += len(fragment)
        if self.exceeded:
            return
        if self.size > self._max_size:
            self._exceed(MAX_PAYLOAD_SIZE, self._max_size, fragment)
        elif self._budget.take(self, len(fragment)):
            self._payload += fragment
        else:
            self._exceed(MAX_REASSEMBLY_SIZE, self._budget.max_size, fragment)

    def payload(self) -> bytes:
        """Return the fragments, joined."""
        return bytes(self._payload)

    def clear(self) -> None:
        """Discard the fragments. The budget no longer counts them."""
        self._budget.release(self, len(self._payload))
        self._payload = bytearray()

    def discard(self) -> None:
        """Discard the fragments, and all that follow, because the budget needs the room for other payloads."""
        self._exceed(MAX_REASSEMBLY_SIZE, self._budget.max_size, b"")

    def _exceed(self, limit: str, size: int, fragment: bytes) -> None:
        self.exceeded = limit
        self.exceeded_size = size
        self.names = tuple(decode_names(self.payload() + fragment))
        self.clear()

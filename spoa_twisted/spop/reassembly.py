"""The fragments of one NOTIFY, and the limit for the fragments of all connections together.

Only HAProxy <= 3.0 sends a payload in fragments; see :class:`~spoa_twisted.spop.connection.AgentConnection`.
"""

from __future__ import annotations

from typing import Final, final

from spoa_twisted.spop.messages import decode_names

#: The default limit for the incomplete payloads of all connections together, in bytes.
DEFAULT_MAX_REASSEMBLY_SIZE: Final = 2**26

#: The names of the two limits, as :class:`~spoa_twisted.limits.Limits` has them.
MAX_PAYLOAD_SIZE: Final = "max_payload_size"
MAX_REASSEMBLY_SIZE: Final = "max_reassembly_size"


@final
class ReassemblyBudget:
    """Counts the bytes of all incomplete payloads. The connections of one agent share it.

    Without it, each connection could hold ``max_payload_size`` bytes, and thousands of connections may be open.

    :param max_size: the largest number of bytes.
    """

    __slots__ = ("max_size", "size")

    def __init__(self, max_size: int = DEFAULT_MAX_REASSEMBLY_SIZE) -> None:
        #: The largest number of bytes. It may be changed at any time: a lower value affects the next fragments.
        self.max_size = max_size
        #: The number of bytes of all incomplete payloads.
        self.size = 0


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
        budget = self._budget
        if self.size > self._max_size:
            self._exceed(MAX_PAYLOAD_SIZE, self._max_size, fragment)
        elif budget.size + len(fragment) > budget.max_size:
            self._exceed(MAX_REASSEMBLY_SIZE, budget.max_size, fragment)
        else:
            budget.size += len(fragment)
            self._payload += fragment

    def payload(self) -> bytes:
        """Return the fragments, joined."""
        return bytes(self._payload)

    def clear(self) -> None:
        """Discard the fragments. The budget no longer counts them."""
        self._budget.size -= len(self._payload)
        self._payload = bytearray()

    def _exceed(self, limit: str, size: int, fragment: bytes) -> None:
        self.exceeded = limit
        self.exceeded_size = size
        self.names = tuple(decode_names(self.payload() + fragment))
        self.clear()

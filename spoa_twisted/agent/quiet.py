"""For how long connections have been quiet: no bytes were read or written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar, final


class Active(Protocol):
    """The attribute of a connection that :class:`Quiet` reads."""

    #: The number of reads and writes so far.
    activity: int


ActiveT = TypeVar("ActiveT", bound=Active)


@final
class Quiet(Generic[ActiveT]):
    """Counts, for each connection, the intervals since its last read or write."""

    def __init__(self) -> None:
        # For each connection: its activity at the last check, and the intervals for which it has not changed.
        self._unchanged: dict[ActiveT, tuple[int, int]] = {}

    def check(self, connections: Iterable[ActiveT], passed: int = 1) -> None:
        """Compare the activity of each connection with that at the last check. Forget all other connections.

        :param passed: the number of intervals since the last check.
        """
        unchanged: dict[ActiveT, tuple[int, int]] = {}
        for connection in connections:
            activity, intervals = self._unchanged.get(connection, (-1, 0))
            unchanged[connection] = (connection.activity, intervals + passed if connection.activity == activity else 0)
        self._unchanged = unchanged

    def intervals(self, connection: ActiveT) -> int:
        """Return for how many intervals ``connection`` has been quiet. It was there at the last check."""
        return self._unchanged[connection][1]

    def forget(self, connection: ActiveT) -> None:
        """Forget a connection, which has ended."""
        self._unchanged.pop(connection, None)

    def clear(self) -> None:
        """Forget all connections."""
        self._unchanged = {}

"""A dictionary with a limit on its memory: for frames and payloads that were already checked."""

from __future__ import annotations

from typing import Final, Generic, TypeVar, final

#: About how many bytes of memory one cache may take.
MAX_BYTES: Final = 2**24

# About how many bytes an entry takes besides its key: the overhead of a bytes object, and its place in the dictionary.
_ENTRY_BYTES: Final = 150

ValueT = TypeVar("ValueT")


@final
class Cache(Generic[ValueT]):
    """Keeps a value for each key. When the memory is used up, it keeps its entries, and ignores new ones."""

    __slots__ = ("_free_bytes", "entries")

    def __init__(self) -> None:
        #: The stored values. Callers only read it. It is a plain dictionary, so that a lookup on the hot path calls no
        #: Python code.
        self.entries: dict[bytes, ValueT] = {}
        self._free_bytes = MAX_BYTES

    def store(self, key: bytes, value: ValueT) -> None:
        """Store ``value`` for ``key``, unless the memory is used up. The memory of ``value`` is not counted."""
        if self._free_bytes > 0:
            self._free_bytes -= len(key) + _ENTRY_BYTES
            self.entries[key] = value

"""Whether Twisted's HTTP client can read an answer in chunks with this Python."""

from __future__ import annotations

import pytest


def _releases_buffers() -> bool:
    """Return whether a ``memoryview`` that nothing refers to any more lets its ``bytearray`` change."""
    data = bytearray(b"ab")
    bytes(memoryview(data)[:1])
    try:
        del data[:1]
    except BufferError:
        return False
    return True


#: PyPy 8.0.1 keeps the buffer until its garbage collector runs. The decoder of ``twisted.web`` then raises BufferError.
needs_chunks = pytest.mark.skipif(
    not _releases_buffers(), reason="Twisted's HTTP client cannot read chunks with this PyPy: use PyPy 7.3 or CPython"
)

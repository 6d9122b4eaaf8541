"""Cut a stream of bytes into frames, whatever their content. The stream's memory is bounded.

:class:`~spoa_twisted.spop.frames.FrameBuffer` ends a connection at the first bad frame. A tool that only looks on must
go on behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from spoa_twisted.spop.connection import DEFAULT_MAX_FRAME_SIZE

#: The size of FRAME-LENGTH, in bytes.
LENGTH_SIZE: Final = 4

#: The longest frame that is decoded, in bytes. Each direction of a connection buffers one frame of this size at most.
MAX_DECODED_SIZE: Final = DEFAULT_MAX_FRAME_SIZE

#: How many bytes of a longer frame are kept, to show them.
KEPT_SIZE: Final = 64


@final
@dataclass(frozen=True, slots=True)
class Cut:
    """The bytes of one frame, FRAME-LENGTH included."""

    #: The bytes, all of them unless the frame is too long or cut off.
    raw: bytes
    #: FRAME-LENGTH: the size of the frame without the four bytes of FRAME-LENGTH itself.
    size: int
    #: The position of the frame in its stream.
    position: int
    #: Whether the stream ended before the frame did.
    cut_off: bool = False

    @property
    def missing(self) -> int:
        """How many bytes of the frame are not in :attr:`raw`."""
        return LENGTH_SIZE + self.size - len(self.raw)


@final
class Cutter:
    """Cuts one direction of a connection into frames."""

    def __init__(self) -> None:
        #: The number of bytes so far.
        self.received = 0
        self._buffer = bytearray()
        # The buffer is not looked at again before it has this size: a long frame may arrive byte by byte.
        self._needed = LENGTH_SIZE
        # The bytes that still belong to a frame that is too long to be decoded. They are not kept.
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Cut]:
        """Add ``data``; yield each frame that it completes, and a frame that is too long as soon as it has begun."""
        self.received += len(data)
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._buffer += data[skipped:] if skipped else data
        if len(self._buffer) < self._needed:
            return
        received = bytes(self._buffer)
        self._buffer.clear()
        start = 0
        while (size := self._size_at(received, start)) is not None:
            end = start + LENGTH_SIZE + size
            position = self.received - len(received) + start
            raw = received[start : start + self._needed]
            start = min(end, len(received))
            self._skip = end - start
            yield Cut(raw, size, position)
        self._buffer += received[start:]

    def _size_at(self, received: bytes, start: int) -> int | None:
        """Return FRAME-LENGTH of the frame at ``start``; ``None`` if too few of its bytes have arrived.

        It sets ``_needed`` to the number of bytes that are needed from ``start`` on.
        """
        self._needed = LENGTH_SIZE
        if start + LENGTH_SIZE > len(received):
            return None
        size = int.from_bytes(received[start : start + LENGTH_SIZE], "big")
        self._needed = KEPT_SIZE if size > MAX_DECODED_SIZE else LENGTH_SIZE + size
        return size if start + self._needed <= len(received) else None

    def end(self) -> Cut | None:
        """Return the frame that the end of the stream cuts off, if there is one."""
        if not self._buffer:
            return None
        # A frame that is too long, and has fewer than KEPT_SIZE bytes, is here too.
        raw = bytes(self._buffer)
        size = int.from_bytes(raw[:LENGTH_SIZE], "big") if len(raw) >= LENGTH_SIZE else 0
        return Cut(raw, size, self.received - len(raw), cut_off=True)

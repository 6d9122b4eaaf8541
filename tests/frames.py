"""Frames with named fields, for tests."""

from __future__ import annotations

from typing import NamedTuple

from spoa_twisted.spop.frames import FrameBuffer


class Frame(NamedTuple):
    """A frame from a stream of bytes. ``ids`` holds the encoded stream-id and frame-id."""

    type: int
    flags: int
    ids: bytes
    payload: bytes


def next_frames(buffer: FrameBuffer) -> list[Frame]:
    """Return all complete frames in the buffer."""
    frames = []
    while (frame := buffer.next_frame()) is not None:
        frames.append(Frame(*frame))
    return frames

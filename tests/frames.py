"""Frames as tests look at them."""

from __future__ import annotations

from typing import NamedTuple

from spoa_twisted.spop.frames import FrameBuffer


class Frame(NamedTuple):
    """A frame that was cut out of a stream."""

    type: int
    flags: int
    ids: bytes
    payload: bytes


def next_frames(buffer: FrameBuffer) -> list[Frame]:
    """Return the frames that have come whole."""
    frames = []
    while (frame := buffer.next_frame()) is not None:
        frames.append(Frame(*frame))
    return frames

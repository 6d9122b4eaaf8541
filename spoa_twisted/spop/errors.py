"""What can go wrong between two peers, and the status code that says so (SPOE.txt, section 3.5)."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class StatusCode(IntEnum):
    """SPOE.txt, section 3.5: the ``status-code`` of a DISCONNECT frame."""

    #: No error occurred: an ordinary goodbye.
    NORMAL = 0
    IO_ERROR = 1
    TIMEOUT = 2
    FRAME_TOO_BIG = 3
    INVALID_FRAME = 4
    #: The three mandatory items of a HELLO, each with the code for its absence.
    VERSION_NOT_FOUND = 5
    MAX_FRAME_SIZE_NOT_FOUND = 6
    CAPABILITIES_NOT_FOUND = 7
    UNSUPPORTED_VERSION = 8
    BAD_MAX_FRAME_SIZE = 9
    FRAGMENTATION_NOT_SUPPORTED = 10
    INTERLACED_FRAMES = 11
    FRAME_ID_NOT_FOUND = 12
    RESOURCE_ALLOCATION = 13
    UNKNOWN = 99


class SPOPError(Exception):
    """The peer broke the protocol.

    Its class names the status code to answer with, its text is the ``message`` to answer with. Nothing that
    a peer sends raises any other exception out of :mod:`spoa_twisted.spop`.
    """

    #: The code of the DISCONNECT frame that answers this error (SPOE.txt, section 3.5).
    status_code: ClassVar[StatusCode] = StatusCode.UNKNOWN


class FrameTooBig(SPOPError):
    """A frame is longer than what was agreed on."""

    status_code = StatusCode.FRAME_TOO_BIG


class InvalidFrame(SPOPError):
    """A frame cannot be read, or comes when it must not."""

    status_code = StatusCode.INVALID_FRAME


class VersionNotFound(SPOPError):
    """A HELLO names no version."""

    status_code = StatusCode.VERSION_NOT_FOUND


class MaxFrameSizeNotFound(SPOPError):
    """A HELLO names no maximum frame size."""

    status_code = StatusCode.MAX_FRAME_SIZE_NOT_FOUND


class CapabilitiesNotFound(SPOPError):
    """A HELLO names no capabilities."""

    status_code = StatusCode.CAPABILITIES_NOT_FOUND


class UnsupportedVersion(SPOPError):
    """The peers have no version of SPOP in common."""

    status_code = StatusCode.UNSUPPORTED_VERSION


class BadMaxFrameSize(SPOPError):
    """The maximum frame size of a HELLO is below 256 bytes, or above what this peer offered."""

    status_code = StatusCode.BAD_MAX_FRAME_SIZE


class FragmentationNotSupported(SPOPError):
    """A frame that must come whole came in fragments."""

    status_code = StatusCode.FRAGMENTATION_NOT_SUPPORTED


class InterlacedFrames(SPOPError):
    """Another frame came between the fragments of a payload."""

    status_code = StatusCode.INTERLACED_FRAMES

"""Protocol errors, each with the status code that a DISCONNECT frame reports it with (SPOE.txt, section 3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Final


class StatusCode(IntEnum):
    """The ``status-code`` of a DISCONNECT frame (SPOE.txt, section 3.5).

    A peer may also send a code of its own, which is not in this list.
    """

    #: No error: the peer closes the connection because it no longer needs it.
    NORMAL = 0
    IO_ERROR = 1
    TIMEOUT = 2
    FRAME_TOO_BIG = 3
    INVALID_FRAME = 4
    #: 5, 6 and 7: a HELLO lacks one of its three mandatory items (sections 3.2.4 and 3.2.5).
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


#: HAProxy's words for each code (SPOE.txt, section 3.5). They are the ``message`` of its DISCONNECT frames, and the
#: reason of a health check that failed.
STATUS_WORDS: Final[Mapping[int, str]] = {
    StatusCode.NORMAL: "normal",
    StatusCode.IO_ERROR: "I/O error",
    StatusCode.TIMEOUT: "a timeout occurred",
    StatusCode.FRAME_TOO_BIG: "frame is too big",
    StatusCode.INVALID_FRAME: "invalid frame received",
    StatusCode.VERSION_NOT_FOUND: "version value not found",
    StatusCode.MAX_FRAME_SIZE_NOT_FOUND: "max-frame-size value not found",
    StatusCode.CAPABILITIES_NOT_FOUND: "capabilities value not found",
    StatusCode.UNSUPPORTED_VERSION: "unsupported version",
    StatusCode.BAD_MAX_FRAME_SIZE: "max-frame-size too big or too small",
    StatusCode.FRAGMENTATION_NOT_SUPPORTED: "fragmentation not supported",
    StatusCode.INTERLACED_FRAMES: "invalid interlaced frames",
    StatusCode.FRAME_ID_NOT_FOUND: "frame-id not found",
    StatusCode.RESOURCE_ALLOCATION: "resource allocation error",
    StatusCode.UNKNOWN: "an unknown error occurred",
}


def with_words(status_code: int) -> str:
    """Return ``status_code`` with its words, as ``3, frame is too big``; a code that is not in SPOE.txt has none."""
    words = STATUS_WORDS.get(status_code)
    return f"{int(status_code)}" if words is None else f"{int(status_code)}, {words}"


class SPOPError(Exception):
    """The peer broke the protocol.

    The connection reports the error to the peer in a DISCONNECT frame: :attr:`status_code` becomes its
    ``status-code``, the text of the exception its ``message``. Data from a peer makes :mod:`spoa_twisted.spop` raise
    this exception or one of its subclasses, and no other.
    """

    #: The ``status-code`` of the DISCONNECT frame that reports this error (SPOE.txt, section 3.5).
    status_code: ClassVar[StatusCode] = StatusCode.UNKNOWN


class FrameTooBig(SPOPError):
    """A frame is longer than the agreed max-frame-size."""

    status_code = StatusCode.FRAME_TOO_BIG


class InvalidFrame(SPOPError):
    """A frame cannot be decoded, or its type is not legal in the current state of the connection.

    :param offset: the position of the error in the bytes that the decoder was given; ``None`` if it has no position.
    """

    status_code = StatusCode.INVALID_FRAME

    def __init__(self, text: str, offset: int | None = None) -> None:
        super().__init__(text)
        self.offset = offset


class VersionNotFound(SPOPError):
    """A HELLO lacks its mandatory version item."""

    status_code = StatusCode.VERSION_NOT_FOUND


class MaxFrameSizeNotFound(SPOPError):
    """A HELLO lacks its mandatory max-frame-size item."""

    status_code = StatusCode.MAX_FRAME_SIZE_NOT_FOUND


class CapabilitiesNotFound(SPOPError):
    """A HELLO lacks its mandatory capabilities item."""

    status_code = StatusCode.CAPABILITIES_NOT_FOUND


class UnsupportedVersion(SPOPError):
    """A HELLO offers no version 2.x of SPOP."""

    status_code = StatusCode.UNSUPPORTED_VERSION


class BadMaxFrameSize(SPOPError):
    """The max-frame-size of a HELLO is below 256 bytes, or an AGENT-HELLO exceeds the size that the engine offered."""

    status_code = StatusCode.BAD_MAX_FRAME_SIZE


class FragmentationNotSupported(SPOPError):
    """A frame came in fragments although its type does not allow fragments."""

    status_code = StatusCode.FRAGMENTATION_NOT_SUPPORTED


class InterlacedFrames(SPOPError):
    """A frame of another NOTIFY came before the last fragment of a fragmented NOTIFY."""

    status_code = StatusCode.INTERLACED_FRAMES

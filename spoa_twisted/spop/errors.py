"""Protocol errors, each with the status code that a DISCONNECT frame reports it with (SPOE.txt, section 3.5)."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


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

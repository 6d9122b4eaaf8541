"""The error of a message that lacks an argument of its handler."""

from __future__ import annotations

from typing import final


@final
class MissingArgument(TypeError):
    """A parameter without a default has no argument in the message. The function was not called."""

"""The handlers of ``handlers.py``, for an agent that soon gives up a HAProxy whose host does not answer any more."""

from __future__ import annotations

import socket

from spoa_twisted.agent import peers
from tests.haproxy.handlers import handlers

__all__ = ["handlers"]

#: The smallest values that the kernel allows, in seconds, and the same time in all, in milliseconds.
_SHORT = {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 1, socket.TCP_USER_TIMEOUT: 2000}

# An option that the agent does not set stays unset, so it does not help a test.
peers._TCP_OPTIONS = tuple((option, _SHORT.get(option, value)) for option, value in peers._TCP_OPTIONS)  # type: ignore[misc]

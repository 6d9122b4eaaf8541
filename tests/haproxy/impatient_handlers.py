"""The handlers of ``handlers.py``, for an agent that waits two seconds for a host that does not answer, not 120."""

from __future__ import annotations

import socket

from spoa_twisted.agent import peers
from tests.haproxy.handlers import handlers

__all__ = ["handlers"]

#: The smallest values that the kernel allows, in seconds, and the same time in all, in milliseconds.
_SHORT = {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 1, socket.TCP_USER_TIMEOUT: 2000}

# Only options that the agent sets are changed. If the agent did not set one of them, the test that needs it would fail.
peers._TCP_OPTIONS = tuple((option, _SHORT.get(option, value)) for option, value in peers._TCP_OPTIONS)  # type: ignore[misc]

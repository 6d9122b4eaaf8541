"""End ``spoactl bench`` early.

A test that needs a number of ACKs ends the command after them. If the command ended after a time, it could end without
them: this process may have stood still for the whole time.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from tests.ctl.agents import ack

#: How many NOTIFYs :func:`ack_some` answers before the command ends.
SOME: Final = 1000


def interrupt() -> None:
    """End a ``spoactl bench`` that runs in this process, as Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


def ack_some(ids: bytes, n: int) -> bytes:
    """Answer a NOTIFY with an ACK, for :class:`~tests.ctl.agents.Agent`. End the command when there were some."""
    if n == SOME:
        interrupt()
    return ack(ids)

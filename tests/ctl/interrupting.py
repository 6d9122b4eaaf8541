"""End ``spoactl bench`` early."""

from __future__ import annotations

import os
import signal


def interrupt() -> None:
    """End a ``spoactl bench`` that runs in this process, as Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)

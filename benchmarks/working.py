"""Handlers that take CPU: as many microseconds as the environment's ``SPOA_WORK`` says.

``SPOA_WORK=200 twistd spoa --handlers benchmarks/working.py``.
"""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Address

from spoa_twisted import Handlers, Variables

WORK = int(os.environ.get("SPOA_WORK", "200")) * 1000

handlers = Handlers()


@handlers.message("get-ip-reputation")
def get_ip_reputation(ip: IPv4Address) -> Variables:
    """Work: the time in which others have the core is none."""
    end = time.thread_time_ns() + WORK
    while time.thread_time_ns() < end:
        pass
    return {"txn.allowed": True}

"""A handler that uses CPU time: as many microseconds per call as the environment variable ``SPOA_WORK`` says.

Run ``SPOA_WORK=200 twistd spoa --handlers benchmarks/working.py``.
"""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Address

from spoa_twisted import Handlers, Variables

#: Nanoseconds of CPU time per call.
WORK = int(os.environ.get("SPOA_WORK", "200")) * 1000

handlers = Handlers()


@handlers.message("get-ip-reputation")
def get_ip_reputation(ip: IPv4Address) -> Variables:
    """Use :data:`WORK` nanoseconds of CPU time. Time in which another process has the core does not count."""
    end = time.thread_time_ns() + WORK
    while time.thread_time_ns() < end:
        pass
    return {"txn.allowed": True}

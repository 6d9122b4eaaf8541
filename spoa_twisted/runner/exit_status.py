"""Ending a process whose reactor runs, with an exit status that is not 0.

Twisted has no call for that: after ``reactor.stop()``, twistd and twist return from their main function, and the status
is 0.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore


def stop_with_failure(reactor: IReactorCore) -> None:
    """Stop ``reactor``. The process ends as after any other stop, but with exit status 1."""
    # An exit function that is registered after _exit would run twice. Shutdown functions may register exit functions,
    # so register _exit when the reactor has stopped.
    reactor.addSystemEventTrigger("after", "shutdown", atexit.register, _exit)
    with suppress(ReactorNotRunning):
        reactor.stop()


def _exit() -> None:
    # An exit function cannot change the status in another way: Python ignores a SystemExit that it raises. The last
    # registered function runs first, so run all others here.
    atexit.unregister(_exit)
    atexit._run_exitfuncs()
    # The next lines are not measured: coverage.py has saved its data in one of these functions.
    for stream in (sys.stdout, sys.stderr):  # pragma: no cover
        with suppress(Exception):
            stream.flush()
    os._exit(1)  # pragma: no cover

"""Imports the handlers once in a child process, before the master starts.

The master never imports them: a worker that starts later must find the code as it is then. But a module that cannot be
imported must be one line and exit status 1, also for a daemon, whose first process ends with status 0 soon.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Final

from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.workers import spawning
from spoa_twisted.workers.spawning import Settings
from spoa_twisted.workers.stacks import find_line

# Seconds for the child process to write its stack after SIGABRT.
_ABORT_LIMIT: Final = 5.0


def check_handlers(settings: Settings, timeout: float) -> None:
    """Import the handlers in a child process.

    :param settings: the settings of a worker. This function changes the number and the pipe.
    :param timeout: seconds for the import; 0: no limit.
    :raises CannotStart: if they cannot be imported.
    """
    reading, writing = os.pipe()
    with open(reading, "rb") as log:
        try:
            # What the handlers print now, they print again in each worker: show it only if it is the reason.
            child = subprocess.Popen(  # noqa: S603 - this is Python itself
                spawning.command("spoa check"),
                env=spawning.environment(),
                pass_fds=[writing],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise CannotStart(f"no process can be started: {error}") from error
        finally:
            os.close(writing)
        given = spawning.settings_as_input({**settings, "number": 0, "log": writing})
        timed_out = False
        try:
            _, errors = child.communicate(given, timeout or None)
        except subprocess.TimeoutExpired:
            timed_out = True
            errors = _abort(child)
        lines = [json.loads(line) for line in log if b'"cannot_start"' in line]
    if lines:
        raise CannotStart(lines[0]["cannot_start"])
    if child.returncode == 0:
        return
    sys.stderr.write(errors.decode(errors="replace"))
    handlers = ", ".join(settings["options"]["handlers"])
    if timed_out:
        line = find_line(errors.decode(errors="replace").splitlines())
        raise CannotStart(f"the import of {handlers} did not end within --start-timeout, {timeout:g} s{line}")
    if child.returncode < 0:
        line = find_line(errors.decode(errors="replace").splitlines())
        how = f"by the signal {spawning.describe_signal(-child.returncode)}{line}"
    else:
        how = f"with exit status {child.returncode}"
    raise CannotStart(f"the import of {handlers} ended the process {how}")


def _abort(child: subprocess.Popen[bytes]) -> bytes:
    """End ``child``, and return its stderr: faulthandler has written the stack there."""
    child.send_signal(signal.SIGABRT)
    try:
        return child.communicate(timeout=_ABORT_LIMIT)[1]
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[1]

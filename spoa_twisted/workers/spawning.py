"""The command line and the settings of a worker process, which is a fresh Python with the options of the master.

A worker is not a fork of the master: after a fork, both processes would share the epoll object of the reactor.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

# Descriptors of a worker.
#: The settings come from here: see settings_as_input.
STDIN: Final = 0
#: The socket to the master.
CONTROL: Final = 3
#: The pipe for the log.
LOG: Final = 4

#: Signals that a worker ignores: a terminal sends them to all processes, but the workers do what the master says.
BLOCKED: Final = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGUSR1})

# The first line of stdin is sys.path. It must be set before anything is imported that is not built into Python.
_CODE: Final = "import sys; sys.path[:] = eval(input()); from spoa_twisted.workers.worker import main; main()  # {}"

# Variables that are about the process of the master: systemd's sockets, and its notifications.
_NOT_INHERITED: Final = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class Settings(TypedDict):
    """The settings of a worker, as JSON."""

    #: The number of the worker; 0 for the process that only checks whether the handlers can be imported.
    number: int
    #: The options of ``twistd spoa``.
    options: dict[str, Any]
    #: The texts of all endpoints.
    endpoints: list[str]
    #: The folder in which the master was started: paths of handlers are relative to it.
    folder: str
    #: The module of the master's reactor.
    reactor: str
    #: The descriptor of the pipe for the log.
    log: int


def command(title: str) -> list[str]:
    """Return the command line of a worker.

    :param title: a text that a list of processes shows at the end.
    """
    # subprocess and multiprocessing of the standard library use this function for the same purpose.
    flags: Sequence[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", _CODE.format(title)]


def environment() -> dict[str, str]:
    """Return the environment of a worker."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}


def settings_as_input(settings: Settings) -> bytes:
    """Return the bytes that a worker reads from its stdin."""
    return f"{sys.path!a}\n{json.dumps(settings)}\n".encode()


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` as a plain dictionary, which can be sent as JSON."""
    return {name: options[name] for name in options}


def describe_signal(number: int) -> str:
    """Return the name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no names in Python.
        return str(number)

"""Runs programs for tests and benchmarks: twistd, twist and spoactl, with the package of this checkout."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from signal import SIGKILL, SIGTERM
from socket import socket
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from threading import Condition, Thread
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT: Final = Path(__file__).parent.parent

#: The environment of programs. They import the package of this checkout, as if it were installed from there.
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

SPOACTL: Final = [sys.executable, "-c", "from spoa_twisted.ctl import main; main()"]
TWISTD: Final = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
TWIST: Final = [sys.executable, "-m", "twisted", "--log-format=text"]

#: The endpoint of an agent that listens on a free port.
ANY_PORT: Final = "tcp:0:interface=127.0.0.1"

#: The line that an agent logs when it listens. The group is the address.
LISTENING: Final = re.compile(r"SPOA listening on (\S+)(?: for .*)?\n")

#: Exit statuses of an agent that was stopped with SIGTERM. Twisted >= 24.10 ends with the signal that stopped it.
STOPPED: Final = (0, -SIGTERM)

#: Timeout in seconds for a line of output and for the end of a program, so that a program that hangs ends its test.
LIMIT: Final = 30.0

#: Runs a command with an inherited socket, as systemd does: the socket is descriptor 3, LISTEN_PID is the process id.
_AS_SYSTEMD: Final = """\
import os, sys
number, *command = sys.argv[1:]
os.dup2(int(number), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="spoa", LISTEN_PID=str(os.getpid()))
os.execvp(command[0], command)
"""


class NotInstalled(Exception):
    """A program is not installed. The text says how to install it."""


def find_program(name: str, debian: str, *folders: str) -> str:
    """Return the path of a program.

    :param debian: the Debian package of the program. CI installs it.
    :param folders: more folders than those of the PATH. They may have ``*``; the last match is the newest version.
    :raises NotInstalled: if there is no such program.
    """
    more = [str(found) for folder in folders for found in sorted(Path("/").glob(folder.lstrip("/")), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *more]))
    if found is None:
        raise NotInstalled(f"{name} is not installed: apt-get install --no-install-recommends {debian}")
    return found


def spoa(
    *options: str,
    handlers: Path | str,
    listen: Sequence[str] = (ANY_PORT,),
    program: Sequence[str] = TWIST,
    inherited: socket | None = None,
) -> list[str]:
    """Return the command line that starts an agent.

    :param options: more options of ``spoa``.
    :param handlers: the value of ``--handlers``.
    :param listen: the endpoints.
    :param program: the command that ``spoa`` is a subcommand of.
    :param inherited: a listening socket that the agent inherits, as from systemd. It replaces ``listen``. It must also
        be among the ``sockets`` of :class:`Program`.
    """
    wrapper: list[str] = []
    if inherited is not None:
        listen = ["systemd:domain=INET:index=0"]
        wrapper = [sys.executable, "-I", "-S", "-c", _AS_SYSTEMD, str(inherited.fileno())]
    endpoints = [f"--listen={endpoint}" for endpoint in listen]
    return [*wrapper, *program, "spoa", f"--handlers={handlers}", *endpoints, *options]


class Program:
    """A child process and its output. As a context manager, it kills the process at the end.

    A thread reads the output all the time: otherwise the pipe could fill up, and the process would hang. The same
    thread waits for the end of the process, and wakes the waiting methods of this class.

    :param command: the program and its arguments.
    :param cwd: the working directory of the process.
    :param environment: environment variables in addition to :data:`ENVIRONMENT`.
    :param sockets: sockets that the process inherits, with the same descriptor numbers.
    :param stdout: the file for stdout and stderr. By default they are collected in :attr:`output`.
    :param on_change: called in the thread after the output or the status has changed.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path = ROOT,
        environment: Mapping[str, str] = {},
        sockets: Sequence[socket] = (),
        stdout: IO[bytes] | int = PIPE,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        #: The text from stdout and stderr. While the process runs, it has complete lines only.
        self.output = ""
        #: The exit status; negative if a signal ended it; ``None`` until it has ended and :attr:`output` is complete.
        self.status: int | None = None
        self._on_change = on_change
        self._changed = Condition()
        self._process = Popen(
            command,
            cwd=cwd,
            env={**ENVIRONMENT, **environment},
            pass_fds=[inherited.fileno() for inherited in sockets],
            stdin=DEVNULL,
            stdout=stdout,
            stderr=STDOUT,
        )
        self.pid: int = self._process.pid
        self._follower = Thread(target=self._follow, daemon=True)
        self._follower.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def describe(self) -> str:
        """Return the exit status and the output, for the report of a failed test."""
        return f"exit status: {self.status}\n{self.output}"

    def said(self, pattern: str | re.Pattern[str], times: int = 1, limit: float = LIMIT) -> re.Match[str]:
        """Wait until the output has ``times`` matches of ``pattern``, and return the last match.

        If the program ends before, or does not print them within ``limit`` seconds, kill it and fail the test.
        """

        def found() -> re.Match[str] | None:
            return next(islice(re.finditer(pattern, self.output), times - 1, None), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self.status is not None, limit)
            match = found()
        if match is None:
            raise self._failed(f"{pattern!r} was not printed {times} times within {limit} s")
        return match

    def address(self, number: int = 1) -> str:
        """Wait until the agent listens on ``number`` endpoints, and return the address of the last of them."""
        return self.said(LISTENING, number)[1]

    def send(self, number: int) -> bool:
        """Send a signal, unless the process has ended. Return whether it was sent."""
        with self._changed:
            running = self.status is None
            if running:
                self._process.send_signal(number)
            return running

    def signal(self, number: int) -> None:
        """Send a signal. If the process has ended, fail the test."""
        if not self.send(number):
            raise self._failed(f"signal {int(number)} was not sent")

    def ended(self, limit: float = LIMIT) -> int:
        """Wait for the end, and return the exit status. After ``limit`` seconds, kill the process and fail the test."""
        with self._changed:
            self._changed.wait_for(lambda: self.status is not None, limit)
        if self.status is None:
            raise self._failed(f"the program did not end within {limit} s")
        return self.status

    def stop(self) -> int:
        """Send SIGTERM, unless the process has ended. Wait for the end, and return the exit status."""
        self.send(SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """Kill the process, unless it has ended, and wait for its end."""
        self.send(SIGKILL)
        self._follower.join(LIMIT)
        if self._follower.is_alive():
            raise AssertionError(f"the program was killed, but another process keeps its pipe open:\n{self.output}")

    def _failed(self, what: str) -> AssertionError:
        state = "still running" if self.status is None else f"exit status {self.status}"
        # Kill the process first, so that its output is complete.
        self.kill()
        return AssertionError(f"{what} ({state}):\n{self.output}")

    def _follow(self) -> None:
        stdout = self._process.stdout
        if stdout is not None:
            with stdout:
                rest = b""
                while chunk := os.read(stdout.fileno(), 2**16):
                    # Pass on complete lines only: a pattern must not match half a port number, and decoding must not
                    # split a character.
                    lines, newline, rest = (rest + chunk).rpartition(b"\n")
                    self._change(output=lines + newline)
            self._change(output=rest)
        self._change(status=self._process.wait())

    def _change(self, output: bytes = b"", status: int | None = None) -> None:
        with self._changed:
            self.output += output.decode(errors="replace")
            self.status = status
            self._changed.notify_all()
        self._on_change()

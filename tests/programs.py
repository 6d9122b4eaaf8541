"""The programs that tests and benchmarks run, with this checkout's package in this interpreter, and what runs them."""

from __future__ import annotations

import os
import re
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

#: As an environment in which the package is installed from this checkout.
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

SPOACTL: Final = [sys.executable, "-c", "from spoa_twisted.ctl import main; main()"]
TWISTD: Final = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
TWIST: Final = [sys.executable, "-m", "twisted", "--log-format=text"]

#: The endpoint of an agent that gets a port of its own.
ANY_PORT: Final = "tcp:0:interface=127.0.0.1"

#: What an agent logs when it listens, and where that is.
LISTENING: Final = re.compile(r"SPOA listening on (\S+)\n")

#: Exit statuses of an agent that ended as it was told to. Since 24.10, Twisted ends by the signal that stopped it.
STOPPED: Final = (0, -SIGTERM)

#: Seconds to wait for a line of output, or for the end: without a limit, a program that hangs would hang its test.
LIMIT: Final = 30.0

#: Runs a command with a socket as systemd passes it on: as descriptor 3, for the process that LISTEN_PID names.
_AS_SYSTEMD: Final = """\
import os, sys
number, *command = sys.argv[1:]
os.dup2(int(number), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="spoa", LISTEN_PID=str(os.getpid()))
os.execvp(command[0], command)
"""


def spoa(
    *options: str,
    handlers: Path | str,
    listen: Sequence[str] = (ANY_PORT,),
    program: Sequence[str] = TWIST,
    inherited: socket | None = None,
) -> list[str]:
    """Return the command of an agent.

    :param options: more options of ``spoa``.
    :param listen: the endpoints.
    :param program: the command that ``spoa`` is a subcommand of.
    :param inherited: a listening socket, which is passed on as systemd does, and replaces ``listen``. It must also be
        one of the ``sockets`` of :class:`Program`.
    """
    wrapper: list[str] = []
    if inherited is not None:
        listen = ["systemd:domain=INET:index=0"]
        wrapper = [sys.executable, "-I", "-S", "-c", _AS_SYSTEMD, str(inherited.fileno())]
    endpoints = [f"--listen={endpoint}" for endpoint in listen]
    return [*wrapper, *program, "spoa", f"--handlers={handlers}", *endpoints, *options]


class Program:
    """A child process, and all that it printed. The context manager kills it at the end.

    A thread reads the output all the time, because a program whose pipe is full would hang. The same thread waits for
    the end, and wakes the tests that wait.

    :param command: the program and its arguments.
    :param cwd: the folder in which it runs.
    :param environment: variables that it has besides :data:`ENVIRONMENT`.
    :param sockets: sockets that it inherits, with the same descriptor numbers as here.
    :param stdout: where stdout and stderr go, if not to :attr:`output`.
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
        #: What it printed on stdout and stderr: whole lines only, until it has ended.
        self.output = ""
        #: The exit status, negative for a signal, and ``None`` until it has ended and its output is complete.
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
        """Return what a reader of a failed test wants to know of it."""
        return f"exit status: {self.status}\n{self.output}"

    def said(self, pattern: str | re.Pattern[str], times: int = 1, limit: float = LIMIT) -> re.Match[str]:
        """Wait until the output has ``times`` matches of ``pattern``, and return the last of them.

        If the program ends without them, or the limit is over, the program is killed and the test fails.
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
        """Wait until an agent listens on ``number`` endpoints, and return the last one's address."""
        return self.said(LISTENING, number)[1]

    def send(self, number: int) -> bool:
        """Send it a signal, unless it has ended, and return whether it was sent."""
        with self._changed:
            running = self.status is None
            if running:
                self._process.send_signal(number)
            return running

    def signal(self, number: int) -> None:
        """Send it a signal. If it has ended, the test fails."""
        if not self.send(number):
            raise self._failed(f"signal {int(number)} was not sent")

    def ended(self, limit: float = LIMIT) -> int:
        """Wait for its end, and return the exit status. After the limit it is killed and the test fails."""
        with self._changed:
            self._changed.wait_for(lambda: self.status is not None, limit)
        if self.status is None:
            raise self._failed(f"it did not end within {limit} s")
        return self.status

    def stop(self) -> int:
        """Send SIGTERM, unless it has ended, and return the exit status."""
        self.send(SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """Kill it, unless it has ended, and wait for its end."""
        self.send(SIGKILL)
        self._follower.join(LIMIT)
        if self._follower.is_alive():
            raise AssertionError(f"it was killed, but another process keeps its output open:\n{self.output}")

    def _failed(self, what: str) -> AssertionError:
        state = "it still ran" if self.status is None else f"exit status {self.status}"
        # Kill it first: the output is complete then.
        self.kill()
        return AssertionError(f"{what} ({state}):\n{self.output}")

    def _follow(self) -> None:
        stdout = self._process.stdout
        if stdout is not None:
            with stdout:
                rest = b""
                while chunk := os.read(stdout.fileno(), 2**16):
                    # In whole lines: a pattern must not match half a port, and no character is cut in two.
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

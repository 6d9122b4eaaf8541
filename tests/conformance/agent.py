"""The agent under test as a process, and what any healthy one of them answers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from .rawspop import Peer, SetVar, int64, message

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

START_LIMIT = 30.0
STOP_LIMIT = 15.0

ECHO = message("echo", ("x", int64(7)))
ECHOED = [SetVar("txn.x", int64(7))]

SMALL_FRAME = 1024
SMALL_PAYLOAD = 4096

ENDED = (0, -signal.SIGTERM)
"""Exit statuses of a clean end: newer versions of Twisted end by the very signal that stopped them."""


class Agent:
    """`twist spoa` on a free port of 127.0.0.1, with all that it printed."""

    def __init__(self, *options: str) -> None:
        self.output: list[str] = []
        self.port = 0
        self._announced = Event()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "twisted", "--log-format=text", "spoa"),
                *("--handlers", str(HERE / "handlers.py")),
                *("--listen", "tcp:0:interface=127.0.0.1", *options),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        # A pipe that nobody reads fills up, and then the agent hangs in its log.
        self._reader = Thread(target=self._read_output, daemon=True)
        self._reader.start()
        if not self._announced.wait(START_LIMIT) or not self.port:
            self.kill()
            raise AssertionError(f"no listening agent within {START_LIMIT} s:\n{''.join(self.output)}")

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if found := re.search(r"SPOA listening on 127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                self._announced.set()
        self._announced.set()

    def connect(self, *, receive_buffer: int | None = None) -> Peer:
        return Peer(self.port, receive_buffer=receive_buffer)

    def catch_up(self) -> None:
        """Return when the agent has read all that was sent to it before.

        The two round trips of a later connection are two turns of the agent's event
        loop, and a turn reads every socket that has something.
        """
        peer = self.connect()
        try:
            peer.handshake()
            peer.request(ECHO)
        finally:
            peer.close()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status of an agent that was told to end."""
        try:
            return self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {STOP_LIMIT} s later") from None
        finally:
            self.kill()

    def stop(self) -> int:
        self.terminate()
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


Connect = Callable[..., Peer]
Launch = Callable[..., Agent]

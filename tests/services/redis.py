"""A Redis server on a Unix socket and a free port of 127.0.0.1. It keeps nothing on the disk."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

from tests.programs import LIMIT, Program, find_program

from .frozen import Stoppable


class Redis(Stoppable):
    """A server.

    :param folder: a folder for its socket. The path of a Unix socket may have 107 bytes.
    :param stack: ends the server.
    :param options: more options of redis-server.
    :raises NotInstalled: if redis-server or redis-cli is missing.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack, *options: str) -> None:
        self._executable = find_program("redis-server", "redis-server")
        self._cli = find_program("redis-cli", "redis-tools")
        self._folder = folder
        self._stack = stack
        self._options = options
        self.path = folder / "redis.sock"
        # Bound and not listening: nobody else gets the port, and Redis can listen there.
        held = stack.enter_context(socket.socket())
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{held.getsockname()[1]}"

    def start(self) -> None:
        """Start the server, for the first time or again, and wait until it is ready."""
        host, _, port = self.address.partition(":")
        command = [self._executable, "--bind", host, "--port", port, "--unixsocket", str(self.path)]
        command += ["--save", "", "--appendonly", "no", *self._options]
        self.program = self._stack.enter_context(Program(command, cwd=self._folder))
        self.program.said("ready to accept connections at")

    def run(self, *command: str) -> str:
        """Run a command of Redis; return its answer."""
        ended = subprocess.run(
            [self._cli, "-s", str(self.path), *command], capture_output=True, text=True, check=True, timeout=LIMIT
        )
        return ended.stdout.strip()

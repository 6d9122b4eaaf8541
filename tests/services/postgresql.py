"""A PostgreSQL server on a Unix socket. PostgreSQL does not run as root: then it runs as the user postgres."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.programs import LIMIT, Program, find_program

#: The folder of PostgreSQL's programs in Debian.
BIN = "/usr/lib/postgresql/*/bin"


class PostgreSQL:
    """A server with an empty database. Its folder has a short path: that of a Unix socket may have 107 bytes.

    :param stack: ends the server.
    :raises NotInstalled: if PostgreSQL or setpriv is missing.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        initdb = find_program("initdb", "postgresql", BIN)
        self._executable = find_program("postgres", "postgresql", BIN)
        self._psql = find_program("psql", "postgresql-client", BIN)
        self._stack = stack
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        stack.callback(shutil.rmtree, self._folder)
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres")
            self._as_user = [find_program("setpriv", "util-linux"), "--reuid=postgres", "--regid=postgres"]
            self._as_user += ["--clear-groups"]
        self._data = self._folder / "data"
        subprocess.run(
            [*self._as_user, initdb, "-D", self._data, "-U", "agent", "-A", "trust", "--no-sync", "-E", "UTF8"],
            cwd=self._folder,
            check=True,
            capture_output=True,
            timeout=LIMIT,
        )
        #: The value of the setting DATABASE.
        self.url = f"postgresql://agent@/postgres?host={self._folder}"
        self.program: Program

    def start(self) -> None:
        """Start the server, for the first time or again, and wait until it takes connections."""
        options = [
            "-k",
            str(self._folder),
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "log_destination=stderr",
        ]
        options += ["-c", "logging_collector=off", "-c", "lc_messages=C"]
        command = [*self._as_user, self._executable, "-D", str(self._data), *options]
        self.program = self._stack.enter_context(Program(command, cwd=self._folder))
        self.program.said("database system is ready to accept connections")

    def run(self, *statements: str) -> None:
        """Run SQL statements with psql.

        :raises subprocess.CalledProcessError: if one fails.
        """
        commands = [f"--command={statement}" for statement in statements]
        options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        subprocess.run(
            [self._psql, *options, *commands, self.url], check=True, capture_output=True, timeout=LIMIT, text=True
        )

    def stop(self) -> None:
        """End the server and all its connections."""
        # SIGINT is the "fast" shutdown: it does not wait for clients.
        self.program.signal(signal.SIGINT)
        self.program.ended()

"""A shell on a terminal, into which a test types."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Self

#: Seconds after which a test fails that waits for the shell.
LIMIT: Final = 60.0


class Terminal:
    """A process on a terminal of its own. As a context manager, it kills the process at the end."""

    def __init__(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] = {}) -> None:
        self.screen = ""
        variables = {**os.environ, "TERM": "dumb", "PS1": "$ ", **environment}
        self._file, other = pty.openpty()
        # Not pty.fork(): Python >= 3.12 warns of it in a process with threads. setsid makes the terminal that of the
        # shell, which a shell needs for its line editor.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=other, stdout=other, stderr=other, cwd=cwd, env=variables
        )
        os.close(other)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._file)

    def type(self, keys: str) -> None:
        """Type ``keys``; ``\\t`` is the Tab key."""
        self.screen = ""
        os.write(self._file, keys.encode())

    def shows(self, pattern: str) -> None:
        """Wait until what the shell has written since the last :meth:`type` has a match of ``pattern``."""
        until = time.monotonic() + LIMIT
        while not re.search(pattern, self.screen):
            data = b""
            if select.select([self._file], [], [], max(0.0, until - time.monotonic()))[0]:
                with suppress(OSError):
                    data = os.read(self._file, 2**16)
            if not data:
                raise AssertionError(f"{pattern!r} was not shown:\n{self.screen}")
            self.screen += data.decode(errors="replace")

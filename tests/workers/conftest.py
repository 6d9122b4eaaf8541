"""Fixtures: a folder with handlers that can be changed, and agents with workers that run in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from spoa_twisted.spop.messages import Message
from tests.programs import ANY_PORT, TWIST, Program
from tests.runner.test_process import Engine

#: A module of handlers. Each process that imports it adds its number to the file "imports".
MODULE = """\
import os

from spoa_twisted import Handlers

handlers = Handlers()

with open("imports", "a") as file:
    file.write(f"{os.getpid()}\\n")


@handlers.message("m")
def m():
    return {"sess.pid": os.getpid(), "sess.version": VERSION}


VERSION = 1
"""

Start = Callable[..., Program]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module ``mymod``. It is the current folder of the test."""
    (tmp_path / "mymod.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts an agent with workers in the folder, and kills the agent after the test."""
    with ExitStack() as programs:

        def start(
            *options: str, workers: int = 1, listen: str = ANY_PORT, program: list[str] = TWIST, handlers: str = "mymod"
        ) -> Program:
            command = [*program, "spoa", f"--handlers={handlers}", f"--workers={workers}", f"--listen={listen}"]
            return programs.enter_context(Program([*command, *options], cwd=folder))

        yield start


def write(folder: Path, lines: str, version: int = 2) -> None:
    """Change the module ``mymod``: add ``lines`` at its end, and set its version."""
    (folder / "mymod.py").write_text(MODULE.replace("VERSION = 1", f"VERSION = {version}") + lines)


def all_ready(agent: Program, workers: int) -> None:
    """Wait until all workers are ready. The second one may be ready before the first."""
    for number in range(1, workers + 1):
        agent.said(f"worker {number} is ready")


def address_of(agent: Program) -> object:
    """Wait until the agent listens, and return its address for ``socket.connect``."""
    host, _, port = agent.address().rpartition(":")
    return (host, int(port)) if port else host


def ask(agent: Program, message: str = "m", address: object = None) -> dict[str, object]:
    """Send a NOTIFY over a new connection, and return the variables."""
    with Engine(address or address_of(agent)) as engine:
        engine.connection.send_notify([Message(message)])
        engine.send()
        variables: dict[str, object] = engine.next_event().variables
        return variables


def imports(folder: Path) -> list[int]:
    """Return the numbers of the processes that have imported ``mymod``."""
    return [int(line) for line in (folder / "imports").read_text().split()]

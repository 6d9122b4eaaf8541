"""Tests of the class Program: it waits for the output and the end of a process, and leaves no process running."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .programs import Program, spoa


@pytest.fixture
def python() -> Iterator[Any]:
    """A function that runs Python code as a Program."""
    with ExitStack() as programs:
        yield lambda text, **keywords: programs.enter_context(Program([sys.executable, "-c", text], **keywords))


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_waiting_for_output(python: Any) -> None:
    """said() returns the wanted match in the output, which contains both stdout and stderr."""
    program = python(
        "import sys; print('port 1'); print('port 2', file=sys.stderr); print('port 3'); sys.stdin.read(); sys.exit(7)"
    )
    assert [program.said(r"port (\d+)\n", times)[1] for times in (3, 1, 2)] == ["3", "1", "2"]
    assert program.ended() == program.status == 7
    assert program.said("port")[0] == "port"
    assert sorted(program.output.splitlines()) == ["port 1", "port 2", "port 3"]


def test_output_has_complete_lines(python: Any, tmp_path: Path) -> None:
    """An incomplete line is not in the output before its end arrives, or the program ends.

    So no pattern matches half a number, and no character is split.
    """
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    changes: list[None] = []
    program = python(
        "import os\n"
        "os.write(1, b'begins\\nport 12' + 'é'.encode()[:1])\n"
        f"os.close(os.open({str(gate)!r}, os.O_WRONLY))\n"
        "os.write(1, 'é'.encode()[1:] + b'34\\n\\xff')\n",
        on_change=lambda: changes.append(None),
    )
    program.said("begins")
    assert program.output == "begins\n"
    os.close(os.open(gate, os.O_RDONLY))
    assert program.said("port (.+)\n")[1] == "12é34"
    assert program.ended() == 0
    assert program.output == "begins\nport 12é34\n\N{REPLACEMENT CHARACTER}"
    program.kill()
    # One call each for the complete lines, the last incomplete line, and the status.
    assert len(changes) >= 3


def test_end_without_the_awaited_output(python: Any) -> None:
    """said() fails as soon as the program has ended without the awaited output, and shows its output."""
    program = python("print('one'); print('sorry'); raise SystemExit(3)")
    with pytest.raises(AssertionError, match=r"(?s)'one' was not printed 2 times.*\(exit status 3\):\none\nsorry\n"):
        program.said("one", 2)


@pytest.mark.parametrize("wait", [lambda program: program.said("more", limit=0.5), lambda program: program.ended(0.5)])
def test_timeouts(python: Any, wait: Any) -> None:
    """After the limit, said() and ended() kill the program, and show its complete output."""
    program = python("import os, signal; os.write(1, b'begins\\nand waits'); signal.pause()")
    program.said("begins")
    with pytest.raises(AssertionError, match=r"(?s)within 0\.5 s \(still running\):\nbegins\nand waits$"):
        wait(program)
    assert program.status == -signal.SIGKILL
    assert not exists(program.pid)


def test_much_output(python: Any) -> None:
    """A program can print more than the capacity of a pipe, even if the test does not wait for output."""
    program = python("print('many\\n' * 300_000)")
    assert program.ended() == 0
    assert program.output.count("many\n") == 300_000


def test_after_the_end(python: Any) -> None:
    """After the program has ended, stop() and kill() do nothing, and signal() fails."""
    program = python("import signal; print('ready'); signal.pause()")
    program.said("ready")
    program.signal(signal.SIGCONT)
    assert exists(program.pid)
    assert program.stop() == program.stop() == -signal.SIGTERM
    program.kill()
    with pytest.raises(AssertionError, match=r"(?s)signal 18 was not sent \(exit status -15\):\nready"):
        program.signal(signal.SIGCONT)
    assert not exists(program.pid)


def test_context_manager() -> None:
    """At the end of the context, a program that still runs is killed."""
    with Program(["sleep", "600"]) as program:
        assert exists(program.pid)
    assert program.status == -signal.SIGKILL
    assert not exists(program.pid)


def test_output_to_a_file(python: Any, tmp_path: Path) -> None:
    """If stdout is a file, Program collects no output, and ended() still returns."""
    with (tmp_path / "output").open("wb") as output:
        text = "import os; print(os.getcwd(), os.environ['NAME'])"
        program = python(text, stdout=output, cwd=tmp_path, environment={"NAME": "x"})
    assert program.ended() == 0
    assert (tmp_path / "output").read_text() == f"{tmp_path} x\n"
    assert program.output == ""


def test_a_socket_as_from_systemd() -> None:
    """An inherited socket is descriptor 3 of the program, and LISTEN_PID is its process id."""
    shown = "import os, socket; s = socket.socket(fileno=3); print(s.getsockname()[1], os.getpid(), os.environ)"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = spoa(handlers="unused", inherited=listening, program=[sys.executable, "-c", shown])
        with Program(command, sockets=[listening]) as program:
            port, pid, environment = program.said(r"(\d+) (\d+) (.+)\n").groups()
        assert int(port) == listening.getsockname()[1]
    assert int(pid) == program.pid
    assert f"'LISTEN_PID': '{pid}'" in environment
    assert "'LISTEN_FDS': '1'" in environment

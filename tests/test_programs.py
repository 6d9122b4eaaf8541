"""Program, which runs the programs of other tests, waits for their output and their end, and leaves none running."""

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
    """Runs a text as a program."""
    with ExitStack() as programs:
        yield lambda text, **keywords: programs.enter_context(Program([sys.executable, "-c", text], **keywords))


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_what_is_waited_for(python: Any) -> None:
    """said returns the match that was asked for, in all that was printed on stdout and stderr."""
    program = python(
        "import sys; print('port 1'); print('port 2', file=sys.stderr); print('port 3'); sys.stdin.read(); sys.exit(7)"
    )
    assert [program.said(r"port (\d+)\n", times)[1] for times in (3, 1, 2)] == ["3", "1", "2"]
    assert program.ended() == program.status == 7
    assert program.said("port")[0] == "port"
    assert sorted(program.output.splitlines()) == ["port 1", "port 2", "port 3"]


def test_lines_come_whole(python: Any, tmp_path: Path) -> None:
    """An unfinished line is held back until the program ends: no pattern matches half a number, no character is cut."""
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
    # The lines, what has no end of line, and the status.
    assert len(changes) >= 3


def test_what_is_not_printed_any_more(python: Any) -> None:
    """said fails as soon as the program has ended, and shows the output."""
    program = python("print('one'); print('sorry'); raise SystemExit(3)")
    with pytest.raises(AssertionError, match=r"(?s)'one' was not printed 2 times.*\(exit status 3\):\none\nsorry\n"):
        program.said("one", 2)


@pytest.mark.parametrize("wait", [lambda program: program.said("more", limit=0.5), lambda program: program.ended(0.5)])
def test_what_takes_too_long(python: Any, wait: Any) -> None:
    """After the limit, said and ended kill the program, and show all of its output."""
    program = python("import os, signal; os.write(1, b'begins\\nand waits'); signal.pause()")
    program.said("begins")
    with pytest.raises(AssertionError, match=r"(?s)within 0\.5 s \(still running\):\nbegins\nand waits$"):
        wait(program)
    assert program.status == -signal.SIGKILL
    assert not is_there(program.pid)


def test_output_that_nobody_waits_for(python: Any) -> None:
    """A program can print more than a pipe holds, although no test waits for it."""
    program = python("print('many\\n' * 300_000)")
    assert program.ended() == 0
    assert program.output.count("many\n") == 300_000


def test_its_end(python: Any) -> None:
    """After the end, stop and kill do nothing, and signal fails."""
    program = python("import signal; print('ready'); signal.pause()")
    program.said("ready")
    program.signal(signal.SIGCONT)
    assert is_there(program.pid)
    assert program.stop() == program.stop() == -signal.SIGTERM
    program.kill()
    with pytest.raises(AssertionError, match=r"(?s)signal 18 was not sent \(exit status -15\):\nready"):
        program.signal(signal.SIGCONT)
    assert not is_there(program.pid)


def test_one_that_is_left_to_itself() -> None:
    """The context manager kills a program that still runs."""
    with Program(["sleep", "600"]) as program:
        assert is_there(program.pid)
    assert program.status == -signal.SIGKILL
    assert not is_there(program.pid)


def test_output_of_ones_own(python: Any, tmp_path: Path) -> None:
    """Without a pipe there is no output, and ended returns all the same."""
    with (tmp_path / "output").open("wb") as output:
        text = "import os; print(os.getcwd(), os.environ['NAME'])"
        program = python(text, stdout=output, cwd=tmp_path, environment={"NAME": "x"})
    assert program.ended() == 0
    assert (tmp_path / "output").read_text() == f"{tmp_path} x\n"
    assert program.output == ""


def test_a_socket_as_from_systemd() -> None:
    """The program has it as descriptor 3, and LISTEN_PID is its own process id."""
    shown = "import os, socket; s = socket.socket(fileno=3); print(s.getsockname()[1], os.getpid(), os.environ)"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = spoa(handlers="unused", inherited=listening, program=[sys.executable, "-c", shown])
        with Program(command, sockets=[listening]) as program:
            port, pid, environment = program.said(r"(\d+) (\d+) (.+)\n").groups()
        assert int(port) == listening.getsockname()[1]
    assert int(pid) == program.pid
    assert f"'LISTEN_PID': '{pid}'" in environment
    assert "'LISTEN_FDS': '1'" in environment

"""ctl: the subcommands, their list in the help, and errors as one line on stderr."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import Factory, Protocol

from spoa_twisted.ctl import COMMANDS, TASKS, _run, main, parser, ping
from tests.programs import ENVIRONMENT, ROOT, SPOACTL

from .spoactl import spoactl

reactor: Any = default_reactor


def test_the_help_lists_each_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    """Each task has the names and the summaries of its commands. Another list has the exit statuses."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for task, commands in TASKS.items():
        listed = printed.partition(f"\n{task}:\n")[2].partition("\n\n")[0].splitlines()
        assert [line.split(maxsplit=1) for line in listed] == [[name, commands[name].SUMMARY] for name in commands]
    statuses = printed.partition("exit status:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in statuses] == ["0", "1", "2"]
    # One command has others, and says so itself.
    own = COMMANDS["status"].parser().format_help()
    _, _, others = " ".join(printed.split()).partition("has those of monitoring plugins: ")
    for part in others.partition(".")[0].split(", "):
        number, meaning = part.split(maxsplit=1)
        assert re.search(rf"^  {number}  .*{meaning.replace('ok', 'all is well')}", own, re.MULTILINE), part


@pytest.mark.parametrize("command", ["explain 257", "config --handlers examples/ip_reputation/handlers.py"])
def test_the_reader_of_stdout_has_ended(command: str) -> None:
    """As with ``spoactl ... | head -1``: that needs no text. The status is not 0, because not all was printed."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [*SPOACTL, *command.split()], cwd=ROOT, env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_without_a_word_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with the exit status of a wrong command line."""
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", parser().format_help())


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("chek", "'chek' is not a command; did you mean check?"),
        ("xyzzy", f"'xyzzy' is not a command; the commands are {', '.join(COMMANDS)}"),
    ],
)
def test_an_unknown_command(word: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names similar commands, or all."""
    with pytest.raises(SystemExit) as caught:
        main([word])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"spoactl: error: argument COMMAND: {error}"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_the_exit_statuses(name: str) -> None:
    """One section, which ends with the same words."""
    printed = COMMANDS[name].parser().format_help()
    assert printed.lower().count("\nexit status:\n") == 1
    statuses = printed.partition("\nexit status:\n")[2].partition("\n\n")[0].splitlines()
    assert len(statuses) == (4 if name == "status" else 3)
    assert statuses[-1] == f"  {len(statuses) - 1}  the command line is wrong"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_subcommand_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help begins with the usage of the subcommand."""
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: spoactl {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_help_are_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser of the subcommand accepts each command line that its help shows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "upload.bin").write_bytes(b"abc")
    parser = COMMANDS[name].parser()
    lines = parser.format_help().partition("\nexamples:\n")[2].splitlines()
    examples = [match[1] for line in lines if (match := re.match(rf"  spoactl {name}\b *(.*)", line))]
    assert bool(examples)
    for example in examples:
        command = re.split(r" (?:\||&&|>) ", example.replace("$(cat twistd.pid)", "1"))[0]
        parser.parse_intermixed_args(shlex.split(command))


@pytest.mark.parametrize("arguments", [["nonsense"], ["send"], ["ping", "--agent", "nonsense:1"]])
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 2, and the last line on stderr is the error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("spoactl")


@pytest.mark.parametrize("command", [["ping"], ["send", "m"], ["bench"]])
@pytest_twisted.ensureDeferred
async def test_no_agent_listens(command: list[str], tmp_path: Path) -> None:
    """The error is one line on stderr that names the endpoint, and the exit status is 1."""
    out, err, status = await spoactl(*command, "--agent", f"unix:{tmp_path}/nobody")
    assert (out, status) == ("", 1)
    assert err.startswith("spoactl: ")
    assert err.endswith(f"; does an agent listen on unix:{tmp_path}/nobody?\n")
    assert err.count("\n") == 1


class WebServer(Protocol):
    """A server that answers in HTTP."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("protocol", [WebServer, Protocol], ids=["HTTP", "no answer"])
@pytest_twisted.ensureDeferred
async def test_the_server_is_not_an_agent(protocol: type[Protocol]) -> None:
    """The error is one line on stderr, and the exit status is 1."""
    port = reactor.listenTCP(0, Factory.forProtocol(protocol), interface="127.0.0.1")
    out, err, status = await spoactl("ping", "--agent", f"tcp:127.0.0.1:{port.getHost().port}", "--timeout", "1")
    await port.stopListening()
    assert (out, status) == ("", 1)
    assert err.startswith("spoactl: ")
    assert err.count("\n") == 1


class Closing(Protocol):
    """A server that closes the connection when it receives something."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_an_agent_closes_without_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says so, where Twisted's text would be that the connection was closed cleanly."""
    port = reactor.listenUNIX(f"{tmp_path}/agent", Factory.forProtocol(Closing))
    with pytest.raises(SystemExit) as caught:
        await _run(reactor, ping, ping.parser().parse_args(["--agent", f"unix:{tmp_path}/agent"]))
    await port.stopListening()
    assert caught.value.code == 1
    assert capsys.readouterr() == ("", "spoactl: the agent closed the connection without an answer\n")

"""ctl: the subcommands, their list in the help, and errors as one line on stderr."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import Factory, Protocol

from spoa_twisted.ctl import COMMANDS, _run, main, ping

from .spoactl import spoactl

reactor: Any = default_reactor


def test_the_help_lists_each_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    """The list has the name and the summary of each module in COMMANDS. Another list has the exit statuses."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    listed = printed.partition("commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split(maxsplit=1) for line in listed] == [[name, COMMANDS[name].SUMMARY] for name in COMMANDS]
    statuses = printed.partition("exit status:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in statuses] == ["0", "1", "2", '"spoactl']
    # One command has others, and says so itself.
    own = COMMANDS["status"].parser().format_help()
    for part in statuses[-1].partition(": ")[2].split(", "):
        number, meaning = part.split(maxsplit=1)
        assert re.search(rf"^  {number}  .*{meaning.replace('ok', 'all is well')}", own, re.MULTILINE), part


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
    prompt = f"  spoactl {name} "
    examples = [line.removeprefix(prompt) for line in parser.format_help().splitlines() if line.startswith(prompt)]
    assert bool(examples) == (name != "ping")
    for example in examples:
        command = re.split(r" (?:\||&&) ", example.replace("$(cat twistd.pid)", "1"))[0]
        parser.parse_intermixed_args(shlex.split(command))


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["send"], ["ping", "--agent", "nonsense:1"]])
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

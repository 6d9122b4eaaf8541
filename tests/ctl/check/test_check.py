"""``spoactl check``: its output and its exit status."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spoa_twisted.ctl import check
from spoa_twisted.ctl.check.report import as_json, as_text
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.lines import Place
from spoa_twisted.haproxy.joined import Joined, join, with_other_generation
from tests.haproxy_side.configurations import GOOD, NEW, OLD, Files

from .test_binary import VERSION, program

HANDLERS = """\
from spoa_twisted import Handlers

handlers = Handlers()


@handlers.message("lookup")
def lookup(ip):
    return {"txn.allowed": True}
"""

#: An info, a warning and an error, in both files. HAProxy 3.1 and later ignore "timeout idle".
BAD = GOOD.replaced("timeout idle 2m", "timeout idle 1s").replaced("option spop-check", "option tcp-check")
BAD_LINES = {
    "check-without-spop": "haproxy.cfg:26: warning: ",
    "idle-short": "spoe.conf:8: error: ",
}


def run(*arguments: str) -> int:
    """Run the command, and return its exit status."""
    try:
        check.run(None, check.parser().parse_intermixed_args(arguments)).send(None)
    except StopIteration:
        return 0
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code
    raise AssertionError("the command waits for something")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder. The modules of handlers in it are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("agent", "slow_agent"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


Printed = pytest.CaptureFixture[str]


def test_nothing_is_found(folder: Path, capsys: Printed) -> None:
    """Nothing is printed either, in whatever way the files are named."""
    GOOD.write(folder)
    (folder / "agent.py").write_text(HANDLERS)
    for arguments in (
        ["spoe.conf", "haproxy.cfg"],
        ["haproxy.cfg"],
        ["."],
        ["-f", "haproxy.cfg"],
        ["-f", ".", "spoe.conf"],
    ):
        assert run(*arguments, "--no-haproxy") == 0
        assert run(*arguments, "--no-haproxy", "--handlers", "agent.py") == 0
    assert capsys.readouterr() == ("", "")


def test_findings_are_sorted_lines(folder: Path, capsys: Printed) -> None:
    """One that holds for one generation only says so. The exit status is 1."""
    BAD.write(folder)
    assert run("spoe.conf", "haproxy.cfg", "--no-haproxy") == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(BAD_LINES["check-without-spop"])
    assert first.endswith(" [check-without-spop]")
    assert second.startswith(BAD_LINES["idle-short"])
    assert second.endswith(" (HAProxy 3.0 and earlier) [idle-short]")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--version", "2.8"], ["check-without-spop", "idle-short"]),
        (["--version", "3.2.26-1"], ["check-without-spop"]),
        (["--ignore", "check-without-spop"], ["idle-short"]),
        (["--ignore", "check-without-spop,idle-short"], []),
        (["--ignore", "check-without-spop", "--ignore", "idle-short"], []),
    ],
)
def test_versions_and_ignored_checks(folder: Path, capsys: Printed, options: list[str], found: list[str]) -> None:
    """With one version, no finding says for which version it holds."""
    BAD.write(folder)
    assert run("haproxy.cfg", "--no-haproxy", *options) == bool(found)
    printed = capsys.readouterr().out
    assert [line.rpartition("[")[2] for line in printed.splitlines()] == [f"{id_}]" for id_ in found]
    if "--version" in options:
        assert "(HAProxy" not in printed


def test_an_info_is_no_failure(folder: Path, capsys: Printed) -> None:
    GOOD.without("option spop-check").replaced(" check\n", "\n").write(folder)
    assert run("haproxy.cfg", "--no-haproxy") == 0
    assert ": info: " in capsys.readouterr().out


def test_json(folder: Path, capsys: Printed) -> None:
    """Each finding is a line of JSON."""
    BAD.write(folder)
    assert run("haproxy.cfg", "--no-haproxy", "--json") == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert second.pop("text").startswith("'timeout idle' (1 s) must be longer")
    assert second == {
        "file": "spoe.conf",
        "line": 8,
        "column": 5,
        "severity": "error",
        "id": "idle-short",
        "versions": ["2.8"],
    }
    assert first["versions"] == ["2.8", "3.2"]


def test_only_spoe_conf(folder: Path, capsys: Printed) -> None:
    """The last line says once what was left out."""
    GOOD.alone().write(folder)
    assert run("spoe.conf", "--no-haproxy") == 0
    assert capsys.readouterr() == (
        "",
        "spoactl: only spoe.conf was given: checks that need haproxy.cfg were left out\n",
    )


def test_no_engine(folder: Path, capsys: Printed) -> None:
    GOOD.without("filter spoe engine rep config spoe.conf").write(folder)
    run("haproxy.cfg", "--no-haproxy")
    assert capsys.readouterr().err == "spoactl: haproxy.cfg has no 'filter spoe' line: there is no engine to check\n"


def test_what_is_not_understood_is_said_once(folder: Path, capsys: Printed) -> None:
    """For both versions once, and for the first lines only."""
    bad = "".join([f"    acl x{number} src 'a\n" for number in range(6)])
    GOOD.plus(spoe=bad).write(folder)
    run("haproxy.cfg", "--no-haproxy")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("spoactl: not understood: spoe.conf:16: HAProxy does not accept the line: the quote")
    assert lines[-1] == "spoactl: not understood: 1 more lines"


def test_a_file_of_an_engine_that_is_missing(folder: Path, capsys: Printed) -> None:
    GOOD.write(folder)
    (folder / "spoe.conf").unlink()
    assert run("haproxy.cfg", "--no-haproxy") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spoactl: not understood: haproxy.cfg:13: The file spoe.conf cannot be read")


def test_a_file_that_is_no_text(folder: Path) -> None:
    """It is one line on stderr, and exit status 1: see ``ctl.main``."""
    with pytest.raises(ValueError, match=r"^nowhere.cfg|cannot read nowhere.cfg: No such file or directory$"):
        run("nowhere.cfg")


def test_a_control_character_of_a_file_is_escaped() -> None:
    """It could change the terminal. In JSON, a byte that is not UTF-8 becomes a sign for it."""
    finding = Finding("event-twice", Severity.ERROR, Place("a\x1b.cfg", 3), "the message 'm\udcff'")
    item = Joined(finding, (OLD,), "HAProxy 3.0 and earlier")
    assert as_text(item) == "a\\x1b.cfg:3: error: the message 'm\\udcff' (HAProxy 3.0 and earlier) [event-twice]"
    assert json.loads(as_json(item))["text"] == "the message 'm\ufffd'"


def test_explain(capsys: Printed) -> None:
    """The page of a check, as plain text."""
    assert run("--explain", "no-check") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("no-check\n========\n\nNo server of the agents' backend has check, so ")
    assert "\nThe mend\n--------\n" in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no file: name spoe.conf, haproxy.cfg, or a folder with them"),
        (["x", "--version", "new"], "argument --version: 'new' is not a version of HAProxy, such as 3.2"),
        (
            ["--explain", "even-twice"],
            "argument --explain: 'even-twice' is not the ID of a check; did you mean event-twice",
        ),
        (["x", "--ignore", "no-log,"], "argument --ignore: '' is not the ID of a check: see docs/reference/checks.rst"),
        (
            ["x", "--handler-timeout", "x"],
            "argument --handler-timeout: 'x' is not a number of seconds, or 0 for no limit",
        ),
        (["x", "--handler-timeout", "-1"], "argument --handler-timeout: "),
    ],
)
def test_a_wrong_command_line(arguments: list[str], text: str, capsys: Printed) -> None:
    """The exit status is 2."""
    assert run(*arguments) == 2
    assert f"spoactl check: error: {text}" in capsys.readouterr().err


def test_the_handlers_timeout(folder: Path, capsys: Printed) -> None:
    """A handler without a timeout of its own has that of the agent."""
    GOOD.write(folder)
    source = HANDLERS.replace('"lookup"', '"lookup", on_error={"txn.allowed": False}').replace("def", "async def")
    (folder / "slow_agent.py").write_text(source)
    arguments = ("haproxy.cfg", "--no-haproxy", "--handlers", "slow_agent.py")
    assert run(*arguments) == 0
    assert run(*arguments, "--handler-timeout", "2") == 1
    assert capsys.readouterr().out.startswith("spoe.conf:9: warning: the handler of 'lookup' may take 2 s, and HAProxy")


def test_other_handlers_are_not_compared(folder: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another implementation of IHandlers does not tell its messages."""
    GOOD.write(folder)
    monkeypatch.setattr(check, "load_all", lambda *specifications: SimpleNamespace())
    assert run("haproxy.cfg", "--no-haproxy", "--handlers", "x") == 0
    assert capsys.readouterr().err.startswith("spoactl: the handlers are not compared: they are no Handlers")


def with_haproxy(folder: Path, files: Files, *lines: str, version: str = VERSION) -> str:
    """Write the files, and a HAProxy that says these lines. Return its path."""
    files.write(folder)
    (folder / "bin").mkdir()
    return program(folder / "bin", "\n".join([version, *lines]))


WARNING = "[WARNING]  (12) : config : missing timeouts for backend 'app'."


def test_what_haproxy_says_comes_first(folder: Path, capsys: Printed) -> None:
    """And counts as an error or a warning. With --json, stdout has findings only."""
    path = with_haproxy(folder, BAD, WARNING)
    assert run("haproxy.cfg", "--haproxy", path, "--ignore", ",".join(BAD_LINES)) == 1
    assert capsys.readouterr() == ("haproxy: warning: config : missing timeouts for backend 'app'.\n", "")
    assert run("haproxy.cfg", "--haproxy", path, "--json") == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == list(BAD_LINES)
    assert err == "haproxy: warning: config : missing timeouts for backend 'app'.\n"


def test_haproxy_says_which_lines_it_does_not_accept(folder: Path, capsys: Printed) -> None:
    """Then nothing else says so."""
    path = with_haproxy(folder, GOOD.plus(spoe="    acl x 'a\n"))
    run("haproxy.cfg", "--haproxy", path)
    assert "not understood" not in capsys.readouterr().err


def test_files_that_this_machine_does_not_have(folder: Path, capsys: Printed) -> None:
    """They are no finding."""
    path = with_haproxy(folder, GOOD, "[ALERT]    (12) : config : unable to stat SSL certificate from file 'x.pem'")
    assert run("haproxy.cfg", "--haproxy", path) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "spoactl: haproxy -c has not checked everything: on this machine, config : unable to stat SSL certificate from"
        " file 'x.pem'\n"
    )


def test_a_haproxy_of_another_version_does_not_run(
    folder: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say that it does not know ``mode spop``. If the user names it, it runs."""
    path = with_haproxy(folder, GOOD, WARNING)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    assert run("haproxy.cfg", "--version", "2.8") == 0
    assert run("haproxy.cfg", "--version", "3.2") == 1
    assert run("haproxy.cfg", "--version", "2.8", "--haproxy", path) == 1
    assert run("spoe.conf") == 0
    capsys.readouterr()


def test_the_version_of_the_haproxy_that_is_found(folder: Path, capsys: Printed) -> None:
    """It is checked, and one of the other generation."""
    path = with_haproxy(folder, BAD, version="HA-Proxy version 2.6.12 2024/01/01")
    run("haproxy.cfg", "--haproxy", path, "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["versions"] for line in lines] == [["2.6", "3.2"], ["2.6"]]


def test_the_other_generation() -> None:
    assert with_other_generation((3, 4)) == ((2, 8), (3, 4))
    assert with_other_generation((3, 0)) == ((3, 0), (3, 2))


def test_findings_of_several_versions_are_joined() -> None:
    """A finding that is found twice, or for both versions, is one."""
    first, second, third = [
        Finding(id_, Severity.ERROR, Place("spoe.conf", line), "text") for id_, line in (("a", 2), ("b", 1), ("c", 3))
    ]
    joined = join({OLD: [first, second, first], NEW: [third, first]})
    assert joined == [
        Joined(second, (OLD,), "HAProxy 3.0 and earlier"),
        Joined(first, (OLD, NEW), ""),
        Joined(third, (NEW,), "HAProxy 3.1 and later"),
    ]

"""``spoactl config``: options, files, and its exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spoa_twisted.ctl import config, main
from spoa_twisted.haproxy.writing.plan import CannotWrite
from spoa_twisted.runner.errors import CannotStart

HANDLERS = """\
from spoa_twisted import Handlers

handlers = Handlers(on_error={"txn.error": "handler"})
others = Handlers()


@handlers.message("b-first", args={"ip": "src"}, event="on-frontend-http-request", sets={"txn.allowed": bool})
def first(ip):
    return {"txn.allowed": True}


@handlers.message("a-second", args={}, event="on-client-session")
def second():
    return None


@others.message("undeclared")
def undeclared(ip):
    return {"txn.allowed": True}
"""

Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the command in a folder with the module "iprep", in this process."""
    (tmp_path / "iprep.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)

    def run(*words: str) -> None:
        # The command waits for nothing, so that it needs no reactor.
        with contextlib.suppress(StopIteration):
            config.run(None, config.parser().parse_args(words)).send(None)

    yield run
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_both_texts_are_printed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --output, stdout has both. The messages are in the order of registration."""
    run("--handlers", "iprep")
    out, err = capsys.readouterr()
    assert out.startswith("# spoe.conf\n[iprep]\nspoe-agent iprep-agent\n    messages b-first a-second\n")
    assert "\n\n# haproxy.cfg.parts\n    # Into the frontend, before its other rules.\n    filter spoe engine" in out
    assert out.endswith("    server agent1 127.0.0.1:12345\n")
    assert err == ""


def test_options(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        *("--handlers", "iprep.py", "--engine", "e", "--prefix", "p", "--server", "127.0.0.1:1", "--server", "/a/b"),
        *("--fail", "open", "--processing", "3", "--body", "3000000", "--require", "txn.allowed=451"),
    )
    out, _ = capsys.readouterr()
    for text in (
        *("[e]\n", "option var-prefix p\n", "server agent1 127.0.0.1:1\n    server agent2 /a/b\n"),
        *("#http-request deny deny_status 503", "timeout processing 3s\n", "tune.bufsize 3065536\n"),
        "http-request deny deny_status 451 if { var(txn.p.allowed) -m found } ",
    ):
        assert text in out


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ([], "twistd -n spoa --handlers iprep"),
        (["--handlers", "iprep:others"], "twistd -n spoa --handlers iprep --handlers iprep:others"),
        (["--server", "127.0.0.2:5"], "twistd -n spoa --handlers iprep --listen tcp:5:interface=127.0.0.2"),
        (["--server", "[::1]:5"], r"twistd -n spoa --handlers iprep --listen 'tcp:5:interface=\:\:1'"),
        (["--server", "/run/spoa"], "twistd -n spoa --handlers iprep --listen unix:/run/spoa"),
        (["--server", "unix@/run/spoa"], "twistd -n spoa --handlers iprep --listen unix:/run/spoa"),
        (["--server", "abns@spoa"], "twistd -n spoa --handlers iprep"),
        (["--body", "1000000"], "twistd -n spoa --handlers iprep"),
        (
            ["--body", "3000000"],
            "twistd -n spoa --handlers iprep --max-frame-size 3065536 --max-payload-size 3065536",
        ),
    ],
)
def test_command_of_the_agent(run: Run, capsys: pytest.CaptureFixture[str], options: list[str], command: str) -> None:
    """A whole haproxy.cfg says how to start an agent that HAProxy finds."""
    run("--handlers", "iprep", *options, "--whole")
    out, _ = capsys.readouterr()
    assert f"# Start the agent:  {command}\n" in out


def test_a_status_that_refuses_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        run("--handlers", "iprep", "--require", "txn.ok=200")
    assert exited.value.code == 2
    assert "argument --require: 'txn.ok=200': '200' is not a status from 400 to 599\n" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0.5", "1"])
def test_handlers_that_take_longer_than_haproxy_waits(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    """They are named on stderr, and the configuration is written. A plain function is never given up."""
    (tmp_path / "waits.py").write_text(HANDLERS.replace("\ndef ", "\nasync def ", 1))
    run("--handlers", "waits", "--processing", seconds)
    out, err = capsys.readouterr()
    assert "    timeout processing " in out
    assert err == (
        f"spoactl: HAProxy waits {seconds} s, not longer than the timeout of the handler of 'b-first' (1 s): when it"
        " takes so long, HAProxy gives up first and ignores its on_error. Use a longer --processing, or give the"
        " handler a shorter timeout\n"
    )
    run("--handlers", "waits", "--processing", "1.001")
    assert capsys.readouterr().err == ""


def test_files(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files are written, and not overwritten without --force: then none is written."""
    folder = tmp_path / "new" / "folder"
    run("--handlers", "iprep", "--output", str(folder))
    assert capsys.readouterr() == (f"{folder}/spoe.conf\n{folder}/haproxy.cfg.parts\n", "")
    (folder / "spoe.conf").write_text("mine")
    with pytest.raises(CannotWrite) as raised:
        run("--handlers", "iprep", "--whole", "--output", str(folder))
    assert str(raised.value) == (f"not written, because files exist: {folder}/spoe.conf; use --force to overwrite them")
    assert sorted(os.listdir(folder)) == ["haproxy.cfg.parts", "spoe.conf"]
    run("--handlers", "iprep", "--whole", "--output", str(folder), "--force")
    assert (folder / "spoe.conf").read_text().startswith("[iprep]\n")
    assert (folder / "haproxy.cfg").read_text().endswith('string "Hello.\\n"\n')


def test_a_file_in_place_of_the_folder(run: Run, tmp_path: Path) -> None:
    """The text names the path that is wrong."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CannotWrite) as raised:
        run("--handlers", "iprep", "--output", str(tmp_path / "file"))
    assert str(raised.value) == f"{tmp_path}/file is not a folder"
    with pytest.raises(CannotWrite) as raised:
        run("--handlers", "iprep", "--output", str(tmp_path / "file" / "new"))
    assert str(raised.value) == f"cannot write {tmp_path}/file/new: Not a directory"


def test_undeclared_handlers(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Stderr says what to add, whether there is something to write or not."""
    run("--handlers", "iprep", "--handlers", "iprep:others")
    out, err = capsys.readouterr()
    assert "messages b-first a-second\n" in out
    assert err.startswith("spoactl: the handler iprep.undeclared of the message 'undeclared' does not declare")
    assert '    args={"ip": "src"},\n' in err
    with pytest.raises(CannotWrite):
        run("--handlers", "iprep:others")
    out, err = capsys.readouterr()
    assert out == ""
    assert '    args={"ip": "src"},\n' in err


def test_handlers_that_set_nothing_when_they_fail(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stderr says what to add, unless such requests may pass."""
    (tmp_path / "iprep.py").write_text(HANDLERS.replace('on_error={"txn.error": "handler"}', ""))
    run("--handlers", "iprep")
    assert capsys.readouterr().err == (
        "spoactl: if the handler of 'b-first' or 'a-second' fails, it sets nothing, and the request passes. To refuse"
        ' the request, add on_error={"txn.error": "handler"} to @handlers.message or to Handlers()\n'
    )
    run("--handlers", "iprep", "--fail", "open")
    assert capsys.readouterr().err == ""


def test_parts_of_headers(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stderr says which arguments are only a part of a header, and what to write."""
    args = '{"ip": "src", "agent": "req.hdr(user-agent)", "bad": "req.hdr(", "host": "req.hdr(host)"}'
    source = HANDLERS.replace('{"ip": "src"}', args).replace("first(ip)", "first(ip, agent, bad, host)")
    (tmp_path / "iprep.py").write_text(source)
    run("--handlers", "iprep")
    assert capsys.readouterr().err == (
        "spoactl: the argument 'agent' of 'b-first': req.hdr gives what follows the last comma of the header; write"
        " req.fhdr(user-agent)\n"
    )


def test_handlers_of_another_kind(run: Run, tmp_path: Path) -> None:
    """Only Handlers have declarations. A module that cannot be loaded is an error, too."""
    (tmp_path / "other_kind.py").write_text(
        "from zope.interface import implementer\n"
        "from spoa_twisted import IHandlers\n"
        "@implementer(IHandlers)\n"
        "class Other:\n    pass\n"
        "handlers = Other()\n"
    )
    with pytest.raises(CannotWrite, match="other_kind is Other, which declares nothing: only Handlers of spoa_twisted"):
        run("--handlers", "other_kind")
    with pytest.raises(CannotStart, match="cannot import missing_module"):
        run("--handlers", "missing_module")


def test_it_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """``spoactl config`` needs --handlers."""
    with pytest.raises(SystemExit) as raised:
        main(["config"])
    assert raised.value.code == 2
    assert "the following arguments are required: --handlers" in capsys.readouterr().err

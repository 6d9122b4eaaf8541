"""``missing`` says why a machine cannot have separate hosts, and the end of a run says that their tests did not run."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import pytest

from tests.programs import LIMIT, ROOT

from . import hosts

PROGRAMS = ("unshare", "nsenter", "ip")


def fake(folder: Path, program: str, script: str) -> None:
    path = folder / program
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in PATH, in which all programs that hosts need do nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for program in PROGRAMS:
        fake(tmp_path, program, "exit 0")
    return tmp_path


def missing(tun: bool = False) -> str | None:
    """Ask again, although :func:`hosts.missing` remembers its answers."""
    return hosts.missing.__wrapped__(tun)


def test_nothing_is_missing(programs: Path) -> None:
    assert missing() is None


@pytest.mark.parametrize("program", PROGRAMS)
def test_missing_program(programs: Path, program: str) -> None:
    """The reason names the program and its package."""
    (programs / program).unlink()
    package = "iproute2" if program == "ip" else "util-linux"
    assert missing() == f"{program} is missing (Debian's package {package})"


def test_not_allowed(programs: Path) -> None:
    """If the kernel allows no namespaces, the reason has the text of ``unshare``."""
    fake(programs, "unshare", "echo 'unshare failed: Operation not permitted' >&2; exit 1")
    assert missing() == "no network namespaces without root: unshare failed: Operation not permitted"


def test_no_tun_devices(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the links over which a program carries the packets need the device."""
    monkeypatch.setattr(hosts, "TUN", str(programs / "absent"))
    assert missing() is None
    assert (missing(tun=True) or "").startswith("no TUN devices: [Errno 2] No such file or directory")


def test_not_tested(tmp_path: Path) -> None:
    """On a machine without the programs, the end of a run says how many tests did not run, and why. Nothing fails."""
    command = [sys.executable, "-m", "pytest", "--numprocesses=0", "tests/haproxy/test_apart.py", "-k", "test_tls"]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    reason = "unshare is missing (Debian's package util-linux)"
    assert f"tests/haproxy/test_apart.py: 1 tests NOT TESTED: {reason}\n" in done.stdout

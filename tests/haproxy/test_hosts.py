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
    """The reason names the program, and the command that installs it."""
    (programs / program).unlink()
    package = "iproute2" if program == "ip" else "util-linux"
    assert missing() == f"{program} is not installed: apt-get install {package}"


def test_not_allowed(programs: Path) -> None:
    """If the kernel allows no namespaces, the reason says who may make them, and has the text of ``unshare``."""
    fake(programs, "unshare", "echo 'unshare failed: Operation not permitted' >&2; exit 1")
    needs = "network namespaces need root, in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN: "
    assert missing() == needs + "unshare failed: Operation not permitted"


def test_no_tun_devices(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the links over which a program carries the packets need the device."""
    monkeypatch.setattr(hosts, "TUN", str(programs / "absent"))
    assert missing() is None
    device = hosts.TUN
    needs = f"TUN devices need root, in a container with --device={device}: "
    assert missing(tun=True) == f"{needs}[Errno 2] No such file or directory: '{device}'"


def test_not_tested(tmp_path: Path) -> None:
    """On a machine without the programs, the end of a run says how many tests did not run, and why. Nothing fails."""
    files = [f"tests/haproxy/test_{name}.py" for name in ("apart", "lossy_link")]
    command = [sys.executable, "-m", "pytest", "--numprocesses=0", *files, "-k", "test_tls or test_handlers"]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    reason = "unshare is not installed: apt-get install util-linux"
    for file, count in zip(files, (3, 1), strict=True):
        assert f"{file}: {count} tests NOT TESTED: {reason}\n" in done.stdout

"""HAProxy finds files where ``read`` finds them, and in the same order."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from spoa_twisted.haproxy.reading import read
from tests.haproxy.branches import Branch

ENGINE = """\
[e]
spoe-agent a
    messages m
    use-backend agents
    timeout processing 1s
spoe-message m
    args ip=src
    event on-frontend-http-request
"""
PROXIES = """\
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend www
    filter spoe config spoe.conf engine e
backend agents
    mode tcp
"""


def check(branch: Branch, folder: Path, file: str, *, level: str = "ALERT") -> str:
    """Return the errors of ``haproxy -c -f FILE``, or its lines of another level."""
    command = [str(branch.executable), "-c", "-f", file]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    return "".join(line for line in answer.stderr.splitlines(keepends=True) if line.startswith(f"[{level}]"))


@pytest.mark.parametrize(
    ("default_path", "where"),
    [("current", ""), ("config", "etc/conf"), ("parent", "etc"), ("origin etc/other", "etc/other")],
)
def test_default_path(
    default_path: str, where: str, branch: Branch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of an engine is relative to the folder of ``default-path``."""
    folder = tmp_path / where
    for each in (tmp_path / "etc/conf", folder):
        each.mkdir(parents=True, exist_ok=True)
    (tmp_path / "etc/conf/haproxy.cfg").write_text(f"global\n    default-path {default_path}\n{PROXIES}")
    (folder / "spoe.conf").write_text(ENGINE)
    assert check(branch, tmp_path, "etc/conf/haproxy.cfg") == ""
    monkeypatch.chdir(tmp_path)
    (engine,) = read([], ["etc/conf/haproxy.cfg"], version=branch.version, environment={}).engines
    assert engine.agent is not None
    (folder / "spoe.conf").unlink()
    assert "spoe.conf" in check(branch, tmp_path, "etc/conf/haproxy.cfg")


def test_folder(branch: Branch, tmp_path: Path) -> None:
    """The files of a folder are read in the order of their names' bytes; some files are left out."""
    (tmp_path / "conf").mkdir()
    for name in ("b.cfg", "a.cfg", "C.cfg", ".hidden.cfg", "x.conf"):
        (tmp_path / "conf" / name).write_text("backend same\n")
    answer = check(branch, tmp_path, "conf")
    proxies = read([], [tmp_path / "conf"], version=branch.version, environment={}).proxies
    found = [Path(proxy.place.file).name for proxy in proxies]
    assert found == ["C.cfg", "a.cfg", "b.cfg"]
    # HAProxy names each file that repeats the name of a backend above it. HAProxy 3.4 stops at the first one.
    assert set(re.findall(r"declared at conf/(\S+):1", answer)) == {"C.cfg"}
    places = re.findall(r"Parsing \[conf/(\S+):1\]", answer)
    assert sorted(set(places)) == (["a.cfg"] if branch.version >= (3, 3) else ["a.cfg", "b.cfg"])
    assert places == sorted(places)


def test_inheritance(branch: Branch, tmp_path: Path) -> None:
    """A proxy has the mode of the last defaults above it, or of those that it names, which have that of others."""
    text = """\
defaults
    mode tcp
defaults named
    mode http
defaults child from named
backend a
    http-request deny
backend b from named
    http-request deny
defaults
backend c
    http-request deny
"""
    (tmp_path / "f.cfg").write_text(text)
    answer = check(branch, tmp_path, "f.cfg", level="WARNING")
    proxies = read([], [tmp_path / "f.cfg"], version=branch.version, environment={}).proxies
    ignored = {proxy.name for proxy in proxies if proxy.kind == "backend" and proxy.mode != "http"}
    assert ignored == {"c"}
    assert set(re.findall(r"rules ignored for backend '(.)'", answer)) == ignored

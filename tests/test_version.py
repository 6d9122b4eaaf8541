"""Tests of --version: it prints the version that runs, and whether it is compiled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from spoa_twisted import __version__
from spoa_twisted.spop import connection
from spoa_twisted.version import version
from tests.programs import ENVIRONMENT, ROOT, SPOACTL, TWISTD

SPOP = ROOT / "spoa_twisted" / "spop"


def first_line(*command: str, root: Path = ROOT) -> str:
    """Return the first line that ``command`` prints when it imports the package from ``root``."""
    environment = {**ENVIRONMENT, "PYTHONPATH": str(root)}
    # Python looks for modules in the current folder first.
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[0]


@pytest.mark.parametrize(
    "command", [[*SPOACTL, "--version"], [*TWISTD, "spoa", "--version"]], ids=["spoactl", "twistd"]
)
def test_the_programs_print_the_version(command: list[str]) -> None:
    """``spoactl`` and ``twistd spoa`` print what ``version()`` returns."""
    compiled = any(SPOP.glob("connection.*.so"))
    assert version() == f"spoa_twisted {__version__}{' (compiled)' if compiled else ''}"
    assert first_line(*command) == version()


@pytest.mark.parametrize(
    ("name", "note"), [("connection.py", ""), ("connection.cpython-311-x86_64-linux-gnu.so", " (compiled)")]
)
def test_the_loaded_file_counts(name: str, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note depends on the file that Python has loaded, not on the files on the disk."""
    monkeypatch.setattr("spoa_twisted.version.EXTENSION_SUFFIXES", [".cpython-311-x86_64-linux-gnu.so", ".so"])
    monkeypatch.setattr(connection, "__file__", f"/spoa_twisted/spop/{name}")
    assert version() == f"spoa_twisted {__version__}{note}"


def test_no_compiled_module_is_needed(tmp_path: Path) -> None:
    """The package runs from its Python sources alone."""
    shutil.copytree(ROOT / "spoa_twisted", tmp_path / "spoa_twisted", ignore=shutil.ignore_patterns("*.so"))
    assert first_line(*SPOACTL, "--version", root=tmp_path) == f"spoa_twisted {__version__}"

"""The command line of the fuzzer. A fake module replaces atheris, which is not available for every Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ENVIRONMENT, ROOT

from .targets import CORPORA, TARGETS

#: The fake: it prints the arguments for libFuzzer, checks that they can be used, and runs the target once.
ATHERIS = """\
import os
from contextlib import nullcontext


def instrument_imports(include):
    return nullcontext()


def Setup(arguments, target):
    _, prefix, *others = arguments
    open(prefix.removeprefix("-artifact_prefix=") + "crash", "xb").close()
    for argument in others:
        assert argument.startswith("-") or os.path.isdir(argument)
        print(argument)
    target(b"")


def Fuzz():
    print("fuzzed")
"""


class Checkout:
    """A copy of the part of the checkout that the fuzzer needs, without results of earlier runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tests").mkdir()
        for name in ("__init__.py", "frames.py", "measuring.py"):
            shutil.copy(ROOT / "tests" / name, folder / "tests")
        shutil.copytree(ROOT / "tests" / "fuzzing", folder / "tests" / "fuzzing")
        (folder / "atheris.py").write_text(ATHERIS)

    def fuzz(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.fuzzing", *arguments],
            cwd=self.folder,
            env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_without_a_folder(checkout: Checkout, target: str) -> None:
    """New inputs go into a folder for the target, and the corpus is the second folder, for the start."""
    ended = checkout.fuzz(target, "-max_total_time=10")

    corpus = checkout.folder / "tests" / "fuzzing" / "corpus" / CORPORA[target]
    found = checkout.folder / ".fuzzing"
    assert ended.stdout.splitlines() == ["-max_total_time=10", str(found / target), str(corpus), "fuzzed"]
    assert sorted(path.name for path in found.iterdir()) == sorted([target, f"{target}-crash"])


def test_with_a_folder(checkout: Checkout) -> None:
    """New inputs go into the named folder, and a crash goes into .fuzzing, as in every run."""
    (checkout.folder / "mine").mkdir()

    ended = checkout.fuzz("agent", "-max_total_time=10", "mine")

    corpus = checkout.folder / "tests" / "fuzzing" / "corpus" / CORPORA["agent"]
    assert ended.stdout.splitlines() == ["-max_total_time=10", "mine", str(corpus), "fuzzed"]
    assert [path.name for path in (checkout.folder / ".fuzzing").iterdir()] == ["agent-crash"]


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_no_target(checkout: Checkout, arguments: list[str]) -> None:
    """Without a target, or with an unknown one, the usage line lists the targets."""
    ended = checkout.fuzz(*arguments)

    assert ended.returncode == 1
    assert ended.stdout.startswith("usage: python -m tests.fuzzing agent|engine|protocol ")

"""The profiles ``short`` and ``nightly``, each in a run of pytest with the ``conftest.py`` of these tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.profile import EXAMPLES, MACHINE
from tests.programs import ENVIRONMENT, ROOT

TESTS = """\
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests import profile

examples = 0


@profile.holds_for(st.integers())
def test_property(number):
    global examples
    examples += 1


@profile.holds_for(st.integers())
def test_wrong_property(number):
    assert number < 1000


class Wrong(RuleBasedStateMachine):
    @rule()
    def step(self):
        assert False


def test_wrong_machine():
    profile.run_machine(Wrong)


def test_print(pytestconfig, monkeypatch):
    machines = []
    monkeypatch.setattr(
        profile, "run_state_machine_as_test", lambda machine, settings: machines.append(settings.max_examples)
    )
    profile.run_machine(Wrong)
    print(f"{examples} examples, {sum(machines)} machines, time limit {pytestconfig.getoption('timeout')}")
"""


def run(folder: Path, *options: str) -> tuple[tuple[str, ...], str]:
    """Run :data:`TESTS`. Return the numbers that its last test prints, and the complete output."""
    tests = folder / "test_numbers.py"
    tests.write_text(TESTS)
    settings = ["-p", "tests.conftest", f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", "-n0", "-s"]
    command = [sys.executable, "-m", "pytest", *settings, *options, str(tests)]
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) examples, (\d+) machines, time limit (\S+)", result.stdout)
    assert found, result.stdout + result.stderr
    return found.groups(), result.stdout


def decorators(output: str) -> set[str]:
    """Return the decorators that run a failing example again. In CI, pytest's summary repeats them."""
    return set(re.findall(r"@reproduce_failure\(.*?\)", output))


def test_short(tmp_path: Path) -> None:
    """By default a test has few examples and the usual time limit. Nothing is kept for the next run."""
    numbers, output = run(tmp_path)
    assert numbers == (str(EXAMPLES), str(EXAMPLES // MACHINE), "None")
    assert "number=1000" in output
    assert len(decorators(output)) == 2
    assert not (tmp_path / ".hypothesis" / "examples").exists()


@pytest.mark.soak
def test_nightly(tmp_path: Path) -> None:
    """With ``nightly`` a test has 100 times as many examples, and no time limit. A failing example is kept."""
    numbers, output = run(tmp_path, "--hypothesis-profile=nightly")
    assert numbers == (str(100 * EXAMPLES), str(100 * EXAMPLES // MACHINE), "0")
    assert "number=1000" in output
    assert len(decorators(output)) == 2
    assert (tmp_path / ".hypothesis" / "examples").exists()

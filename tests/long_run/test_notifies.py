"""Short forms of the run with NOTIFYs, and faults that a run must find."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults.agent import SLACK
from tests.programs import ROOT

from . import notifies
from .notifies import Plan, run

#: Handlers for a run. The handler of "echo" has another line.
CHANGED = """\
import sys

sys.path.insert(0, {root!r})

from tests.long_run.handlers import handlers

kept = []
memory = bytearray()
times = 0


del handlers._by_name["echo"]


@handlers.message("echo")
def echo(x):
    global times
    times += 1
    {line}
    return {{"txn.x": x}}
"""


def run_changed(folder: Path, line: str) -> str:
    """Run with handlers that have another ``line``. Return the fault that the run finds."""
    path = folder / "changed.py"
    path.write_text(CHANGED.format(root=str(ROOT), line=line))
    (fault,) = run(Plan(count=6000, warm_up=6000, seed=1, handlers=path))
    return fault


@pytest.mark.soak
@pytest.mark.parametrize(
    ("tls", "reconnect", "count"),
    [(False, False, 100_000), (True, False, 50_000), (False, True, 30_000), (True, True, 30_000)],
    ids=["tcp", "tls", "tcp-reconnect", "tls-reconnect"],
)
def test_run(tls: bool, reconnect: bool, count: int) -> None:
    """Each NOTIFY has exactly one ACK, memory does not grow, and no file is left open."""
    # In a short run, the peak depends on how many NOTIFYs happen to be pending together: it rose by up to 1.5 MiB.
    assert run(Plan(count, warm_up=30_000, seed=1, tls=tls, reconnect=reconnect, growth=SLACK)) == []


def test_unchanged_handlers(tmp_path: Path) -> None:
    """The faults in the tests below come from the line that they add."""
    path = tmp_path / "changed.py"
    path.write_text(CHANGED.format(root=str(ROOT), line="pass"))
    lines: list[str] = []
    assert run(Plan(count=6000, warm_up=6000, seed=1, handlers=path), lines.append) == []
    assert sum("NOTIFYs/s" in line for line in lines) == 20


@pytest.mark.soak
def test_memory_grows(tmp_path: Path) -> None:
    """A run finds memory that grows, although there are not more objects."""
    fault = run_changed(tmp_path, "memory.extend(bytes(4096))")
    assert "the peak of memory has risen by" in fault


@pytest.mark.soak
def test_objects_stay(tmp_path: Path) -> None:
    """A run finds small objects that stay, although they need no more memory from the system yet."""
    fault = run_changed(tmp_path, "kept.append([])")
    assert "blocks of memory more" in fault


@pytest.mark.soak
def test_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run finds a file that stays open."""
    monkeypatch.setattr(notifies, "CLOSE_LIMIT", 0.5)
    fault = run_changed(tmp_path, "if times == 2000: kept.append(open('/dev/null'))")
    assert "1 files are open" in fault


@pytest.mark.soak
def test_wrong_value(tmp_path: Path) -> None:
    """A run finds one wrong value among thousands of ACKs."""
    fault = run_changed(tmp_path, "x = 7 if times == 2000 else x")
    assert "is wrong or was sent twice" in fault
    assert "data=7)" in fault


def test_time_limit() -> None:
    """A run stops when its time is over."""
    (fault,) = run(Plan(count=6000, warm_up=6000, seed=1, limit=0.0))
    assert "time limit" in fault


@pytest.mark.parametrize(("faults", "status", "line"), [([], 0, "passed"), (["leak"], 1, "failed: leak")])
def test_command(
    faults: list[str],
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command prints the seed and the result, which also decides the exit status."""
    plans: list[Plan] = []

    def run(plan: Plan, say: object) -> list[str]:
        plans.append(plan)
        return faults

    monkeypatch.setattr(notifies, "run", run)
    monkeypatch.setattr(sys, "argv", ["notifies", "--count", "10_000_000", "--seed", "5", "--tls"])
    with pytest.raises(SystemExit) as end:
        notifies.main()
    assert end.value.code == status
    assert plans == [Plan(count=10_000_000, warm_up=1_000_000, seed=5, tls=True)]
    assert capsys.readouterr().out.splitlines()[-2:] == ["seed 5", line]

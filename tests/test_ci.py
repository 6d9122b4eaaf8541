"""Tests of .ci/stages.py: the order of the stages, their limits, and the report."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.programs import LIMIT, ROOT


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module ``.ci/stages.py``, which writes its logs to a temporary folder."""
    specification = importlib.util.spec_from_file_location("stages", ROOT / ".ci" / "stages.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # The decorator dataclass looks up the module of its class in sys.modules.
    monkeypatch.setitem(sys.modules, "stages", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "LOGS", tmp_path)
    return module


def test_order(stages: Any, tmp_path: Path) -> None:
    """A stage starts when its needs have passed, wherever it stands in the list."""
    order = tmp_path / "order"
    some_stages = [
        stages.Stage("last", needs=("first", "second"), script=f"echo last >> {order}"),
        stages.Stage("second", needs=("first",), script=f"echo second >> {order}"),
        stages.Stage("first", needs=(), script=f"echo first >> {order}"),
    ]
    assert stages.run(some_stages)
    assert order.read_text().split() == ["first", "second", "last"]
    assert [stage.state for stage in some_stages] == ["passed"] * 3


def test_cores(stages: Any, tmp_path: Path) -> None:
    """While a stage with two cores runs, no other stage runs: mkdir would fail."""
    script = f"mkdir {tmp_path}/busy; rmdir {tmp_path}/busy"
    assert stages.run([stages.Stage(f"stage{number}", needs=(), cores=2, script=script) for number in range(3)])


def test_failure(stages: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When a stage fails, the others and their child processes are ended. What failed is shown at the end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    some_stages = [
        # It writes to the pipe when its child runs. Without the failure, it would wait 1000 seconds.
        stages.Stage("hangs", needs=(), script=f"sleep 1000 & echo $! > {pipe}; wait"),
        stages.Stage(
            "fails", needs=(), script=f"read child < {pipe}; echo $child; echo FAILED test_a; echo why; exit 3"
        ),
        stages.Stage("later", needs=("fails",), script="true"),
    ]
    assert not stages.run(some_stages)
    for stage in some_stages:
        if stage.state == "running":
            stage.stop()
    stages.report(some_stages)
    assert [stage.state for stage in some_stages] == ["stopped", "failed", "waiting"]
    printed = capsys.readouterr().out
    table, shown = printed.split("\n== fails failed; the end of its log:\n\n")
    _, table = table.split("\nstage ")
    assert shown == (tmp_path / "fails.log").read_text() + "FAILED test_a\n"
    assert "\nwhy\n" in shown
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["hangs", "fails", "later"]
    child = (tmp_path / "fails.log").read_text().splitlines()[0]
    # The child was killed, but it is no child of this process, so we cannot wait for it: ask until it has ended.
    deadline = time.monotonic() + LIMIT
    while is_running(int(child)):
        assert time.monotonic() < deadline, "the child of the ended stage still runs"


def is_running(pid: int) -> bool:
    """Return whether the process exists and has not ended. A zombie has ended: only its exit status is left."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_time_limit(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage is ended after STAGE_LIMIT, so that a stage that hangs does not hang CI."""
    monkeypatch.setattr(stages, "STAGE_LIMIT", 0.1)
    (stage,) = some_stages = [stages.Stage("hangs", needs=(), script="sleep 1000")]
    assert not stages.run(some_stages)
    assert stage.state == "ended after 0 s"


def test_what_was_not_tested(stages: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The table shows pytest's summary lines. Above the table stand all log lines with NOT TESTED."""
    script = "echo '== 12 passed, 1 warning in 3.45s =='; echo 'HAProxy 2.6 NOT TESTED: not found'"
    some_stages = [stages.Stage("tests", needs=(), script=script)]
    assert stages.run(some_stages)
    stages.report(some_stages)
    *_, not_tested, _, _, row = capsys.readouterr().out.splitlines()
    assert row.endswith("passed    12 passed, 1 warning in 3.45s")
    assert not_tested == "tests: HAProxy 2.6 NOT TESTED: not found"

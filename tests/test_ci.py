"""The stages of CI run in their order, and a failure ends them."""

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
    """The module ``.ci/stages.py``, with a folder of its own for the logs."""
    specification = importlib.util.spec_from_file_location("stages", ROOT / ".ci" / "stages.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # A dataclass looks its module up.
    monkeypatch.setitem(sys.modules, "stages", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "LOGS", tmp_path)
    return module


def test_order(stages: Any, tmp_path: Path) -> None:
    """A stage begins when what it needs has passed, whatever its place in the list."""
    order = tmp_path / "order"
    some = [
        stages.Stage("last", needs=("first", "second"), script=f"echo last >> {order}"),
        stages.Stage("second", needs=("first",), script=f"echo second >> {order}"),
        stages.Stage("first", needs=(), script=f"echo first >> {order}"),
    ]
    assert stages.run(some)
    assert order.read_text().split() == ["first", "second", "last"]
    assert [stage.state for stage in some] == ["passed"] * 3


def test_cores(stages: Any, tmp_path: Path) -> None:
    """A stage that takes two cores has no other beside it."""
    script = f"mkdir {tmp_path}/busy; rmdir {tmp_path}/busy"
    assert stages.run([stages.Stage(f"stage{number}", needs=(), cores=2, script=script) for number in range(3)])


def test_failure(stages: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first stage that fails ends the others with all that they started, and its log is shown."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    some = [
        # It tells when its child runs, and would wait for it for ever.
        stages.Stage("hangs", needs=(), script=f"sleep 1000 & echo $! > {pipe}; wait"),
        stages.Stage("fails", needs=(), script=f"read child < {pipe}; echo child=$child; echo why; exit 3"),
        stages.Stage("later", needs=("fails",), script="true"),
    ]
    assert not stages.run(some)
    for stage in some:
        if stage.state == "running":
            stage.stop()
    stages.report(some)
    assert [stage.state for stage in some] == ["stopped", "failed", "waiting"]
    printed = capsys.readouterr().out
    shown, table = printed.split("\nstage ")
    assert shown.endswith("== fails failed; the end of its log:\n\n" + (tmp_path / "fails.log").read_text())
    assert "\nwhy\n" in shown
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["hangs", "fails", "later"]
    child = (tmp_path / "fails.log").read_text().splitlines()[0].removeprefix("child=")
    # It has been killed, but nobody waits for it, and that takes its time.
    deadline = time.monotonic() + LIMIT
    while is_running(int(child)):
        assert time.monotonic() < deadline


def is_running(pid: int) -> bool:
    """Return whether there is such a process that has not ended; nobody may have taken its exit status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_time_limit(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that hangs is ended."""
    monkeypatch.setattr(stages, "STAGE_LIMIT", 0.1)
    (stage,) = some = [stages.Stage("hangs", needs=(), script="sleep 1000")]
    assert not stages.run(some)
    assert stage.state == "ended after 0 s"


def test_what_was_not_tested(stages: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has the closing lines of pytest, and what was not tested stands under it."""
    script = "echo '== 12 passed, 1 warning in 3.45s =='; echo 'HAProxy 2.6 NOT TESTED: not found'"
    some = [stages.Stage("tests", needs=(), script=script)]
    assert stages.run(some)
    stages.report(some)
    *_, row, not_tested = capsys.readouterr().out.splitlines()
    assert row.endswith("passed    12 passed, 1 warning in 3.45s")
    assert not_tested == "tests: HAProxy 2.6 NOT TESTED: not found"

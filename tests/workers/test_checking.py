"""The child process that imports the handlers before the master starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.tap import Options
from spoa_twisted.workers import checking, spawning
from spoa_twisted.workers.checking import check_handlers
from spoa_twisted.workers.spawning import Settings


def settings(folder: Path) -> Settings:
    options = Options()
    options.parseOptions(["--workers=1", "--handlers=mymod"])
    return {
        "number": 0,
        "options": spawning.plain(options),
        "endpoints": [],
        "folder": str(folder),
        "reactor": "twisted.internet.selectreactor",
        "log": spawning.LOG,
    }


def test_the_folder_is_gone(tmp_path: Path) -> None:
    with pytest.raises(CannotStart) as caught:
        check_handlers(settings(tmp_path / "gone"), 30)
    text = f"cannot use the folder in which the agent was started, {tmp_path}/gone: No such file or directory"
    assert str(caught.value) == f"spoa: {text}"


def test_no_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    descriptors = os.listdir("/dev/fd")
    with pytest.raises(CannotStart, match=r"no process can be started: .*No such file or directory"):
        check_handlers(settings(tmp_path), 30)
    assert set(os.listdir("/dev/fd")) <= set(descriptors)


def test_a_process_that_does_not_notice_sigabrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and what it has written before is not lost."""
    monkeypatch.setattr(checking, "_ABORT_LIMIT", 0.1)
    child = subprocess.Popen(["sh", "-c", "echo written >&2; kill -STOP $$"], stderr=subprocess.PIPE)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert checking._abort(child) == b"written\n"
    assert child.returncode == -signal.SIGKILL

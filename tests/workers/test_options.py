"""The options for workers, the texts of endpoints, and the files of --reload-on-change."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.task import Clock

from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.tap import Options, makeService
from spoa_twisted.workers import spawning
from spoa_twisted.workers.binding import without_inherited
from spoa_twisted.workers.modified import Modified, imported_files
from spoa_twisted.workers.options import expand


def options(*arguments: str) -> Options:
    parsed = Options()
    parsed.parseOptions(arguments)
    return parsed


def test_defaults() -> None:
    parsed = options()
    assert (parsed["workers"], parsed["start-timeout"], parsed["stall-timeout"]) == (None, 30, 30)


def test_values() -> None:
    parsed = options("--workers=1024", "--start-timeout=0", "--stall-timeout=0.5")
    assert (parsed["workers"], parsed["start-timeout"], parsed["stall-timeout"]) == (1024, 0, 0.5)


@pytest.mark.parametrize("workers", [True, False])
def test_chroot(workers: bool) -> None:
    """This option of twistd is refused with workers only."""
    parsed = Options()
    parsed.parent = cast("Any", {"chroot": "/srv"})
    if workers:
        with pytest.raises(CannotStart, match="--workers and twistd's --chroot cannot be used together"):
            parsed.parseOptions(["--workers=1"])
    else:
        parsed.parseOptions([])
        assert parsed["workers"] is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--workers=0"], "--workers: '0' is not a whole number of processes between 1 and 1024"),
        (["--workers=x"], "--workers: 'x' is not a whole number of processes between 1 and 1024"),
        (["--stall-timeout=x"], "--stall-timeout: 'x' is not a number of seconds between 0 and 10,000,000"),
        (["--start-timeout=-1"], "--start-timeout: '-1' is not a number of seconds between 0 and 10,000,000"),
        (["--reload-on-change"], "--reload-on-change needs --workers; write --workers 1 for one process"),
        (
            ["--listen=unix:{worker}"],
            "--listen unix:{worker}: {worker} stands for the number of a worker: add --workers",
        ),
    ],
)
def test_a_bad_value_is_refused(arguments: list[str], text: str) -> None:
    with pytest.raises(CannotStart) as caught:
        options(*arguments)
    assert str(caught.value) == f"spoa: {text}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no handlers: name the module that has them, as in --handlers mymod"),
        (["--handlers=x", "--listen=tcp:0x"], "bad endpoint 'tcp:0x': .*"),
    ],
)
def test_a_bad_start_is_refused(arguments: list[str], text: str) -> None:
    """Before any process is started."""
    with pytest.raises(CannotStart, match=f"spoa: {text}"):
        makeService(options("--workers=1", *arguments))


def test_expand() -> None:
    """{worker} makes an endpoint for each worker."""
    assert expand(["tcp:1", "unix:a{worker}"], 2) == [("tcp:1", 0), ("unix:a1", 1), ("unix:a2", 2)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:1", "tcp:1"),
        ("systemd:domain=INET:index=0", "tcp:0"),
        ("haproxy:systemd:domain=UNIX:name=spoa", "haproxy:tcp:0"),
        (r"unix:systemd\:x", r"unix:systemd\:x"),
    ],
)
def test_without_inherited(text: str, expected: str) -> None:
    """A worker has no socket of systemd."""
    assert without_inherited(text) == expected


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker must not notify systemd in the master's place."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("OTHER", "1")
    environment = spawning.environment()
    assert ("NOTIFY_SOCKET" in environment, environment["OTHER"]) == (False, "1")


def test_signals_have_names() -> None:
    assert (spawning.describe_signal(9), spawning.describe_signal(40)) == ("SIGKILL", "40")


def test_modified(tmp_path: Path) -> None:
    """A file counts as changed when its time differs. A file that is removed does not, until it is there again."""
    file, other = tmp_path / "a.py", tmp_path / "b.py"
    file.write_text("")
    clock = Clock()
    changed: list[str] = []
    modified = Modified(clock, changed.append)
    modified.watch([str(file), str(other)])
    modified.watch([str(file)])
    clock.advance(0.5)
    assert changed == []
    other.write_text("")
    clock.advance(0.5)
    assert changed == [str(other)]
    file.unlink()
    clock.advance(0.5)
    file.write_text("")
    os.utime(file, (1, 1))
    clock.advance(0.5)
    assert changed == [str(other), str(file)]
    modified.stop()
    modified.stop()
    clock.advance(5)
    assert len(changed) == 2


def test_imported_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the user, not those of Python, of this package or of installed ones, nor strange objects."""

    class Strange:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    monkeypatch.setitem(sys.modules, "strange", Strange())
    files = imported_files()
    assert __file__ in files
    # In a checkout, the plugin of twistd is no installed file either, if another test has imported it.
    others = [file for file in files if not file.endswith("/twisted/plugins/spoa_twisted_plugin.py")]
    assert not [file for file in others if "/twisted/" in file or "site-packages" in file or "/spoa_twisted/" in file]

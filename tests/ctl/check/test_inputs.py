"""Which files are spoe.conf and which haproxy.cfg, by their contents; and files that are neither."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spoa_twisted.ctl.check.inputs import Inputs, Kind, kind_of, sort_files
from spoa_twisted.haproxy import content
from tests.haproxy_side.configurations import GOOD, HAPROXY, SPOE


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (SPOE, Kind.ENGINE),
        (HAPROXY, Kind.HAPROXY),
        ("spoe-message m\n", Kind.ENGINE),
        ("[scope]  # nothing in it yet\r\n", Kind.ENGINE),
        # HAProxy ignores a "global" in the file of an engine.
        ("spoe-agent a\nglobal\n", Kind.ENGINE),
        ("  frontend f\r\n", Kind.HAPROXY),
        ("# frontend f\n", Kind.NEITHER),
        ("handlers = [x]\n", Kind.NEITHER),
        ("", Kind.NEITHER),
        ("\0\xff", Kind.NEITHER),
    ],
)
def test_the_content_tells(text: str, kind: Kind) -> None:
    assert kind_of(text.encode("latin-1")) is kind


def test_files_in_any_order(tmp_path: Path) -> None:
    """A file that is named twice counts once."""
    spoe, haproxy = map(str, GOOD.write(tmp_path))
    assert sort_files([haproxy, spoe, haproxy]) == Inputs((spoe,), (haproxy,))


def test_a_folder_with_both(tmp_path: Path) -> None:
    """The ``filter spoe`` lines of haproxy.cfg say which engines count. Other files of the folder are left alone."""
    _, haproxy = map(str, GOOD.write(tmp_path))
    for name in (".hidden.cfg", "old.cfg~", "nginx.conf"):
        (tmp_path / name).write_text("server {}\n")
    (tmp_path / "folder.cfg").mkdir()
    assert sort_files([str(tmp_path)]) == Inputs((), (haproxy,))


def test_a_folder_without_haproxy_cfg(tmp_path: Path) -> None:
    (spoe,) = map(str, GOOD.alone().write(tmp_path))
    assert sort_files([str(tmp_path)]) == Inputs((spoe,), ())


def test_the_present_folder_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GOOD.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert sort_files(["."]) == Inputs((), ("haproxy.cfg",))


def refused(path: Path) -> str:
    """Return why a file is refused, without its name."""
    with pytest.raises(ValueError) as caught:
        sort_files([str(path)])
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "PATH")


def test_what_is_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused with a sentence, and none is waited for."""
    assert refused(tmp_path) == "PATH has no spoe.conf and no haproxy.cfg: no *.cfg or *.conf with their sections"
    path = tmp_path / "file"
    assert refused(path) == "cannot read PATH: No such file or directory"
    path.write_bytes(b"\0\xff" * 100)
    assert refused(path) == "PATH is no configuration: it has no section of a spoe.conf or haproxy.cfg"
    monkeypatch.setattr(content, "MAX_SIZE", 2**20)
    path.write_bytes(b"x" * (2**20 + 1))
    assert refused(path) == "cannot read PATH: it has more than 1 MiB"
    path.unlink()
    os.mkfifo(path)
    assert refused(path) == "cannot read PATH: it is not a regular file"


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read each folder, so the error is made."""

    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    assert refused(tmp_path) == "cannot read PATH: Permission denied"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """``filter spoe`` may name one."""
    with pytest.raises(IsADirectoryError):
        content.load(tmp_path)

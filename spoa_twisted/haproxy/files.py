"""Find the files of a configuration, as HAProxy finds them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from spoa_twisted.haproxy.grammar.sections import Setting


def expanded(paths: Iterable[str]) -> Iterator[str]:
    """Return the files for ``-f PATH`` options: for a folder its files ``*.cfg``, in HAProxy's order.

    :raises OSError: if a folder cannot be read.
    """
    for path in paths:
        if os.path.isdir(path):
            names = sorted(os.listdir(path), key=os.fsencode)
            for name in names:
                whole = os.path.join(path, name)
                if name.endswith(".cfg") and not name.startswith(".") and os.path.isfile(whole):
                    yield whole
        else:
            yield path


def default_path(settings: Iterable[Setting], file: str) -> str:
    """Return the folder to which ``default-path`` makes the relative paths in ``file`` relative; empty for none."""
    folder = ""
    for setting in settings:
        match setting.texts:
            case ("default-path", "config"):
                folder = os.path.dirname(file)
            case ("default-path", "parent"):
                folder = os.path.dirname(os.path.dirname(os.path.abspath(file)))
            case ("default-path", "origin", path):
                folder = path
            case ("default-path", "current"):
                folder = ""
    return folder

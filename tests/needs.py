"""Marks for tests that need a program or an ability which not every machine, or not every Python, has."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.haproxy.summary import NOT_TESTED


def needs_program(program: str, package: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test if ``program`` is not installed.

    :param package: the Debian package of the program. CI installs it, so it skips no test.
    """
    reason = f"{NOT_TESTED}{program} is not installed: apt-get install {package}"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)


def _releases_buffers() -> bool:
    """Return whether a ``bytearray`` may shrink when nothing refers to its ``memoryview`` any more."""
    data = bytearray(b"ab")
    bytes(memoryview(data)[:1])
    try:
        del data[:1]
    except BufferError:
        return False
    return True


#: Twisted's HTTP client, which ``spoactl watch`` uses, decodes chunks in such a ``bytearray``.
needs_chunks = pytest.mark.skipif(
    not _releases_buffers(),
    reason=f"{NOT_TESTED}Twisted's HTTP client cannot read chunks with this Python, whose bytearray does not shrink"
    " while a dead memoryview is not collected, as with PyPy 8.0.1: run CPython or PyPy 7",
)


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Skip the test where the extra ``test`` has no PyYAML. The other interpreters must have it: without it, the test
    fails instead of being skipped.
    """
    has_wheels = sys.implementation.name == "cpython" and sys.version_info < (3, 15)
    if not has_wheels and find_spec("yaml") is None:
        pytest.skip(
            f"{NOT_TESTED}PyYAML has no wheels for this Python. {path.name} is the same for all: run CPython 3.14"
        )
    import yaml

    return yaml.safe_load(path.read_text())

"""Marks for tests that need a program or an ability which not every machine, or not every Python, has."""

from __future__ import annotations

import shutil

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


#: Twisted's HTTP client decodes chunks in such a ``bytearray``, and PyPy 8.0.1 raises BufferError.
needs_chunks = pytest.mark.skipif(
    not _releases_buffers(),
    reason=f"{NOT_TESTED}Twisted's HTTP client, which spoactl watch uses, cannot read chunks with PyPy 8.0.1",
)

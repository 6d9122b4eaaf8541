"""Fixtures for the tests of the examples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .example import Example

OpenExample = Callable[[str], Example]


@pytest.fixture
def open_example(tmp_path: Path) -> Iterator[OpenExample]:
    """Copies the folder of an example, by its name. What was started there is ended after the test."""
    with contextlib.ExitStack() as stack:

        def copy(name: str) -> Example:
            return Example(name, tmp_path, stack)

        yield copy

"""No test passes that left a failure in the log without having expected it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests.haproxy.branches import NoHAProxy, find_branches

# Not in the conftest.py of its folder, which the process that prints the end of a run with pytest-xdist does not load.
pytest_plugins = ["tests.haproxy.summary"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run a few named files in this process: starting the workers would take longer than the tests.

    Else run two workers for each core: a test waits half of its time for agents, for HAProxy, or for a time limit.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    named = [path for path in map(Path, (argument.partition("::")[0] for argument in config.args)) if path.is_file()]
    return 0 if named and len(named) == len(config.args) else 2 * (os.cpu_count() or 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a ``branch`` with the HAProxy of each branch found."""
    if "branch" in metafunc.fixturenames:
        try:
            branches = _branches()
        except NoHAProxy as error:
            pytest.fail(str(error), pytrace=False)
        metafunc.parametrize("branch", branches, ids=lambda branch: branch.name)


# For all tests of a run: each binary is asked what it is.
_branches = cache(find_branches)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let no collection look again through everything that was imported: each test below asks for one."""
    gc.collect()
    if hasattr(gc, "freeze"):  # PyPy has none.
        gc.freeze()


@implementer(ILogObserver)
class Logged:
    """What was logged at the level warn and above since the test began, or since it was last taken."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_level", LogLevel.debug) >= LogLevel.warn:
            self._events.append(event)

    def take(self) -> list[str]:
        """Return the texts, each with its level's name in front and its exception's type behind, and forget them."""
        events, self._events = self._events, []
        return [self._text(event) for event in events]

    def _text(self, event: dict[str, Any]) -> str:
        text = f"{event['log_level'].name}: {formatEvent(event)}"
        failure = event.get("log_failure")
        return text if failure is None else f"{text}: {failure.type.__name__}: {failure.getErrorMessage()}"


@pytest.fixture(autouse=True)
def logged(request: pytest.FixtureRequest) -> Iterator[Logged]:
    """What the test logged; what it did not take of that makes it fail."""
    observer = Logged()
    globalLogPublisher.addObserver(observer)
    try:
        yield observer
        if not {"spop", "conformance"}.intersection(request.path.parts):
            # A Deferred that failed says so when it is collected. Where many tests are, there are no Deferreds.
            gc.collect()
        unexpected = observer.take()
    finally:
        globalLogPublisher.removeObserver(observer)
    assert unexpected == []

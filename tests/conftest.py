"""Fixtures and hooks for all tests. Each test fails if it logs a warning or an error that it does not expect."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests import profile
from tests.haproxy.branches import NoHAProxy, find_branches

# Named here and not in tests/haproxy/conftest.py: with pytest-xdist, the process that prints the summary collects no
# tests, so it does not load the conftest.py of that folder.
pytest_plugins = ["tests.haproxy.summary"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Turn off the time limit of a test with the profile ``nightly``, before pytest-timeout reads it."""
    if config.getoption("--hypothesis-profile") == profile.NIGHTLY:
        config.option.timeout = 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return the number of workers for ``--numprocesses=auto``; 0 runs the tests in this process.

    If only files are named, use this process: starting workers would take longer than the tests. Otherwise use two
    workers per core: tests spend half of their time waiting for agents, for HAProxy, or for a timeout.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    named = [path for path in map(Path, (argument.partition("::")[0] for argument in config.args)) if path.is_file()]
    return 0 if named and len(named) == len(config.args) else 2 * (os.cpu_count() or 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--beyond-default",
        action="store_true",
        help="leave out tests that do not depend on HAProxy's branch and are not marked soak",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that has the argument ``branch`` once for each branch of HAProxy that is found.

    A test marked ``each_spoe`` runs with the newest branch of each of the two implementations only.
    """
    if "branch" in metafunc.fixturenames:
        try:
            branches = _branches()
        except NoHAProxy as error:
            pytest.fail(str(error), pytrace=False)
        if metafunc.definition.get_closest_marker("each_spoe"):
            branches = list({branch.rewritten: branch for branch in branches}.values())
        metafunc.parametrize("branch", branches, ids=lambda branch: branch.name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--beyond-default``, leave out the tests whose result is that of a default run."""
    if config.getoption("--beyond-default"):
        repeated = [item for item in items if not (item.get_closest_marker("soak") or _depends_on_branch(item))]
        config.hook.pytest_deselected(items=repeated)
        left_out = set(repeated)
        items[:] = [item for item in items if item not in left_out]


def _depends_on_branch(item: pytest.Item) -> bool:
    return "branch" in getattr(item, "fixturenames", ())


# Once for all tests of a run, because it runs each binary to read its version.
_branches = cache(find_branches)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Exclude all imported objects from garbage collections: the fixture ``logged`` collects after each test."""
    gc.collect()
    if hasattr(gc, "freeze"):  # PyPy does not have it.
        gc.freeze()


@implementer(ILogObserver)
class Logged:
    """Collects the events of level warn and above that are logged during a test."""

    def __init__(self) -> None:
        #: The events that take() has not returned.
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_level", LogLevel.debug) >= LogLevel.warn:
            self.events.append(event)

    def take(self) -> list[str]:
        """Return the texts of the events since the last call, and forget them.

        A text begins with the name of the level, and ends with the type and text of the exception if there is one.
        """
        events, self.events = self.events, []
        return [self._text(event) for event in events]

    def _text(self, event: dict[str, Any]) -> str:
        text = f"{event['log_level'].name}: {formatEvent(event)}"
        failure = event.get("log_failure")
        return text if failure is None else f"{text}: {failure.type.__name__}: {failure.getErrorMessage()}"


@pytest.fixture(autouse=True)
def logged(request: pytest.FixtureRequest) -> Iterator[Logged]:
    """The warnings and errors that the test logs. The test fails if it does not take all of them."""
    observer = Logged()
    globalLogPublisher.addObserver(observer)
    try:
        yield observer
        if not {"spop", "conformance"}.intersection(request.path.parts):
            # Twisted logs the unhandled failure of a Deferred when the Deferred is collected. The two folders have many
            # tests and use no Deferreds, so skip the collection there: it takes time.
            gc.collect()
        unexpected = observer.take()
    finally:
        globalLogPublisher.removeObserver(observer)
    assert unexpected == []


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Turn the garbage collector off, so that only reference counting frees objects."""
    if sys.implementation.name != "cpython":
        pytest.skip(
            "the test checks that no cycle keeps objects until the collector runs. Only CPython frees other objects at"
            f" once; {sys.implementation.name} frees all objects later, so there is nothing to check"
        )
    enabled = gc.isenabled()
    gc.disable()
    yield
    if enabled:
        gc.enable()

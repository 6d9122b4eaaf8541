"""A pytest plugin that prints, at the end of a run, what was not tested and how the table of HAProxy versions changed.

This is a plugin, not a ``conftest.py``. With pytest-xdist the workers run the tests, and the controller prints the end
of the run. The controller does not load this folder's ``conftest.py``, so the workers send their results to it here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from .branches import Branch
from .features import FEATURES, Table

#: The observed values of the table of docs/reference/haproxy_versions.rst, by feature and name of the branch.
OBSERVED = pytest.StashKey[dict[tuple[str, str], str]]()

#: How the reason of :func:`pytest.skip` begins if this machine cannot run a test. CI repeats lines with these words.
NOT_TESTED = "NOT TESTED: "

#: The names of the branches for which tests were collected.
_TESTED = pytest.StashKey[set[str]]()

#: The key in xdist's ``workeroutput`` under which a worker sends its results.
_WORKER_OUTPUT = "spoa_haproxy_branches"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OBSERVED] = {}
    config.stash[_TESTED] = set()


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_TESTED].update(_branches_of(session.items))


def _branches_of(items: Iterable[pytest.Item]) -> Iterable[str]:
    for item in items:
        branch = item.callspec.params.get("branch") if hasattr(item, "callspec") else None
        if isinstance(branch, Branch):
            yield branch.name


def pytest_sessionfinish(session: pytest.Session) -> None:
    """If this process is a pytest-xdist worker, send its results to the controller."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        tested, observed = session.config.stash[_TESTED], session.config.stash[OBSERVED]
        output[_WORKER_OUTPUT] = (sorted(tested), list(observed.items()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add a worker's results to those of the controller. A worker that crashed sends none."""
    tested, observed = getattr(node, "workeroutput", {}).get(_WORKER_OUTPUT, ([], []))
    node.config.stash[_TESTED].update(tested)
    node.config.stash[OBSERVED].update(observed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was not tested: branches of the table of HAProxy versions, and tests that this machine cannot run.

    If the observed table differs, print that too.
    """
    table = Table.of_page()
    tested = config.stash[_TESTED]
    absent = [branch for branch in table.branches if branch not in tested]
    if tested and absent:
        terminalreporter.write_line(f"HAProxy {', '.join(absent)} NOT TESTED: not found; see tests/haproxy/branches.py")
    skipped = Counter(
        (report.location[0], report.longrepr[2].removeprefix("Skipped: "))
        for report in terminalreporter.stats.get("skipped", [])
    )
    for (file, reason), count in skipped.items():
        if reason.startswith(NOT_TESTED):
            terminalreporter.write_line(f"{file}: {count} tests {reason}")
    observed = table.updated(config.stash[OBSERVED])
    if (observed.cells, observed.features) != (table.cells, FEATURES or table.features):
        terminalreporter.section(
            "HAProxy branches: the table of docs/reference/haproxy_versions.rst with the observed values"
        )
        terminalreporter.write(observed.as_rst())

"""The end of a run: which branches of the README's table were not tested, and what the tests observed of the others.

A plugin of pytest, and not in a ``conftest.py``: with pytest-xdist the tests run in other processes than the one that
prints the end, and that one loads no ``conftest.py`` of this folder. The workers hand over what they have seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from .branches import Branch
from .features import FEATURES, Table

#: What was observed, by the feature and the name of the branch.
OBSERVED = pytest.StashKey[dict[tuple[str, str], str]]()

_TESTED = pytest.StashKey[set[str]]()

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
    """Hand over what this process has seen, if it is a worker of pytest-xdist."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        tested, observed = session.config.stash[_TESTED], session.config.stash[OBSERVED]
        output[_WORKER_OUTPUT] = (sorted(tested), list(observed.items()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take what a worker hands over. A worker that crashed has nothing to hand over."""
    tested, observed = getattr(node, "workeroutput", {}).get(_WORKER_OUTPUT, ([], []))
    node.config.stash[_TESTED].update(tested)
    node.config.stash[OBSERVED].update(observed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which branches of the README's table were not there, and print the table as it should be when it is not."""
    table = Table.of_readme()
    tested = config.stash[_TESTED]
    absent = [branch for branch in table.branches if branch not in tested]
    if tested and absent:
        terminalreporter.write_line(f"HAProxy {', '.join(absent)} NOT TESTED: not found; see tests/haproxy/branches.py")
    observed = table.updated(config.stash[OBSERVED])
    if (observed.cells, observed.features) != (table.cells, FEATURES or table.features):
        terminalreporter.section("HAProxy's branches: the README's table as it was observed")
        terminalreporter.write(observed.as_rst())

"""Each target runs with the recorded bytes of HAProxy and of an agent, and with all inputs that once broke a target."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Logged

from .targets import CORPORA, TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_all_of_it_passes(target: str, logged: Logged) -> None:
    """No input of the corpus breaks the target. The target also checks the log."""
    paths = sorted((CORPUS / CORPORA[target]).iterdir())
    assert paths
    for path in paths:
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.name} breaks the target {target}") from error
    # The targets provoke failures on purpose, and check what is logged about them.
    logged.take()


@pytest.mark.parametrize("side", sorted(set(CORPORA.values())))
def test_every_branch_is_there(side: str) -> None:
    """The corpus has, for each branch, health checks, values of every type, every event, and fragmented payloads."""
    names = {path.name.rpartition("-")[0] for path in (CORPUS / side).glob("[0-9]*")}
    assert names >= {
        f"{branch}-{conversation}"
        for branch in ("2.6", "2.8", "3.0", "3.2", "3.4")
        for conversation in ("checks", "types", "events", "fragments")
    }

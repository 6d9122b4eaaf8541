"""What HAProxy was seen to send, and all that ever crashed a target, goes through the targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Logged

from .targets import CORPORA, TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_all_of_it_passes(target: str, logged: Logged) -> None:
    """The target, which judges the log too, finds nothing wrong."""
    paths = sorted((CORPUS / CORPORA[target]).iterdir())
    assert paths
    for path in paths:
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.name} breaks the target {target}") from error
    logged.take()


@pytest.mark.parametrize("side", sorted(set(CORPORA.values())))
def test_every_branch_is_there(side: str) -> None:
    """With a health check, values of every type, every event, and a payload too long for a frame."""
    names = {path.name.rpartition("-")[0] for path in (CORPUS / side).glob("[0-9]*")}
    assert names >= {
        f"{branch}-{conversation}"
        for branch in ("2.6", "2.8", "3.0", "3.2", "3.4")
        for conversation in ("checks", "types", "events", "fragments")
    }

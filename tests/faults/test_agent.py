"""No agent passes that has died."""

from __future__ import annotations

import pytest

from tests.programs import STOPPED

from .agent import Agent


def test_agent_that_died() -> None:
    """One that has ended without having been stopped has not ended well."""
    with Agent() as agent:
        agent.answers()
        agent.kill()
        with pytest.raises(AssertionError, match="it has ended by itself: -9"):
            agent.ends_well()


def test_agent_that_was_stopped() -> None:
    """One that was stopped has ended well, whether the test stopped it or not."""
    for stopped in (False, True):
        with Agent() as agent:
            if stopped:
                assert agent.stop() in STOPPED
            agent.ends_well()
            assert agent.status in STOPPED

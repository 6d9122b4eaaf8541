"""The check of an agent at the end of each test notices an agent that has died."""

from __future__ import annotations

import pytest

from tests.programs import STOPPED

from .agent import Agent


def test_agent_that_died() -> None:
    """An agent that ended before the test stopped it fails the check."""
    with Agent() as agent:
        agent.check_answers()
        agent.kill()
        with pytest.raises(AssertionError, match="the agent has ended by itself: -9"):
            agent.check_clean_end()


def test_agent_that_was_stopped() -> None:
    """An agent that ends at SIGTERM passes the check, whether the test or the check sent the signal."""
    for stopped in (False, True):
        with Agent() as agent:
            if stopped:
                assert agent.stop() in STOPPED
            agent.check_clean_end()
            assert agent.status in STOPPED

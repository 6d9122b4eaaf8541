"""ctl.load.in_flight: which NOTIFYs wait for their ACK."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from spoa_twisted.spop.connection import Notify
from tests.ctl.agents import Agent, AgentSide, LateAgent, ack
from tests.ctl.interrupting import interrupt


@pytest.mark.parametrize(("capability", "expected"), [("pipelining", 7), ("fragmentation", 1)])
@pytest_twisted.ensureDeferred
async def test_the_number_in_flight(capability: str, expected: int, run_bench: Any, listen: Any) -> None:
    """The number is --in-flight. Without pipelining the number is 1, and the report has a note."""
    agent = LateAgent()
    agent.capabilities = frozenset({capability})
    listen(agent)
    result = await run_bench("--connections=3", "--in-flight=7")
    assert [side.max_in_flight for side in agent.connections] == [expected] * 3
    assert (result.errors, result.status) == ({}, 0)
    assert result.report["in_flight"] == expected
    assert any("pipelining" in note for note in result.report["notes"]) is (expected == 1)


@pytest_twisted.ensureDeferred
async def test_the_latency_is_that_of_the_agent(run_bench: Any, listen: Any) -> None:
    """The agent takes 2 ms or more for each NOTIFY, and answers in another order."""

    class Ending(LateAgent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            super().answer(side, notify)
            if self.notifys == 100:
                interrupt()

    listen(Ending())
    result = await run_bench("--duration=30")
    assert result.report["latency_us"]["p50"] >= 2000


@pytest_twisted.ensureDeferred
async def test_the_ids_are_used_again(run_bench: Any, listen: Any) -> None:
    """After the last id of the ring comes the first one, without the ids of a NOTIFY that has no ACK yet."""
    waiting: list[bytes] = []

    class Slow(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            if self.notifys == 1:
                waiting.append(notify.ids)
                return
            assert notify.ids not in waiting
            side.transport.write(ack(notify.ids) if self.notifys != 5000 else ack(notify.ids) + ack(waiting.pop()))
            if self.notifys == 8000:
                interrupt()

    agent = Slow()
    listen(agent)
    result = await run_bench("--connections=1", "--duration=30")
    assert agent.notifys >= 8000
    assert result.errors == {}

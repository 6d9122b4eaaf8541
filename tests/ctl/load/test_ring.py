"""ctl.load.ring: the frames of the NOTIFYs."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from spoa_twisted.ctl.load.ring import Ring, Rings
from spoa_twisted.spop.connection import AgentConnection, EngineConnection, Notify
from spoa_twisted.spop.frames import AgentHello, HAProxyHello
from spoa_twisted.spop.messages import Message
from tests.ctl.agents import Agent, ack

PIPELINING = frozenset({"pipelining"})


def connected(max_frame_size: int = 16380) -> tuple[EngineConnection, AgentConnection]:
    """Return both sides of a connection after the HELLOs."""
    engine = EngineConnection(HAProxyHello(max_frame_size=max_frame_size, capabilities=PIPELINING))
    agent = AgentConnection()
    agent.receive_data(engine.data_to_send())
    agent.next_event()
    engine.receive_data(agent.data_to_send())
    assert isinstance(engine.next_event(), AgentHello)
    return engine, agent


@pytest.mark.parametrize(
    ("size", "in_flight", "slots"),
    [
        pytest.param(10, 16, 2048, id="small"),
        pytest.param(10, 4096, 8192, id="twice what is in flight"),
        pytest.param(16000, 16, 262, id="4 MiB"),
        pytest.param(16000, 200, 400, id="twice what is in flight, and more than 4 MiB"),
    ],
)
def test_the_number_of_slots(size: int, in_flight: int, slots: int) -> None:
    """It is 2048, less if the frames take 4 MiB, and at least twice what is in flight."""
    engine, _ = connected()
    assert len(Ring(engine, [Message("m", [("text", "x" * size)])], in_flight).frames) == slots


def test_each_slot_has_ids_of_its_own() -> None:
    """An agent receives the frames as NOTIFYs with the ids of their slots."""
    engine, agent = connected()
    ring = Ring(engine, [Message("m")], 4)
    agent.receive_data(b"".join(ring.frames[:10]))
    events = [agent.next_event() for _ in range(10)]
    assert [ring.slots[event.ids] for event in events if isinstance(event, Notify)] == list(range(10))
    assert sorted(ring.slots.values()) == list(range(len(ring.frames)))


def test_connections_share_a_ring() -> None:
    """A connection with another frame size gets a ring of its own."""
    rings = Rings([Message("m")], 4)
    ring = rings.ring_for(connected()[0])
    assert rings.ring_for(connected()[0]) is ring
    assert rings.ring_for(connected(max_frame_size=1000)[0]) is not ring


@pytest_twisted.ensureDeferred
async def test_a_message_that_is_longer_than_a_frame(run_bench: Any, listen: Any) -> None:
    """It is sent in fragments to an agent that announces fragmentation. To another agent it cannot be sent."""
    agent = Agent(lambda ids, n: ack(ids))
    agent.capabilities = frozenset({"pipelining", "fragmentation"})
    listen(agent)
    long = "long", f"text=str:{'x' * 40_000}"
    assert (await run_bench(*long)).errors == {}
    agent.capabilities = frozenset({"pipelining"})
    with pytest.raises(ValueError, match="do not fit in a frame"):
        await run_bench(*long)

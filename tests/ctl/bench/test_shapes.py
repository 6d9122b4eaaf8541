"""ctl.bench.shapes: the messages that are sent."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
import pytest_twisted

from spoa_twisted.spop.connection import Notify
from tests.ctl.agents import Agent, AgentSide, ack


@pytest.mark.parametrize(
    ("arguments", "name", "names"),
    [
        ([], "get-ip-reputation", {"ip"}),
        (["--shape=body"], "check-body", {"body"}),
        (["mine", "ip=192.0.2.7", "n=int32:-5"], "mine", {"ip", "n"}),
        (
            ["--shape=http"],
            "check-request",
            {"method", "path", "host", "user_agent", "src", "src_port", "dst", "dst_port"}
            | {"accept", "accept_encoding", "accept_language", "cache_control"}
            | {"content_type", "cookie", "referer", "x_forwarded_for"},
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_sent(arguments: list[str], name: str, names: set[str], run_bench: Any, listen: Any) -> None:
    """Each NOTIFY has the message of the shape, or the one that the command line describes."""
    seen = set()

    class Seeing(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            (message,) = notify.messages
            seen.add((message.name, *message.names, *[value for value in message.values if len(str(value)) < 50]))
            side.transport.write(ack(notify.ids))

    listen(Seeing())
    result = await run_bench(*arguments)
    assert result.report["message"] == name
    ((sent, *arguments_sent),) = seen
    assert sent == name
    assert names <= set(arguments_sent)
    if name == "mine":
        assert {IPv4Address("192.0.2.7"), -5} <= set(arguments_sent)


@pytest_twisted.ensureDeferred
async def test_a_message_and_a_shape(run_bench: Any, listen: Any) -> None:
    """They exclude each other. The command fails before it connects."""
    agent = Agent()
    listen(agent)
    with pytest.raises(ValueError, match="--shape and MESSAGE exclude each other"):
        await run_bench("--shape=http", "mine")
    assert agent.connections == []

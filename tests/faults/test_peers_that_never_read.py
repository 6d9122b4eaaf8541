"""Peers that send NOTIFYs and do not read the ACKs."""

from __future__ import annotations

import pytest

from tests.conformance.rawspop import HELLO, SetVar, binary, int64, message, notify, text

from .agent import MIB, SLACK, Agent, Peer
from .conftest import Launch

#: Above this many unsent bytes, a connection is dropped at once, unless --max-unsent is larger:
#: docs/reference/options.rst.
BACKLOG = 4 * MIB

MANY = 3000
SIZE = 16_000
LONG = binary(bytes(SIZE))


def flood(agent: Agent, kind: int, name: str, capabilities: str) -> Peer:
    """Send many NOTIFYs with long answers, and read no ACK."""
    peer = agent.connect(kind, receive_buffer=2**16)
    peer.handshake({**HELLO, "capabilities": text(capabilities)})
    peer.send(*[notify(message(name, ("size", int64(SIZE))), stream_id=i) for i in range(MANY)])
    return peer


@pytest.mark.soak
@pytest.mark.parametrize("capabilities", ["pipelining,async", "pipelining"], ids=["old", "new"])
def test_peers_that_never_read(launch: Launch, endpoints: list[str], capabilities: str) -> None:
    """A peer that does not read costs bounded memory. If its handlers return at once, the agent stops reading from it
    until it reads, and loses no ACK. If its handlers wait, the agent drops it after a timeout, and logs that once.
    """
    agent = launch("--pipelining=always", listen=endpoints)
    agent.begin_measuring()
    at_once = [flood(agent, kind, "big", capabilities) for kind in range(3)]
    waited = [flood(agent, kind, "big-later", capabilities) for kind in range(3)]
    agent.check_answers(100)
    dropped = len(waited) if "async" in capabilities else 0
    agent.answer_until(lambda: len(agent.logged()) >= dropped)
    # Twice, because Twisted copies its buffer when it appends the bytes that were written since.
    assert agent.peak_growth < 6 * 2 * BACKLOG + SLACK
    for line in agent.logged():
        assert "dropped: it left more than max_unsent, 1048576 bytes, unread" in line
    assert len(agent.logged()) == dropped
    for peer in at_once if dropped else [*at_once, *waited]:
        # HAProxy >= 3.1 would stop reading if too much came at once. So the agent sends it one long ACK every 25 ms.
        for i in range(MANY if dropped else 20):
            assert peer.actions(stream_id=i) == [SetVar("txn.big", LONG)]
    assert len(agent.logged()) == dropped

"""Peers that ask and do not read the answers."""

from __future__ import annotations

import pytest

from tests.conformance.rawspop import HELLO, SetVar, binary, int64, message, notify, text

from .agent import MIB, SLACK, Agent, Peer
from .conftest import Launch

#: What a connection may have unsent at all, in bytes, whatever --max-unsent is: README.rst, "Options".
BACKLOG = 4 * MIB

MANY = 3000
SIZE = 16_000
LONG = binary(bytes(SIZE))


def flood(agent: Agent, kind: int, name: str, capabilities: str) -> Peer:
    """Send many NOTIFYs whose answers are long, and read none."""
    peer = agent.connect(kind, receive_buffer=2**16)
    peer.handshake({**HELLO, "capabilities": text(capabilities)})
    peer.send(*[notify(message(name, ("size", int64(SIZE))), stream_id=i) for i in range(MANY)])
    return peer


@pytest.mark.soak
@pytest.mark.parametrize("capabilities", ["pipelining,async", "pipelining"], ids=["old", "new"])
def test_peers_that_never_read(launch: Launch, endpoints: list[str], capabilities: str) -> None:
    """A peer that reads nothing costs no more than a peer may leave unread. One whose answers come at once is not read
    from until it reads, and loses none of them; one whose handlers waited is dropped when it had its time, and the
    log says so once.
    """
    agent = launch(listen=endpoints)
    agent.rest()
    at_once = [flood(agent, kind, "big", capabilities) for kind in range(3)]
    waited = [flood(agent, kind, "big-later", capabilities) for kind in range(3)]
    agent.answers(100)
    dropped = len(waited) if "async" in capabilities else 0
    agent.until(lambda: len(agent.logged()) >= dropped)
    # It is there twice while Twisted joins what it has to what comes.
    assert agent.most_grown < 6 * 2 * BACKLOG + SLACK
    for line in agent.logged():
        assert "dropped: it left more than max_unsent, 1048576 bytes, unread" in line
    assert len(agent.logged()) == dropped
    for peer in at_once if dropped else [*at_once, *waited]:
        # A HAProxy >= 3.1 gets a long one each 25 ms and no more, or it would stop reading.
        for i in range(MANY if dropped else 20):
            assert peer.actions(stream_id=i) == [SetVar("txn.big", LONG)]
    assert len(agent.logged()) == dropped

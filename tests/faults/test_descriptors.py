"""An agent that may open no more files, and so accept no more connections."""

from __future__ import annotations

import resource
from contextlib import suppress

import pytest

from tests.conformance.rawspop import hello, message, notify

from .agent import ECHO, ECHOED, SLACK, Agent
from .conftest import Launch

#: So many connections more than it has may the agent accept.
ROOM = 20

#: So many connections come beyond that.
MANY = 500


def limit_descriptors(agent: Agent, limit: int) -> int:
    """Let ``agent`` open so many files, and return how many it might before."""
    soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (limit, hard))
    return soft


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["tcp", "unix", "tls"])
def test_descriptors_exhausted(launch: Launch, endpoints: list[str], kind: int) -> None:
    """Without descriptors left, connections are closed as they come, for three lines of Twisted's in the log each and
    no processor's time after that; those that are open are served, and as soon as there is a descriptor a new one is.
    """
    agent = launch(listen=endpoints)
    agent.rest()
    kept = [agent.greeted(kind) for _ in range(ROOM)]
    limit = limit_descriptors(agent, agent.descriptors)
    for i in range(MANY):
        # With TLS there would be no more than without.
        with suppress(ConnectionResetError):
            agent.connect(min(kind, 1)).close()
        if i % 50 == 0:
            assert kept[0].request(ECHO) == ECHOED
    agent.said("EMFILE recovery: Closed socket", MANY)
    # Nothing but this half second passes, with connections that wait to be accepted if any do.
    took = agent.seconds
    kept[0].send(notify(message("hold-half-a-second")))
    kept[0].actions()
    assert agent.seconds - took < 0.25
    assert len(agent.logged()) <= 3 * MANY + 10
    assert agent.most_grown < SLACK
    for peer in kept:
        assert peer.request(ECHO) == ECHOED
    kept.pop().close()
    assert kept[0].request(ECHO) == ECHOED
    assert kept[0].request(ECHO) == ECHOED
    agent.answers(to=kind)
    limit_descriptors(agent, limit)


def test_fewer_descriptors_than_connections(launch: Launch) -> None:
    """An agent that may not open so many files as connections may come refuses those that are too many, instead of
    being without descriptors, and the log says so once.
    """
    agent = launch(descriptors=200)
    agent.rest()
    served = 0
    for _ in range(400):
        with suppress(ConnectionError):
            peer = agent.connect()
            peer.send(hello())
            if peer.socket.recv(1):
                served += 1
    assert served == 200 - 64
    assert agent.most_grown < SLACK
    (line,) = agent.logged()
    assert "max_connections, 136, are open: new ones are refused" in line
    assert "max_connections is 136: the process may open 200 files" in agent.output
    agent.drop_peers()

"""An agent without free file descriptors, which therefore cannot accept connections."""

from __future__ import annotations

import resource
from contextlib import suppress

import pytest

from tests.conformance.rawspop import hello, message, notify

from .agent import ECHO, ECHOED, SLACK, Agent
from .conftest import Launch

#: Connections that are open when the limit is set.
ROOM = 20

#: Connections that arrive when no descriptor is left.
MANY = 500


def limit_descriptors(agent: Agent, limit: int) -> int:
    """Set the agent's soft limit of open files; return the old soft limit."""
    soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (limit, hard))
    return soft


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["tcp", "unix", "tls"])
def test_descriptors_exhausted(launch: Launch, endpoints: list[str], kind: int) -> None:
    """Without free descriptors, the agent closes each new connection at once. Twisted logs three lines for each, and
    uses no CPU time after that. Open connections are served. When a descriptor is free, a new connection is served too.
    """
    agent = launch(listen=endpoints)
    agent.begin_measuring()
    kept = [agent.connect_with_hello(kind) for _ in range(ROOM)]
    limit = limit_descriptors(agent, agent.descriptors)
    for i in range(MANY):
        # The agent closes the connection before a TLS handshake, so connect without TLS.
        with suppress(ConnectionResetError):
            agent.connect(min(kind, 1)).close()
        if i % 50 == 0:
            assert kept[0].request(ECHO) == ECHOED
    agent.said("EMFILE recovery: Closed socket", MANY)
    # The agent is idle for half a second. If connections waited to be accepted, it would try again and again.
    before = agent.cpu_seconds
    kept[0].send(notify(message("hold-half-a-second")))
    kept[0].actions()
    assert agent.cpu_seconds - before < 0.25
    assert len(agent.logged()) <= 3 * MANY + 10
    assert agent.peak_growth < SLACK
    for peer in kept:
        assert peer.request(ECHO) == ECHOED
    kept.pop().close()
    assert kept[0].request(ECHO) == ECHOED
    assert kept[0].request(ECHO) == ECHOED
    agent.check_answers(to=kind)
    limit_descriptors(agent, limit)


def test_fewer_descriptors_than_connections(launch: Launch) -> None:
    """If the agent may open fewer files than max_connections, it lowers max_connections. So it refuses further
    connections before it runs out of descriptors, and logs that once.
    """
    agent = launch(descriptors=200)
    agent.begin_measuring()
    served = 0
    for _ in range(400):
        with suppress(ConnectionError):
            peer = agent.connect()
            peer.send(hello())
            if peer.socket.recv(1):
                served += 1
    assert served == 200 - 64
    assert agent.peak_growth < SLACK
    (line,) = agent.logged()
    assert "136 connections are open, as many as max_connections allows: new ones are refused" in line
    assert "max_connections is 136: the process may open 200 files" in agent.output
    agent.close_peers()

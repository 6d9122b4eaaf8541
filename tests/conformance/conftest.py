"""Agents that the cases share, connections to them, and their logs beside a failure."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.programs import STOPPED

from .agent import SMALL_FRAME, SMALL_PAYLOAD, Agent, Connect, Launch
from .rawspop import Peer

LOG_LINES = 60

_running = pytest.StashKey[list[Agent]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for agent in item.config.stash.get(_running, []):
            tail = "\n".join(agent.output.splitlines()[-LOG_LINES:])
            report.sections.append((f"log of the agent on port {agent.port}", tail))
    return report


@contextmanager
def serving(config: pytest.Config, *options: str) -> Iterator[Agent]:
    """An agent for a while; its end must be clean, and its log without lost errors."""
    running = config.stash.setdefault(_running, [])
    agent = Agent(*options)
    running.append(agent)
    try:
        yield agent
    finally:
        status = agent.stop()
        running.remove(agent)
    assert status in STOPPED, agent.describe()
    assert "Unhandled" not in agent.output, f"an exception that nobody took:\n{agent.output}"


@pytest.fixture(scope="session")
def agent(pytestconfig: pytest.Config) -> Iterator[Agent]:
    """The agent as it comes, but that only the tests themselves end a request that is held."""
    with serving(pytestconfig, "--handler-timeout=600") as agent:
        yield agent


@pytest.fixture(scope="session")
def small_agent(pytestconfig: pytest.Config) -> Iterator[Agent]:
    """An agent whose limits are near."""
    with serving(
        pytestconfig,
        f"--max-frame-size={SMALL_FRAME}",
        f"--max-payload-size={SMALL_PAYLOAD}",
        "--hello-timeout=0.5",
        "--handler-timeout=0.2",
    ) as agent:
        yield agent


@pytest.fixture
def launch(pytestconfig: pytest.Config) -> Iterator[Launch]:
    """Starts an agent of the test's own."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(serving(pytestconfig, *options))


@pytest.fixture
def connect(agent: Agent) -> Iterator[Connect]:
    """Opens a connection, without HELLO, to the common agent or to another."""
    with ExitStack() as stack:

        def connect(to: Agent = agent, *, receive_buffer: int | None = None) -> Peer:
            peer = to.connect(receive_buffer=receive_buffer)
            stack.callback(peer.close)
            return peer

        yield connect


@pytest.fixture
def stranger(connect: Connect) -> Peer:
    """A connection that has not said HELLO."""
    return connect()


@pytest.fixture
def peer(connect: Connect) -> Peer:
    """A connection after its handshake."""
    peer = connect()
    peer.handshake()
    return peer


@pytest.fixture
def other(connect: Connect) -> Peer:
    """A second connection after its handshake, to act on the first one's requests."""
    peer = connect()
    peer.handshake()
    return peer


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """What the test's held requests are known by."""
    nodeid: str = request.node.nodeid
    return nodeid

"""Fixtures: agents that the tests share, and connections to them. A failed test shows the agents' logs."""

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
    """Run an agent. At the end, it must exit cleanly, and its log must have no unhandled error."""
    running = config.stash.setdefault(_running, [])
    agent = Agent(*options)
    running.append(agent)
    try:
        yield agent
    finally:
        status = agent.stop()
        running.remove(agent)
    assert status in STOPPED, agent.describe()
    assert "Unhandled" not in agent.output, f"an unhandled exception:\n{agent.output}"


@pytest.fixture(scope="session")
def agent(pytestconfig: pytest.Config) -> Iterator[Agent]:
    """An agent with default options, but a long handler timeout: held requests must not time out."""
    with serving(pytestconfig, "--handler-timeout=600") as agent:
        yield agent


@pytest.fixture(scope="session")
def small_agent(pytestconfig: pytest.Config) -> Iterator[Agent]:
    """An agent with low limits and short timeouts."""
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
    """A function that starts an agent with the given options, for one test."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(serving(pytestconfig, *options))


@pytest.fixture
def connect(agent: Agent) -> Iterator[Connect]:
    """A function that opens a connection, without HELLO, to the shared agent or to another one."""
    with ExitStack() as stack:

        def connect(to: Agent = agent, *, receive_buffer: int | None = None) -> Peer:
            peer = to.connect(receive_buffer=receive_buffer)
            stack.callback(peer.close)
            return peer

        yield connect


@pytest.fixture
def new_peer(connect: Connect) -> Peer:
    """A connection that has not sent its HELLO."""
    return connect()


@pytest.fixture
def peer(connect: Connect) -> Peer:
    """A connection after its handshake."""
    peer = connect()
    peer.handshake()
    return peer


@pytest.fixture
def other(connect: Connect) -> Peer:
    """A second connection after its handshake, which can release the requests that the first one holds."""
    peer = connect()
    peer.handshake()
    return peer


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """The name of the test, as the key of the requests that it holds."""
    nodeid: str = request.node.nodeid
    return nodeid

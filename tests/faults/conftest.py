"""Fixtures that start agents and HAProxys. At the end of a test, each agent must still answer and end cleanly."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.certificates import self_signed
from tests.haproxy.branches import Branch
from tests.haproxy.harness import HAProxy

from .agent import Agent

#: The limit of open files of a test and of its agents. Tests open more than 1,000 connections.
DESCRIPTORS = 4096

#: Characters of an agent's log that the report of a failed test shows.
LOG_LENGTH = 6000

Launch = Callable[..., Agent]

StartHAProxy = Callable[..., HAProxy]

_launched = pytest.StashKey[list[Agent]]()
_haproxys = pytest.StashKey[list[HAProxy]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for agent in item.stash.get(_launched, []):
            report.sections.append(("log of an agent", agent.output[-LOG_LENGTH:]))
        for haproxy in item.stash.get(_haproxys, []):
            report.sections.append(("HAProxy", haproxy.describe()))
    return report


@pytest.fixture
def launch(request: pytest.FixtureRequest) -> Iterator[Launch]:
    """A function that starts an agent with the arguments of :class:`Agent`.

    After the test, each agent must answer once more and end cleanly.
    """
    agents = request.node.stash[_launched] = []

    def start(*options: str, **keywords: Any) -> Agent:
        agent = Agent(*options, **keywords)
        agents.append(agent)
        return agent

    try:
        yield start
        for agent in agents:
            agent.check_clean_end()
    finally:
        for agent in agents:
            agent.kill()


@pytest.fixture
def endpoints(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """A server endpoint of each kind: TCP, Unix, TLS."""
    listen = ["tcp:0:interface=127.0.0.1", f"unix:{tmp_path}/agent.sock"]
    # On PyPy 8 self_signed() skips the test, because it has no TLS. A test whose "kind" is TCP or Unix needs no TLS.
    if "kind" not in request.fixturenames or request.getfixturevalue("kind") == len(listen):
        certificate, key = self_signed(tmp_path)
        listen.append(f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}")
    return listen


@pytest.fixture(scope="package", autouse=True)
def descriptors() -> Iterator[None]:
    """Raise the limit of open files for the tests, and so for their agents, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest_twisted.async_yield_fixture
async def start_haproxy(
    request: pytest.FixtureRequest, branch: Branch, launch: Launch, tmp_path: Path
) -> AsyncIterator[StartHAProxy]:
    """A function that starts a HAProxy with the arguments of :class:`HAProxy`. It is killed before the agent ends."""
    haproxys = request.node.stash[_haproxys] = []
    numbers = count(1)

    def start(server: str, **configuration: Any) -> HAProxy:
        folder = tmp_path / f"haproxy{next(numbers)}"
        folder.mkdir()
        haproxy = HAProxy(branch, folder, server, **configuration)
        haproxys.append(haproxy)
        return haproxy

    yield start
    for haproxy in haproxys:
        await haproxy.kill()

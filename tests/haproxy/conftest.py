"""Fixtures that start HAProxy, agents and relays. A failed test's report shows what their processes printed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from spoa_twisted import IHandlers, SPOAFactory, SPOAService

from .branches import Branch
from .features import Table
from .harness import AgentProcess, HAProxy, Process, as_server
from .hosts import Hosts, missing, separate_hosts
from .relay import Relay
from .summary import NOT_TESTED, OBSERVED

#: Seconds for an agent in this process to stop. HAProxy is killed first, so the agent has nothing to drain.
STOP_LIMIT = 20.0

_processes = pytest.StashKey[list[Process]]()
_figures = pytest.StashKey[list[str]]()

StartHAProxy = Callable[..., HAProxy]
StartAgent = Callable[..., AgentProcess]
Serve = Callable[..., str]
CheckTable = Callable[[str], None]
StartRelay = Callable[[str], Awaitable[tuple[Relay, str]]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the output of the test's processes to a failure, and the test's figures to every report."""
    report = yield
    if report.failed:
        for process in item.stash.get(_processes, []):
            report.sections.append((type(process).__name__, process.describe()))
    if report.when == "call" and (figures := item.stash.get(_figures, [])):
        report.sections.append(("figures", "\n".join(figures)))
    return report


@pytest.fixture
def check_table(request: pytest.FixtureRequest, branch: Branch) -> CheckTable:
    """Checks that the table of HAProxy versions has the observed value, in the test's row and the branch's column."""
    feature = request.function.feature

    def compare(value: str) -> None:
        request.config.stash[OBSERVED][feature, branch.name] = value
        table = Table.of_page()
        assert value == table.cells.get((feature, table.column_for(branch)))

    return compare


@pytest_twisted.async_yield_fixture
async def processes(request: pytest.FixtureRequest) -> AsyncIterator[list[Process]]:
    """The processes that the test started. After the test, those that still run are killed."""
    started = request.node.stash[_processes] = list[Process]()
    yield started
    for process in started:
        await process.kill()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines of measured figures. pytest prints them with a failed test, and with ``-rP`` also with a passed one."""
    figures = request.node.stash[_figures] = list[str]()
    return figures


@pytest.fixture
def start_haproxy(branch: Branch, processes: list[Process], tmp_path: Path) -> StartHAProxy:
    """Starts a HAProxy of the test's branch; see :class:`HAProxy` for the arguments."""
    numbers = count(1)

    def start(server: str | Mapping[str, str], **configuration: Any) -> HAProxy:
        folder = tmp_path / f"haproxy{next(numbers)}"
        folder.mkdir()
        haproxy = HAProxy(branch, folder, server, **configuration)
        processes.append(haproxy)
        return haproxy

    return start


@pytest.fixture
def start_agent(processes: list[Process]) -> StartAgent:
    """Starts an agent in a process of its own; see :class:`AgentProcess` for the arguments."""

    def start(*options: str, **keywords: Any) -> AgentProcess:
        agent = AgentProcess(*options, **keywords)
        processes.append(agent)
        return agent

    return start


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Hosts for HAProxy and for two agents, with links that are fast and lose nothing."""
    if (reason := missing()) is not None:
        pytest.skip(NOT_TESTED + reason)
    with separate_hosts() as hosts:
        for agent in hosts.agents:
            hosts.connect(agent)
        yield hosts


@pytest.fixture
def tun() -> None:
    """Skips the test if this machine cannot have the hosts of ``lossy_hosts``.

    If an asynchronous fixture skipped the test, Twisted would log that as the unhandled failure of a Deferred.
    """
    if (reason := missing(tun=True)) is not None:
        pytest.skip(NOT_TESTED + reason)


@pytest_twisted.async_yield_fixture
async def lossy_hosts(tun: None, processes: list[Process]) -> AsyncIterator[Hosts]:
    """Hosts for HAProxy and for two agents, with the links of ``lossy_link.py``."""
    with separate_hosts() as hosts:
        for agent in hosts.agents:
            near, far = hosts.names(agent)
            link = Process([sys.executable, "-m", "tests.haproxy.lossy_link", near, far], host=hosts.haproxy)
            processes.append(link)
            await link.said("ready")
            hosts.haproxy.ip(f"link set {far} netns {agent.pid}")
            hosts.set_up(agent)
        yield hosts


@pytest_twisted.async_yield_fixture
async def serve(processes: list[Process]) -> AsyncIterator[Serve]:
    """Starts an agent in this process, and returns its address in the syntax of HAProxy's ``server`` line."""
    services: list[SPOAService] = []

    def serve(
        handlers: IHandlers, endpoint: str | IStreamServerEndpoint = "tcp:0:interface=127.0.0.1", **limits: Any
    ) -> str:
        service = SPOAService(SPOAFactory(handlers, **limits), [endpoint])
        service.startService()
        services.append(service)
        return as_server(service.addresses[0])

    yield serve
    # Kill HAProxy first: an agent without connections stops at once, without the drain timeout.
    for process in processes:
        await process.kill()
    for service in services:
        await service.stopService().addTimeout(STOP_LIMIT, reactor)


@pytest_twisted.async_yield_fixture
async def start_relay(serve: Serve, processes: list[Process]) -> AsyncIterator[StartRelay]:
    """Starts a relay to an agent, and returns the relay and its address in the syntax of HAProxy's ``server`` line."""
    relays: list[Relay] = []

    async def start(agent: str) -> tuple[Relay, str]:
        relay = Relay(agent)
        relays.append(relay)
        return relay, await relay.listen()

    yield start
    for process in processes:
        await process.kill()
    for relay in relays:
        await relay.stop()


@pytest.fixture
def agent_log() -> Iterator[list[str]]:
    """What the agents in this process log above the level debug, without the lines that say where they listen."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        ours = str(event.get("log_namespace", "")).startswith("spoa_twisted")
        if ours and event["log_level"] > LogLevel.debug:
            line = formatEvent(event)
            if not line.startswith("SPOA listening on "):
                lines.append(line)

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    yield lines
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]

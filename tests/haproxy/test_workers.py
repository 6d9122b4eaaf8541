"""``twistd spoa --workers``: reloads, deaths and the spread of the load, under load."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.programs import STOPPED, TWISTD

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import HERE, AgentProcess, Load, bounded, listening_socket
from .test_restarts import PATHS, PID, SHOW_PID
from .test_transports import tls_endpoint

#: These tests are long: processes start and end under load, several times in each test.
pytestmark = [pytest.mark.soak, pytest.mark.each_spoe]

CLIENTS = 20
REQUESTS_PER_STEP = 200

#: The most requests that may fail when a worker is killed. If requests did not wait for the next worker, thousands
#: would fail until it is ready.
MAX_FAILED = 4 * CLIENTS

LISTEN = "--listen=tcp:0:interface=127.0.0.1"


async def reload(agent: AgentProcess, load: Load) -> None:
    """Reload ``agent``, and wait until the reload has ended and some more requests were answered."""
    agent.signal(signal.SIGHUP)
    await agent.says(r"reloaded: \d+ workers")
    await load.wait_for_more(REQUESTS_PER_STEP)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("path", PATHS)
@bounded
async def test_reload(
    start_agent: StartAgent, start_haproxy: StartHAProxy, path: str, threads: int, figures: list[str]
) -> None:
    """A reload loses no request, and afterwards only new processes answer."""
    agent = start_agent("--workers=2", LISTEN)
    address = await agent.address()
    for _ in range(2):
        # Start a new HAProxy each time: 2.8 and 3.0 have many connections only at the beginning.
        haproxy = start_haproxy(address, spoe=PID, web=SHOW_PID, threads=threads)
        async with haproxy.load(CLIENTS, path) as load:
            await load.wait_for_more(REQUESTS_PER_STEP)
            before = set(load.answers)
            await reload(agent, load)
            middle = load.answers.copy()
            await load.wait_for_more(REQUESTS_PER_STEP)
            assert not before & set(load.answers - middle)
        await haproxy.kill()
        figures.append(f"{dict(load.failures)} failed of {load.requests} requests")
        assert load.failures == {}


async def pids(agent: AgentProcess, count: int) -> list[int]:
    """Return the process ids of the first ``count`` workers."""
    return [int((await agent.said(rf"worker {number} is ready: process (\d+)"))[1]) for number in range(1, count + 1)]


@pytest.mark.parametrize("workers", [1, 2])
@bounded
async def test_a_killed_worker(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, workers: int, figures: list[str]
) -> None:
    """Only requests in flight on the killed worker fail. While there is no worker, requests wait."""
    agent = start_agent(f"--workers={workers}", LISTEN)
    haproxy = start_haproxy(await agent.address(), spoe=PID, web=SHOW_PID)
    async with haproxy.load(CLIENTS, *PATHS) as load:
        for _ in range(2):
            before = load.answers.copy()
            await load.wait_for_more(REQUESTS_PER_STEP)
            ((victim, _),) = (load.answers - before).most_common(1)
            failed = load.failed
            os.kill(victim, signal.SIGKILL)
            await agent.says("has ended: it was ended by the signal SIGKILL")
            await agent.says(r"worker \d is ready")
            await load.wait_for_more(REQUESTS_PER_STEP)
            figures.append(f"{load.failed - failed} failed of {load.requests} requests: {dict(load.failures)}")
            # Each client has one request in flight, but HAProxy notices the end of each connection separately: it may
            # send the next request over another connection of the killed worker.
            assert load.failed - failed <= MAX_FAILED
        failed = load.failed
        await load.wait_for_more(REQUESTS_PER_STEP)
        assert load.failed == failed


@asynccontextmanager
async def two_agents(
    start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]
) -> AsyncIterator[tuple[AgentProcess, Load]]:
    """Start a load on HAProxy, whose agent is in trouble in the block. Another agent has the same socket.

    At the end, no request may have failed.
    """
    with listening_socket() as agents_socket:
        agent = start_agent("--workers=2", socket=agents_socket)
        haproxy = start_haproxy(await agent.address(), spoe=PID, web=SHOW_PID)
        other = start_agent("--workers=2", socket=agents_socket)
        await other.address()
        async with haproxy.load(CLIENTS, *PATHS) as load:
            await load.wait_for_more(REQUESTS_PER_STEP)
            yield agent, load
            await load.wait_for_more(REQUESTS_PER_STEP)
        figures.append(f"{dict(load.failures)} failed of {load.requests} requests")
        assert load.failures == {}


@bounded
async def test_a_killed_master(start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """Its workers drain. Another agent, which has the same socket, gets the other requests: none fails."""
    async with two_agents(start_agent, start_haproxy, figures) as (agent, load):
        before = set(await pids(agent, 2))
        agent.signal(signal.SIGKILL)
        await agent.ended()
        await load.wait_for_more(REQUESTS_PER_STEP)
        middle = load.answers.copy()
        await load.wait_for_more(REQUESTS_PER_STEP)
        assert not before & set(load.answers - middle)


BAD = {
    "syntax": "def 1\n",
    "missing": "import no_such_module\n",
    "no-handlers": "del handlers\n",
    "exit": "raise SystemExit(0)\n",
    "_exit": "os._exit(3)\n",
    "segfault": "os.kill(os.getpid(), 11)\n",
    "endless": "while True: time.sleep(1)\n",
    "startup": "@handlers.startup\ndef fails(): raise OSError('no database')\n",
}


@pytest.mark.parametrize(
    "kinds",
    [["syntax", "missing", "no-handlers", "exit"], ["_exit", "segfault", "startup"], ["endless"]],
    ids=["reported", "silent", "endless"],
)
@bounded
async def test_bad_reloads(
    start_agent: StartAgent, start_haproxy: StartHAProxy, tmp_path: Path, kinds: list[str]
) -> None:
    """Code that cannot be imported, or that ends the process, costs no request."""
    module = tmp_path / "bad_handlers.py"
    good = (HERE / "handlers.py").read_text().replace("from spoa_twisted.agent", "import time\nfrom spoa_twisted.agent")
    module.write_text(good)
    agent = start_agent(
        "--workers=2", f"--start-timeout={10 if 'endless' in kinds else 30}", LISTEN, handlers=str(module)
    )
    haproxy = start_haproxy(await agent.address(), spoe=PID, web=SHOW_PID)
    async with haproxy.load(CLIENTS, *PATHS) as load:
        workers = set(await pids(agent, 2))
        for kind in kinds:
            module.write_text(good + BAD[kind])
            agent.signal(signal.SIGHUP)
            await agent.says("reload failed: ")
        await load.wait_for_more(REQUESTS_PER_STEP)
        assert set(load.answers) <= workers
        module.write_text(good)
        await reload(agent, load)
    assert load.failures == {}


@bounded
async def test_many_hangups(start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """A storm of SIGHUPs, to the workers too, loses no request, and ends."""
    agent = start_agent("--workers=2", LISTEN)
    haproxy = start_haproxy(await agent.address(), spoe=PID, web=SHOW_PID)
    async with haproxy.load(CLIENTS, *PATHS) as load:
        for _ in range(30):
            agent.signal(signal.SIGHUP)
            for pid in children_of(agent.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)
            await load.wait_for_more(10)
        await agent.says(r"reloaded: \d+ workers")
        await reload(agent, load)
    figures.append(f"{agent.output.count('reloaded: ')} reloads, {load.requests} requests")
    assert load.failures == {}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@bounded
async def test_stop_amid_a_reload(start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """SIGTERM while a reload runs: the workers drain, the new one is ended, and no request fails."""
    async with two_agents(start_agent, start_haproxy, figures) as (agent, _):
        agent.signal(signal.SIGHUP)
        await agent.says("reloading: 2 workers")
        children = children_of(agent.pid)
        agent.signal(signal.SIGTERM)
        assert await agent.ended() in STOPPED
        for pid in children:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


@bounded
async def test_spread(branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]) -> None:
    """Connections go to the worker with the fewest, so the load is as even as HAProxy's connections are.

    ``no option pipelining`` for HAProxy <= 3.0: with pipelining, it may send all requests over one connection.
    """
    agent = start_agent("--workers=2", "--pipelining=never", LISTEN)
    haproxy = start_haproxy(
        await agent.address(), spoe=PID if branch.rewritten else f"    no option pipelining\n{PID}", web=SHOW_PID
    )
    workers = await pids(agent, 2)
    async with haproxy.load(CLIENTS, "/now") as load:
        await load.wait_for_more(10 * REQUESTS_PER_STEP)
    shares = [load.answers[pid] / load.requests for pid in workers]
    figures.append(f"{shares} of {load.requests} requests")
    assert load.failures == {}
    # 25 % and 75 % was the worst that was seen.
    assert min(shares) >= 0.1


@pytest.mark.parametrize("kind", ["unix", "ssl", "haproxy", "systemd", "twistd"])
@bounded
async def test_transports(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, tmp_path: Path, kind: str, figures: list[str]
) -> None:
    """A reload loses no request over any kind of endpoint."""
    if kind == "haproxy" and branch.version >= (3, 4):
        figures.append("not tested: this HAProxy ignores send-proxy-v2 here, so the endpoint gets no header")
        return
    options = ""
    with listening_socket() as agents_socket:
        if kind == "unix":
            agent = start_agent("--workers=2", f"--listen=unix:{tmp_path}/agent.sock:mode=600")
        elif kind == "ssl":
            options = "ssl verify none"
            agent = start_agent("--workers=2", f"--listen={tls_endpoint(tmp_path)}")
        elif kind == "haproxy":
            options = "send-proxy-v2"
            agent = start_agent("--workers=2", "--listen=haproxy:tcp:0:interface=127.0.0.1")
        elif kind == "systemd":
            agent = start_agent("--workers=2", socket=agents_socket)
        else:
            # Without a pidfile: the tests of all branches run at once, in one folder.
            agent = start_agent("--workers=2", LISTEN, program=[*TWISTD, "-n", "--pidfile="])
        haproxy = start_haproxy(f"{await agent.address()} {options}", spoe=PID, web=SHOW_PID)
        async with haproxy.load(CLIENTS, *PATHS) as load:
            await load.wait_for_more(REQUESTS_PER_STEP)
            await reload(agent, load)
        figures.append(f"{dict(load.failures)} failed of {load.requests} requests")
        assert load.failures == {}

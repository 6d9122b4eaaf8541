"""Two agents behind a HAProxy, under the load of web clients, and the faults that happen to them.

Each fault says which requests may fail because of it; see :class:`.accounting.Allowed`. Where the rule does not say
anything else, no request may fail.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.conformance.rawspop import SetVar, int64, message, notify
from tests.haproxy.branches import Branch
from tests.haproxy.harness import AgentProcess, HAProxy, Process, listening_socket, several_agents, shown
from tests.haproxy.relay import Relay, Relayed
from tests.haproxy.test_restarts import MAX_LOST
from tests.programs import STOPPED

from .accounting import Allowed, RecordedLoad, Request, account
from .agent import MIB, SLACK, Measured, Peer, connected

#: The number of clients. Each has at most one request in flight.
CLIENTS = 20

#: Seconds for a fault and the recovery from it, to end a run that hangs.
FAULT_LIMIT = 60.0

#: The errors that ``option set-on-error`` sets: ``timeout processing`` is over, or the connection has ended.
TIMEOUT, CLOSED = "1", "257"

#: HAProxy <= 3.0 sets this one when the agent has sent AGENT-DISCONNECT with the status 0.
DISCONNECTED = "256"

#: HAProxy <= 3.0 sets this one when no agent is UP.
NO_AGENT = "2"

#: What happens when other processes use the CPUs for too long: HAProxy marks an agent DOWN although no fault hits it.
BUSY_MACHINE = "no fault: late checks"

#: Seconds for which an agent and HAProxy together must have waited for a CPU before a check may fail: this is "timeout
#: check" of the backend in docs/howto/several_agents.rst.
BUSY_SECONDS = 0.5

#: HAProxy's number for the health of an agent that has passed all checks lately: "rise" + "fall" - 1 of that
#: backend.
HEALTHY = 2

#: Bytes that an agent may grow by while it is flooded, and that it may keep after the flood.
PEAK, KEPT = 4 * SLACK, SLACK

#: What the handler for ``/block`` logs before it blocks its agent.
BLOCKING = "block: begins"

#: What an agent logs because of the faults. The flood sends garbage, and does not read.
LOGGED = re.compile(
    r"""
    \#warn\]\ the\ agent\ stood\ still\ for
    | \#warn\]\ the\ handler\ of\ the\ message\ '\S+'\ held\ the\ agent\ up
    | \#warn\]\ 127\.0\.0\.1:\d+:\ (?:broke\ the\ protocol|dropped:)
    | \#error\]\ the\ handler\ of\ the\ message\ '(?:late|never)'\ took\ longer
    | \#critical\]\ the\ handler\ of\ the\ message\ 'raise'\ failed\n(?:\t.*\n)*\tbuiltins\.RuntimeError:\ boom\n
    """,
    re.VERBOSE,
)

SPOE = """\
    messages pid-now pid-later raise late never block
    timeout processing 2s
    {option}

spoe-message pid-now
    event on-frontend-http-request unless {{ path /later }}

spoe-message pid-later
    event on-frontend-http-request if {{ path /later }}

spoe-message raise
    event on-frontend-http-request if {{ path /raise }}

spoe-message late
    event on-frontend-http-request if {{ path /late }}

spoe-message never
    event on-frontend-http-request if {{ path /never }}

spoe-message block
    args size=int(1)
    event on-frontend-http-request if {{ path /block }}
"""

#: The variables that the agent must set for a request of each path, besides ``txn.pid``.
EXPECTED = {
    "/now": {},
    "/later": {},
    "/raise": {"txn.spoa.raised": "1"},
    "/late": {"txn.spoa.late": "1"},
    "/never": {},
    "/block": {"txn.spoa.value": "x"},
}

SHOW = shown("txn.spoa.pid", "txn.spoa.raised", "txn.spoa.late", "txn.spoa.value")

#: Numbers for the names of sockets.
_numbers = count(1)


class MeasuredAgent(Measured, AgentProcess):
    """An agent in a process of its own, with its use of memory and descriptors."""


class MeasuredHAProxy(Measured, HAProxy):
    """A HAProxy, with the time that it has waited for a CPU, and the health of the agents as it sees them."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        # HAProxy fills the name of an abstract socket up with zeros.
        name = f"spoa-{os.getpid()}-{next(_numbers)}"
        self._stats = b"\0" + name.encode().ljust(107, b"\0")
        super().__init__(*arguments, process=f"stats socket abns@{name}", **keywords)

    async def until_healthy(self) -> None:
        """Wait until all agents are UP, and have passed a check of this HAProxy.

        Before the first check, a single failed one marks an agent DOWN. HAProxy <= 3.0 then closes the connections of
        an agent that drains, because of ``on-marked-down shutdown-sessions``.
        """
        while not await deferToThread(self._all_healthy):
            await deferLater(reactor, 0.05)

    def _all_healthy(self) -> bool:
        with socket.socket(socket.AF_UNIX) as stats, stats.makefile("r") as answer:
            stats.settimeout(FAULT_LIMIT)
            stats.connect(self._stats)
            stats.sendall(b"show servers state agents\n")
            rows = [line.strip("# \n").split() for line in answer]
        names, *servers = [row for row in rows if len(row) > 1]
        healths = [int(server[names.index("srv_check_health")]) for server in servers]
        return len(healths) > 0 and min(healths) == HEALTHY


@dataclass
class Stage:
    """The processes of a run, and their load.

    :param random: decides the order of the faults, and their targets.
    :param say: prints a line.
    """

    branch: Branch
    folder: Path
    random: Random
    say: Callable[[str], None] = print
    agents: list[MeasuredAgent] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    #: What is wrong: each makes the run fail.
    problems: list[str] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)
    #: The failures of each fault by their errors.
    failures: dict[str, Counter[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = reactor.seconds()
        self.load = RecordedLoad(Random(self.random.random()), EXPECTED)
        self.requests = 0
        #: The largest growth of an agent after a fault and at its peak, in bytes, and its connections after a fault.
        self.grown = self.peak = self.connections = 0
        self.haproxy: MeasuredHAProxy
        self._processes: list[Process] = []
        self._listeners = (listening_socket(), listening_socket())
        # The memory of each agent after its start, by its process id.
        self.memory: dict[int, int] = {}
        # The number of requests between the last two checks that each agent answered, by its process id.
        self._latest: Counter[int | None] = Counter()
        self._haproxys = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        """Start the agents, HAProxy, and the load. At the end, check the agents, and end all processes."""
        try:
            for _ in range(2):
                self.agents.append(self.start_agent("tcp:0:interface=127.0.0.2"))
                self.addresses.append(await self.agents[-1].address())
                await self.measure(self.agents[-1])
            self.haproxy = self.start_haproxy(self.addresses)
            async with self.haproxy.load(CLIENTS, "/now", "/later", load=self.load):
                await self.load.wait_for_more(CLIENTS)
                await self.haproxy.until_healthy()
                yield self
            self.check([])
            for agent in self.agents:
                await self.check_agent(agent)
            await self.haproxy.kill()
            for agent in self.agents:
                agent.signal(signal.SIGTERM)
                await self.check_end(agent, *STOPPED)
        finally:
            await self.close()

    async def close(self) -> None:
        """End all processes that this stage has started."""
        for listener in self._listeners:
            listener.close()
        for process in self._processes:
            await process.kill()

    def start_agent(self, endpoint: str) -> MeasuredAgent:
        # Connections to 127.0.0.1 have the local address 127.0.0.1. So no client takes the port of an agent that was
        # stopped, because the agents listen on 127.0.0.2.
        # With "auto", a HAProxy >= 3.1 gets no pipelining before 20,000 answers.
        agent = MeasuredAgent(f"--listen={endpoint}", f"--pipelining={self.random.choice(['auto', 'always'])}")
        self._processes.append(agent)
        return agent

    async def start_again(self, number: int) -> None:
        """Start a new agent on the address of agent ``number``, which has ended, and wait until HAProxy uses it."""
        host, _, port = self.addresses[number].rpartition(":")
        since = len(self.haproxy.output)
        self.agents[number] = self.start_agent(f"tcp:{port}:interface={host}")
        await self.measure(self.agents[number])
        await self.haproxy.said(f"Server agents/agent{number} is UP", since)

    def start_haproxy(self, servers: list[str], *options: str) -> MeasuredHAProxy:
        """Start a HAProxy on the sockets that the clients connect to.

        HAProxy >= 3.1 does without pipelining half of the times. HAProxy <= 3.0 would open few connections then after
        an agent was restarted, so that requests wait for a handler that is late until ``timeout processing``.
        """
        pipelining = not self.branch.rewritten or self.random.random() < 0.5
        self._haproxys += 1
        folder = self.folder / f"haproxy{self._haproxys}"
        folder.mkdir()
        haproxy = MeasuredHAProxy(
            self.branch,
            folder,
            {f"agent{i}": server for i, server in enumerate(servers)},
            backend=several_agents(self.branch),
            spoe=SPOE.format(option="" if pipelining else "no option pipelining"),
            web=SHOW,
            listeners=self._listeners,
            options=options,
        )
        self._processes.append(haproxy)
        return haproxy

    async def reload(self, servers: list[str]) -> None:
        """Start a new HAProxy, which stops the old one, and wait until the old one has ended."""
        old, self.haproxy = self.haproxy, self.start_haproxy(servers, "-sf", str(self.haproxy.pid))
        status = await old.ended()
        if status != 0:
            self.problem(f"HAProxy ended with status {status} at a reload")
        self._processes.remove(old)

    def pick(self) -> int:
        """Return the number of an agent: mostly the one that has answered more of the latest requests.

        HAProxy <= 3.0 may send nearly all requests to one agent, and a fault of the other one would cost nothing.
        """
        numbers = range(len(self.agents))
        if self.random.random() < 0.5:
            return self.random.choice(numbers)
        return max(numbers, key=lambda number: self._latest[self.agents[number].pid])

    def problem(self, text: str) -> None:
        self.problems.append(text)
        self.say(f"{reactor.seconds() - self.began:7.1f} s  PROBLEM: {text}")

    async def run(self, *faults: Fault) -> None:
        """Let the faults happen at the same time, wait for the recovery, and account for the failed requests."""
        active = [Allowed(fault.name, fault.errors(self.branch)) for fault in faults]
        began = reactor.seconds()
        checks = Checks(self)
        try:
            await Deferred.fromCoroutine(self._happen(faults, active)).addTimeout(FAULT_LIMIT, reactor)
        except Exception as error:
            names = ", ".join(fault.name for fault in faults)
            self.problem(f"{names}: {error!r}\n{self.haproxy.describe()}")
            raise
        finally:
            active += checks.late(active)
            self.check(active)
        for agent in self.agents:
            await self.check_agent(agent)
        for allowed in active:
            errors = Counter(request.error for request in allowed.failed)
            took = reactor.seconds() - began
            at = began - self.began
            self.say(f"{at:7.1f} s  {allowed.fault}: {dict(errors)} of at most {allowed.limit}; {took:.1f} s")

    async def _happen(self, faults: Sequence[Fault], active: Sequence[Allowed]) -> None:
        happening = [
            Deferred.fromCoroutine(fault.happen(self, allowed)) for fault, allowed in zip(faults, active, strict=True)
        ]
        await gatherResults(happening, consumeErrors=True)
        await self.load.settle()
        await self.haproxy.until_healthy()
        await self.load.settle()

    def check(self, active: list[Allowed]) -> None:
        """Account for all requests since the last check."""
        requests = self.load.take()
        self.requests += len(requests)
        self._latest = Counter(request.pid for request in requests)
        for request in account(requests, active):
            self.problem(self._describe(request, active))
        if not {request.pid for request in requests if request.pid is not None} <= self.memory.keys():
            self.problem("a process answered that is none of the agents")
        for allowed in active:
            self.times[allowed.fault] += 1
            errors = self.failures.setdefault(allowed.fault, Counter())
            errors.update(str(request.error) for request in allowed.failed)

    def _describe(self, request: Request, active: list[Allowed]) -> str:
        began, ended = request.began - self.began, request.ended - self.began
        faults = ", ".join(
            f"{allowed.fault} ({allowed.opened - self.began:.3f} s to {allowed.closed - self.began:.3f} s, "
            f"{len(allowed.failed)} of {allowed.limit} failed)"
            for allowed in active
        )
        return (
            f"no fault explains the error {request.error} of {request.path} from {began:.3f} s to {ended:.3f} s, "
            f"answered by {request.pid}; active: {faults or 'none'}"
        )

    async def measure(self, agent: MeasuredAgent) -> None:
        """Remember the memory of an agent that has just started, after its first answers."""
        address = await agent.address()
        await deferToThread(_ask, address)
        self.memory[agent.pid] = agent.memory

    async def check_agent(self, agent: MeasuredAgent) -> None:
        """Check that an agent answers, and that its memory and descriptors are bounded."""
        if agent.status is not None:
            self.problem(f"agent {agent.pid} has ended by itself: {agent.describe()}")
            return
        try:
            await deferToThread(_ask, await agent.address())
        except Exception as error:
            self.problem(f"agent {agent.pid} does not answer: {error!r}")
        grown, peak = agent.memory - self.memory[agent.pid], agent.peak - self.memory[agent.pid]
        self.grown, self.peak = max(self.grown, grown), max(self.peak, peak)
        self.connections = max(self.connections, agent.connections)
        if grown > KEPT or peak > PEAK:
            self.problem(f"agent {agent.pid} has grown by {grown / MIB:.1f} MiB, at its peak by {peak / MIB:.1f} MiB")
        # HAProxy has at most one connection for each request, and one for the check. A fault sends up to 15 requests,
        # in addition to those of the clients.
        if agent.connections > 2 * CLIENTS:
            self.problem(f"agent {agent.pid} has {agent.connections} connections")

    async def check_end(self, agent: MeasuredAgent, *statuses: int) -> None:
        """Wait for the end of an agent, and check its status and its log."""
        status = await agent.ended()
        if status not in statuses:
            self.problem(f"agent {agent.pid} ended with status {status}")
        for text in unexpected(agent.output):
            self.problem(f"agent {agent.pid} logged: {text}")
        # Its output is no longer needed.
        self._processes.remove(agent)


class Checks:
    """The checks of the agents by HAProxy from now on."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._agents = stage.agents.copy()
        self._waited = [agent.waited_seconds for agent in self._agents]
        self._haproxy = stage.haproxy
        self._haproxy_waited = self._haproxy.waited_seconds
        self._since = len(self._haproxy.output)
        self._began = reactor.seconds()

    def late(self, active: list[Allowed]) -> list[Allowed]:
        """Return a rule if HAProxy has marked an agent DOWN because the machine was too busy.

        If an agent was marked DOWN that was not the target of a fault, and no check has timed out, or the machine was
        not busy, add a problem.
        """
        stage, output = self._stage, self._haproxy.output[self._since :]
        haproxy_waited = -self._haproxy_waited
        if stage.haproxy is not self._haproxy:
            output += stage.haproxy.output
            haproxy_waited = 0.0
        if stage.haproxy.status is None:
            haproxy_waited += stage.haproxy.waited_seconds
        # The last reason for each agent.
        down = dict(re.findall(r"Server agents/agent(\d) is DOWN, reason: ([^,]*)", output))
        rules = []
        for number in set(map(int, down)) - {allowed.target for allowed in active}:
            agent = stage.agents[number]
            waited = haproxy_waited
            if agent is self._agents[number] and agent.status is None:
                waited += agent.waited_seconds - self._waited[number]
            if "timeout" not in down[str(number)] or waited < BUSY_SECONDS:
                stage.problem(f"no fault explains that agent{number} is DOWN, {waited:.1f} s without a CPU: {output}")
                continue
            errors = frozenset({TIMEOUT, CLOSED, NO_AGENT})
            rules.append(Allowed(BUSY_MACHINE, errors, sys.maxsize, self._began))
        return rules


def unexpected(log: str) -> list[str]:
    """Return the warnings, errors and tracebacks in an agent's log that the faults of this module do not cause."""
    entries = re.split(r"^(?=\d{4}-\d\d-\d\dT)", log, flags=re.MULTILINE)
    bad = [entry for entry in entries if re.search(r"#(?:warn|error|critical)\]|Traceback|Unhandled|Unable to", entry)]
    return [entry for entry in bad if not LOGGED.search(entry)]


def _ask(address: str) -> None:
    """Let an agent answer on a new connection. It blocks, so it runs in a thread."""
    peer = connected(address)
    try:
        peer.handshake()
        for _ in range(10):
            assert peer.request(message("score")) == [SetVar("txn.score", int64(42))]
    finally:
        peer.close()


@dataclass(frozen=True)
class Fault:
    """A fault, and the errors of requests that it explains.

    :param happen: lets the fault happen, waits for the recovery, and sets the time and the limit in :class:`Allowed`.
    :param old: the errors with HAProxy <= 3.0.
    :param new: the errors with HAProxy >= 3.1.
    """

    name: str
    happen: Callable[[Stage, Allowed], Coroutine[Deferred[Any], Any, None]]
    old: frozenset[str] = frozenset()
    new: frozenset[str] = frozenset()

    def errors(self, branch: Branch) -> frozenset[str]:
        return self.new if branch.rewritten else self.old


async def kill(stage: Stage, allowed: Allowed) -> None:
    """Kill an agent. The requests in flight to it fail until it has ended, which takes some milliseconds."""
    number = allowed.target = stage.pick()
    agent, since = stage.agents[number], len(stage.haproxy.output)
    allowed.open(CLIENTS)
    agent.signal(signal.SIGKILL)
    await stage.check_end(agent, -signal.SIGKILL)
    allowed.close()
    await stage.haproxy.said(f"Server agents/agent{number} is DOWN", since)
    await stage.start_again(number)


async def restart(stage: Stage, allowed: Allowed) -> None:
    """Stop an agent with SIGTERM. A request may fail that crosses the agent's AGENT-DISCONNECT."""
    number = allowed.target = stage.pick()
    agent, since = stage.agents[number], len(stage.haproxy.output)
    allowed.open(MAX_LOST)
    agent.signal(signal.SIGTERM)
    await stage.check_end(agent, *STOPPED)
    allowed.close()
    await stage.haproxy.said(f"Server agents/agent{number} is DOWN", since)
    await stage.start_again(number)


async def freeze(stage: Stage, allowed: Allowed) -> None:
    """Freeze an agent until HAProxy has marked it DOWN. Until then, requests to it run into the timeout.

    The timeout is as long as the checks of HAProxy take, so each client has at most two requests that fail.
    """
    number = allowed.target = stage.pick()
    agent, since = stage.agents[number], len(stage.haproxy.output)
    allowed.open(2 * CLIENTS)
    agent.signal(signal.SIGSTOP)
    try:
        await stage.haproxy.said(f"Server agents/agent{number} is DOWN", since)
        allowed.close()
        await stage.load.settle()
    finally:
        agent.signal(signal.SIGCONT)
    await stage.haproxy.said(f"Server agents/agent{number} is UP", since)


async def freeze_for_a_moment(stage: Stage, allowed: Allowed) -> None:
    """Freeze an agent for less than ``timeout check``. The requests to it are late, and none fails."""
    agent = stage.agents[stage.pick()]
    agent.signal(signal.SIGSTOP)
    await deferLater(reactor, 0.3)
    agent.signal(signal.SIGCONT)


async def freeze_haproxy(stage: Stage, allowed: Allowed) -> None:
    """Freeze HAProxy for less than ``timeout processing``. The requests are late, and none fails."""
    stage.haproxy.signal(signal.SIGSTOP)
    await deferLater(reactor, 1)
    stage.haproxy.signal(signal.SIGCONT)


async def freeze_haproxy_for_long(stage: Stage, allowed: Allowed) -> None:
    """Freeze HAProxy for longer than ``timeout processing``. The requests that are in flight then may time out."""
    allowed.open(CLIENTS)
    stage.haproxy.signal(signal.SIGSTOP)
    await deferLater(reactor, 3)
    allowed.close()
    stage.haproxy.signal(signal.SIGCONT)


async def reset(stage: Stage, allowed: Allowed) -> None:
    """Reset connections between HAProxy and the agents, in both directions. The requests in flight on them fail.

    HAProxy is reloaded to connect through relays, which reset the connections, and is reloaded again afterwards.
    """
    relays = [Relay(address) for address in stage.addresses]
    try:
        await stage.reload([await relay.listen() for relay in relays])

        def busy() -> list[Relayed]:
            connections = [connection for relay in relays for connection in relay.connections]
            return [connection for connection in connections if not connection.closed and connection.in_flight]

        await stage.load.until(lambda: len(busy()) > 0)
        allowed.open(CLIENTS)
        cut = busy()
        for connection in cut:
            connection.cut(reset=True)
        for relay in relays:
            await relay.until(lambda: all(connection.closed for connection in cut))
        allowed.close()
        await stage.load.settle()
        await stage.reload(stage.addresses)
    finally:
        for relay in relays:
            await relay.stop()


async def flood(stage: Stage, allowed: Allowed) -> None:
    """Peers connect often, send garbage, reset connections with NOTIFYs in flight, and never read. No request fails."""
    agent, random = stage.agents[stage.pick()], Random(stage.random.random())
    before = agent.connections
    try:
        await deferToThread(_flood, await agent.address(), random)
        # The agent closes its connections when it reads the resets.
        while agent.connections > max(before, CLIENTS):
            await deferLater(reactor, 0.01)
    except (OSError, AssertionError):
        # Only an agent that is killed or stopped at the same time may refuse or close these connections.
        await agent.ended()


def _flood(address: str, random: Random) -> None:
    floods = [_connect_often, _send_garbage, _reset_in_flight, _never_read]
    random.shuffle(floods)
    for flood in floods:
        flood(address, random)


def _connect_often(address: str, random: Random) -> None:
    for _ in range(300):
        peer = connected(address)
        random.choice([peer.close, peer.reset])()


def _send_garbage(address: str, random: Random) -> None:
    for _ in range(50):
        peer = connected(address)
        if random.random() < 0.5:
            peer.handshake()
        peer.offer(random.randbytes(random.randrange(1, 20_000)))
        peer.reset()


def _reset_in_flight(address: str, random: Random) -> None:
    for _ in range(30):
        peer = connected(address)
        peer.handshake()
        peer.send(*[notify(message("pid-later"), stream_id=i) for i in range(20)])
        peer.reset()


def _never_read(address: str, random: Random) -> None:
    peers: list[Peer] = []
    long = message("long", ("size", int64(10_000)))
    for _ in range(3):
        peer = connected(address, 2**12)
        peers.append(peer)
        peer.handshake()
        peer.offer(*[notify(long, stream_id=i) for i in range(100)])
    # The agent must keep the ACKs meanwhile.
    sleep(0.5)
    for peer in peers:
        peer.reset()


async def reload(stage: Stage, allowed: Allowed) -> None:
    """Reload HAProxy. No request fails."""
    await stage.reload(stage.addresses)


async def handlers_that_fail(stage: Stage, allowed: Allowed) -> None:
    """Handlers raise, are late, or never answer. HAProxy gets their ``on_error``, or no variables: no request fails."""
    paths = ["/raise", "/late", "/never"] * 5
    stage.random.shuffle(paths)
    requests = [Deferred.fromCoroutine(stage.load.request(stage.haproxy, path)) for path in paths]
    await gatherResults(requests, consumeErrors=True)


async def handler_that_blocks(stage: Stage, allowed: Allowed) -> None:
    """A handler blocks an agent for 1.5 s, which is less than ``timeout processing``.

    HAProxy may mark the agent DOWN meanwhile. HAProxy <= 3.0 then closes the connections, and the requests in flight
    on them fail.
    """
    before = [agent.output.count(BLOCKING) for agent in stage.agents]
    allowed.open(CLIENTS + 1)
    request = Deferred.fromCoroutine(stage.load.request(stage.haproxy, "/block"))
    while allowed.target is None:
        await deferLater(reactor, 0.01)
        for number, agent in enumerate(stage.agents):
            if agent.output.count(BLOCKING) > before[number]:
                allowed.target = number
    await request
    # A check that began before the end of the handler may fail until "timeout check" is over.
    await deferLater(reactor, 0.5)
    allowed.close()


FLOOD = Fault("flood an agent", flood)

FAULTS = [
    Fault("kill an agent", kill, old=frozenset({CLOSED}), new=frozenset({CLOSED, TIMEOUT})),
    Fault("restart an agent", restart, old=frozenset({CLOSED, DISCONNECTED}), new=frozenset({CLOSED})),
    Fault("freeze an agent", freeze, old=frozenset({TIMEOUT, CLOSED}), new=frozenset({TIMEOUT})),
    Fault("freeze an agent for 0.3 s", freeze_for_a_moment),
    Fault("freeze HAProxy for 1 s", freeze_haproxy),
    Fault("freeze HAProxy for 3 s", freeze_haproxy_for_long, old=frozenset({TIMEOUT}), new=frozenset({TIMEOUT})),
    Fault("reset connections", reset, old=frozenset({CLOSED}), new=frozenset({CLOSED, TIMEOUT})),
    FLOOD,
    Fault("reload HAProxy", reload),
    Fault("handlers that fail", handlers_that_fail),
    Fault("a handler that blocks", handler_that_blocks, old=frozenset({CLOSED})),
]


async def each_once(stage: Stage, *beside: Fault) -> None:
    """Let each fault happen once, in random order, and each time also the faults ``beside``."""
    for fault in stage.random.sample(FAULTS, len(FAULTS)):
        await stage.run(fault, *beside)

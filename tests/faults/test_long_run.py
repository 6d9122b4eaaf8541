"""The short form of the long run, and the rules by which it accounts for failed requests."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.haproxy.branches import Branch, find_branches
from tests.programs import Program

from .accounting import Allowed, Request, account
from .agent import Peer, connected
from .long_run import say, table
from .mixed import BUSY_MACHINE, CLIENTS, FAULTS, FLOOD, KEPT, Checks, Fault, Stage, each_once, unexpected

#: Seconds for a run on a busy machine, to end one that hangs. Each fault takes 1 to 5 seconds.
RUN_LIMIT = 110.0


async def run_faults(stage: Stage) -> None:
    async with stage.running():
        await each_once(stage)


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_each_fault_once(branch: Branch, tmp_path: Path) -> None:
    """Each fault happens once, in random order, and explains all requests that fail."""
    seed = SystemRandom().randrange(2**32)
    say(f"seed {seed}")
    stage = Stage(branch, tmp_path, Random(seed))
    await Deferred.fromCoroutine(run_faults(stage)).addTimeout(RUN_LIMIT, reactor)
    say(table([stage]))
    assert stage.problems == []
    assert stage.times - Counter({BUSY_MACHINE: len(FAULTS)}) == Counter(fault.name for fault in FAULTS)
    assert stage.requests > 500


async def kill_both(stage: Stage, allowed: Allowed) -> None:
    """Kill both agents, so that requests fail, and start them again."""
    marks = []
    for agent in stage.agents:
        marks.append(len(stage.haproxy.output))
        agent.signal(signal.SIGKILL)
        await stage.check_end(agent, -signal.SIGKILL)
    for number, since in enumerate(marks):
        await stage.haproxy.said(f"Server agents/agent{number} is DOWN", since)
    for number in range(len(marks)):
        await stage.start_again(number)


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_unexplained_failures(branch: Branch, tmp_path: Path) -> None:
    """Requests fail that no fault explains: the run says which ones, when, with which error, and at which fault."""
    stage = Stage(branch, tmp_path, Random(0))

    async def run() -> None:
        async with stage.running():
            await stage.run(Fault("a fault without a rule", kill_both))

    await Deferred.fromCoroutine(run()).addTimeout(RUN_LIMIT, reactor)
    agents, requests = stage.problems[:2], stage.problems[2:]
    assert [problem[:39] for problem in sorted(agents)] == [
        f"no fault explains that agent{i} is DOWN, " for i in (0, 1)
    ]
    assert len(requests) == stage.load.failed > 0
    for problem in requests:
        assert problem.startswith("no fault explains the error ")
        assert "active: a fault without a rule" in problem


DOWN = "Server agents/agent1 is DOWN, reason: Layer7 timeout, check duration: 500ms.\n"
REFUSED = DOWN.replace("Layer7 timeout", "Layer4 connection problem")


@pytest.mark.parametrize(
    ("output", "target", "waited", "rules", "problems"),
    [
        ("", None, 1, 0, 0),
        (DOWN, 1, 0, 0, 0),
        (DOWN, None, 0, 0, 1),
        (DOWN, 0, 0, 0, 1),
        (DOWN, None, 1, 1, 0),
        (REFUSED, None, 1, 0, 1),
    ],
    ids=["no agent", "target", "without a fault", "fault of the other agent", "busy machine", "refused"],
)
def test_late_checks(output: str, target: int | None, waited: int, rules: int, problems: int) -> None:
    """HAProxy may mark an agent DOWN that is the target of a fault. Another one it may only on a busy machine."""
    haproxy = SimpleNamespace(output="before", waited_seconds=5.0, status=None)
    agents = [SimpleNamespace(waited_seconds=7.0, status=None) for _ in range(2)]
    found: list[str] = []
    stage: Any = SimpleNamespace(haproxy=haproxy, agents=agents, problem=found.append)
    checks = Checks(stage)
    haproxy.output += output
    agents[1].waited_seconds += waited
    late = checks.late([Allowed("fault", target=target)])
    assert [allowed.fault for allowed in late] == [BUSY_MACHINE] * rules
    assert len(found) == problems


@pytest_twisted.ensureDeferred
async def test_checks_of_an_agent(tmp_path: Path) -> None:
    """An agent that has grown, that has too many connections, or that has ended by itself, makes the run fail."""
    stage = Stage(find_branches()[-1], tmp_path, Random(0))
    peers: list[Peer] = []
    try:
        agent = stage.start_agent("tcp:0:interface=127.0.0.2")
        await stage.measure(agent)
        await stage.check_agent(agent)
        assert stage.problems == []

        stage.memory[agent.pid] -= 2 * KEPT
        await stage.check_agent(agent)
        stage.memory[agent.pid] += 2 * KEPT
        peers += [connected(await agent.address()) for _ in range(3 * CLIENTS)]
        await stage.check_agent(agent)
        await agent.kill()
        await stage.check_agent(agent)
    finally:
        for peer in peers:
            peer.close()
        await stage.close()
    grown, crowded, ended = [problem.removeprefix(f"agent {agent.pid} has ") for problem in stage.problems]
    assert grown.startswith("grown by ")
    # The connection that asked the agent may still be open.
    assert crowded in (f"{3 * CLIENTS} connections", f"{3 * CLIENTS + 1} connections")
    assert ended.startswith("ended by itself")


def test_repeated_run() -> None:
    """The same seed gives the same order of faults, and another seed another order."""

    def order(seed: int) -> list[str]:
        names: list[str] = []

        async def happen(fault: Fault, *beside: Fault) -> None:
            assert beside == (FLOOD,)
            names.append(fault.name)

        stage: Any = SimpleNamespace(random=Random(seed), run=happen)
        asyncio.run(each_once(stage, FLOOD))
        assert sorted(names) == sorted(fault.name for fault in FAULTS)
        return names

    assert order(1) == order(1) != order(2)


def failed(began: float, ended: float, error: str | None = "257") -> Request:
    return Request("/now", began, ended, error)


@pytest.mark.parametrize(
    ("request_", "explained"),
    [
        (failed(9, 10.5), True),
        (failed(10.5, 10.8), True),
        (failed(10.9, 13), True),
        (failed(9, 9.9), False),
        (failed(11.1, 12), False),
        (failed(10.2, 10.4, "1"), False),
        (failed(10.2, 10.4, "status 503"), False),
    ],
    ids=["in flight before", "between", "ended later", "ended before", "began later", "other error", "no error number"],
)
def test_account(request_: Request, explained: bool) -> None:
    """A fault explains only failures with its errors, of requests in flight between its beginning and its end."""
    allowed = Allowed("fault", frozenset({"257"}), limit=5, opened=10, closed=11)
    succeeded = failed(10.1, 10.2, error=None)
    assert account([succeeded, request_], [allowed]) == ([] if explained else [request_])
    assert allowed.failed == ([request_] if explained else [])


def test_account_limit() -> None:
    """A fault explains no more failures than its limit, and another fault at the same time explains the others."""
    requests = [failed(10, 10 + i) for i in range(1, 5)]
    allowed = [Allowed(name, frozenset({"257"}), limit=1, opened=10, closed=11) for name in ("first", "second")]
    assert account(requests, allowed) == requests[2:]
    assert [each.failed for each in allowed] == [requests[:1], requests[1:2]]


def test_account_without_fault() -> None:
    """A fault whose time is not set explains nothing, like no fault at all."""
    request = failed(10, 11)
    assert account([request], [Allowed("fault", frozenset({"257"}), limit=5)]) == account([request], []) == [request]


def logged(*lines: str) -> str:
    return "".join(f"2026-01-01T00:00:00+0000 {line}\n" for line in lines)


RAISED = """\
[spoa_twisted.agent#critical] the handler of the message 'raise' failed
\tTraceback (most recent call last):
\t  File "handlers.py", line 33, in raise_
\t    raise RuntimeError("boom")
\tbuiltins.RuntimeError: boom
\t"""


def test_unexpected_log() -> None:
    """The exception of a handler is expected, another traceback or warning is not."""
    bad = [
        logged(RAISED.replace("RuntimeError: boom", "ValueError: boom")),
        logged("[twisted.internet.defer#critical] Unhandled error in Deferred:"),
        logged("[spoa_twisted.agent#warn] something else"),
        logged("[-] printed\n\tTraceback (most recent call last):\n\tbuiltins.RuntimeError: boom"),
    ]
    good = logged(
        "[spoa_twisted.runner#info] SPOA listening", RAISED, "[spoa_twisted.agent#warn] the agent stood still for 2 s"
    )
    assert unexpected(good) == []
    assert unexpected(good.join(["", *bad, ""])) == bad


def test_command() -> None:
    """The command starts and stops agents, HAProxy and the load, prints the seed and the table, and succeeds."""
    newest = find_branches()[-1].name
    command = [sys.executable, "-m", "tests.faults.long_run", "--minutes=0", "--seed=7", f"--branch={newest}"]
    with Program(command) as program:
        assert program.ended() == 0
    first, *_, last = program.output.splitlines()
    assert (first, last) == (f"HAProxy {newest}, seed 7", "seed 7")
    assert f"HAProxy {newest}: " in program.output


def test_command_without_haproxy() -> None:
    """The command fails if it finds no HAProxy of the branch."""
    with Program([sys.executable, "-m", "tests.faults.long_run", "--branch=0.1"]) as program:
        assert program.ended() == 2
    assert "there is no HAProxy 0.1" in program.output

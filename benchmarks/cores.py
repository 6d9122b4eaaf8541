"""Measures what a second agent on a second core gains, under direct load and behind real HAProxys.

Run ``python -m benchmarks.cores`` from the top of the checkout. HAProxy uses the configuration in ``examples/scale``.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.agent import agent, bench, machine, started, usable_cores
from benchmarks.haproxy import load, running
from tests.haproxy.branches import Branch, NoHAProxy, find_branches
from tests.programs import ROOT

EXAMPLE: Final = ROOT / "examples" / "scale"
HANDLERS: Final = Path(__file__).with_name("working.py")

#: The addresses of the agents in ``examples/scale/haproxy.cfg``, to be replaced.
ADDRESSES: Final = ("127.0.0.1:12341", "127.0.0.1:12342")


class Agent(NamedTuple):
    """A running agent: its process id and its address, ``HOST:PORT``."""

    pid: int
    address: str


class Run(NamedTuple):
    """The result of one run. ``rate`` stands first, so that ``max`` finds the fastest run."""

    #: NOTIFYs, or requests, per second.
    rate: float
    #: For each agent, the share of a core that it used.
    busy: list[float]
    errors: int


def directly(agents: list[Agent], options: argparse.Namespace) -> Run:
    """Load each agent with a separate process of ``spoactl bench``, all at the same time."""
    # The load is not pinned: with two cores only, it must share them with the agents.
    anywhere = usable_cores()
    arguments = ["--connections=8", "--in-flight=4", f"--duration={options.duration}", "--warm-up=0.5"]
    with ThreadPoolExecutor() as threads:
        reports = list(
            threads.map(
                lambda agent: bench(f"tcp:{agent.address}", [*arguments, f"--pid={agent.pid}"], anywhere), agents
            )
        )
    return Run(
        sum(report["notifys_per_second"] for report in reports),
        [report["agent_cpu"][0]["busy"] or 0.0 for report in reports],
        sum(sum(report["errors"].values()) for report in reports),
    )


def haproxy(branch: Branch, agents: list[Agent]) -> AbstractContextManager[tuple[int, int]]:
    """Start HAProxy with the example's configuration and these agents. Yield its process id and its port."""
    text = (EXAMPLE / "haproxy.cfg").read_text()
    for number, address in enumerate(ADDRESSES, 1):
        if number <= len(agents):
            text = text.replace(address, agents[number - 1].address)
        else:
            text = text.replace(f"    server agent{number} {address}\n", "")
    # HAProxy answers by itself, with the agent's variable in the body: no web server takes CPU time.
    answer = 'content-type text/plain lf-string "allowed %[var(txn.iprep.allowed)]"'
    text = text.replace("default_backend app", f"http-request return status 200 {answer}")
    return running(branch, text, (EXAMPLE / "spoe.conf").read_text())


def through(port: int, agents: list[Agent], options: argparse.Namespace) -> Run:
    """Load the agents through the HAProxy on ``port``."""
    report = load(port, options.clients, options, "allowed 1", [agent.pid for agent in agents])
    return Run(report["requests_per_second"], report["busy_of"], sum(report["errors"].values()))


HEAD: Final = f"{'asked':<12}  {'agents':>6}  {'a second':>8}  {'times':>5}  {'agents busy':<12}  errors"


def rows(asked: str, runs: dict[int, list[Run]]) -> str:
    """Return two rows of the table: the fastest run with one agent, and the fastest run with two."""
    best = {count: max(some) for count, some in runs.items()}
    lines = []
    for count, run in best.items():
        busy = " ".join(f"{share:.0%}" for share in run.busy)
        errors = sum(run.errors for run in runs[count])
        times = run.rate / best[1].rate
        lines.append(f"{asked:<12}  {count:>6}  {run.rate:>8.0f}  {times:>5.2f}  {busy:<12}  {errors}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cores", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--work", type=int, default=200, help="µs of CPU per handler call (default: %(default)s)")
    branch = "branch of HAProxy, for example 2.8; repeatable (default: all found)"
    parser.add_argument("--branch", action="append", help=branch)
    parser.add_argument("--clients", type=int, default=20, help="HTTP clients of HAProxy (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs per row; the fastest counts (default: %(default)s)")
    parser.add_argument("--duration", default="3", help="seconds per run (default: %(default)s)")
    parser.add_argument("--reactor", default="epoll", help="Twisted reactor of the agents (default: %(default)s)")
    return parser


def main() -> None:
    """Measure, and print a table. Exit with 1 if an answer was wrong or missing."""
    options = parser().parse_args()
    # benchmarks.haproxy.load() reads it; here it is no option of the command line.
    options.warm_up = "0.5"
    try:
        branches = [branch for branch in find_branches() if not options.branch or branch.name in options.branch]
    except NoHAProxy as error:
        raise SystemExit(str(error)) from error
    available = sorted(usable_cores())
    print("\n".join(machine()))
    print(f"a handler takes {options.work} µs of CPU; {options.reactor} reactor")
    if len(available) < 2:
        print("both agents, the load and HAProxy share one core: a second agent cannot increase the rate")
    else:
        print("each agent on a separate core")
        if len(available) < 4:
            print(f"only {len(available)} cores: the load and HAProxy take CPU time that the two agents would need")
    print(f"fastest of {options.runs} runs of {options.duration} s\n\n{HEAD}")
    errors = 0
    with ExitStack() as stack:
        agents = []
        # On a machine with one core, both agents run on that core.
        for core in (available[0], available[1 % len(available)]):
            command = agent("handlers", options.reactor, handlers=HANDLERS)
            agents.append(Agent(*stack.enter_context(started(command, {core}, SPOA_WORK=str(options.work)))))
        runs: dict[int, list[Run]] = {1: [], 2: []}
        # One agent and two agents in turn, so that other work on the machine disturbs both alike.
        for _ in range(options.runs):
            for count, some in runs.items():
                some.append(directly(agents[:count], options))
        print(rows("directly", runs), flush=True)
        errors += sum(run.errors for some in runs.values() for run in some)
        for branch in branches:
            runs = {1: [], 2: []}
            with haproxy(branch, agents[:1]) as one, haproxy(branch, agents) as two:
                for _ in range(options.runs):
                    for (count, some), (_, port) in zip(runs.items(), (one, two), strict=True):
                        some.append(through(port, agents[:count], options))
            print(rows(f"HAProxy {branch.name}", runs), flush=True)
            errors += sum(run.errors for some in runs.values() for run in some)
    raise SystemExit(errors > 0)


if __name__ == "__main__":
    main()

"""Measures what an agent adds to HTTP requests: the same HAProxy with the SPOE filter and without it, in turn.

Run ``python -m benchmarks.haproxy`` from the top of the checkout. ``tests/haproxy/branches.py`` says where it looks for
HAProxys.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.agent import KINDS, agent, machine, started, usable_cores
from spoa_twisted.ctl.bench.notes import BUSY
from tests.haproxy.branches import Branch, NoHAProxy, find_branches
from tests.programs import ENVIRONMENT, ROOT, Program

HAPROXY_CFG: Final = """\
global
    nbthread 1
    maxconn 4000

defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend web
    bind 127.0.0.1:8080
    {filter}
    http-request return status 200 content-type text/plain lf-string "score %[var(sess.bench.score)]"
    # The variable would stay for the next requests of the client, and hide that the agent did not answer them.
    http-after-response unset-var(sess.bench.score)

backend agents
    mode {mode}
    server agent {agent}
"""

SPOE_CONF: Final = """\
[bench]
spoe-agent bench
    messages get-ip-reputation
    option var-prefix bench
    timeout hello 2s
    timeout idle 30s
    timeout processing 2s
    use-backend agents

spoe-message get-ip-reputation
    args ip=src
    event on-frontend-http-request
"""

#: The body of a correct answer with the SPOE filter: it holds the variable that the agent sets.
EXPECTED: Final = "score 20"


@contextmanager
def running(branch: Branch, haproxy_cfg: str, spoe_conf: str) -> Iterator[tuple[int, int]]:
    """Start HAProxy with these files, on a free port in place of 8080. Yield its process id and that port."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as listening:
        folder = Path(name)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        (folder / "spoe.conf").write_text(spoe_conf)
        # HAProxy inherits this listening socket. So its port is known, and a client that connects before HAProxy is
        # ready waits in the queue instead of being refused.
        (folder / "haproxy.cfg").write_text(haproxy_cfg.replace("127.0.0.1:8080", f"fd@{listening.fileno()}"))
        program = Program([branch.executable, "-db", "-f", "haproxy.cfg"], cwd=folder, sockets=[listening])
        try:
            yield program.pid, listening.getsockname()[1]
        finally:
            program.kill()
            if program.ended() > 0:
                print(f"HAProxy ended with {program.ended()}:\n{program.output}", file=sys.stderr)


def haproxy(branch: Branch, server: str, with_filter: bool) -> AbstractContextManager[tuple[int, int]]:
    """Start HAProxy with the SPOE filter or without it. Yield its process id and its port."""
    haproxy_cfg = HAPROXY_CFG.format(
        filter="filter spoe engine bench config spoe.conf" if with_filter else "",
        mode="spop" if branch.rewritten else "tcp",
        agent=server,
    )
    return running(branch, haproxy_cfg, SPOE_CONF)


def load(port: int, clients: int, options: argparse.Namespace, expected: str | None, pids: list[int]) -> dict[str, Any]:
    """Run ``benchmarks.http_load`` once, and return its report.

    :param expected: the body that each answer must have; ``None`` for the body of the first answer.
    :param pids: the processes whose CPU time is measured.
    """
    command = [sys.executable, "-m", "benchmarks.http_load", str(port), f"--clients={clients}"]
    command += [f"--duration={options.duration}", f"--warm-up={options.warm_up}"]
    command += [f"--expect={expected}"] if expected else []
    command += [f"--pid={pid}" for pid in pids]
    ended = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr.strip())
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


HEAD: Final = (
    f"{'HAProxy':<7}  {'clients':>7}  {'agent':<7}  {'requests/s':>10}  {'p50 µs':>7}  {'p99 µs':>7}"
    f"  {'CPU µs a request: HAProxy':>25}  {'agent':>5}  {'load':>5}  {'load busy':>9}  {'waited':>6}  errors"
)


def _costs(run: dict[str, Any]) -> list[float]:
    """Return the CPU time per request in µs: of the load, of HAProxy, and of the agent if there is one."""
    of_haproxy, *of_agent = run["busy_of"]
    shares = [run["busy"], of_haproxy, *([sum(of_agent)] if of_agent else [])]
    return [share * 1e6 / run["requests_per_second"] for share in shares]


class Figures:
    """The best value of each figure over several runs, and the CPU shares of the fastest run."""

    def __init__(self, runs: list[dict[str, Any]]) -> None:
        fastest = max(runs, key=lambda run: run["requests_per_second"])
        self.rate: float = fastest["requests_per_second"]
        self.busy: float = fastest["busy"]
        self.busy_of: list[float] = fastest["busy_of"]
        self.waited = max(fastest["waited"], *fastest["waited_of"])
        self.p50, self.p99 = (min(run["latency_us"][name] for run in runs) for name in ("p50", "p99"))
        self.errors = sum(sum(run["errors"].values()) for run in runs)
        good = [run for run in runs if run["requests"]]
        #: CPU time per request in µs: of the load, of HAProxy, and in runs with the filter of all processes of the
        #: agent. Empty if no run counted a request.
        self.cpu = [min(costs) for costs in zip(*map(_costs, good), strict=True)]

    def row(self, branch: Branch, clients: int, name: str) -> str:
        """Return a row of the table."""
        of_load, of_haproxy, *of_agent = [f"{cpu:.1f}" for cpu in self.cpu] or ["-", "-"]
        return (
            f"{branch.name:<7}  {clients:>7}  {name:<7}  {self.rate:>10.0f}  {self.p50:>7.0f}  {self.p99:>7.0f}"
            f"  {of_haproxy:>25}  {of_agent[0] if of_agent else '-':>5}  {of_load:>5}  {self.busy:>9.0%}"
            f"  {self.waited:>6.0%}  {self.errors}"
        )

    @property
    def load_was_bottleneck(self) -> bool:
        """Whether the clients' process was the only busy one in the fastest run: its rate is then too low."""
        return self.busy >= BUSY > max(self.busy_of)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.haproxy", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--branch", action="append", help="branch, for example 2.8; repeatable (default: all found)")
    clients = "concurrent HTTP clients, numbers separated by commas (default: %(default)s)"
    parser.add_argument("--clients", default="1,16", help=clients)
    parser.add_argument("--runs", type=int, default=3, help="runs per row; the best counts (default: %(default)s)")
    parser.add_argument("--duration", default="3", help="seconds per run (default: %(default)s)")
    parser.add_argument("--warm-up", default="0.5", help="seconds before each run is measured (default: %(default)s)")
    parser.add_argument("--kind", choices=KINDS, default="sync", help="kind of agent (default: %(default)s)")
    parser.add_argument("--reactor", default="epoll", help="Twisted reactor of the agent (default: %(default)s)")
    return parser


def main() -> None:
    """Measure, and print a table. Exit with 1 if an answer was wrong or missing."""
    options = parser().parse_args()
    try:
        branches = [branch for branch in find_branches() if not options.branch or branch.name in options.branch]
    except NoHAProxy as error:
        raise SystemExit(str(error)) from error
    if not branches:
        raise SystemExit(f"no HAProxy {' or '.join(options.branch)} was found: see tests/haproxy/branches.py")
    print("\n".join(machine()))
    print(f"{options.kind} agent, {options.reactor} reactor; HAProxy with nbthread 1; no process is pinned to a core")
    print(f"one request in flight per client; best of {options.runs} runs of {options.duration} s\n\n{HEAD}")
    failed = False
    bottlenecks = []
    anywhere = set(range(os.cpu_count() or 1)) & usable_cores()
    with started(agent(options.kind, options.reactor), anywhere) as (agent_pid, address):
        for branch in branches:
            for clients in map(int, options.clients.split(",")):
                without, with_agent = measure(branch, address, clients, agent_pid, options)
                print(without.row(branch, clients, "without"))
                print(with_agent.row(branch, clients, "with"))
                added = f"{with_agent.p50 - without.p50:>7.0f}  {with_agent.p99 - without.p99:>7.0f}"
                print(f"{'':<7}  {'':>7}  {'added':<7}  {'':>10}  {added}", flush=True)
                failed = failed or with_agent.errors + without.errors > 0
                for name, figures in (("without", without), ("with", with_agent)):
                    if figures.load_was_bottleneck:
                        bottlenecks.append(f"{branch.name}, {clients} clients, {name} agent")
    for where in bottlenecks:
        print(f"note: {where}: the load was the bottleneck; HAProxy and the agent can do more requests per second")
    raise SystemExit(failed)


def measure(
    branch: Branch, address: str, clients: int, agent_pid: int, options: argparse.Namespace
) -> tuple[Figures, Figures]:
    """Measure without the agent and with it, in turn, so that other work on the machine disturbs both alike."""
    without, with_agent = [], []
    with haproxy(branch, address, False) as plain, haproxy(branch, address, True) as filtering:
        for _ in range(options.runs):
            without.append(load(plain[1], clients, options, None, [plain[0]]))
            with_agent.append(load(filtering[1], clients, options, EXPECTED, [filtering[0], agent_pid]))
    return Figures(without), Figures(with_agent)


if __name__ == "__main__":
    main()

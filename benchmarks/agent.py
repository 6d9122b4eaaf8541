"""What an agent costs: ``spoactl bench`` with each shape, kind of handler and number in flight.

``python -m benchmarks.agent``, from the top of the checkout. With ``--endpoint`` and ``--pid`` it measures any agent
that has handlers for the three shapes, in whatever language.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from spoa_twisted.version import version
from tests.programs import ANY_PORT, ENVIRONMENT, ROOT, SPOACTL, TWISTD, Program, spoa

HANDLERS: Final = Path(__file__).with_name("handlers.py")

KINDS: Final = ("sync", "fired", "later", "coroutine", "awaiting", "waiting", "canned", "canned-at-once")
SHAPES: Final = ("small", "http", "body")


def usable_cores() -> set[int]:
    """Return the cores that this process may use. PyPy 7.3.19 knows how many there are, no more."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def pin(pid: int, on: set[int]) -> None:
    """Let a process use these cores only, where Python can say so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, on)


def cores() -> tuple[set[int], set[int]]:
    """Return where the agent is to run and where the load: on cores of their own if there are two."""
    mine = sorted(usable_cores())
    return ({mine[0]}, set(mine[1:])) if len(mine) > 1 else (set(mine), set(mine))


@contextmanager
def started(command: Sequence[str], on: set[int], **environment: str) -> Iterator[tuple[int, str]]:
    """Start an agent on these cores; give its process id, and where it listens."""
    with Program(command, environment=environment) as program:
        pin(program.pid, on)
        try:
            address = program.address()
        except AssertionError as error:
            raise SystemExit(f"the agent did not start: {error}") from None
        yield program.pid, address
        program.stop()


def agent(kind: str, reactor: str, listen: str = ANY_PORT, handlers: Path = HANDLERS) -> list[str]:
    """Return the command of an agent of this kind, on a port of its own."""
    if kind.startswith("canned"):
        at_once = ["--at-once"] if kind == "canned-at-once" else []
        return [sys.executable, "-m", "benchmarks.canned", f"--reactor={reactor}", *at_once]
    twistd = [*TWISTD, "-n", "--pidfile=", f"--reactor={reactor}"]
    return spoa(handlers=f"{handlers}:{kind}", listen=[listen], program=twistd)


def bench(endpoint: str, arguments: Sequence[str], on: set[int]) -> dict[str, Any]:
    """Run ``spoactl bench`` once on these cores; return its report."""
    command = [*SPOACTL, "bench", endpoint, "--json", *arguments]
    with subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        pin(process.pid, on)
        out, err = process.communicate()
    if not out:
        raise SystemExit(err.strip())
    report: dict[str, Any] = json.loads(out)
    return report


def machine() -> list[str]:
    """Return what the figures depend on."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    processor = model[1] if model else platform.machine()
    return [
        f"{python}, Twisted {metadata.version('twisted')}, {version()}",
        f"{processor}, {len(usable_cores())} cores, {platform.system()} {platform.release()}",
    ]


HEAD: Final = (
    f"{'kind':<14}  {'shape':<5}  {'in flight':>9}  {'µs a NOTIFY':>11}  {'a second':>8}  {'p50 µs':>8}  {'p99 µs':>8}"
    f"  {'agent':>5}  {'load':>4}  {'waited':>6}  errors"
)


def row(kind: str, shape: str, in_flight: int, runs: list[dict[str, Any]]) -> str:
    """Return the best of each figure over the runs; the shares of a core are those of the fastest run."""
    fastest = max(runs, key=lambda run: run["notifys_per_second"])
    costs = [run["cpu_us_per_notify"] for run in runs if run["cpu_us_per_notify"] is not None]
    cost = f"{min(costs):.2f}" if costs else "-"
    latencies = [run["latency_us"] for run in runs if run["latency_us"]]
    p50, p99 = (f"{min(latency[name] for latency in latencies):.0f}" if latencies else "-" for name in ("p50", "p99"))
    of_agent = [cpu["busy"] for cpu in fastest["agent_cpu"] if cpu["busy"] is not None]
    busy = f"{sum(of_agent):.0%}" if of_agent else "-"
    load = f"{max(cpu['busy'] or 0 for cpu in fastest['load_cpu']):.0%}"
    waited = f"{max(cpu['waited'] or 0 for cpu in [*fastest['agent_cpu'], *fastest['load_cpu']]):.0%}"
    errors = sum(sum(run["errors"].values()) for run in runs)
    return (
        f"{kind:<14}  {shape:<5}  {in_flight:>9}  {cost:>11}  {fastest['notifys_per_second']:>8.0f}  {p50:>8}  {p99:>8}"
        f"  {busy:>5}  {load:>4}  {waited:>6}  {errors}"
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kinds", default=",".join(KINDS), help="of agents, joined by commas (default: %(default)s)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of messages (default: %(default)s)")
    parser.add_argument("--in-flight", default="1,16", help="on each connection (default: %(default)s)")
    parser.add_argument("--connections", default="8", help="how many (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of which the best counts (default: %(default)s)")
    parser.add_argument("--duration", default="3", help="seconds of each (default: %(default)s)")
    parser.add_argument("--warm-up", default="0.5", help="seconds before each (default: %(default)s)")
    parser.add_argument("--reactor", default="epoll", help="of the agent (default: %(default)s)")
    parser.add_argument("--no-async", action="store_true", help="load as HAProxy >= 3.1, which does not announce async")
    parser.add_argument("--endpoint", help="of an agent that runs, instead of those of this folder")
    parser.add_argument("--pid", action="append", default=[], help="its process; repeatable")
    return parser


def main() -> None:
    """Measure, print a table."""
    options = parser().parse_args()
    kinds = ["endpoint"] if options.endpoint else options.kinds.split(",")
    for_agent, for_load = cores()
    print("\n".join(machine()))
    where = f"{options.endpoint} where it runs" if options.endpoint else f"the agent, {options.reactor} reactor, on one"
    print(f"{where}, the load on {'another core' if for_agent != for_load else 'the same core'}")
    print(f"{options.connections} connections; best of {options.runs} runs of {options.duration} s")
    print(f"\n{HEAD}")
    common = [f"--connections={options.connections}", f"--duration={options.duration}", f"--warm-up={options.warm_up}"]
    common += ["--no-async"] if options.no_async else []
    failed = False
    notes: set[str] = set()
    for kind in kinds:
        with ExitStack() as stack:
            endpoint, pids = options.endpoint, options.pid
            if not endpoint:
                pid, address = stack.enter_context(started(agent(kind, options.reactor), for_agent))
                endpoint, pids = f"tcp:{address}", [str(pid)]
            for shape in options.shapes.split(","):
                for in_flight in options.in_flight.split(","):
                    arguments = [*common, f"--shape={shape}", f"--in-flight={in_flight}"]
                    arguments += [f"--pid={pid}" for pid in pids]
                    runs = [bench(endpoint, arguments, for_load) for _ in range(options.runs)]
                    print(row(kind, shape, runs[0]["in_flight"], runs), flush=True)
                    failed = failed or any(run["errors"] for run in runs)
                    fastest = max(runs, key=lambda run: run["notifys_per_second"])
                    found = [note for note in fastest["notes"] if "waited" not in note]
                    notes.update(f"{kind}, {shape}, {in_flight}: {note}" for note in found)
    print("\nagent, load: their share of a core; waited: the time that one was ready and others had its core, which")
    print("makes rate and latency worse, and the CPU of a NOTIFY a little")
    for note in sorted(notes):
        print(f"note: {note}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()

"""Measures the CPU time per NOTIFY: runs ``spoactl bench`` for each message shape, kind of handler and load.

Run ``python -m benchmarks.agent`` from the top of the checkout. With ``--endpoint`` and ``--pid`` it measures an agent
that already runs. That agent may be written in any language; it needs handlers for the three message shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.interpreter import interpreter
from tests.programs import ANY_PORT, ENVIRONMENT, ROOT, SPOACTL, TWISTD, Program, spoa

HANDLERS: Final = Path(__file__).with_name("handlers.py")

#: The kinds of agents, in the order of the table; README.rst describes each.
KINDS: Final = ("sync", "fired", "later", "coroutine", "awaiting", "waiting", "canned", "canned-at-once")
#: The message shapes of ``spoactl bench``.
SHAPES: Final = ("small", "http", "body")


def usable_cores() -> set[int]:
    """Return the numbers of the cores that this process may use.

    PyPy 7.3.19 has no ``sched_getaffinity``. There, assume that the process may use all cores.
    """
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def pin(pid: int, on: set[int]) -> None:
    """Restrict a process to these cores, if this Python has ``sched_setaffinity`` (PyPy 7.3.19 has not)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, on)


def cores() -> tuple[set[int], set[int]]:
    """Return the cores for the agent and the cores for the load generator.

    They are different cores if there are two or more. Otherwise the load would take CPU time from the agent.
    """
    usable = sorted(usable_cores())
    return ({usable[0]}, set(usable[1:])) if len(usable) > 1 else (set(usable), set(usable))


@contextmanager
def started(command: Sequence[str], on: set[int], **environment: str) -> Iterator[tuple[int, str]]:
    """Start an agent on these cores, and stop it at the end. Yield its process id and its address, ``HOST:PORT``."""
    with started_program(command, on, environment) as program:
        yield program.pid, program.address()


@contextmanager
def started_program(
    command: Sequence[str], on: set[int], environment: Mapping[str, str], cwd: Path = ROOT
) -> Iterator[Program]:
    """Start an agent in the folder ``cwd``, and stop it at the end. Yield it when it listens.

    :param on: the cores on which it may run. They are also those of its workers, which it starts later.
    """
    with Program(command, cwd=cwd, environment=environment) as program:
        pin(program.pid, on)
        try:
            program.address()
        except AssertionError as error:
            raise SystemExit(f"the agent did not start: {error}") from None
        try:
            yield program
        finally:
            # Also after an exception: a master that is killed cannot end its workers.
            program.stop()


def agent(
    kind: str,
    reactor: str,
    listen: str = ANY_PORT,
    handlers: Path = HANDLERS,
    options: Sequence[str] = (),
    python: str = sys.executable,
) -> list[str]:
    """Return the command line that starts an agent of this kind. By default it listens on a free port.

    :param options: more options of ``twistd spoa``.
    :param python: the interpreter that runs it.
    """
    if kind.startswith("canned"):
        at_once = ["--at-once"] if kind == "canned-at-once" else []
        return [sys.executable, "-m", "benchmarks.canned", f"--reactor={reactor}", *at_once]
    twistd = [python, *TWISTD[1:], "-n", "--pidfile=", f"--reactor={reactor}"]
    return spoa(*options, handlers=f"{handlers}:{kind}", listen=[listen], program=twistd)


def bench(endpoint: str, arguments: Sequence[str], on: set[int]) -> dict[str, Any]:
    """Run ``spoactl bench`` once on these cores, and return its JSON report."""
    command = [*SPOACTL, "bench", "--agent", endpoint, "--json", *arguments]
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
    """Return lines that name what the figures depend on: interpreter, versions, processor, kernel."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = model[1] if model else platform.machine()
    return [
        interpreter(),
        f"{processor}, {len(usable_cores())} cores, {platform.system()} {platform.release()}",
    ]


HEAD: Final = (
    f"{'kind':<14}  {'shape':<5}  {'in flight':>9}  {'µs a NOTIFY':>11}  {'a second':>8}  {'p50 µs':>8}  {'p99 µs':>8}"
    f"  {'agent':>5}  {'load':>4}  {'waited':>6}  errors"
)


def row(kind: str, shape: str, in_flight: int, runs: list[dict[str, Any]]) -> str:
    """Return a row of the table, with the best value of each figure over all runs.

    Other work on the machine makes every figure worse, never better: so the best run has the least error. The shares of
    a core are those of the fastest run, because they explain its rate.
    """
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
    parser.add_argument(
        "--kinds", default=",".join(KINDS), help="kinds of agents, separated by commas (default: %(default)s)"
    )
    shapes = "message shapes, separated by commas (default: %(default)s)"
    parser.add_argument("--shapes", default=",".join(SHAPES), help=shapes)
    in_flight = "NOTIFYs in flight per connection, numbers separated by commas (default: %(default)s)"
    parser.add_argument("--in-flight", default="1,16", help=in_flight)
    parser.add_argument("--connections", default="8", help="connections to the agent (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs per row; the best counts (default: %(default)s)")
    parser.add_argument("--duration", default="3", help="seconds per run (default: %(default)s)")
    parser.add_argument("--warm-up", default="0.5", help="seconds before each run is measured (default: %(default)s)")
    parser.add_argument("--reactor", default="epoll", help="Twisted reactor of the agent (default: %(default)s)")
    parser.add_argument("--no-async", action="store_true", help="send the HELLO of HAProxy >= 3.1, without async")
    parser.add_argument("--endpoint", help="measure the running agent at this Twisted client endpoint instead")
    parser.add_argument("--pid", action="append", default=[], help="process id of that agent; repeatable")
    return parser


def main() -> None:
    """Measure, and print a table. Exit with 1 if an answer was wrong or missing."""
    options = parser().parse_args()
    kinds = ["endpoint"] if options.endpoint else options.kinds.split(",")
    for_agent, for_load = cores()
    print("\n".join(machine()))
    if options.endpoint:
        where = f"agent {options.endpoint} not pinned to a core"
    else:
        where = f"agent with the {options.reactor} reactor on one core"
    print(f"{where}, load on {'another core' if for_agent != for_load else 'the same core'}")
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
                    # The table has a column for the time that a process waited for a core.
                    found = [note for note in fastest["notes"] if "waited" not in note]
                    notes.update(f"{kind}, {shape}, {in_flight}: {note}" for note in found)
    print("\nagent, load: share of a core that each used. waited: share of the time in which one of them was ready to")
    print("run, but another process had its core. That makes rate and latency worse, and the CPU per NOTIFY a little.")
    for note in sorted(notes):
        print(f"note: {note}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()

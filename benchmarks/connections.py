"""Measures the cost of idle connections: memory per connection, and CPU time of NOTIFYs on busy connections.

Run ``python -m benchmarks.connections`` from the top of the checkout.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.agent import agent, bench, cores, machine, started
from spoa_twisted.ctl.cpu import CPUMeter
from spoa_twisted.ctl.files import allow_files
from tests.certificates import self_signed
from tests.programs import ANY_PORT, ENVIRONMENT, ROOT

#: Connections opened before the first measurement of memory. They make the agent allocate what all connections share,
#: which would otherwise count for the measured connections.
BEFORE: Final = 100

#: File descriptors that the agent needs besides those of connections. It lowers its --max-connections to the rest.
OTHER_FILES: Final = 100

#: Seconds without a NOTIFY, in which the agent's CPU time is measured.
QUIET: Final = 2.0


@contextmanager
def idle(address: str, count: int, *options: str) -> Iterator[None]:
    """Hold ``count`` idle connections to the agent, in a separate process.

    :raises SystemExit: when they cannot be opened, or when one is closed or received data at the end.
    """
    command = [sys.executable, "-m", "benchmarks.idle", address, str(count), *options]
    with subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != f"open {count}\n":
            raise SystemExit(f"{count} connections were not opened")
        yield
        output, _ = process.communicate()
    if output != "not kept 0\n":
        raise SystemExit(f"of {count} idle connections: {output.strip() or 'benchmarks.idle printed no result'}")


def memory(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    found = re.search(r"^VmRSS:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def quiet(pid: int) -> float:
    """Return the share of a core that the agent uses while it gets no NOTIFY."""
    cpu = CPUMeter.of_process(pid)
    cpu.begin()
    time.sleep(QUIET)
    cpu.end()
    return (cpu.seconds or 0.0) / cpu.measured


HEAD: Final = (
    f"{'busy':>4}  {'in flight':>9}  {'µs a NOTIFY: alone':>18}  {'among idle':>10}  {'times':>5}"
    f"  {'a second: alone':>15}  {'among idle':>10}  {'waited':>6}  errors"
)


def row(busy: str, in_flight: str, alone: list[dict[str, Any]], among: list[dict[str, Any]]) -> str:
    """Return a row of the table, with the best value of each figure over all runs.

    Other work on the machine makes every figure worse, never better. ``waited`` is the worst value: it shows how much
    the other work may have disturbed the rest.
    """
    costs = [min(run["cpu_us_per_notify"] for run in runs) for runs in (alone, among)]
    rates = [max(run["notifys_per_second"] for run in runs) for runs in (alone, among)]
    waited = max(cpu["waited"] or 0 for run in (*alone, *among) for cpu in (*run["agent_cpu"], *run["load_cpu"]))
    errors = sum(sum(run["errors"].values()) for run in (*alone, *among))
    return (
        f"{busy:>4}  {in_flight:>9}  {costs[0]:>18.2f}  {costs[1]:>10.2f}  {costs[1] / costs[0]:>5.2f}"
        f"  {rates[0]:>15.0f}  {rates[1]:>10.0f}  {waited:>6.0%}  {errors}"
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    description = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.connections", description=description)
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections (default: %(default)s)")
    busy = "busy connections, numbers separated by commas (default: %(default)s)"
    parser.add_argument("--busy", default="1,8", help=busy)
    in_flight = "NOTIFYs in flight per busy connection, numbers separated by commas (default: %(default)s)"
    parser.add_argument("--in-flight", default="1,16", help=in_flight)
    parser.add_argument("--runs", type=int, default=5, help="runs per row; the best counts (default: %(default)s)")
    parser.add_argument("--duration", default="1.5", help="seconds per run (default: %(default)s)")
    parser.add_argument("--warm-up", default="0.5", help="seconds before each run is measured (default: %(default)s)")
    parser.add_argument("--reactor", default="epoll", help="Twisted reactor of the agents (default: %(default)s)")
    parser.add_argument("--tls", action="store_true", help="idle connections use TLS; measure their memory only")
    return parser


def main() -> None:
    """Measure, and print a table. Exit with 1 if an answer was wrong or missing."""
    options = parser().parse_args()
    try:
        # Raises the soft limit of this process. The agents and benchmarks.idle inherit it.
        allow_files(options.idle + BEFORE + OTHER_FILES)
    except OSError as error:
        raise SystemExit(str(error)) from error
    for_agent, for_load = cores()
    on = "another" if for_agent != for_load else "the same"
    print("\n".join(machine()))
    print(f"agents with the {options.reactor} reactor, all on one core; load on {on} core")
    with ExitStack() as stack:
        listen, tls = ANY_PORT, []
        if options.tls:
            certificate, key = self_signed(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            listen, tls = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}", ["--tls"]
        command = agent("sync", options.reactor, listen)
        crowded, address = stack.enter_context(started(command, for_agent))
        stack.enter_context(idle(address, BEFORE, *tls))
        before = memory(crowded)
        stack.enter_context(idle(address, options.idle, *tls))
        after = memory(crowded)
        each = (after - before) / options.idle
        print(
            f"{options.idle} idle connections{' with TLS' if tls else ''}: {each:.0f} bytes of the agent's memory each,"
        )
        print(f"from {before / 2**20:.1f} to {after / 2**20:.1f} MiB; {quiet(crowded):.2%} of a core without NOTIFYs")
        if tls:
            return
        alone, alone_address = stack.enter_context(started(command, for_agent))
        print(
            f"busy connections: best of {options.runs} runs of {options.duration} s, in turn on an agent without idle"
        )
        print(f"connections and on this agent\n\n{HEAD}")
        common = [f"--duration={options.duration}", f"--warm-up={options.warm_up}"]
        failed = False
        for connections in options.busy.split(","):
            for in_flight in options.in_flight.split(","):
                arguments = [*common, f"--connections={connections}", f"--in-flight={in_flight}"]
                runs: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
                # In turn, so that other work on the machine disturbs both agents alike.
                for _ in range(options.runs):
                    for of, pid, where in zip(runs, (alone, crowded), (alone_address, address), strict=True):
                        of.append(bench(f"tcp:{where}", [*arguments, f"--pid={pid}"], for_load))
                print(row(connections, in_flight, *runs), flush=True)
                failed = failed or any(run["errors"] for of in runs for run in of)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()

"""Measures agents whose handlers ask Redis, PostgreSQL or a web server for each request, behind a real HAProxy.

Run ``python -m benchmarks.lookups`` from the top of the checkout, in an environment with the extras ``test`` and
``examples``. The services run on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.agent import HANDLERS, agent, machine, pin, started_program, usable_cores
from benchmarks.haproxy import EXPECTED, Figures, haproxy, load
from benchmarks.lookup_handlers import SCORE
from tests.haproxy.branches import Branch, NoHAProxy, branch_of, find_branches
from tests.programs import ENVIRONMENT, ROOT, SPOACTL, NotInstalled, Program
from tests.services.postgresql import PostgreSQL
from tests.services.redis import Redis

LOOKUP_HANDLERS: Final = Path(__file__).with_name("lookup_handlers.py")
INTERPRETER: Final = Path(__file__).with_name("interpreter.py")

#: The rows of the table. ``none`` is HAProxy without the SPOE filter, ``sync`` a handler that asks no service.
SERVICES: Final = ("none", "sync", "redis", "postgresql", "http")

#: The package that the handlers of a service import.
PACKAGES: Final = {"redis": "txredisapi", "postgresql": "psycopg"}

#: The address that the handlers look up: all clients have it.
CLIENT: Final = "127.0.0.1"

#: Look-ups one after the other, of which the median is printed.
TIMED: Final = 200

#: Processes that need a core besides the workers: HAProxy, the clients and the service.
OTHER_PROCESSES: Final = 3


class Interpreter(NamedTuple):
    """The Python that runs the agents, and where it finds the package."""

    executable: str
    #: The current folder of the agents.
    folder: Path
    #: The value of ``PYTHONPATH``.
    path: str

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the interpreter to its end, as it runs the agents."""
        environment = {**ENVIRONMENT, "PYTHONPATH": self.path}
        command = [self.executable, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def name(self) -> str:
        """Return its name, the versions that matter, and whether the codec is compiled.

        :raises SystemExit: if it cannot run, or does not have the package.
        """
        try:
            ended = self.run(INTERPRETER)
        except OSError as error:
            raise SystemExit(f"cannot run {self.executable}: {error}") from None
        if ended.returncode:
            raise SystemExit(f"{self.executable} has no spoa_twisted: {_last_line(ended.stderr)}")
        return ended.stdout.strip()

    def problem(self, service: str) -> str | None:
        """Return why it cannot run the handlers of a service; ``None`` if it can."""
        package = PACKAGES.get(service)
        ended = self.run("-c", f"import {package}") if package else None
        if ended is None or not ended.returncode:
            return None
        return f"the agent's Python cannot import {package}: {_last_line(ended.stderr)}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


@contextmanager
def interpreter(executable: str | None) -> Iterator[Interpreter]:
    """Yield this interpreter, with the package of this checkout; or another one, with the package installed there."""
    if executable is None:
        yield Interpreter(sys.executable, ROOT, str(ROOT))
        return
    # In an empty folder: in the checkout, the agents would import its package and not that of their environment.
    with tempfile.TemporaryDirectory() as folder:
        yield Interpreter(os.path.abspath(executable), Path(folder), "")


def start_service(name: str, options: argparse.Namespace, stack: ExitStack) -> dict[str, str]:
    """Start a service that knows the score of :data:`CLIENT`. Return the environment of the agents that ask it.

    :raises NotInstalled: if its program is missing.
    """
    if name == "redis":
        redis = Redis(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-"))), stack)
        redis.start()
        redis.run("set", f"reputation:{CLIENT}", SCORE.decode())
        return {"LOOKUP_REDIS": redis.address}
    if name == "postgresql":
        postgresql = PostgreSQL(stack)
        postgresql.start()
        postgresql.run(
            "CREATE TABLE reputation (ip inet PRIMARY KEY, score integer NOT NULL)",
            f"INSERT INTO reputation VALUES ('{CLIENT}', {SCORE.decode()})",
        )
        return {"LOOKUP_DATABASE": postgresql.url, "LOOKUP_SLEEP": str(options.sql_delay / 1000)}
    if name == "http":
        command = [sys.executable, "-m", "benchmarks.delayed_web", f"--delay={options.http_delay}"]
        web = stack.enter_context(Program(command))
        return {"LOOKUP_URL": f"http://127.0.0.1:{web.said(r'web server on port ([0-9]+)')[1]}/"}
    return {}


class Site(NamedTuple):
    """A HAProxy and its agent, which is idle until it is loaded."""

    #: HAProxy's port.
    port: int
    #: The processes whose CPU time is measured: HAProxy, and those of the agent.
    pids: list[int]
    #: The body of a correct answer; ``None`` for that of the first answer.
    expected: str | None
    #: The milliseconds of a look-up, as the handler measures them; ``None`` if it asks no service.
    look_up: float | None

    def load(self, clients: int, options: argparse.Namespace) -> dict[str, Any]:
        """Load HAProxy once, and return the report."""
        return load(self.port, clients, options, self.expected, self.pids)


def time_look_up(address: str) -> float:
    """Return the milliseconds of a look-up, as the handler measures them: the median of some, one after the other."""
    command = [*SPOACTL, "send", "--agent", f"tcp:{address}", "--json", f"--repeat={TIMED}"]
    command += ["time-look-up", f"ip={CLIENT}"]
    ended = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"the agent did not answer time-look-up: {ended.stderr.strip()}")
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    nanoseconds: list[int] = [answer["sess.nanoseconds"]["value"] for answer in answers]
    return statistics.median(nanoseconds) / 1e6


HEAD: Final = (
    f"{'service':<10}  {'clients':>7}  {'workers':>7}  {'requests/s':>10}  {'p50 ms':>7}  {'p99 ms':>7}"
    f"  {'CPU µs a request: agent':>23}  {'HAProxy':>7}  {'load':>5}  {'load busy':>9}  {'waited':>6}  errors"
)


def row(service: str, clients: int, workers: int, figures: Figures) -> str:
    """Return a row of the table."""
    of_load, of_haproxy, *of_agent = [f"{cpu:.0f}" for cpu in figures.cpu] or ["-", "-"]
    return (
        f"{service:<10}  {clients:>7}  {workers:>7}  {figures.rate:>10.0f}  {figures.p50 / 1e3:>7.2f}"
        f"  {figures.p99 / 1e3:>7.2f}  {of_agent[0] if of_agent else '-':>23}  {of_haproxy:>7}  {of_load:>5}"
        f"  {figures.busy:>9.0%}  {figures.waited:>6.0%}  {figures.errors}"
    )


def separate_cores(workers: int, usable: set[int]) -> tuple[set[int], set[int]]:
    """Return the cores for the workers, and the cores for all other processes.

    They are the same cores, unless each process can have one of its own: a worker that must stay on a core which it
    shares would wait for it while another core is free.
    """
    if len(usable) < workers + OTHER_PROCESSES:
        return usable, usable
    ordered = sorted(usable)
    return set(ordered[:workers]), set(ordered[workers:])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _services(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names).difference(SERVICES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: it must be some of {', '.join(SERVICES)}")
    return names


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookups", description=(__doc__ or "").split("\n\n")[0])
    services = "rows of the table, separated by commas (default: %(default)s)"
    parser.add_argument("--services", type=_services, default=",".join(SERVICES), help=services)
    clients = "concurrent HTTP clients, numbers separated by commas (default: %(default)s)"
    parser.add_argument("--clients", type=_numbers, default="20,200", help=clients)
    workers = "worker processes of the agent, numbers separated by commas (default: %(default)s)"
    parser.add_argument("--workers", type=_numbers, default="1,2", help=workers)
    parser.add_argument("--runs", type=int, default=3, help="runs per row; the best counts (default: %(default)s)")
    parser.add_argument("--duration", default="3", help="seconds per run (default: %(default)s)")
    # Longer than in the other benchmarks: all clients send their first requests at once, and with a new agent, these
    # open the connections to the service. Their latency is not that of the requests after them.
    parser.add_argument("--warm-up", default="1.5", help="seconds before each run is measured (default: %(default)s)")
    warm_up = "seconds of load for each new agent; PyPy needs 15 or more (default: %(default)s)"
    parser.add_argument("--agent-warm-up", type=float, default=2.0, help=warm_up)
    python = "interpreter of the agents, with the package installed (default: this one, with this checkout)"
    parser.add_argument("--python", metavar="PATH", help=python)
    haproxy = "executable of HAProxy (default: the newest one that the tests find)"
    parser.add_argument("--haproxy", type=Path, metavar="PATH", help=haproxy)
    delay = "milliseconds that the web server waits (default: %(default)s)"
    parser.add_argument("--http-delay", type=float, default=2.0, help=delay)
    delay = "milliseconds that the database waits in each query, with pg_sleep (default: %(default)s)"
    parser.add_argument("--sql-delay", type=float, default=1.0, help=delay)
    parser.add_argument("--reactor", default="epoll", help="Twisted reactor of the agents (default: %(default)s)")
    return parser


class Benchmark:
    """The state of one run of this program.

    :param options: the command line.
    :param python: the interpreter of the agents.
    :param branch: the HAProxy.
    """

    def __init__(self, options: argparse.Namespace, python: Interpreter, branch: Branch) -> None:
        self._options = options
        self._python = python
        self._branch = branch
        #: The cores of the agents.
        self._cores, self._other_cores = separate_cores(max(options.workers), usable_cores())
        #: For each service that runs, the environment of its agents.
        self._environments: dict[str, dict[str, str]] = {}
        #: Why the other services are not measured.
        self._problems: dict[str, str] = {}
        #: The errors of all rows.
        self.errors: Counter[str] = Counter()

    def head(self) -> str:
        """Return the lines above the table: what the figures depend on."""
        options = self._options
        version = subprocess.run([self._branch.executable, "-v"], capture_output=True, text=True, check=True).stdout
        pinned = self._cores != self._other_cores
        cores = "the agent on cores of its own" if pinned else "no process is pinned to a core"
        lines = [
            f"agent: {self._python.name()}, {options.reactor} reactor",
            f"load:  {machine()[0]}",
            machine()[1],
            f"{version.splitlines()[0]}, nbthread 1; {cores}",
            f"one request in flight per client; best of {options.runs} runs of {options.duration} s, by turns",
        ]
        if not pinned:
            lines.append("the clients, HAProxy, the agent and the service share the cores")
        return "\n".join(lines)

    def start_services(self, stack: ExitStack) -> None:
        """Start the services that the agent's Python can ask."""
        # Processes that are started from here on inherit these cores.
        pin(os.getpid(), self._other_cores)
        for service in self._options.services:
            problem = self._python.problem(service)
            if problem is None:
                try:
                    self._environments[service] = start_service(service, self._options, stack)
                except NotInstalled as missing:
                    problem = str(missing)
            if problem is not None:
                self._problems[service] = problem

    def measure(self, workers: int) -> None:
        """Measure all services with so many workers, and print the rows."""
        options = self._options
        with ExitStack() as stack:
            sites = {service: self._open_site(service, workers, stack) for service in self._environments}
            for clients in options.clients:
                runs: dict[str, list[dict[str, Any]]] = {service: [] for service in sites}
                # By turns, so that other work on the machine disturbs all services alike.
                for _ in range(options.runs):
                    for service, site in sites.items():
                        runs[service].append(site.load(clients, options))
                for service in options.services:
                    if service in runs:
                        print(row(service, clients, workers, Figures(runs[service])), flush=True)
                    else:
                        print(f"{service:<10}  {clients:>7}  {workers:>7}  not measured: {self._problems[service]}")
                for service, some in runs.items():
                    for run in some:
                        found = {f"{service}, {clients} clients: {name}": n for name, n in run["errors"].items()}
                        self.errors.update(found)
        times = [f"{service} {site.look_up:.2f}" for service, site in sites.items() if site.look_up is not None]
        if times:
            print(f"ms of a look-up for a handler, p50 of {TIMED}, one at a time: {', '.join(times)}", flush=True)

    def _open_site(self, service: str, workers: int, stack: ExitStack) -> Site:
        """Start an agent with the handlers of a service, and a HAProxy in front of it. Warm both up."""
        options, python = self._options, self._python
        if service == "none":
            # Without the filter, HAProxy connects to no agent.
            pid, port = stack.enter_context(haproxy(self._branch, "127.0.0.1:1", with_filter=False))
            return Site(port, [pid], None, None)
        asks = service != "sync"
        command = agent(
            service,
            options.reactor,
            handlers=LOOKUP_HANDLERS if asks else HANDLERS,
            options=[f"--workers={workers}"],
            python=python.executable,
        )
        environment = {**self._environments[service], "PYTHONPATH": python.path}
        program = stack.enter_context(started_program(command, self._cores, environment, python.folder))
        # The master, which hands connections to the workers, and the workers.
        pids = [program.pid]
        for number in range(1, workers + 1):
            pids.append(int(program.said(rf"worker {number} is ready: process (\d+)")[1]))
        pid, port = stack.enter_context(haproxy(self._branch, program.address(), with_filter=True))
        site = Site(port, [pid, *pids], EXPECTED, None)
        if options.agent_warm_up > 0:
            warm_up = argparse.Namespace(warm_up="0", duration=str(options.agent_warm_up))
            site.load(max(options.clients), warm_up)
        return site._replace(look_up=time_look_up(program.address()) if asks else None)


def main() -> None:
    """Measure, and print a table. Exit with 1 if an answer was wrong or missing."""
    options = parser().parse_args()
    try:
        branch = Branch(branch_of(options.haproxy), options.haproxy) if options.haproxy else find_branches()[-1]
    except NoHAProxy as error:
        raise SystemExit(str(error)) from error
    with interpreter(options.python) as python, ExitStack() as stack:
        benchmark = Benchmark(options, python, branch)
        print(f"{benchmark.head()}\n\n{HEAD}", flush=True)
        benchmark.start_services(stack)
        for workers in options.workers:
            benchmark.measure(workers)
    for what, times in benchmark.errors.items():
        print(f"note: {what}: {times} times")
    raise SystemExit(bool(benchmark.errors))


if __name__ == "__main__":
    main()

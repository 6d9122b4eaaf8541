"""Sends NOTIFYs of mixed kinds to one agent, and fails if an ACK is wrong, memory grows, or a file is left open.

``python -m tests.long_run.notifies --count 10_000_000`` takes some minutes. It prints a line for each twentieth of the
NOTIFYs, and the result at the end. The exit status is 0 if the run has passed, and 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from time import monotonic
from typing import Final

from benchmarks.agent import machine
from spoa_twisted.ctl.arguments import positive
from tests.certificates import self_signed
from tests.conformance.rawspop import message
from tests.faults.agent import MIB, Agent, number
from tests.programs import ANY_PORT

from .batches import MAX_PAYLOAD_SIZE
from .load import Load

HANDLERS: Final = Path(__file__).with_name("handlers.py")

#: The default of :attr:`Plan.growth`.
GROWTH: Final = 2 * MIB

#: Blocks of Python's allocator that the agent may have more at the end than after the warm-up: a few caches fill up
#: slowly. A leak of one object for each NOTIFY of the rarest kind is more.
BLOCKS: Final = 1000

#: Seconds that the agent has to close its side of ended connections. It waits 10 seconds for the end of TLS.
CLOSE_LIMIT: Final = 20.0

#: Lines of the agent's log that are printed if the run fails.
LOG_LINES: Final = 40


@dataclass(frozen=True)
class Plan:
    """The parameters of a run."""

    #: The number of NOTIFYs after the warm-up.
    count: int
    #: The number of NOTIFYs before memory is measured.
    warm_up: int
    #: The seed of the random choices.
    seed: int
    #: Use TLS.
    tls: bool = False
    #: End each connection after one batch of NOTIFYs.
    reconnect: bool = False
    #: Seconds after which the run fails.
    limit: float = 1800.0
    #: Bytes that the peak of the agent's memory may rise by after the warm-up.
    growth: int = GROWTH
    handlers: Path = HANDLERS


class Run:
    """A run with an agent that has just started.

    :param say: prints a line.
    """

    def __init__(self, plan: Plan, agent: Agent, say: Callable[[str], object]) -> None:
        self._plan = plan
        self._agent = agent
        self._say = say
        self._load = Load(
            agent,
            plan.seed,
            reconnect=plan.reconnect,
            limit=plan.limit,
            step=max(1, (plan.warm_up + plan.count) // 20),
            on_progress=self._report_progress,
        )
        # The files that the agent has open without a connection.
        self._descriptors = agent.descriptors
        self._began = self._last_time = monotonic()
        self._last_done = 0

    def run(self) -> list[str]:
        """Run the warm-up and the load. Return the faults of the agent."""
        try:
            self._load.run(self._plan.warm_up)
            self._wait_for_closed_connections()
            blocks, peak = self._count_blocks(), self._agent.peak
            self._load.run(self._plan.count)
            self._wait_for_closed_connections()
            blocks, growth = self._count_blocks() - blocks, self._agent.peak - peak
            self._report(blocks, growth)
            self._agent.check_clean_end()
        # OSError: for example a timeout, or a connection that the agent has reset.
        except (AssertionError, OSError) as error:
            self._say("\n".join(self._agent.logged()[-LOG_LINES:]))
            return [f"{type(error).__name__}: {error}"]
        faults = []
        if growth > self._plan.growth:
            faults.append(f"the peak of memory has risen by {growth / MIB:.2f} MiB")
        if blocks > BLOCKS:
            faults.append(f"Python has {blocks:,} blocks of memory more")
        return faults

    def _wait_for_closed_connections(self) -> None:
        self._agent.wait_for_closed_files(self._descriptors, CLOSE_LIMIT)

    def _count_blocks(self) -> int:
        peer = self._agent.connect_with_hello()
        (blocks,) = peer.request(message("blocks"))
        peer.close()
        self._wait_for_closed_connections()
        return number(blocks)

    def _report_progress(self) -> None:
        now, agent, load = monotonic(), self._agent, self._load
        rate = (load.done - self._last_done) / (now - self._last_time)
        self._last_time, self._last_done = now, load.done
        self._say(
            f"{load.done:>12,} NOTIFYs  {load.connections:>9,} connections ended  {agent.memory / MIB:7.2f} MiB"
            f"  peak {agent.peak / MIB:7.2f} MiB  {agent.descriptors:3} descriptors  {rate:7,.0f} NOTIFYs/s"
        )

    def _report(self, blocks: int, growth: int) -> None:
        agent, load, seconds = self._agent, self._load, monotonic() - self._began
        self._say(
            f"{load.done:,} NOTIFYs in {seconds:.0f} s: {load.done / seconds:,.0f}/s,"
            f" {agent.cpu_seconds / load.done * 1e6:.1f} µs of the agent's CPU time each"
        )
        for kind, times in load.kinds.most_common():
            self._say(f"{times:>12,} {kind}")
        self._say(f"{load.abandoned:>12,} pending when their connection was ended")
        self._say(f"{load.connections:,} connections ended:")
        for end, times in load.ends.most_common():
            self._say(f"{times:>12,} {end}")
        self._say(
            f"after the warm-up of {self._plan.warm_up:,} NOTIFYs: peak of memory {growth / MIB:+.2f} MiB (limit"
            f" {self._plan.growth / MIB:.0f}), now {agent.peak / MIB:.2f} MiB; {blocks:+,} blocks of Python (limit"
            f" {BLOCKS:,})"
        )
        self._say(f"descriptors: {self._descriptors} before the first connection, {agent.descriptors} after the last")


@contextmanager
def started(plan: Plan) -> Iterator[Agent]:
    """Start the agent of a run, and kill it at the end if it still runs."""
    with tempfile.TemporaryDirectory() as folder:
        listen = ANY_PORT
        if plan.tls:
            certificate, key = self_signed(Path(folder))
            listen = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        # A handler must not be late because the machine is busy. Those that shall be late have their own timeout.
        options = [f"--max-payload-size={MAX_PAYLOAD_SIZE}", "--handler-timeout=60"]
        # With "auto", a HAProxy >= 3.1 has no pipelining at first. After 20,000 short answers, the agent ends its
        # connections, and the next ones have pipelining. The load keeps its connections, and always has pipelining.
        options.append("--pipelining=always")
        with Agent(*options, handlers=plan.handlers, listen=[listen]) as agent:
            yield agent


def run(plan: Plan, say: Callable[[str], object] = print) -> list[str]:
    """Start an agent, and send it NOTIFYs. Return the faults that were found."""
    with started(plan) as agent:
        return Run(plan, agent, say).run()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    description = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.long_run.notifies", description=description)
    count = "NOTIFYs after the warm-up (default: 10_000_000)"
    parser.add_argument("--count", type=positive, default=10_000_000, help=count)
    warm_up = "NOTIFYs before memory is measured (default: a tenth of --count)"
    parser.add_argument("--warm-up", type=positive, help=warm_up)
    parser.add_argument("--tls", action="store_true", help="use TLS")
    reconnect = "end each connection after one batch of NOTIFYs, in all ways"
    parser.add_argument("--reconnect", action="store_true", help=reconnect)
    parser.add_argument("--seed", type=int, help="repeat the random choices of another run")
    limit = "the run fails if it takes longer (default: %(default)s)"
    parser.add_argument("--minutes", type=positive, default=30, help=limit)
    return parser


def main() -> None:
    """Run, and print the result. Exit with 0 if the run has passed, and with 1 if not."""
    options = parser().parse_args()
    plan = Plan(
        count=options.count,
        warm_up=options.warm_up or max(1, options.count // 10),
        seed=SystemRandom().randrange(2**32) if options.seed is None else options.seed,
        tls=options.tls,
        reconnect=options.reconnect,
        limit=60.0 * options.minutes,
    )
    print("\n".join(machine()))
    print(f"seed {plan.seed}", flush=True)
    faults = run(plan, lambda line: print(line, flush=True))
    print("\n".join(f"failed: {fault}" for fault in faults) or "passed")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

"""Runs the faults of ``mixed.py`` in random order on each branch of HAProxy, and prints a table of the failed requests.

Started as ``python -m tests.faults.long_run --minutes 30``. ``--seed`` repeats the order of a run. The exit status is 1
if a request failed that no fault explains, or if an agent grew, logged a traceback, or did not answer.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random, SystemRandom
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults

from tests.haproxy.branches import Branch, find_branches

from .agent import MIB
from .mixed import BUSY_MACHINE, FAULTS, FLOOD, Stage, each_once


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def table(stages: list[Stage]) -> str:
    """Return how often each fault happened, and how many requests failed because of it with which errors."""
    lines = [f"{'fault':<28}  {'HAProxy':<7}  {'times':>5}  {'failed':>6}  errors"]
    for name in [*[fault.name for fault in FAULTS], BUSY_MACHINE]:
        for stage in stages:
            errors = stage.failures.get(name, Counter())
            each = ", ".join(f"{count} x {error}" for error, count in sorted(errors.items()))
            times, failed = stage.times[name], sum(errors.values())
            lines.append(f"{name:<28}  {stage.branch.name:<7}  {times:>5}  {failed:>6}  {each}".rstrip())
    for stage in stages:
        lines.append(
            f"HAProxy {stage.branch.name}: {stage.requests} requests, {len(stage.problems)} problems; an agent grew by "
            f"{stage.grown / MIB:.1f} MiB at most, at its peak by {stage.peak / MIB:.1f} MiB, and had "
            f"{stage.connections} connections at most"
        )
    return "\n".join(lines)


async def run(branch: Branch, seconds: float, seed: int, folder: Path, started: Callable[[Stage], None]) -> None:
    """Let all faults happen over and over, each time in another order, for ``seconds``.

    Every second time, an agent is flooded at the same time.
    """
    stage = Stage(branch, folder, Random(f"{seed} {branch.name}"), say)
    started(stage)
    say(f"HAProxy {branch.name}, seed {seed}")
    async with stage.running():
        while reactor.seconds() - stage.began < seconds:
            await each_once(stage)
            await each_once(stage, FLOOD)


def main(clock: Any, *arguments: str) -> Deferred[None]:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.long_run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="for all branches together")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32), help="repeats an order of faults")
    parser.add_argument("--branch", action="append", help="for example 3.4; by default all that are found")
    options = parser.parse_args(arguments)
    found = {branch.name: branch for branch in find_branches()}
    for name in options.branch or []:
        if name not in found:
            parser.error(f"there is no HAProxy {name}, only {', '.join(found)}")
    branches = [found[name] for name in options.branch or found]
    stages: list[Stage] = []

    def close_all() -> Deferred[Any]:
        return gatherResults([Deferred.fromCoroutine(stage.close()) for stage in stages])

    # Ctrl-C and SIGTERM stop the reactor. Without this, the processes of the run would go on.
    clock.addSystemEventTrigger("before", "shutdown", close_all)

    async def run_all() -> None:
        for branch in branches:
            with TemporaryDirectory() as folder:
                try:
                    await run(branch, options.minutes * 60 / len(branches), options.seed, Path(folder), stages.append)
                except Exception as error:
                    stages[-1].problem(f"the run ended: {error!r}")
        say(table(stages))
        say(f"seed {options.seed}")
        if any(stage.problems for stage in stages):
            raise SystemExit(1)

    return Deferred.fromCoroutine(run_all())


if __name__ == "__main__":
    task.react(main, sys.argv[1:])

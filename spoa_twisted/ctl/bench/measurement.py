"""Run the loads, in this process or in several others, and measure the agent's CPU meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred

from spoa_twisted.ctl.cpu import CPUMeter
from spoa_twisted.ctl.load.deferreds import all_of
from spoa_twisted.ctl.load.local import Load
from spoa_twisted.ctl.load.plan import Greeting, Outcome, Plan
from spoa_twisted.ctl.load.processes import RemoteLoad
from spoa_twisted.ctl.load.window import Window


@dataclass(frozen=True)
class Measurement:
    """The results of all processes of a load, and the CPU meters of the agent's processes."""

    greeting: Greeting
    #: One for each process of the load.
    outcomes: list[Outcome]
    #: One for each process of the agent that the user named.
    agents: list[CPUMeter]
    #: Whether Ctrl-C ended the window early.
    interrupted: bool


async def measure(
    reactor: Any, plan: Plan, processes: int, warm_up: float, duration: float, agents: list[CPUMeter]
) -> Measurement:
    """Load the agent.

    :param plan: for all processes of the load together.
    :param processes: how many processes load. With 1 that is this process; no other is started.
    :param warm_up: in seconds.
    :param duration: in seconds.
    :param agents: the meters of the agent's processes. They are begun and ended with the window.
    """
    remote: list[RemoteLoad] = []
    if processes > 1:
        remote = [RemoteLoad(reactor, share) for share in _shares(plan, processes)]
    loads: Sequence[Load | RemoteLoad] = remote or [Load(reactor, plan)]
    try:
        # The window begins when all connections of all processes are open: before that the load is not constant.
        greetings = await all_of([Deferred.fromCoroutine(load.connect()) for load in loads])
        window = Window(reactor, warm_up, duration)
        for meter in agents:
            window.watch(meter.begin, meter.end)
        with _ended_by_sigint(reactor, window):
            outcomes = await all_of([Deferred.fromCoroutine(load.run(window)) for load in loads])
            # Each worker process has a window of its own. All of these may end before this one.
            window.end()
    finally:
        # If a worker has failed, the other workers still run.
        for load in remote:
            load.abort()
    # The agent may be several processes that answer the HELLO differently: report the smallest number in flight.
    greeting = replace(greetings[0], in_flight=min(greeting.in_flight for greeting in greetings))
    return Measurement(greeting, outcomes, agents, window.interrupted)


def _shares(plan: Plan, processes: int) -> list[Plan]:
    """Return what each process does: its part of the connections, and the same part of the rate."""
    ends = [plan.connections * number // processes for number in range(processes + 1)]
    parts = [end - begin for begin, end in pairwise(ends)]
    rates = [None if plan.rate is None else plan.rate * part / plan.connections for part in parts]
    return [replace(plan, connections=part, rate=rate) for part, rate in zip(parts, rates, strict=True)]


@contextmanager
def _ended_by_sigint(reactor: Any, window: Window) -> Iterator[None]:
    """Let the first Ctrl-C end the window, so that the figures are printed. The second Ctrl-C has its usual effect."""
    usual = signal.getsignal(signal.SIGINT)

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, usual)
        # A signal handler may run in the middle of any other code. The reactor calls this between two events.
        reactor.callFromThread(window.interrupt)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)

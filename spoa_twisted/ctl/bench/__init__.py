"""``spoactl bench``: load an agent, check every ACK, and report the rate, the latency, the errors and the CPU.

:mod:`arguments` reads the command line, :mod:`measurement` runs the load, :mod:`report` computes the figures,
:mod:`notes` explains them, and :mod:`text` prints them.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from spoa_twisted.ctl.bench.arguments import parser
from spoa_twisted.ctl.bench.measurement import measure
from spoa_twisted.ctl.bench.report import make_report
from spoa_twisted.ctl.bench.shapes import SHAPES
from spoa_twisted.ctl.bench.text import as_text
from spoa_twisted.ctl.cpu import CPUMeter
from spoa_twisted.ctl.files import OTHER_FILES, allow_files
from spoa_twisted.ctl.load.plan import Plan
from spoa_twisted.ctl.variables import canonical
from spoa_twisted.spop.messages import Message, encode_messages

__all__ = ["SUMMARY", "parser", "run"]

SUMMARY = "load the agent, measure it, check its answers"


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Load the agent, and print the report.

    :raises SystemExit: with 1, when there were errors.
    :raises ValueError: for both a MESSAGE and ``--shape``.
    :raises OSError: when the process may not open enough files.
    """
    if options.message and options.shape:
        raise ValueError("--shape and MESSAGE exclude each other: both say what to send")
    message = Message(options.message, options.arguments) if options.message else SHAPES[options.shape or "small"]
    # A process without a connection would have nothing to do.
    processes = min(options.processes, options.connections)
    # A worker process has its share of the connections. This process has two pipes to each worker.
    allow_files(-(-options.connections // processes) + 2 * processes + OTHER_FILES)
    plan = Plan(
        endpoint=options.agent,
        messages=encode_messages([message]).hex(),
        connections=options.connections,
        in_flight=options.in_flight,
        timeout=options.timeout,
        async_=not options.no_async,
        expected=None if options.expect is None else canonical(options.expect),
        varying=options.varying,
        rate=options.rate,
    )
    agents = [CPUMeter.of_process(pid) for pid in options.pid]
    measurement = await measure(reactor, plan, processes, options.warm_up, options.duration, agents)
    report = make_report(options, message.name, plan, measurement)
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    if report["errors"]:
        raise SystemExit(1)

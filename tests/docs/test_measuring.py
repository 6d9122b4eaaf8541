"""docs/howto/measuring.rst: spoactl bench prints what the page shows."""

from __future__ import annotations

import re

from tests.machine import Machine, on_any_port

from .iprep import HANDLERS, START, to_agent
from .pages import Page

PAGE = Page("howto/measuring")


def without_figures(text: str) -> list[str]:
    """Return the lines with N in place of each figure, and without notes on them."""
    lines = [line for line in text.splitlines() if not line.startswith("note ")]
    return [re.sub(r"[0-9][0-9.,%]*( [nµm]?s\b)?", "N", line) for line in lines]


def check_bench(console: str, machine: Machine) -> None:
    """Run a command of the page for a short time. It prints what the page shows, but for the figures and a note."""
    machine.write(iprep_py=HANDLERS)
    agent = machine.start(on_any_port(START))
    typed, _, shown = console.partition("\n")
    line = to_agent(typed.removeprefix("$ "), agent)
    printed = machine.run(f"{line} --duration 0.3 --warm-up 0.1")
    assert "errors     none" in printed
    assert without_figures(printed) == without_figures(shown)
    agent.stop()


@PAGE.run(console="Measure an agent 1")
def test_spoactl_bench(console: str, machine: Machine) -> None:
    """With a constant number of NOTIFYs in flight."""
    check_bench(console, machine)


@PAGE.run(console="At the rate of your site 1")
def test_the_rate(console: str, machine: Machine) -> None:
    """With a constant number of NOTIFYs a second."""
    check_bench(console, machine)

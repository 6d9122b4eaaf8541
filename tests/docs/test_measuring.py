"""docs/howto/measuring.rst: spoactl bench prints what the page shows."""

from __future__ import annotations

import re

from tests.machine import Machine, on_any_port

from .iprep import HANDLERS, START, to_agent
from .pages import Page

PAGE = Page("howto/measuring")


@PAGE.run(console="Measure an agent 1")
def test_spoactl_bench(console: str, machine: Machine) -> None:
    """It prints what the README shows, but for the figures and a note on them."""
    machine.write(iprep_py=HANDLERS)
    agent = machine.start(on_any_port(START))
    typed, _, shown = console.partition("\n")
    line = to_agent(typed.removeprefix("$ "), agent)
    printed = machine.run(f"{line} --duration 0.3 --warm-up 0.1")
    assert "errors     none" in printed

    def without_figures(text: str) -> list[str]:
        lines = [line for line in text.splitlines() if not line.startswith("note ")]
        return [re.sub(r"[0-9][0-9.,%]*( [nµm]?s\b)?", "N", line) for line in lines]

    assert without_figures(printed) == without_figures(shown)
    agent.stop()

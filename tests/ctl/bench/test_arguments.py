"""ctl.bench.arguments: the command line, and its help."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
import pytest_twisted

from spoa_twisted.ctl.bench.arguments import EPILOG, parser
from tests.ctl.agents import Agent
from tests.ctl.interrupting import ack_some


@pytest.mark.parametrize(
    "arguments",
    [
        ["--connections=0"],
        ["--in-flight=4097"],
        ["--in-flight=x"],
        ["--duration=0"],
        ["--warm-up=-1"],
        ["--pid=-1"],
        ["--pid=x"],
        [f"--pid={2**32 + 1}"],
        ["--pid=1", "--pid=2", "--pid=1"],
        ["--rate=0"],
        ["--rate=x"],
        ["--rate=1e7"],
        ["--rate=nan"],
        ["--shape=other"],
        ["--expect=noequals"],
        ["--expect=foo.bar=1"],
        ["--expect=sess.a-b=1"],
        ["--expect==1"],
        ["--expect=sess.score=20", "--expect=sess.score=21"],
        ["--expect=score=20", "--expect=proc.score=20"],
        ["--expect=sess.score=20", "--varying"],
        ["--agent", "nonsense"],
        ["m", "noequals"],
        ["tcp:127.0.0.1:1", "m"],
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 2, and the last line on stderr is the error."""
    with pytest.raises(SystemExit) as caught:
        parser().parse_intermixed_args(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("spoactl bench: error: ")


def keys_in_the_help() -> set[str]:
    """Return the keys that the help lists after --json."""
    table = EPILOG.partition("these keys:\n")[2].partition("\n\n")[0]
    return {key for keys in re.findall(r"^  (\w.*?)  ", table, re.MULTILINE) for key in keys.split(", ")}


@pytest_twisted.ensureDeferred
async def test_the_help_lists_the_keys_of_the_report(run_bench: Any, listen: Any) -> None:
    """The help lists the keys that --json prints, no more and no less."""
    listen(Agent(ack_some))
    result = await run_bench(f"--pid={os.getpid()}", "--duration=30")
    assert set(result.report) == keys_in_the_help()
    assert set(result.report["latency_us"]) == {"p50", "p99", "p99.9", "max"}
    (cpu,) = result.report["agent_cpu"]
    assert set(cpu) == {"pid", "seconds", "busy", "waited"}
    assert set(result.report["load_cpu"][0]) == {"busy", "waited"}

"""Each code block of each page of ``docs/`` is run, and what a page names exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.programs import ROOT

from .pages import DOCS, Page

PAGES = sorted(str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.rst"))

#: Pages whose own test takes all blocks, one after the other, and fails if one is left; or compares the whole page.
OWN_TESTS = {
    "tutorial",
    "explanation/how_spoe_works",
    "explanation/restarts",
    "explanation/security",
    "explanation/waiting",
    "reference/programs",
}

#: Why no test runs a block.
NOT_RUN = {
    "howto/rate_limits": dict.fromkeys(
        ("haproxy.cfg", "An agent that counts in memory 1", "Agents that count in Redis 1"),
        "tests/examples/test_rate_limit.py runs it, where the packages of the examples are installed",
    ),
    "explanation/speed": {
        "Which interpreter 1": "installs Debian's packages; CI runs the tests on PyPy",
        "Which interpreter 2": "nox -s compiled runs it",
    },
    "reference/checks": {
        "What ``spoactl check`` finds 1": "the output of a configuration that is not shown",
        "Leaving out a check 1": "a folder of the reader; tests/ctl/check runs the options",
    },
    "reference/errors": {
        "Errors of SPOE 1": "tests/ctl/test_explain.py runs spoactl explain",
        "The line of a NOTIFY 1": "lines of HAProxy's log; tests/ctl/test_explain.py reads lines like these",
        "Health checks and servers 1": "lines of HAProxy's log; tests/ctl/test_explain.py reads lines like these",
    },
    "reference/log": {
        "Lines of JSON 1": "a line of the log; tests/test_logging.py compares fields",
        "promtail or Grafana Alloy: labels and the time": "the configuration of another program",
        "vector, behind a source of the type file or journald": "the configuration of another program",
        "Slow NOTIFYs 1": "a line of the log; tests/agent/test_slow.py compares such lines",
        "all messages whose handlers fail, with a count": "needs jq",
    },
}


def read_pages() -> list[str]:
    """Return the pages with code blocks, except those of OWN_TESTS. Import their tests, which count the blocks."""
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"{__package__}.{path.stem}")
    return [name for name in PAGES if Page(name).blocks and name not in OWN_TESTS]


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_run(name: str) -> None:
    """Or it is listed with a reason."""
    if name not in read_pages():
        return
    run = Page.run_by_tests.get(name, set())
    reasons = NOT_RUN.get(name, {})
    assert run.isdisjoint(reasons)
    assert sorted(Page(name).blocks) == sorted({*run, *reasons})


@pytest.mark.parametrize("name", PAGES)
def test_every_example_is_a_code_block(name: str) -> None:
    """A block that only follows ``::`` would not be counted above."""
    lines = [line for line in Page(name).text.splitlines() if line.endswith("::") and not line.startswith(".. ")]
    assert lines == []


@pytest.mark.parametrize("name", PAGES)
def test_the_files_that_a_page_names_exist(name: str) -> None:
    """In the checkout."""
    paths = re.findall(r"``((?:docs|examples|tests|benchmarks|spoa_twisted)/[\w./-]*)``", Page(name).text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_begins_with_an_introduction(name: str) -> None:
    """Before the first section, it says what it is for. No line is longer than the others may be."""
    lines = re.sub(r"^\.\. _[\w-]+:\n\n", "", Page(name).text).splitlines()
    assert set(lines[1]) == {"="}
    first = " ".join(lines[2:]).split(" ---")[0]
    assert len(first.split()) > 8
    # The table of verdicts has a wide first column. The lines of outputs are as they are.
    prose = [line for line in lines if not line.startswith("   ") and "  " not in line]
    assert [line for line in prose if len(line) > 120] == []

"""The benchmark of look-ups, with all services. It is here because CI has their packages only for the examples."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.haproxy.branches import find_branches
from tests.programs import ENVIRONMENT, ROOT
from tests.services.postgresql import BIN

from .example import require, require_program

#: Milliseconds of the delays. Neither is the default.
SQL_DELAY, HTTP_DELAY = 2, 3


@pytest.mark.soak
def test_look_ups() -> None:
    """benchmarks.lookups asks each service, and all answers are right. It takes seconds to start all the agents."""
    require("txredisapi", "psycopg")
    require_program("redis-server", "redis-server")
    require_program("postgres", "postgresql", BIN)
    # One branch is enough: tests/test_benchmarks.py runs the same configuration with every branch.
    branch = find_branches()[-1]
    command = [
        sys.executable,
        "-m",
        "benchmarks.lookups",
        "--clients=2",
        "--workers=2",
        f"--haproxy={branch.executable}",
    ]
    command += ["--runs=1", "--duration=0.3", "--warm-up=0.1", "--agent-warm-up=0.1"]
    command += [f"--sql-delay={SQL_DELAY}", f"--http-delay={HTTP_DELAY}"]
    ended = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.stderr, ended.returncode) == ("", 0)
    rows = [line.split() for line in ended.stdout.splitlines() if re.match(r"\w+ +2 ", line)]
    services = ["none", "sync", "redis", "postgresql", "http"]
    assert [row[:3] for row in rows] == [[service, "2", "2"] for service in services]
    for row in rows:
        assert int(row[3]) > 0
        assert row[-1] == "0"
    times = re.findall(r"one at a time: redis ([0-9.]+), postgresql ([0-9.]+), http ([0-9.]+)\n", ended.stdout)
    of_redis, of_postgresql, of_http = map(float, times[0])
    assert of_redis > 0
    # A request waits for one look-up, and a look-up for the delay of its service.
    assert of_postgresql >= SQL_DELAY
    assert of_http >= HTTP_DELAY
    for row, delay in zip(rows[3:], (SQL_DELAY, HTTP_DELAY), strict=True):
        assert float(row[4]) >= delay

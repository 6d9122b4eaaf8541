"""The status of an agent, made of made-up reports of its processes."""

from __future__ import annotations

import json
import os

import pytest

from spoa_twisted.status.merged import Merged, no_reloads, state_of_all, why_not_ready
from spoa_twisted.status.report import Report, Status
from tests.status.reports import engine, problem, process, report, status
from tests.status.test_totals import some


def merged() -> Merged:
    return Merged([], {}, 1000.0, workers=True)


def test_one_process() -> None:
    made = status()
    assert (made["state"], made["listen"], made["options"], made["workers"]) == (
        "ready",
        ["tcp:1"],
        {"debug": ""},
        False,
    )
    assert made["totals"] == made["recent"] == some(1)
    assert (made["time"], made["started"], made["recent_seconds"]) == (1010.0, 1000.0, 10.0)
    assert made["longest"] == {"m": 0.1}
    assert (made["longest_notify"], made["endings"]) == (0.2, [])
    assert made["reloads"] == no_reloads()
    assert made["pid"] == os.getpid()
    assert json.loads(json.dumps(made)) == made
    assert set(made) == set(Status.__annotations__)


def test_several_workers() -> None:
    made = status(report(1, 1), report(2, 2), report(3, 4))
    assert made["totals"] == some(7)
    assert [each["worker"] for each in made["processes"]] == [1, 2, 3]
    assert made["longest"] == {"m": 0.4}
    assert made["longest_notify"] == 0.8
    assert made["messages"] == ["m"]
    assert made["problems"] == [problem(count=3)]
    assert made["engines"] == [engine(connections=3, in_flight=3)]


class TestRetirement:
    def test_the_longest_durations_count_for_a_minute(self) -> None:
        """The histograms of the last minute have those of the worker that has ended, too."""
        agent = merged()
        agent.status([report(1, 4)], 1010.0)
        agent.retire(report(1, 4))
        for now, longest in ((1011.0, 4), (1069.0, 4), (1070.0, 1)):
            made = agent.status([report(1, 1)], now)
            assert (made["longest"], made["longest_notify"]) == ({"m": 0.1 * longest}, 0.2 * longest)

    def test_counters_never_fall(self) -> None:
        """The numbers of a worker that has ended stay in the sum. Its successor begins at 0."""
        agent = merged()
        before = agent.status([report(1, 5), report(2, 3)], 1010.0)["totals"]
        agent.retire(report(1, 5))
        after = agent.status([report(1, 0, pid=2000, cpu_seconds=0.0), report(2, 3)], 1020.0)
        assert before == after["totals"] == some(8)
        agent.retire(report(2, 3))
        assert agent.status([report(1, 1)], 1030.0)["totals"] == some(9)

    def test_the_cpu_time_of_a_number_never_falls(self) -> None:
        agent = merged()
        agent.retire(report(1, cpu_seconds=5.0))
        made = agent.status([report(1, cpu_seconds=1.0), report(2, cpu_seconds=1.0)], 1010.0)
        assert [each["cpu_seconds"] for each in made["processes"]] == [6.0, 1.0]

    def test_the_cpu_time_of_a_number_that_two_processes_have(self) -> None:
        """A worker drains, and the next one with its number runs: the sum has the time of earlier ones once."""
        agent = merged()
        agent.retire(report(1, cpu_seconds=5.0))
        made = agent.status([report(1, cpu_seconds=2.0), report(1, pid=2000, cpu_seconds=1.0)], 1010.0)
        assert sum(each["cpu_seconds"] for each in made["processes"]) == 8.0

    def test_the_problems_of_a_worker_that_has_ended(self) -> None:
        """They may say why."""
        agent = merged()
        agent.retire(report(1))
        lost: Report = {**report(1), "problems": [], "engines": []}
        assert agent.status([lost], 1010.0)["problems"] == [problem()]
        assert agent.status([report(1)], 1020.0)["problems"] == [problem(count=2)]

    def test_many_problems(self) -> None:
        """They are bounded also over many workers: each start may fail in another line."""
        agent = merged()
        for number in range(1000):
            agent.retire({**report(1), "problems": [problem(f"m{number}", last=float(number))]})
        problems = agent.status([], 1010.0)["problems"]
        assert len(problems) == 256
        assert problems[0]["subject"] == "m999"


def test_the_last_text_of_a_problem() -> None:
    one: Report = {**report(1), "problems": [problem(text="old", first=5.0, last=10.0)]}
    two: Report = {**report(2), "problems": [problem(text="new", first=7.0, last=20.0)]}
    expected = [problem(text="new", count=2, first=5.0, last=20.0)]
    assert status(one, two)["problems"] == status(two, one)["problems"] == expected


def test_what_the_master_adds() -> None:
    made = merged().status([report(1)], 1010.0, state="draining", restarts={"exit": 2}, refused=5)
    assert (made["state"], made["restarts"], made["totals"]["refused"]) == ("draining", {"exit": 2}, 6)


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([], "starting"),
        (["starting", "draining"], "starting"),
        (["draining", "lost"], "draining"),
        (["ready", "starting", "draining", "silent"], "ready"),
        (["silent", "lost"], "starting"),
    ],
)
def test_the_state_of_all(states: list[str], state: str) -> None:
    assert state_of_all([process(state=each) for each in states]) == state


class TestHealth:
    @pytest.mark.parametrize("state", ["starting", "draining"])
    def test_the_reason(self, state: str) -> None:
        assert why_not_ready(status(report(state=state))) == state

    def test_ready(self) -> None:
        assert why_not_ready(status()) == ""
        assert why_not_ready(status(report(1, state="lost"), report(2))) == ""

    def test_no_worker(self) -> None:
        """The agent was ready, but all its workers are gone or silent."""
        made = merged().status([report(1, state="lost"), report(2, state="silent")], 1010.0, state="ready")
        assert why_not_ready(made) == "no worker is ready: worker 1 is lost, worker 2 is silent"
        assert why_not_ready(merged().status([], 1010.0, state="ready")) == "no worker is ready: there is none"

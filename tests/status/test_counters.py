"""What an agent counts on the way of a NOTIFY: each result once, and durations."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted import Handlers, Message, SPOAFactory
from spoa_twisted.observer import HandlerBlocked
from spoa_twisted.status.counters import Counters, Durations, Tally
from spoa_twisted.status.report import BOUNDS
from tests.agent.memory import OLD, Session, TurnClock


def results(factory: SPOAFactory) -> dict[str, dict[str, int]]:
    return {label: tally.results() for label, tally in factory.outcomes.counters.tallies.items()}


@implementer(ILogObserver)
def drop(event: object) -> None:
    """Log nothing."""


class Agent:
    """An agent in memory, whose handlers end in each way."""

    def __init__(self, **options: Any) -> None:
        self.clock = TurnClock()
        self.waiting: list[Deferred[Any]] = []
        self.handlers = Handlers(
            {
                "ok": lambda: {"txn.a": 1},
                "nothing": lambda: None,
                "fails": self.fail,
                "waits": self.wait,
                "fired": lambda: succeed({"txn.a": 1}),
                "list": lambda: [1],  # type: ignore[dict-item, return-value]
                "big": lambda: {"txn.a": b"x" * 20_000},
                "missing": lambda ip: None,
                "slow": self.slow,
            },
            timeout=5,
        )
        self.factory = SPOAFactory(self.handlers, reactor=self.clock, log=Logger(observer=drop), **options)
        self.session = Session(self.factory, OLD)

    def fail(self) -> None:
        raise LookupError("no such row")

    def wait(self) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def slow(self) -> None:
        self.clock.rightNow += 0.3

    def results(self, label: str) -> dict[str, int]:
        return results(self.factory)[label]


@pytest.fixture
def agent() -> Agent:
    return Agent()


class TestResults:
    @pytest.mark.parametrize(
        ("name", "result"),
        [
            ("ok", "ok"),
            ("nothing", "ok"),
            ("fired", "ok"),
            ("fails", "error"),
            ("missing", "error"),
            ("list", "unsendable"),
            ("big", "too_big"),
        ],
    )
    def test_each_counts_once(self, agent: Agent, name: str, result: str) -> None:
        for _ in range(3):
            agent.session.notify(name)
        assert results(agent.factory) == {name: {result: 3}}

    def test_pending_calls_have_no_result(self, agent: Agent) -> None:
        """They count when they have finished, also if their connection has another meanwhile."""
        agent.session.notify("waits")
        agent.session.notify("waits")
        assert agent.results("waits") == {}
        agent.waiting[1].callback({})
        assert agent.results("waits") == {"ok": 1}
        agent.waiting[0].errback(LookupError("no such row"))
        assert agent.results("waits") == {"ok": 1, "error": 1}

    def test_a_timeout(self, agent: Agent) -> None:
        agent.session.notify("waits")
        agent.clock.advance(5)
        agent.clock.advance(0)
        assert agent.results("waits") == {"timeout": 1}

    def test_the_end_of_the_connection(self, agent: Agent) -> None:
        """Only of the handler that has not finished."""
        agent.session.notify_together("ok", "waits")
        agent.session.agent.connectionLost(Failure(ConnectionResetError()))
        agent.factory.engines.forget_all()
        assert results(agent.factory) == {"ok": {"ok": 1}, "waits": {"cancelled": 1}}

    def test_the_default_handler_and_none(self, agent: Agent) -> None:
        """A peer chooses the names of such messages, so they are not labels."""
        agent.session.notify("unknown")
        agent.session.notify("other")
        assert agent.factory.outcomes.counters.unhandled == 2
        agent.handlers.default(lambda: None)
        agent.session.notify("unknown")
        agent.session.notify("other")
        assert results(agent.factory) == {"(default)": {"ok": 2}}

    def test_new_handlers_go_on_counting(self, agent: Agent) -> None:
        """The pending calls of the old ones too."""
        agent.session.notify("waits")
        agent.session.notify("ok")
        agent.factory.use(Handlers({"ok": agent.fail}))
        agent.session.notify("ok")
        agent.waiting[0].callback({})
        assert results(agent.factory) == {"waits": {"ok": 1}, "ok": {"ok": 1, "error": 1}}

    def test_agents_with_the_same_handlers(self, agent: Agent) -> None:
        """Each counts its own messages."""
        other = SPOAFactory(agent.handlers, reactor=agent.clock)
        Session(other).notify("ok")
        assert results(other) == {"ok": {"ok": 1}}
        assert results(agent.factory) == {}

    def test_a_failure_that_does_not_fit(self) -> None:
        """The variables of on_error do not fit either: the message has failed once, not twice."""
        agent = Agent()
        agent.handlers.message("both", on_error={"txn.error": b"x" * 20_000})(agent.fail)
        agent.session.notify("both")
        assert agent.results("both") == {"error": 1}

    def test_ok_never_falls(self, agent: Agent) -> None:
        """The first result fits until the second handler has used up the ACK."""
        agent.handlers.message("half")(lambda: {"txn.a": b"x" * 10_000})

        @agent.handlers.message("half-later")
        def later() -> Deferred[Any]:
            return agent.wait()

        agent.session.notify_together("half-later", "half")
        assert agent.results("half") == {"ok": 1}
        agent.waiting[0].callback({"txn.b": b"x" * 10_000})
        assert agent.results("half") == {"ok": 1, "too_big": 1}
        agent.session.notify("half")
        assert agent.results("half") == {"ok": 1, "too_big": 1}
        agent.session.notify("half")
        assert agent.results("half") == {"ok": 2, "too_big": 1}


class TestDurations:
    def test_buckets(self) -> None:
        """A duration of exactly a bound is below it, as Prometheus counts."""
        durations = Durations()
        for seconds in (0.0, BOUNDS[0], 0.0002, BOUNDS[-1], 10.0):
            durations.end(0.0, 1, seconds)
        buckets = durations.snapshot()["buckets"]
        assert len(buckets) == len(BOUNDS) + 1
        assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 1, 1, 1)
        assert durations.snapshot()["sum"] == pytest.approx(12.5003)

    def test_many_durations(self) -> None:
        """Those that stand for themselves are put into the buckets together, and the result is the same."""
        values = [bound * factor for factor in (1.1, 0.9, 1) for bound in BOUNDS] * 7 + [100.0, -1.0, 0.0]
        durations, twice = Durations(), Durations()
        for seconds in values:
            durations.end(-seconds, 1, 0.0)
            twice.end(-seconds, 2, 0.0)
        buckets = durations.snapshot()["buckets"]
        assert sum(buckets) == len(values)
        assert [2 * count for count in buckets] == twice.snapshot()["buckets"]
        assert 2 * durations.snapshot()["sum"] == pytest.approx(twice.snapshot()["sum"])
        assert durations.longest(0.0) == twice.longest(0.0) == 100.0

    def test_weight(self) -> None:
        """An observation that stands for others counts as often."""
        durations = Durations()
        durations.end(1.0, 16, 1.5)
        assert sum(durations.snapshot()["buckets"]) == 16
        assert durations.snapshot()["sum"] == 8.0

    def test_the_clock_may_be_set_back(self) -> None:
        durations = Durations()
        durations.end(1000.0, 1, 2000.0)
        durations.end(2000.0, 1, 10.0)
        assert durations.snapshot()["sum"] == 1000.0
        assert durations.longest(10.0) == 0.0
        durations.end(10.0, 1, 13.0)
        assert durations.longest(13.0) == 3.0

    @pytest.mark.parametrize("weight", [1, 2])
    @pytest.mark.parametrize("count", [1, 1000])
    def test_the_longest_of_the_last_minute(self, count: int, weight: int) -> None:
        """However many durations there are."""
        durations = Durations()
        durations.end(1000.0, weight, 1002.0)
        for _ in range(count):
            durations.end(1009.0, weight, 1010.0)
        assert durations.longest(1010.0) == 2.0
        assert durations.longest(1031.0) == 2.0
        durations.end(1031.5, weight, 1032.0)
        assert durations.longest(1040.0) == 2.0
        assert durations.longest(1063.0) == 0.5
        assert durations.longest(2000.0) == 0.0

    def test_an_agent_that_is_not_busy_times_each_call(self, agent: Agent) -> None:
        for _ in range(5):
            agent.session.notify("slow")
        tally = agent.factory.outcomes.counters.tallies["slow"]
        assert sum(tally.durations.snapshot()["buckets"]) == 5
        assert tally.durations.snapshot()["sum"] == pytest.approx(1.5)
        assert agent.factory.outcomes.counters.notify.snapshot()["sum"] == pytest.approx(1.5)

    def test_a_handler_that_waits(self, agent: Agent) -> None:
        """The time of the handler and that of its NOTIFY go on until the result."""
        agent.session.notify("waits")
        agent.clock.advance(2)
        agent.waiting[0].callback({})
        counters = agent.factory.outcomes.counters
        assert counters.tallies["waits"].durations.snapshot()["sum"] == 2.0
        assert counters.notify.snapshot()["sum"] == 2.0
        assert sum(counters.notify.snapshot()["buckets"]) == 1

    def test_a_timeout_is_a_duration(self, agent: Agent) -> None:
        agent.session.notify("waits")
        agent.clock.advance(5)
        agent.clock.advance(0)
        assert agent.factory.outcomes.counters.tallies["waits"].durations.snapshot()["sum"] == 5.0

    @pytest.mark.parametrize("name", ["ok", "fired"])
    def test_a_busy_agent_times_a_sample(self, agent: Agent, name: str) -> None:
        """Each observation counts for the reads since the last one, so the sum of the counts is nearly right."""
        readings = 0
        seconds = agent.clock.seconds

        def counted() -> float:
            nonlocal readings
            readings += 1
            return seconds()

        count = 3000
        agent.session.notify(name)
        agent.clock.seconds = counted  # type: ignore[method-assign]
        for _ in range(count):
            agent.session.notify(name)
        counters = agent.factory.outcomes.counters
        for durations in (counters.tallies[name].durations, counters.notify):
            assert count - 48 <= sum(durations.snapshot()["buckets"]) <= count + 1
        assert agent.results(name) == {"ok": count + 1}
        # Two for each read, as without a status, and two for each timed call.
        assert readings < count * 2.2

    def test_a_busy_agent_times_each_call_that_waits(self, agent: Agent) -> None:
        """There may be few of them among many others, and they are those that an operator looks for."""
        for _ in range(3000):
            agent.session.notify("ok")
        for _ in range(5):
            agent.session.notify("waits")
            agent.clock.advance(0.5)
            agent.waiting.pop().callback({})
        durations = agent.factory.outcomes.counters.tallies["waits"].durations.snapshot()
        assert (sum(durations["buckets"]), durations["sum"]) == (5, 2.5)


def test_a_handler_that_blocked_is_the_longest(agent: Agent) -> None:
    """A busy agent has probably not timed the call."""
    agent.session.notify("ok")
    agent.factory.observer.on_event(HandlerBlocked("ok", 1.5, 0))
    agent.factory.observer.on_event(HandlerBlocked("of a peer", 2.5, 0))
    tallies = agent.factory.outcomes.counters.tallies
    assert tallies["ok"].durations.longest(agent.clock.seconds()) == 1.5
    assert tallies["(default)"].durations.longest(agent.clock.seconds()) == 2.5
    assert agent.factory.outcomes.counters.stalls == 2


def test_an_observer_changes_nothing(agent: Agent) -> None:
    """With an observer, each NOTIFY has an object of its own for its results; the agent counts as before."""
    from tests.agent.recording import Recorder

    observed = Agent(observer=Recorder())
    for name in ("ok", "fails", "unknown"):
        observed.session.notify(name)
    assert results(observed.factory) == {"ok": {"ok": 1}, "fails": {"error": 1}}
    assert observed.factory.outcomes.counters.unhandled == 1


def test_tallies_are_made_once() -> None:
    counters = Counters()
    assert counters.tallies["m"] is counters.tallies["m"]
    assert Tally().totals()["results"] == {}


def test_messages_of_one_name_in_one_notify(agent: Agent) -> None:
    agent.session.engine.send_notify([Message("ok"), Message("ok"), Message("fails")])
    agent.session.send()
    assert results(agent.factory) == {"ok": {"ok": 2}, "fails": {"error": 1}}

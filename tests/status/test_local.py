"""The report of one process."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, SPOAFactory, SPOAService
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.status.lag import INTERVAL, Lag
from spoa_twisted.status.local import LocalSource, report, resident_memory, state_of
from spoa_twisted.status.report import Process, Report
from tests.agent.memory import OLD, Session

NEW = HAProxyHello(capabilities=frozenset({"pipelining"}), engine_id="b\nad")


class Agent:
    def __init__(self) -> None:
        self.waiting: list[Deferred[Any]] = []
        self.handlers = Handlers({"m": lambda: None, "waits": self.wait}, default=lambda: None)
        self.factory = SPOAFactory(self.handlers, reactor=Clock(), async_=True)

    def wait(self) -> Deferred[Any]:
        self.waiting.append(Deferred())
        return self.waiting[-1]


@pytest.fixture
def agent() -> Agent:
    return Agent()


def test_all_fields(agent: Agent) -> None:
    """It is JSON, and has the fields of its type."""
    made = report(agent.factory, worker=3, lag=0.5)
    assert json.loads(json.dumps(made)) == made
    assert set(made) == set(Report.__annotations__)
    process = made["process"]
    assert set(process) == set(Process.__annotations__)
    assert (process["worker"], process["pid"], process["lag"], process["age"]) == (3, os.getpid(), 0.5, 0.0)
    assert process["cpu_seconds"] > 0
    assert process["resident_memory"] > 2**20


def test_where_the_agent_listens(agent: Agent) -> None:
    """A service knows it. A factory does not: the application opens the ports."""
    service = SPOAService(agent.factory, "tcp:12345:interface=127.0.0.1")
    assert LocalSource(service).status()["listen"] == ["tcp:12345:interface=127.0.0.1"]
    assert LocalSource(service, ["tcp:1"]).status()["listen"] == ["tcp:1"]
    assert LocalSource(agent.factory).status()["listen"] == []


def test_registered_messages(agent: Agent) -> None:
    """Each is there from the start. What a peer sends is not."""
    Session(agent.factory).notify("of a peer")
    made = report(agent.factory)
    assert made["messages"] == ["m", "waits", "(default)"]
    assert {name: totals["results"] for name, totals in made["totals"]["messages"].items()} == {
        "m": {},
        "waits": {},
        "(default)": {"ok": 1},
    }


def test_messages_without_a_handler(logged: Any) -> None:
    factory = SPOAFactory(Handlers({"m": lambda: None}), reactor=Clock())
    Session(factory).notify("of a peer")
    made = report(factory)
    assert made["totals"]["messages"]["(none)"]["results"] == {"unhandled": 1}
    (problem,) = made["problems"]
    assert (problem["kind"], problem["subject"]) == ("MessageUnhandled", "of a peer")
    assert "no handler" in logged.take()[0]


def test_engines(agent: Agent) -> None:
    """With the capabilities that both sides have. The engine-id of a peer is escaped."""
    old, other = Session(agent.factory, OLD), Session(agent.factory, OLD)
    Session(agent.factory, NEW)
    Session(agent.factory, greet=False)
    old.notify("waits")
    other.notify("waits")
    made = report(agent.factory)
    assert made["process"]["connections"] == 4
    assert made["process"]["in_flight"] == 2
    new, engine = made["engines"]
    assert (engine["engine"], engine["connections"], engine["in_flight"]) == ("engine", 2, 2)
    assert engine["capabilities"] == ["pipelining", "async"]
    assert (new["engine"], new["connections"], new["capabilities"]) == ("b\\nad", 1, ["pipelining"])
    assert new["peer"] == "192.168.1.1"
    assert made["totals"]["connections"] == 4


def test_many_engines(agent: Agent) -> None:
    """A peer may invent some."""
    for number in range(300):
        Session(agent.factory, HAProxyHello(engine_id=f"engine-{number}"))
    assert len(report(agent.factory)["engines"]) == 256


def test_the_longest_durations(agent: Agent) -> None:
    clock: Any = agent.factory.reactor
    Session(agent.factory, OLD).notify("waits")
    clock.advance(0.5)
    agent.waiting[0].callback({})
    assert report(agent.factory)["longest"] == {"waits": 0.5}
    assert report(agent.factory)["longest_notify"] == 0.5


def test_disconnects(agent: Agent) -> None:
    """Each connection once, by its sender."""
    Session(agent.factory, OLD).agent.disconnect()
    Session(agent.factory, OLD).agent.abort()
    session = Session(agent.factory, OLD)
    session.engine.disconnect()
    session.send()
    assert report(agent.factory)["totals"]["disconnects"] == {"agent 0": 2, "haproxy 0": 1}


def test_other_handlers() -> None:
    """An ``IHandlers`` of the application has no names. Its NOTIFYs count."""

    @implementer(IHandlers)
    class Own:
        def respond(self, *arguments: Any) -> bytes:
            return b""

        def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
            return b""

    factory = SPOAFactory(Own(), reactor=Clock())
    Session(factory).notify("m")
    made = report(factory)
    assert (made["messages"], made["totals"]["messages"]) == ([], {})
    assert sum(made["totals"]["notify"]["buckets"]) == 1


class TestState:
    def test_a_factory(self, agent: Agent) -> None:
        """It is ready while a port is open."""
        assert state_of(agent.factory) == "starting"
        agent.factory.numPorts = 1
        assert state_of(agent.factory) == "ready"
        Session(agent.factory)
        agent.factory.numPorts = 0
        assert state_of(agent.factory) == "draining"

    def test_a_service(self, agent: Agent) -> None:
        service = SPOAService(agent.factory, "tcp:0:interface=127.0.0.1")
        assert state_of(service) == report(service)["process"]["state"] == "starting"
        service.startService()
        assert state_of(service) == "ready"
        service.stopService()
        assert state_of(service) == "draining"
        service.startService()
        assert state_of(service) == "ready"
        service.stopService()


@pytest.mark.parametrize(("text", "pages"), [("100 25 3 4 0 5 0\n", 25), ("", 0), ("a b", 0)])
def test_resident_memory(text: str, pages: int) -> None:
    assert resident_memory(lambda: text) == pages * os.sysconf("SC_PAGESIZE")


def test_lag() -> None:
    """How late the last timer came, by a clock that is never set."""
    clock, now = Clock(), 100.0
    lag = Lag(clock, lambda: now)
    lag.start()
    now += INTERVAL + 0.5
    clock.advance(INTERVAL)
    assert lag.seconds == 0.5
    now += INTERVAL - 0.1
    clock.advance(INTERVAL)
    assert lag.seconds == 0.0
    lag.stop()
    lag.stop()
    assert clock.getDelayedCalls() == []

"""spoactl bench: counts right, whatever an agent does, and says so."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError, ProcessDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

from spoa_twisted.ctl import bench
from spoa_twisted.ctl import load as load_module
from spoa_twisted.ctl.latency import Latencies
from spoa_twisted.ctl.load import Greeting, Load, LoadFailed, Outcome, Plan, Window
from spoa_twisted.spop.actions import Variables, encode_actions
from spoa_twisted.spop.connection import AgentConnection, Notify
from spoa_twisted.spop.frames import Disconnect, Flags, FrameType, encode_frame, encode_ids
from spoa_twisted.spop.messages import Message, encode_messages
from spoa_twisted.spop.typeddata import Int32
from tests.certificates import self_signed
from tests.haproxy.harness import Process, bounded
from tests.programs import ENVIRONMENT, LISTENING, SPOACTL, spoa

GOOD = encode_actions({"sess.score": 20})


def ack(ids: bytes, actions: bytes = GOOD, flags: int = Flags.FIN) -> bytes:
    return encode_frame(FrameType.ACK, Flags(flags), ids, actions)


class Agent(Factory):
    """An agent that answers with the bytes it is told to, in ``self.answer``."""

    def __init__(self, answer: Callable[[bytes, int], bytes | None] | None = None) -> None:
        self.protocol = AgentSide  # type: ignore[assignment]
        self._answer = answer
        self.capabilities = frozenset({"pipelining", "fragmentation"})
        #: How many NOTIFYs came, on all connections.
        self.notifys = 0
        self.connections: list[AgentSide] = []
        self.hello: bytes | None = None

    def answer(self, side: AgentSide, notify: Notify) -> None:
        """Answer a NOTIFY."""
        assert self._answer is not None
        said = self._answer(notify.ids, self.notifys)
        if said is None:
            side.transport.loseConnection()
        else:
            side.transport.write(said)


class AgentSide(Protocol):
    factory: Agent
    transport: Any

    def connectionMade(self) -> None:
        self.connection = AgentConnection()
        self.connection._capabilities = self.factory.capabilities
        self.in_flight: list[bytes] = []
        self.most_in_flight = 0
        self.ended: Deferred[None] = Deferred()
        self.goodbye: Disconnect | None = None
        self.factory.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.connection.receive_data(data)
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, Notify):
                self.factory.notifys += 1
                self.factory.answer(self, event)
            elif isinstance(event, Disconnect):
                self.goodbye = event
                self.transport.loseConnection()
            elif self.factory.hello is not None:
                self.connection.data_to_send()
                self.transport.write(self.factory.hello)
        self.transport.write(self.connection.data_to_send())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


class Told:
    """What ``spoactl bench`` printed, and its exit status."""

    def __init__(self, report: dict[str, Any], status: int) -> None:
        self.report = report
        self.errors: dict[str, int] = report["errors"]
        self.status = status


Start = Callable[[list[str]], Process]


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/agent"


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[[Factory], Any]]:
    ports = []

    def listen(factory: Factory) -> Any:
        ports.append(reactor.listenUNIX(f"{tmp_path}/agent", factory))  # type: ignore[attr-defined]
        return ports[-1]

    yield listen
    for port in [port for port in ports if port.connected]:
        pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command in a process of its own, which is killed in the end."""
    processes: list[Process] = []

    def start(command: list[str]) -> Process:
        processes.append(Process(command))
        return processes[-1]

    yield start
    for process in processes:
        pytest_twisted.blockon(Deferred.fromCoroutine(process.kill()))


@pytest.fixture
def load(endpoint: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    async def load(*arguments: str) -> Told:
        """Run the command in this process, for a tenth of a second unless told otherwise."""
        defaults = ["--json", "--duration=0.1", "--warm-up=0", "--timeout=2", "--connections=2", "--in-flight=4"]
        options = bench.parser().parse_intermixed_args([*defaults, endpoint, *arguments])
        status = 0
        try:
            await bench.run(reactor, options)
        except SystemExit as error:
            assert isinstance(error.code, int)
            status = error.code
        return Told(json.loads(capsys.readouterr().out), status)

    return load


def interrupt() -> None:
    """Let a load that runs in this process end."""
    os.kill(os.getpid(), signal.SIGINT)


class TestLatencies:
    def test_percentiles_are_exact_below_256(self) -> None:
        """By the nearest rank: the least that so many do not exceed."""
        latencies = Latencies()
        for value in random.Random(1).sample(range(1, 201), 200):
            latencies.add(value)
        assert [latencies.percentile(share) for share in (0.1, 50, 99, 99.9, 100)] == [1, 100, 198, 200, 200]
        assert (latencies.total, latencies.longest) == (200, 200)

    def test_a_share_that_a_float_cannot_hold(self) -> None:
        """99.9 % of 1000 are 999, and of 1001 are 1000."""
        latencies = Latencies()
        latencies.add(1, 999)
        latencies.add(2)
        assert latencies.percentile(99.9) == 1
        latencies.add(2)
        assert latencies.percentile(99.9) == 2

    @pytest.mark.parametrize("scale", [10**3, 10**6, 10**9, 10**10])
    def test_percentiles_are_within_one_percent_elsewhere(self, scale: int) -> None:
        """Never below, and the longest is exact."""
        source = random.Random(scale)
        values = sorted(int(source.lognormvariate(0, 1) * scale) for _ in range(5000))
        latencies = Latencies()
        for value in values:
            latencies.add(value)
        for share, rank in ((50, 2500), (99, 4950), (99.9, 4995), (100, 5000)):
            exact = values[rank - 1]
            assert exact <= latencies.percentile(share) <= exact * 1.01
        assert latencies.percentile(100) == latencies.longest == values[-1]

    def test_every_nanosecond_has_a_bucket(self) -> None:
        """The next one begins where one ends, up to what is counted as the longest."""
        for value in [*range(5000), *(2**power + step for power in range(12, 40) for step in (-1, 0, 1))]:
            latencies = Latencies()
            latencies.add(value)
            latencies.add(2**60)
            assert value <= latencies.percentile(50) <= max(255, value * 1.01)

    def test_merging(self) -> None:
        """What several processes counted is as if one had."""
        all_of_them, merged = Latencies(), Latencies()
        source = random.Random(3)
        for _ in range(3):
            part = Latencies()
            for _ in range(1000):
                value = source.randrange(10**7)
                part.add(value)
                all_of_them.add(value)
            merged.merge(json.loads(json.dumps(part.to_json())))
        assert merged.to_json() == all_of_them.to_json()
        assert merged.percentile(99) == all_of_them.percentile(99)
        assert merged.total == 3000

    def test_none(self) -> None:
        """Has no latencies: all are 0."""
        assert Latencies().percentile(50) == Latencies().longest == 0


PLAN = Plan(
    "tcp:127.0.0.1:1", encode_messages([Message("m")]).hex(), connections=1, in_flight=2, timeout=5, async_=True
)

# A frame of a type that SPOP does not know, which is skipped.
UNKNOWN_FRAME = b"\0\0\0\x07\xc8\0\0\0\1\0\0"
GOODBYE = encode_frame(FrameType.AGENT_DISCONNECT, Flags.FIN, b"\0\0", Disconnect(4, "no").encode())


class Connection:
    """The agent's end of a connection of a load, which gets what the test says."""

    def __init__(self, client: Any) -> None:
        self._protocol = client.buildProtocol(None)
        self.wire = StringTransport()
        self._agent = AgentConnection()
        self._protocol.makeConnection(self.wire)

    def receive(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def hello(self) -> bytes:
        """Return the agent's HELLO."""
        self.sent()
        return self._agent.data_to_send()

    def sent(self) -> list[Any]:
        """Return what the load sent since the last time."""
        self._agent.receive_data(self.wire.value())
        self.wire.clear()
        return list(iter(self._agent.next_event, None))

    def acknowledge(self) -> None:
        """Answer the NOTIFYs that the load sent."""
        self.receive(b"".join([ack(event.ids) for event in self.sent()]))

    def lose(self) -> None:
        self._protocol.connectionLost(Failure(connectionDone.value))


class InMemory:
    """A load, from its first connection to its last, on a clock and without an agent."""

    def __init__(self, connections: int = 1) -> None:
        self.reactor = MemoryReactorClock()
        self.load = Load(self.reactor, replace(PLAN, connections=connections))
        self.greetings: list[Any] = []
        self.outcomes: list[Outcome] = []
        Deferred.fromCoroutine(self.load.connect()).addBoth(self.greetings.append)
        self._accepted = 0

    @property
    def waiting(self) -> int:
        """How many connections wait to be accepted or refused."""
        return len(self.reactor.tcpClients) - self._accepted

    def accept(self, greet: bool = True) -> Connection:
        """Accept the next connection."""
        connection = Connection(self._next())
        if greet:
            connection.receive(connection.hello())
        return connection

    def refuse(self) -> None:
        """Refuse the next connection."""
        self._next().clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def _next(self) -> Any:
        self._accepted += 1
        return self.reactor.tcpClients[self._accepted - 1][2]

    def run(self) -> Window:
        """Begin to load."""
        window = Window(self.reactor, 0, 300)
        self.reactor.advance(0)
        Deferred.fromCoroutine(self.load.run(window)).addCallback(self.outcomes.append)
        return window


class TestLoadInMemory:
    @pytest.mark.parametrize("size", [1, 1000])
    def test_a_hello_in_pieces(self, size: int) -> None:
        """Behind a frame that SPOP does not know."""
        memory = InMemory()
        connection = memory.accept(greet=False)
        said = UNKNOWN_FRAME + connection.hello()
        for start in range(0, len(said), size):
            assert memory.greetings == []
            connection.receive(said[start : start + size])
        (greeting,) = memory.greetings
        assert isinstance(greeting, Greeting)
        assert (greeting.version, greeting.in_flight) == ("2.0", 2)

    def test_a_frame_that_spop_does_not_know(self) -> None:
        """Is no answer, and no error."""
        memory = InMemory()
        connection = memory.accept()
        window = memory.run()
        connection.receive(UNKNOWN_FRAME)
        assert len(connection.sent()) == 2
        connection.receive(UNKNOWN_FRAME)
        assert connection.sent() == []
        window.end()
        assert memory.outcomes == []
        memory.reactor.advance(PLAN.timeout)
        memory.reactor.advance(1)
        (outcome,) = memory.outcomes
        assert (outcome.notifys, outcome.errors) == (0, {"unanswered NOTIFY": 2})

    def test_connections_that_end_before_the_load_begins(self) -> None:
        """Are sent nothing, and others take their places."""
        memory = InMemory(connections=3)
        leaving, lost, staying = [memory.accept() for _ in range(3)]
        leaving.receive(GOODBYE)
        leaving.receive(GOODBYE)
        lost.lose()
        memory.run()
        assert leaving.wire.disconnecting
        assert leaving.sent() == []
        assert len(staying.sent()) == 2
        assert len(memory.accept().sent()) == 2
        assert memory.waiting == 0
        assert memory.load.errors == {"DISCONNECT 4": 1, "connection lost": 1, "unanswered NOTIFY": 0}

    def test_a_new_connection_that_is_lost_before_its_hello(self) -> None:
        """Is one try that failed; after a pause there is just one more."""
        memory = InMemory()
        first = memory.accept()
        memory.run()
        first.lose()
        memory.reactor.advance(1)
        memory.accept(greet=False).lose()
        assert memory.waiting == 0
        memory.reactor.advance(1)
        assert memory.waiting == 1
        assert memory.load.errors["no connection"] == 1

    def test_a_new_connection_that_is_refused_after_the_end(self) -> None:
        """While the last ACKs are waited for, it is no error, and not tried again."""
        memory = InMemory(connections=2)
        lost, staying = memory.accept(), memory.accept()
        window = memory.run()
        lost.lose()
        memory.reactor.advance(1)
        window.end()
        memory.refuse()
        memory.reactor.advance(1)
        assert memory.waiting == 0
        staying.acknowledge()
        staying.lose()
        (outcome,) = memory.outcomes
        assert outcome.errors == {"connection lost": 1, "unanswered NOTIFY": 2}

    def test_a_connection_that_comes_when_another_was_refused(self) -> None:
        """Is closed at once: all are needed."""
        memory = InMemory(connections=2)
        memory.refuse()
        (failure,) = memory.greetings
        assert failure.type is ConnectionRefusedError
        late = memory.accept(greet=False)
        assert late.wire.disconnected
        late.lose()
        assert memory.reactor.getDelayedCalls() == []

    def test_the_acks_remembered_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those for which there is no room are checked as well."""
        monkeypatch.setattr(load_module, "_KNOWN_BYTES", 0)
        memory = InMemory()
        connection = memory.accept()
        window = memory.run()
        for _ in range(5000):
            connection.acknowledge()
        assert memory.load._ring is not None
        assert memory.load._ring.known == {}
        assert memory.load._verdicts == {}
        window.end()
        connection.acknowledge()
        connection.lose()
        (outcome,) = memory.outcomes
        assert (outcome.notifys, outcome.errors) == (10_000, {})

    def test_a_system_that_does_not_tell_who_waited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As all but Linux: it is unknown, not 0."""
        monkeypatch.setattr(load_module, "waited", lambda pid: None)
        memory = InMemory()
        connection = memory.accept()
        memory.run().end()
        connection.acknowledge()
        connection.lose()
        assert [outcome.waited for outcome in memory.outcomes] == [None]


class TestProcesses:
    """The two ends of the pipes between the processes of a load, each without the other."""

    def asking(self) -> tuple[load_module._LoadProcess, StringTransport]:
        process, pipe = load_module._LoadProcess(), StringTransport()
        process.makeConnection(pipe)
        return process, pipe

    def test_an_answer_in_pieces(self) -> None:
        """Is one answer, and what follows belongs to the next."""
        process, pipe = self.asking()
        answers: list[Any] = []
        process.ask([0, 1]).addCallback(answers.append)
        assert pipe.value() == b"[0, 1]\n"
        process.outReceived(b'{"a":')
        assert answers == []
        process.outReceived(b" 1}\n{")
        process.ask("end").addCallback(answers.append)
        process.outReceived(b"}\n")
        assert answers == [{"a": 1}, {}]

    def test_a_process_that_has_ended(self) -> None:
        """Answers nothing, and is told nothing."""
        process, pipe = self.asking()
        process.processEnded(Failure(ProcessDone(0)))
        failures: list[Any] = []
        process.ask("anything").addErrback(failures.append)
        process.tell("end")
        assert [failure.type for failure in failures] == [LoadFailed]
        assert pipe.value() == b""

    def answering(self) -> tuple[MemoryReactorClock, load_module._Orders, StringTransport, list[Any]]:
        """Return what the other process has, and where the end of its work will be noted."""
        memory, orders, pipe = MemoryReactorClock(), load_module._Orders(), StringTransport()
        orders.makeConnection(pipe)
        ended: list[Any] = []
        Deferred.fromCoroutine(load_module._answer(memory, orders)).addBoth(ended.append)
        return memory, orders, pipe, ended

    def test_no_plan(self) -> None:
        """When the process that measures ends before it has told one, the other does nothing."""
        memory, orders, pipe, ended = self.answering()
        orders.connectionLost()
        assert ended == [None]
        assert (memory.tcpClients, pipe.value()) == ([], b"")

    @pytest.mark.parametrize(("error", "told"), [(LookupError("gone"), "gone"), (LookupError(), "LookupError")])
    def test_no_connection(self, error: Exception, told: str) -> None:
        """Is told with its reason, or else the name of the exception."""
        memory, orders, pipe, ended = self.answering()
        orders.dataReceived(json.dumps(asdict(PLAN)).encode() + b"\n")
        client: Any = memory.tcpClients[0][2]
        client.clientConnectionFailed(None, Failure(error))
        assert ended == [None]
        assert json.loads(pipe.value()) == {"failed": told}

    def test_no_window(self) -> None:
        """When the process that measures ends before it has told one, no NOTIFY is sent."""
        memory, orders, pipe, ended = self.answering()
        orders.dataReceived(json.dumps(asdict(PLAN)).encode() + b"\n")
        connection = Connection(memory.tcpClients[0][2])
        connection.receive(connection.hello())
        assert json.loads(pipe.value())["version"] == "2.0"
        assert ended == []
        orders.connectionLost()
        assert ended == [None]
        assert connection.sent() == []

    def test_the_end_of_the_window(self) -> None:
        """Comes once, though it may be told again, and with the outcome."""
        memory, orders, pipe, ended = self.answering()
        orders.dataReceived(json.dumps(asdict(PLAN)).encode() + b"\n")
        connection = Connection(memory.tcpClients[0][2])
        connection.receive(connection.hello())
        orders.dataReceived(b"[0, 300]\n")
        memory.advance(0)
        connection.acknowledge()
        orders.dataReceived(b'"end"\n"end"\n')
        connection.acknowledge()
        connection.lose()
        assert ended == [None]
        _, outcome = pipe.value().splitlines()
        assert (json.loads(outcome)["notifys"], json.loads(outcome)["errors"]) == (2, {})


@pytest_twisted.ensureDeferred
async def test_all_is_well(load: Any, listen: Any) -> None:
    """Every ACK is counted that came in time: all but the last ones, for which it waits."""
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    told = await load()
    assert (told.errors, told.status) == ({}, 0)
    assert told.report["variables"] == {"sess.score": "int64:20"}
    assert 0 <= agent.notifys - told.report["notifys"] <= 2 * 4
    assert told.report["notifys_per_second"] == pytest.approx(told.report["notifys"] / told.report["seconds"])
    assert 0 < told.report["latency_us"]["p50"] <= told.report["latency_us"]["max"]
    for side in agent.connections:
        await side.ended
        assert side.goodbye == Disconnect()


@pytest_twisted.ensureDeferred
async def test_the_warm_up_is_not_counted(load: Any, listen: Any) -> None:
    """Nor is what came before its end."""
    agent = Agent(lambda ids, n: ack(ids))
    warm = []
    reactor.callLater(0.3, lambda: warm.append(agent.notifys))
    listen(agent)
    told = await load("--warm-up=0.4", "--duration=0.2")
    assert told.errors == {}
    assert told.report["notifys"] <= agent.notifys - warm[0]


EVERY = 10

# What an agent says to every tenth NOTIFY, and what that is called. The ids are those of the NOTIFY, and of the last.
LIES: dict[str, tuple[Callable[[bytes, bytes], bytes], str]] = {
    "unknown ids": (lambda ids, last: ack(encode_ids(999_999, 1)) + ack(ids), "unknown ids"),
    "ids never sent": (lambda ids, last: ack(encode_ids(2048, 1)) + ack(ids), "unknown ids"),
    "another frame-id": (lambda ids, last: ack(encode_ids(1, 2)) + ack(ids), "unknown ids"),
    "repeated at once": (lambda ids, last: ack(ids) + ack(ids), "repeated ids"),
    "repeated late": (lambda ids, last: ack(last) + ack(ids), "repeated ids"),
    "repeated with other actions": (lambda ids, last: ack(ids) + ack(ids, b""), "repeated ids"),
    "another value": (lambda ids, last: ack(ids, encode_actions({"sess.score": 21})), "other variables"),
    "another type": (lambda ids, last: ack(ids, encode_actions({"sess.score": "20"})), "other variables"),
    "another name": (lambda ids, last: ack(ids, encode_actions({"txn.score": 20})), "other variables"),
    "no variables": (lambda ids, last: ack(ids, b""), "other variables"),
    "no actions": (lambda ids, last: ack(ids, b"\x01"), "undecodable ACK"),
    "half an action": (lambda ids, last: ack(ids, GOOD[:-1]), "undecodable ACK"),
    "abort": (lambda ids, last: ack(ids, GOOD, Flags.FIN | Flags.ABORT), "aborted NOTIFY"),
}


@pytest.mark.parametrize("name", LIES)
@pytest_twisted.ensureDeferred
async def test_each_lie_is_counted(name: str, load: Any, listen: Any) -> None:
    """Exactly, by its kind; the connection goes on, and the exit status is 1."""
    lie, kind = LIES[name]
    lies = 0
    last = b""

    def answer(ids: bytes, n: int) -> bytes:
        nonlocal lies, last
        before, last = last, ids
        if n % EVERY or n > 1000:
            return ack(ids)
        lies += 1
        return lie(ids, before)

    agent = Agent(answer)
    listen(agent)
    told = await load("--connections=1")
    assert told.errors == {kind: lies}
    assert lies > 0
    assert told.status == 1
    assert len(agent.connections) == 1
    # An ACK that is no good answers its NOTIFY, and is none of the good ones.
    bad = lies if kind in ("other variables", "undecodable ACK", "aborted NOTIFY") else 0
    assert 0 <= agent.notifys - bad - told.report["notifys"] <= 4


# What an agent says once on each connection, what that is called, and the status code that it is told.
ENDS: dict[str, tuple[Callable[[bytes], bytes | None], str, int | None]] = {
    "closes": (lambda ids: None, "connection lost", None),
    "says goodbye": (
        lambda ids: encode_frame(FrameType.AGENT_DISCONNECT, Flags.FIN, b"\0\0", Disconnect(4, "no").encode()),
        "DISCONNECT 4",
        None,
    ),
    "speaks HTTP": (lambda ids: b"HTTP/1.1 400 Bad Request\r\n\r\n", "broken frame", 3),
    "a frame of nothing": (lambda ids: b"\0\0\0\0", "broken frame", 4),
    "an ACK without ids": (lambda ids: b"\0\0\0\x07\x67\0\0\0\1\xff\xff", "broken frame", 4),
    "a NOTIFY": (lambda ids: encode_frame(FrameType.NOTIFY, Flags.FIN, ids, b""), "broken frame", 4),
    "a fragment": (lambda ids: encode_frame(FrameType.ACK, Flags(0), ids, GOOD), "broken frame", 10),
}


@pytest.mark.parametrize("name", ENDS)
@pytest_twisted.ensureDeferred
async def test_each_end_is_counted(name: str, load: Any, listen: Any) -> None:
    """With the NOTIFYs that it leaves unanswered; another connection takes the place of the one that ended."""
    end, kind, code = ENDS[name]
    answered: dict[AgentSide, int] = {}

    class Ending(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            answered[side] = answered.get(side, 0) + 1
            if answered[side] <= 20:
                side.transport.write(ack(notify.ids))
            elif answered[side] == 21:
                said = end(notify.ids)
                if said is None:
                    side.transport.loseConnection()
                else:
                    side.transport.write(said)
                if len(answered) == 3:
                    interrupt()

    agent = Ending()
    listen(agent)
    told = await load("--connections=1", "--duration=30")
    ended = sum(number > 20 for number in answered.values())
    assert ended >= 3
    # In flight were four.
    assert told.errors == {kind: ended, "unanswered NOTIFY": 4 * ended}
    assert told.status == 1
    if code is not None:
        for side in [side for side in agent.connections if answered[side] > 20]:
            await side.ended
            assert side.goodbye is not None
            assert side.goodbye.status_code == code


@pytest_twisted.ensureDeferred
async def test_an_agent_that_hangs(load: Any, listen: Any) -> None:
    """What it never answers is counted, and does not keep the command for ever."""
    agent = Agent(lambda ids, n: ack(ids) if n <= 40 else b"")
    listen(agent)
    told = await load("--timeout=0.2")
    assert told.errors == {"unanswered NOTIFY": 8}
    assert (told.status, told.report["notifys"], agent.notifys) == (1, 40, 48)


@pytest_twisted.ensureDeferred
async def test_an_agent_that_goes(load: Any, listen: Any) -> None:
    """Tries to reach it again are counted; they have pauses between them."""
    agent = Agent()
    port = listen(agent)

    def answer(ids: bytes, n: int) -> None:
        if n == 1:
            port.stopListening()

    agent._answer = answer
    told = await load("--connections=1", "--duration=0.5")
    assert told.errors.pop("no connection") in range(1, 6)
    assert told.errors == {"connection lost": 1, "unanswered NOTIFY": 4}
    assert (told.status, told.report["notifys"], told.report["latency_us"]) == (1, 0, None)


class Late(Agent):
    """An agent that answers what it has in any order, some of it at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._source = random.Random(7)

    def answer(self, side: AgentSide, notify: Notify) -> None:
        side.in_flight.append(notify.ids)
        side.most_in_flight = max(side.most_in_flight, len(side.in_flight))
        if len(side.in_flight) == 1:
            reactor.callLater(0.002, self._answer_some, side)

    def _answer_some(self, side: AgentSide) -> None:
        self._source.shuffle(side.in_flight)
        some = self._source.randint(1, len(side.in_flight))
        out = b"".join([ack(ids) for ids in side.in_flight[:some]])
        del side.in_flight[:some]
        if side.in_flight:
            reactor.callLater(0.002, self._answer_some, side)
        side.transport.write(out)


@pytest.mark.parametrize(("capability", "most"), [("pipelining", 7), ("fragmentation", 1)])
@pytest_twisted.ensureDeferred
async def test_in_flight(capability: str, most: int, load: Any, listen: Any) -> None:
    """As many as asked for, and never more; one, and a note, when the agent does not list pipelining."""
    agent = Late()
    agent.capabilities = frozenset({capability})
    listen(agent)
    told = await load("--connections=3", "--in-flight=7")
    assert [side.most_in_flight for side in agent.connections] == [most] * 3
    assert (told.errors, told.status) == ({}, 0)
    assert told.report["in_flight"] == most
    assert any("pipelining" in note for note in told.report["notes"]) is (most == 1)


@pytest_twisted.ensureDeferred
async def test_latency_is_that_of_the_agent(load: Any, listen: Any) -> None:
    """Not less than the agent takes, however the ACKs are ordered."""
    listen(Late())
    told = await load()
    assert told.report["latency_us"]["p50"] >= 2000


@pytest_twisted.ensureDeferred
async def test_the_ids_go_round(load: Any, listen: Any) -> None:
    """Past the end of their ring, and past the one that has no ACK yet."""
    waiting: list[bytes] = []

    class Slow(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            if self.notifys == 1:
                waiting.append(notify.ids)
                return
            assert notify.ids not in waiting
            side.transport.write(ack(notify.ids) if self.notifys != 5000 else ack(notify.ids) + ack(waiting.pop()))
            if self.notifys == 8000:
                interrupt()

    agent = Slow()
    listen(agent)
    told = await load("--connections=1", "--duration=30")
    assert agent.notifys >= 8000
    assert told.errors == {}


@pytest_twisted.ensureDeferred
async def test_acks_in_pieces(load: Any, listen: Any) -> None:
    """Cut anywhere, they are the same."""

    class Pieces(Agent):
        out = b""

        def answer(self, side: AgentSide, notify: Notify) -> None:
            if not self.out:
                reactor.callLater(0, self._next, side)
            self.out += ack(notify.ids)

        def _next(self, side: AgentSide) -> None:
            piece, self.out = self.out[:9], self.out[9:]
            if self.out:
                reactor.callLater(0, self._next, side)
            side.transport.write(piece)

    agent = Pieces()
    listen(agent)
    told = await load("--connections=1")
    assert told.errors == {}
    assert 0 <= agent.notifys - told.report["notifys"] <= 4
    assert told.report["notifys"] > 10


@pytest_twisted.ensureDeferred
async def test_an_agent_that_does_not_read(load: Any, listen: Any) -> None:
    """What the kernel does not take at once goes later, whole and in order."""

    class Full(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            (message,) = notify.messages
            assert message["body"] == bytes(range(256)) * 32
            if self.notifys % 100 == 1:
                side.transport.pauseProducing()
                reactor.callLater(0.02, side.transport.resumeProducing)
            side.transport.write(ack(notify.ids))

    agent = Full()
    listen(agent)
    told = await load("--connections=1", "--in-flight=200", "--shape=body", "--duration=0.4")
    assert told.errors == {}
    assert agent.notifys > 300


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        (["--expect=sess.score=20"], False),
        (["--expect=sess.score=20", "--expect=txn._=null"], False),
        (["--expect=sess.score=int32:20"], True),
        (["--expect=sess.score=20", "--expect=sess.other=1"], True),
        (["--expect=sess.score=null"], True),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_expected(arguments: list[str], errors: bool, load: Any, listen: Any) -> None:
    """Even the first ACK is compared with it."""
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    told = await load(*arguments)
    assert told.errors == ({"other variables": agent.notifys} if errors else {})
    assert told.status == errors
    assert told.report["other_variables"] == ({"sess.score": "int64:20"} if errors else None)


@pytest_twisted.ensureDeferred
async def test_a_variable_without_a_scope(load: Any, listen: Any) -> None:
    """Is expected where a handler's goes."""
    listen(Agent(lambda ids, n: ack(ids, encode_actions({"score": 20}))))
    told = await load("--expect=score=20")
    assert told.errors == {}
    assert told.report["expected"] == told.report["variables"] == {"proc.score": "int64:20"}


@pytest.mark.parametrize(
    ("arguments", "answers", "expected", "came"),
    [
        (["--expect=sess.score=20"], [{"sess.score": Int32(20)}], "sess.score=int64:20", "sess.score=int32:20"),
        (["--expect=score=20"], [{"sess.score": 20}], "proc.score=int64:20", "sess.score=int64:20"),
        (["--expect=txn.user=str:a", "--expect=txn.b=1"], [{}], "txn.b=int64:1, txn.user=str:a", "no variables"),
        (["--expect=txn.user=null"], [{"txn.user": "\x1b[31m"}], "txn.user=null", "txn.user=str:\\x1b[31m"),
        ([], [{"txn.n": 1}, {"txn.n": 1}, {"txn.n": 2}, {"txn.n": 3}], "txn.n=int64:1", "txn.n=int64:2"),
        (["--expect=txn.n=1"], [{"txn.text": "x" * 1000}], "txn.n=int64:1", f"txn.text=str:{'x' * 487}..."),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_variables_are_shown(
    arguments: list[str],
    answers: list[Variables],
    expected: str,
    came: str,
    endpoint: str,
    listen: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of the first ACK that was wrong, in the types in which they came, and what was expected."""
    listen(Agent(lambda ids, n: ack(ids, encode_actions(answers[min(n, len(answers)) - 1]))))
    common = ["--duration=0.1", "--warm-up=0", "--connections=1", "--in-flight=4"]
    with pytest.raises(SystemExit):
        await bench.run(reactor, bench.parser().parse_args([endpoint, *common, *arguments]))
    lines = capsys.readouterr().out.splitlines()
    errors = next(i for i, line in enumerate(lines) if line.startswith("errors "))
    assert lines[errors + 1 : errors + 3] == [f"expected   {expected}", f"came       {came}"]


@pytest_twisted.ensureDeferred
async def test_answers_may_vary(load: Any, listen: Any) -> None:
    """If the user says so; they have to be good all the same."""
    agent = Agent(lambda ids, n: ack(ids, encode_actions({"sess.count": n})))
    listen(agent)
    told = await load("--varying")
    assert told.errors == {}
    assert told.report["expected"] is told.report["other_variables"] is None
    first = agent.notifys
    assert (await load()).errors == {"other variables": agent.notifys - first - 1}


@pytest_twisted.ensureDeferred
async def test_what_it_says_of_itself(load: Any, listen: Any) -> None:
    """What HAProxy up to 3.0 says, without the name of an engine; async not, if so told."""
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    await load("--connections=1")
    await load("--connections=1", "--no-async")
    assert [sorted(side.connection.peer_capabilities) for side in agent.connections] == [
        ["async", "pipelining"],
        ["pipelining"],
    ]
    assert {side.connection.engine_id for side in agent.connections} == {""}


@pytest.mark.parametrize(
    ("arguments", "name", "names"),
    [
        ([], "get-ip-reputation", {"ip"}),
        (["--shape=body"], "check-body", {"body"}),
        (["mine", "ip=192.0.2.7", "n=int32:-5"], "mine", {"ip", "n"}),
        (
            ["--shape=http"],
            "check-request",
            {"method", "path", "host", "user_agent", "src", "src_port", "dst", "dst_port"}
            | {"accept", "accept_encoding", "accept_language", "cache_control"}
            | {"content_type", "cookie", "referer", "x_forwarded_for"},
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_sent(arguments: list[str], name: str, names: set[str], load: Any, listen: Any) -> None:
    """The shapes, and a message of the user's own."""
    seen = set()

    class Seeing(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            (message,) = notify.messages
            seen.add((message.name, *message.names, *[value for value in message.values if len(str(value)) < 50]))
            side.transport.write(ack(notify.ids))

    listen(Seeing())
    told = await load(*arguments)
    assert told.report["message"] == name
    ((sent, *arguments_sent),) = seen
    assert sent == name
    assert names <= set(arguments_sent)
    if name == "mine":
        assert {IPv4Address("192.0.2.7"), -5} <= set(arguments_sent)


@pytest_twisted.ensureDeferred
async def test_a_message_that_is_too_long(load: Any, listen: Any) -> None:
    """Is sent in fragments to an agent that takes them, and else refused."""
    agent = Agent(lambda ids, n: ack(ids))
    agent.capabilities = frozenset({"pipelining", "fragmentation"})
    listen(agent)
    long = "long", f"text=str:{'x' * 40_000}"
    assert (await load(*long)).errors == {}
    agent.capabilities = frozenset({"pipelining"})
    with pytest.raises(ValueError, match="do not fit in a frame"):
        await load(*long)


def keys_of_the_help() -> set[str]:
    """Return the keys that the help lists in the table behind --json."""
    table = bench.EPILOG.partition("these keys:\n")[2].partition("\n\n")[0]
    return {key for keys in re.findall(r"^  (\w.*?)  ", table, re.MULTILINE) for key in keys.split(", ")}


@pytest_twisted.ensureDeferred
async def test_the_keys_of_the_json(load: Any, listen: Any) -> None:
    """Are those that the help lists."""
    listen(Agent(lambda ids, n: ack(ids)))
    told = await load(f"--pid={os.getpid()}")
    assert set(told.report) == keys_of_the_help()
    assert set(told.report["latency_us"]) == {"p50", "p99", "p99.9", "max"}
    (cpu,) = told.report["agent_cpu"]
    assert set(cpu) == {"pid", "seconds", "busy", "waited"}
    assert set(told.report["load_cpu"][0]) == {"busy", "waited"}


@pytest_twisted.ensureDeferred
async def test_the_agents_cpu(load: Any, listen: Any) -> None:
    """That of a process that does nothing is none, and that of this one, agent and load in one, the load side's."""
    listen(Agent(lambda ids, n: ack(ids)))
    told = await load(f"--pid={os.getpid()}")
    (cpu,) = told.report["agent_cpu"]
    assert cpu["busy"] == pytest.approx(told.report["load_cpu"][0]["busy"], rel=0.2)
    assert told.report["cpu_us_per_notify"] == pytest.approx(cpu["busy"] * 1e6 / told.report["notifys_per_second"])

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as idle:
        # It has begun to wait when it has used no CPU for a while; whether or not, it uses little.
        told = await load(f"--pid={os.getpid()}", f"--pid={idle.pid}")
        busy = [cpu["busy"] for cpu in told.report["agent_cpu"]]
        assert told.report["cpu_us_per_notify"] == pytest.approx(sum(busy) * 1e6 / told.report["notifys_per_second"])
        idle.kill()


@pytest_twisted.ensureDeferred
async def test_a_process_that_ends(load: Any, listen: Any) -> None:
    """Its CPU is unknown, which the report says."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def answer(ids: bytes, n: int) -> bytes:
        if n == 20:
            child.communicate()
        return ack(ids)

    listen(Agent(answer))
    told = await load(f"--pid={child.pid}")
    assert told.report["agent_cpu"] == [{"pid": child.pid, "seconds": None, "busy": None, "waited": None}]
    assert told.report["cpu_us_per_notify"] is None
    assert f"the process {child.pid} did not live to the end" in told.report["notes"]


@pytest_twisted.ensureDeferred
async def test_a_process_that_is_none(load: Any, listen: Any) -> None:
    """Is refused before anything is sent."""
    child = subprocess.Popen(["true"])
    child.wait()
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    with pytest.raises(ProcessLookupError, match=rf"^--pid {child.pid}: No such process$"):
        await load(f"--pid={child.pid}")
    assert agent.notifys == 0


@pytest.mark.parametrize(("latency", "noted"), [({"max": 499_999.0}, False), ({"max": 500_000.0}, True), (None, False)])
def test_a_long_standstill_is_told(latency: dict[str, float] | None, noted: bool) -> None:
    """It is in few of the latencies."""
    assert bool(bench._latency_notes({"latency_us": latency, "seconds": 10.0})) is noted


@pytest_twisted.ensureDeferred
async def test_an_agent_that_stands_still(load: Any, listen: Any) -> None:
    """A note says what the percentiles do not."""

    class Resting(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            if self.notifys == 20:
                reactor.callLater(0.5, side.transport.write, ack(notify.ids))
            else:
                side.transport.write(ack(notify.ids))
            if self.notifys == 21:
                interrupt()

    listen(Resting())
    told = await load("--connections=1", "--in-flight=1", "--duration=30")
    assert any(note.startswith("max is ") for note in told.report["notes"])


def notes(load_busy: float, *agents: float | None, waited: float = 0.0) -> list[str]:
    return bench._cpu_notes(
        {
            "processes": 1,
            "load_cpu": [{"busy": load_busy, "waited": waited}],
            "agent_cpu": [{"pid": 1, "seconds": busy, "busy": busy, "waited": 0.0} for busy in agents],
        }
    )


def test_the_load_side_as_bottleneck_is_told() -> None:
    """When it was busy and no process of the agent was."""
    assert notes(0.89, 0.5) == notes(0.95, 0.95) == notes(0.95, 0.3, 0.95) == notes(0.5) == []
    assert "it was the bottleneck; try --processes 2" in notes(0.9, 0.89)[0]
    assert "may have been" in notes(0.9)[0]
    assert "waited for a core" in notes(0.5, 0.5, waited=0.1)[0]


def test_a_process_without_work_is_told() -> None:
    """Perhaps it is not the agent's."""
    assert notes(0.5, 0.0) == ["the process 1 used no CPU: is it the agent?"]


@pytest_twisted.ensureDeferred
async def test_more_processes_than_connections(load: Any, listen: Any) -> None:
    """Are not started, which a note says."""
    listen(Agent(lambda ids, n: ack(ids)))
    told = await load("--connections=1", "--processes=2")
    assert told.report["processes"] == 1
    assert "the load side has no more processes than connections" in told.report["notes"]


@pytest_twisted.ensureDeferred
async def test_a_message_and_a_shape(load: Any, listen: Any) -> None:
    """Are refused together: only one of them can be sent."""
    agent = Agent()
    listen(agent)
    with pytest.raises(ValueError, match="--shape says what to send in place of a MESSAGE"):
        await load("--shape=http", "mine")
    assert agent.connections == []


@pytest.mark.parametrize(
    ("microseconds", "text"), [(0.25, "0.25 µs"), (999, "999 µs"), (1500, "1.5 ms"), (2_500_000, "2.5 s")]
)
def test_a_duration_is_shown_in_its_unit(microseconds: float, text: str) -> None:
    """A number of few digits."""
    assert bench._duration(microseconds) == text


@pytest_twisted.ensureDeferred
async def test_the_text(endpoint: str, listen: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each thing, aligned, without what could steer the terminal."""
    agent = Agent(lambda ids, n: ack(ids, encode_actions({})))
    agent.capabilities = frozenset({"pipelining", "\x1b[31m"})
    listen(agent)
    options = bench.parser().parse_intermixed_args([endpoint, "--duration=0.1", "--warm-up=0", f"--pid={os.getpid()}"])
    await bench.run(reactor, options)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[31m, pipelining" in out
    lines = out.splitlines()
    names = [line.partition(" ")[0] for line in lines]
    assert names[:9] == ["agent", "load", "NOTIFY", "measured", "answered", "latency", "agent", "load", "errors"]
    assert re.match(r"latency    p50 \S+ (µs|ms|s), p99 \S+ (µs|ms|s), p99.9 \S+ (µs|ms|s), max ", lines[5])
    assert re.match(r"agent CPU  \d+\.\d\d µs a NOTIFY, \d+% of a core ", lines[6])
    assert lines[8] == "errors     none"
    assert "note       the agent set no variables: has it a handler for get-ip-reputation?" in lines


async def spoactl(*arguments: str) -> tuple[str, str, int]:
    """Run the program; return its output, its errors, and its exit status."""
    out, err, status = await getProcessOutputAndValue(SPOACTL[0], [*SPOACTL[1:], *arguments], env=ENVIRONMENT)
    return out.decode(), err.decode(), status


@pytest.mark.parametrize(("kind", "processes"), [("tcp", 1), ("tcp", 2), ("ssl", 1)])
@bounded
async def test_a_real_agent(kind: str, processes: int, tmp_path: Path, start: Start) -> None:
    """In a process of its own, from one process and from two, and with TLS."""
    (tmp_path / "handlers.py").write_text(
        "from spoa_twisted import Handlers\nhandlers = Handlers({'check-body': lambda body: {'txn.size': len(body)}})\n"
    )
    listen = f"{kind}:0:interface=127.0.0.1"
    if kind == "ssl":
        self_signed(tmp_path)
        listen += f":privateKey={tmp_path}/agent.key:certKey={tmp_path}/agent.crt"
    agent = start(spoa(handlers=tmp_path / "handlers.py", listen=[listen]))
    address = (await agent.said(LISTENING))[1]
    arguments = ["--duration=0.3", "--warm-up=0.1", "--connections=3", f"--processes={processes}", "--shape=body"]
    out, err, status = await spoactl("bench", f"{kind}:{address}", "--json", f"--pid={agent.pid}", *arguments)
    assert (err, status) == ("", 0)
    report = json.loads(out)
    assert report["errors"] == {}
    assert report["variables"] == {"txn.size": "int64:8192"}
    assert report["notifys"] > 0
    assert report["cpu_us_per_notify"] > 0
    assert len(report["load_cpu"]) == report["processes"] == processes


class LateReactor:
    """A reactor whose delayed calls are late."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def callLater(self, seconds: float, *call: Any) -> Any:
        return reactor.callLater(100 * seconds, *call)


@bounded
async def test_processes_that_end_first(endpoint: str, listen: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that measures is late, and tells the agent's CPU all the same."""
    listen(Agent(lambda ids, n: ack(ids)))
    arguments = ["--duration=0.3", "--warm-up=0", "--connections=2", "--processes=2", "--json", f"--pid={os.getpid()}"]
    await bench.run(LateReactor(), bench.parser().parse_args([endpoint, *arguments]))
    report = json.loads(capsys.readouterr().out)
    assert report["notifys"] > 0
    assert report["cpu_us_per_notify"] > 0
    assert report["interrupted"] is False


@bounded
async def test_processes_share_the_connections(endpoint: str, listen: Any) -> None:
    """And what one of them finds wrong is wrong; what they disagree about, too."""
    agent = Agent(lambda ids, n: ack(ids) + ack(ids))
    listen(agent)
    arguments = ["--duration=0.2", "--warm-up=0", "--connections=5", "--processes=2", "--json", "--in-flight=2"]
    out, _, status = await spoactl("bench", endpoint, *arguments)
    report = json.loads(out)
    assert status == 1
    assert report["errors"] == {"repeated ids": agent.notifys}
    assert len(agent.connections) == 5
    for side in agent.connections:
        await side.ended
        assert side.goodbye == Disconnect()

    class Different(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            number = self.connections.index(side)
            side.transport.write(ack(notify.ids, encode_actions({"sess.number": number})))

    agent._answer = None
    different = Different()
    agent.answer = different.answer  # type: ignore[method-assign]
    different.connections = agent.connections
    agent.connections.clear()
    out, _, status = await spoactl("bench", endpoint, *arguments[:2], "--connections=2", "--processes=2", "--json")
    assert (json.loads(out)["errors"], status) == ({"other variables": 1}, 1)


@pytest.mark.parametrize("processes", [1, 2])
@bounded
async def test_interrupted(processes: int, endpoint: str, listen: Any, start: Start) -> None:
    """Ctrl-C prints what there is."""
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    arguments = ["--duration=300", "--warm-up=0", "--json", f"--processes={processes}", "--connections=2"]
    command = start([*SPOACTL, "bench", endpoint, *arguments])

    def answer(ids: bytes, n: int) -> bytes:
        if n == 1000:
            command.signal(signal.SIGINT)
        return ack(ids)

    agent._answer = answer
    assert await command.ended() == 0, command.describe()
    report = json.loads(command.output)
    assert report["interrupted"] is True
    assert report["errors"] == {}
    assert 900 < report["notifys"] <= agent.notifys
    assert report["seconds"] < 300


@bounded
async def test_more_connections_than_may_wait(endpoint: str) -> None:
    """They do not come all at once: those of a Unix socket are refused when too many wait, and TCP's are late."""
    agent = Agent(lambda ids, n: ack(ids))
    port = reactor.listenUNIX(endpoint.removeprefix("unix:"), agent, backlog=40)  # type: ignore[attr-defined]
    out, err, status = await spoactl("bench", endpoint, "--connections=200", "--duration=0.1", "--json")
    await port.stopListening()
    assert (err, status) == ("", 0)
    assert json.loads(out)["errors"] == {}
    assert len(agent.connections) == 200


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("limit", ["-Sn", "-n"])
@bounded
async def test_more_connections_than_files(limit: str, processes: int, endpoint: str) -> None:
    """The soft limit is raised; what the hard one does not allow is refused before the agent hears of it."""
    agent = Agent(lambda ids, n: ack(ids))
    port = reactor.listenUNIX(endpoint.removeprefix("unix:"), agent, backlog=100)  # type: ignore[attr-defined]
    limited = ["-c", f'ulimit {limit} 45; exec "$@"', "sh", *SPOACTL]
    arguments = ["bench", endpoint, "--connections=100", f"--processes={processes}", "--duration=0.1", "--json"]
    out, err, status = await getProcessOutputAndValue("/bin/sh", [*limited, *arguments], env=ENVIRONMENT)
    await port.stopListening()
    if limit == "-Sn":
        assert (err, status) == (b"", 0)
        assert len(agent.connections) == 100
        for side in agent.connections:
            await side.ended
    else:
        assert (out, status) == (b"", 1)
        assert re.fullmatch(rb"spoactl: \d+ files are needed, and the hard limit is 45: see ulimit -Hn\n", err)
        assert agent.connections == []


@bounded
async def test_no_agent_is_told_in_one_line(endpoint: str, listen: Any) -> None:
    """With exit status 1, whether nobody listens, or somebody greets with a goodbye, or not at all, or in HTTP."""
    arguments = ["bench", endpoint, "--timeout=0.5"]
    out, err, status = await spoactl(*arguments)
    assert (out, err.count("\n"), status) == ("", 1, 1)
    assert err.startswith("spoactl: ")

    agent = Agent(lambda ids, n: ack(ids))
    goodbye = Disconnect(99, "not \x1b today").encode()
    agent.hello = encode_frame(FrameType.AGENT_DISCONNECT, Flags.FIN, b"\0\0", goodbye)
    listen(agent)
    told = ("", "spoactl: the agent disconnected: not \\x1b today (status code 99)\n", 1)
    assert await spoactl(*arguments) == told
    assert await spoactl(*arguments, "--processes=2") == told
    agent.hello = b""
    assert await spoactl(*arguments) == ("", "spoactl: no answer within 0.5 s\n", 1)
    agent.hello = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    out, err, status = await spoactl(*arguments)
    assert (out, err.count("\n"), status) == ("", 1, 1)
    assert agent.notifys == 0


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
        ["--shape=other"],
        ["--expect=noequals"],
        ["--expect=foo.bar=1"],
        ["--expect=sess.a-b=1"],
        ["--expect==1"],
        ["--expect=sess.score=20", "--expect=sess.score=21"],
        ["--expect=score=20", "--expect=proc.score=20"],
        ["--expect=sess.score=20", "--varying"],
        ["nonsense"],
        ["tcp:127.0.0.1:1", "m", "noequals"],
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With exit status 2, and an error behind the usage."""
    with pytest.raises(SystemExit) as caught:
        bench.parser().parse_intermixed_args(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("spoactl bench: error: ")


@bounded
async def test_a_process_of_the_load_that_ends(endpoint: str, listen: Any, start: Start) -> None:
    """Ends all, with one line: what it counted is lost."""
    agent = Agent()
    listen(agent)
    command = start([*SPOACTL, "bench", endpoint, "--processes=2", "--duration=300"])

    def answer(ids: bytes, n: int) -> bytes:
        if n == 1000:
            children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
        return ack(ids)

    agent._answer = answer
    assert await command.ended() == 1
    assert command.output.startswith("spoactl: a process of the load ended: ")
    assert command.output.count("\n") == 1
    for side in agent.connections:
        await side.ended


@bounded
async def test_no_process_is_left(endpoint: str, listen: Any, start: Start) -> None:
    """When the one that measures is killed, those of the load end by themselves."""
    agent = Agent()
    listen(agent)
    command = start([*SPOACTL, "bench", endpoint, "--processes=2", "--duration=300"])

    def answer(ids: bytes, n: int) -> bytes:
        if n == 1000:
            command.signal(signal.SIGKILL)
        return ack(ids)

    agent._answer = answer
    await command.ended()
    for side in agent.connections:
        await side.ended
        assert side.goodbye == Disconnect()

"""Tests of the benchmarks: they run, and count wrong answers as errors. No test checks the figures."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.internet.utils import getProcessOutputAndValue

from benchmarks.agent import HANDLERS, KINDS, machine
from benchmarks.canned import Canned
from benchmarks.haproxy import Figures
from spoa_twisted.ctl.bench.shapes import SHAPES
from spoa_twisted.runner.loading import load
from spoa_twisted.spop import connection
from spoa_twisted.spop.connection import Ack, EngineConnection, State
from spoa_twisted.spop.frames import NO_IDS, AgentHello, Disconnect, Flags, FrameType, encode_frame, encode_ids
from spoa_twisted.testing import FakeHAProxy
from tests.certificates import skip_without_tls
from tests.haproxy.branches import VARIABLE, Branch, find_branches
from tests.haproxy.harness import bounded
from tests.programs import ENVIRONMENT, ROOT

reactor: Any = default_reactor


async def run(module: str, *arguments: str, **environment: str) -> tuple[str, str, int]:
    """Run a module of the benchmarks; return its stdout, its stderr and its exit status."""
    command = ["-m", f"benchmarks.{module}", *arguments]
    out, err, status = await getProcessOutputAndValue(
        sys.executable, command, env={**ENVIRONMENT, **environment}, path=str(ROOT)
    )
    return out.decode(), err.decode(), status


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("canned")])
@pytest_twisted.ensureDeferred
async def test_the_handlers(kind: str, shape: str) -> None:
    """All kinds of handlers answer all message shapes with the same variable."""
    haproxy = FakeHAProxy(load(f"{HANDLERS}:{kind}"))
    answer = haproxy.send(SHAPES[shape])
    assert answer.called is (kind not in ("later", "waiting"))
    assert await answer == {"sess.score": 20}


@pytest.mark.parametrize(("name", "compiled"), [("connection.py", False), ("connection.so", True)])
def test_what_the_figures_depend_on(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed versions say whether the code that runs is compiled."""
    monkeypatch.setattr("spoa_twisted.version.EXTENSION_SUFFIXES", [".so"])
    monkeypatch.setattr(connection, "__file__", f"/spoa_twisted/spop/{name}")
    assert machine()[0].endswith(" (compiled)") is compiled


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_the_canned_agent(size: int) -> None:
    """It answers HELLO, a NOTIFY with ids of every length, and DISCONNECT, wherever its input is split."""
    canned, transport = Canned(), StringTransport()
    canned.makeConnection(transport)

    def exchange(data: bytes) -> bytes:
        transport.clear()
        for start in range(0, len(data), size):
            canned.dataReceived(data[start : start + size])
        written: bytes = transport.value()
        return written

    haproxy = EngineConnection()
    haproxy.receive_data(exchange(haproxy.data_to_send()))
    assert isinstance(haproxy.next_event(), AgentHello)
    numbers = [0, 1, 239, 240, 2287, 2288, 264431, 264432, 2**32, 2**64 - 1]
    sent = [haproxy.send_notify([SHAPES["small"]], stream, frame) for stream in numbers for frame in numbers]
    haproxy.receive_data(exchange(haproxy.data_to_send()))
    for ids in sent:
        assert haproxy.next_event() == Ack(ids, {"sess.score": 20}, False)
    assert haproxy.next_event() is None
    haproxy.disconnect()
    exchange(haproxy.data_to_send())
    assert transport.disconnecting
    assert canned._connection.state is State.CLOSED


@pytest.mark.soak
@bounded
async def test_agents() -> None:
    """benchmarks.agent prints a row for each kind of agent, without errors."""
    arguments = ["--runs=1", "--duration=0.2", "--warm-up=0.1", "--shapes=http", "--in-flight=2"]
    out, err, status = await run("agent", "--kinds=sync,canned,canned-at-once", *arguments)
    assert (err, status) == ("", 0)
    rows = [line.split() for line in out.splitlines() if " http " in line]
    assert [row[:3] for row in rows] == [[kind, "http", "2"] for kind in ("sync", "canned", "canned-at-once")]
    for row in rows:
        assert float(row[3]) > 0
        assert int(row[4]) > 0
        assert row[-1] == "0"


@bounded
async def test_a_running_agent(tmp_path: Path) -> None:
    """With --endpoint, benchmarks.agent measures a running agent. Errors are counted, and the exit status is 1."""

    class Wrong(Canned):
        def send(self, data: bytes) -> None:
            super().send(data)
            if self._connection.state is State.RUNNING and data[4] == FrameType.ACK:
                super().send(encode_frame(FrameType.ACK, Flags.FIN, encode_ids(999_999, 1), b""))

    listening = reactor.listenUNIX(f"{tmp_path}/agent", Factory.forProtocol(Wrong))
    arguments = ["--runs=1", "--duration=0.1", "--warm-up=0", "--shapes=small", "--in-flight=1"]
    out, err, status = await run("agent", f"--endpoint=unix:{tmp_path}/agent", *arguments)
    await listening.stopListening()
    assert (err, status) == ("", 1)
    (row,) = [line.split() for line in out.splitlines() if " small " in line]
    assert row[:4] == ["endpoint", "small", "1", "-"]
    assert int(row[-1]) > 0


@pytest.mark.soak
@bounded
async def test_idle_connections() -> None:
    """benchmarks.connections prints their cost, and a row for each number in flight, without errors."""
    arguments = ["--idle=150", "--runs=1", "--duration=0.2", "--warm-up=0.1", "--busy=2", "--in-flight=1,2"]
    out, err, status = await run("connections", *arguments)
    assert (err, status) == ("", 0)
    assert "\n150 idle connections: " in out
    rows = [line.split() for line in out.splitlines() if line.startswith("   2 ")]
    assert [row[:2] for row in rows] == [["2", "1"], ["2", "2"]]
    for row in rows:
        alone, among, times = map(float, row[2:5])
        assert times == pytest.approx(among / alone, rel=0.01, abs=0.01)
        assert row[-1] == "0"


@pytest.mark.soak
@bounded
async def test_idle_connections_with_tls() -> None:
    """With --tls, benchmarks.connections measures only their memory."""
    skip_without_tls()
    out, err, status = await run("connections", "--idle=10", "--tls")
    assert (err, status) == ("", 0)
    assert "\n10 idle connections with TLS: " in out
    assert "busy" not in out


@pytest.mark.parametrize("command", ["idle 127.0.0.1:1 100", "connections --idle=100"])
@bounded
async def test_more_connections_than_files(command: str) -> None:
    """If the limit of open files is too low, the command prints one line about it, before it opens a connection."""
    limited = ["-c", f'ulimit -n 60; exec "$0" -m benchmarks.{command}', sys.executable]
    out, err, status = await getProcessOutputAndValue("/bin/sh", limited, env=ENVIRONMENT, path=str(ROOT))
    assert (out, status) == (b"", 1)
    assert re.fullmatch(rb"\d+ open files are needed, but the hard limit is 60: see ulimit -Hn\n", err)


@bounded
async def test_idle_connections_that_are_not_kept() -> None:
    """benchmarks.idle counts each connection on which the agent sent more than the answers."""

    class Leaving(Canned):
        def send(self, data: bytes) -> None:
            disconnect = encode_frame(FrameType.AGENT_DISCONNECT, Flags.FIN, NO_IDS, Disconnect(0, "normal").encode())
            super().send(data + disconnect if data[4] == FrameType.ACK else data)

    port = reactor.listenTCP(0, Factory.forProtocol(Leaving), interface="127.0.0.1")
    command = [sys.executable, "-m", "benchmarks.idle", f"127.0.0.1:{port.getHost().port}", "3"]
    without_input = ["-c", 'exec "$@" </dev/null', "sh", *command]
    out, err, status = await getProcessOutputAndValue("/bin/sh", without_input, env=ENVIRONMENT, path=str(ROOT))
    await port.stopListening()
    assert (out, err, status) == (b"open 3\nnot kept 3\n", b"", 0)


@pytest.mark.soak
@bounded
async def test_through_haproxy(branch: Branch) -> None:
    """benchmarks.haproxy measures with and without the agent. Its clients find no wrong answer."""
    arguments = ["--runs=1", "--duration=0.2", "--warm-up=0.1", "--clients=2", f"--branch={branch.name}"]
    out, err, status = await run("haproxy", *arguments, **{VARIABLE: str(branch.executable)})
    assert (err, status) == ("", 0)
    without, with_agent, added = [line.split() for line in out.splitlines() if is_row(line)]
    assert without[:3] == [branch.name, "2", "without"]
    assert with_agent[:3] == [branch.name, "2", "with"]
    assert added[0] == "added"
    for row in (without, with_agent):
        assert int(row[3]) > 0
        assert row[-1] == "0"
    assert int(added[1]) == pytest.approx(float(with_agent[4]) - float(without[4]), abs=1)


@pytest.mark.soak
@bounded
async def test_several_agents() -> None:
    """benchmarks.cores loads one agent and two agents, directly and through HAProxy, without errors."""
    # One branch is enough: tests/haproxy/test_scale.py tests the configuration with every branch.
    branch = find_branches()[-1]
    arguments = ["--runs=1", "--duration=0.3", "--work=50", f"--branch={branch.name}"]
    out, err, status = await run("cores", *arguments, **{VARIABLE: str(branch.executable)})
    assert (err, status) == ("", 0)
    assert "a handler takes 50 µs of CPU" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("directly ", "HAProxy "))]
    rows = [row if row[0] == "directly" else row[1:] for row in rows]
    assert [row[:2] for row in rows] == [["directly", "1"], ["directly", "2"], [branch.name, "1"], [branch.name, "2"]]
    for of_one, of_two in (rows[:2], rows[2:]):
        assert of_one[3] == "1.00"
        assert float(of_two[3]) == pytest.approx(int(of_two[2]) / int(of_one[2]), abs=0.02)
        assert len(of_two) == len(of_one) + 1
        assert of_one[-1] == of_two[-1] == "0"


def is_row(line: str) -> bool:
    return bool({"without", "with", "added"}.intersection(line.split()[:3])) and "agent," not in line


class Web(Protocol):
    """A web server. Every third answer has a wrong body, some others a wrong status, and request 40 gets no answer."""

    requests = wrong = closed = 0

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        Web.requests += 1
        status, body = "200 OK", "score 20"
        if Web.requests == 40:
            Web.closed += 1
            self.transport.loseConnection()
            return
        if Web.requests % 3 == 0:
            Web.wrong += 1
            body = "score 2"
        elif Web.requests % 7 == 0:
            status = "503 Unavailable"
        answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        # In two pieces: the client must join them.
        self.transport.write(answer[:-5])
        reactor.callLater(0, self.transport.write, answer[-5:])


@bounded
async def test_the_http_load_checks_its_answers() -> None:
    """A wrong body, a wrong status and a lost connection count as errors and not as answers."""
    port = reactor.listenTCP(0, Factory.forProtocol(Web), interface="127.0.0.1")
    arguments = ["--clients=2", "--duration=0.3", "--warm-up=0", "--expect=score 20"]
    out, err, status = await run("http_load", str(port.getHost().port), *arguments)
    await port.stopListening()
    assert (err, status) == ("", 0)
    report = json.loads(out)
    errors = report["errors"]
    assert Web.requests > 40
    unavailable = sum(n % 7 == 0 and n % 3 > 0 for n in range(1, Web.requests + 1))
    assert errors == {"other body": Web.wrong, "status 503": unavailable, "connection lost": 1}
    assert 0 <= Web.requests - sum(errors.values()) - report["requests"] <= 2


def test_the_best_of_some_runs() -> None:
    """Each figure is the best of all runs. Whether the load was the bottleneck depends on the fastest run."""

    def run(rate: float, busy: float, of_haproxy: float, p50: float) -> dict[str, object]:
        return {
            "requests": rate,
            "requests_per_second": rate,
            "busy": busy,
            "waited": 0.0,
            "latency_us": {"p50": p50, "p99": 2 * p50},
            "errors": {"other body": 1},
            "busy_of": [of_haproxy],
            "waited_of": [0.0],
        }

    figures = Figures([run(10_000, 0.95, 0.5, 7), run(5000, 0.4, 0.2, 5)])
    assert (figures.rate, figures.p50, figures.p99, figures.errors) == (10_000, 5, 10, 2)
    assert figures.cpu == pytest.approx([80, 40])
    assert figures.load_was_bottleneck
    assert not Figures([run(10_000, 0.95, 0.95, 7)]).load_was_bottleneck
    assert not Figures([run(10_000, 0.85, 0.5, 7)]).load_was_bottleneck

"""Tests of the benchmarks: they run, and count wrong answers as errors. No test checks the figures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.utils import getProcessOutputAndValue

from benchmarks import lookups
from benchmarks.agent import HANDLERS, KINDS, machine
from benchmarks.canned import Canned
from benchmarks.delayed_web import DelayedWeb
from benchmarks.haproxy import Figures, haproxy
from benchmarks.lookup_handlers import asking
from benchmarks.lookups import Interpreter, Site, separate_cores
from spoa_twisted import Handlers, SPOAFactory, Variables
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


@bounded
async def test_a_variable_of_an_earlier_request(branch: Branch) -> None:
    """A request for which the agent sets no variable is an error, although an earlier one of the same client got it."""
    handlers = Handlers()
    scores = iter([20, 20])

    @handlers.message("get-ip-reputation")
    def get_ip_reputation(ip: IPv4Address) -> Variables:
        return {"sess.score": score} if (score := next(scores, None)) else {}

    agent = reactor.listenTCP(0, SPOAFactory(handlers), interface="127.0.0.1")
    with haproxy(branch, f"127.0.0.1:{agent.getHost().port}", with_filter=True) as (_, port):
        arguments = ["--clients=1", "--duration=0.1", "--warm-up=0", "--expect=score 20"]
        out, err, status = await run("http_load", str(port), *arguments)
    await agent.stopListening()
    assert (err, status) == ("", 0)
    report = json.loads(out)
    assert report["requests"] == 2
    assert list(report["errors"]) == ["other body"]


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


def a_run(rate: float, busy: float, of_haproxy: float, p50: float, *of_agent: float) -> dict[str, object]:
    """Return a report of benchmarks.http_load with one error."""
    return {
        "requests": rate,
        "requests_per_second": rate,
        "busy": busy,
        "waited": 0.0,
        "latency_us": {"p50": p50, "p99": 2 * p50},
        "errors": {"other body": 1},
        "busy_of": [of_haproxy, *of_agent],
        "waited_of": [0.0] * (1 + len(of_agent)),
    }


def test_the_best_of_some_runs() -> None:
    """Each figure is the best of all runs. Whether the load was the bottleneck depends on the fastest run."""
    figures = Figures([a_run(10_000, 0.95, 0.5, 7), a_run(5000, 0.4, 0.2, 5)])
    assert (figures.rate, figures.p50, figures.p99, figures.errors) == (10_000, 5, 10, 2)
    assert figures.cpu == pytest.approx([80, 40])
    assert figures.load_was_bottleneck
    assert not Figures([a_run(10_000, 0.95, 0.95, 7)]).load_was_bottleneck
    assert not Figures([a_run(10_000, 0.85, 0.5, 7)]).load_was_bottleneck


def test_the_processes_of_an_agent() -> None:
    """The CPU time of an agent is that of all of its processes in one run, not the best of each process."""
    figures = Figures([a_run(1000, 0.1, 0.2, 7, 0.3, 0.1), a_run(1000, 0.1, 0.2, 7, 0.1, 0.4)])
    assert figures.cpu == pytest.approx([100, 200, 400])
    assert Figures([{**a_run(1000, 0.1, 0.2, 7, 0.3), "requests": 0}]).cpu == []


def test_the_delayed_web_server() -> None:
    """It answers a complete request after the delay, wherever the request is split, and then the next one."""
    clock, transport = Clock(), StringTransport()
    web = DelayedWeb(clock, 0.002)
    web.makeConnection(transport)
    for part in (b"GET /127.0.0.1 HTTP/1.1\r\nhost: localhost\r", b"\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        web.dataReceived(part)
        clock.advance(0.0019)
        assert transport.value() == b""
        clock.advance(0.0002)
        answered = transport.value()
        transport.clear()
        assert answered == (b"" if part.endswith(b"t\r") else ANSWER)


#: The answer of benchmarks.delayed_web.
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n20"


@bounded
async def test_a_look_up_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handlers ask for the address over one connection that stays open, and return the score of the answer."""
    requests: list[tuple[Protocol, bytes]] = []

    class Web(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            requests.append((self, data))
            self.transport.write(ANSWER)

    port = reactor.listenTCP(0, Factory.forProtocol(Web), interface="127.0.0.1")
    monkeypatch.setenv("LOOKUP_URL", f"http://127.0.0.1:{port.getHost().port}/")
    haproxy = FakeHAProxy(load(f"{lookups.LOOKUP_HANDLERS}:http"))
    ip = IPv4Address("192.0.2.1")
    assert await haproxy.send("get-ip-reputation", ip=ip) == {"sess.score": 20}
    (nanoseconds,) = (await haproxy.send("time-look-up", ip=ip)).values()
    assert isinstance(nanoseconds, int)
    assert nanoseconds > 0
    await haproxy.stop()
    await port.stopListening()
    (first, sent), (second, again) = requests
    assert first is second
    assert sent.startswith(b"GET /192.0.2.1 HTTP/1.1\r\n")
    assert sent == again


def test_each_look_up_asks_the_service() -> None:
    """A NOTIFY is one look-up. The service is opened before the first one, and closed at the end."""
    calls: list[object] = []

    class Service:
        async def open(self) -> None:
            calls.append("open")

        async def close(self) -> None:
            calls.append("close")

        async def look_up(self, ip: IPv4Address) -> int:
            calls.append(ip)
            return 7

    ip = IPv4Address("192.0.2.1")
    with FakeHAProxy(asking(Service())) as haproxy:
        assert haproxy.notify("get-ip-reputation", ip=ip) == {"sess.score": 7}
        assert list(haproxy.notify("time-look-up", ip=ip)) == ["sess.nanoseconds"]
    assert calls == ["open", ip, ip, "close"]


@pytest.mark.parametrize(
    ("usable", "workers", "expected"),
    [
        ({0, 1}, 1, ({0, 1}, {0, 1})),
        ({0, 1, 2}, 1, ({0, 1, 2}, {0, 1, 2})),
        ({2, 4, 6, 8}, 1, ({2}, {4, 6, 8})),
        ({2, 4, 6, 8}, 2, ({2, 4, 6, 8}, {2, 4, 6, 8})),
        (set(range(8)), 2, ({0, 1}, {2, 3, 4, 5, 6, 7})),
    ],
)
def test_separate_cores(usable: set[int], workers: int, expected: tuple[set[int], set[int]]) -> None:
    """Workers get cores of their own only if HAProxy, the load and the service can have one each too."""
    assert separate_cores(workers, usable) == expected


def test_another_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that the agent's interpreter does not have is named. Without spoa_twisted, there is no benchmark."""
    current = Interpreter(sys.executable, ROOT, str(ROOT))
    assert current.name() == machine()[0]
    monkeypatch.setitem(lookups.PACKAGES, "redis", "not_installed")
    reason = "ModuleNotFoundError: No module named 'not_installed'"
    assert current.problem("redis") == f"the agent's Python cannot import not_installed: {reason}"
    assert current.problem("http") is None
    # -S: without the packages of the environment, and so without this one.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with lookups.interpreter(str(bare)) as python, pytest.raises(SystemExit, match="has no spoa_twisted: Mod"):
        python.name()
    with lookups.interpreter(f"{tmp_path}/none") as python, pytest.raises(SystemExit, match=r"cannot run .*/none: "):
        python.name()


Measure = Callable[..., int]


@pytest.fixture
def measure_lookups(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Runs benchmarks.lookups with reports instead of loads, and returns its exit status."""

    def measure(reports: dict[str, dict[str, Any]], loads: list[tuple[int, int]], *arguments: str) -> int:
        def open_site(self: object, service: str, workers: int, stack: ExitStack) -> Site:
            return Site(list(reports).index(service), [], None, None if service == "none" else 1.5)

        def run_load(site: Site, clients: int, options: object) -> dict[str, Any]:
            loads.append((clients, site.port))
            return list(reports.values())[site.port]

        monkeypatch.setattr(lookups.Benchmark, "_open_site", open_site)
        monkeypatch.setattr(Site, "load", run_load)
        services = ",".join(["none", *(name for name in lookups.SERVICES[1:] if name in reports), "redis"])
        monkeypatch.setattr(sys, "argv", ["lookups", f"--services={services}", *arguments])
        monkeypatch.setitem(lookups.PACKAGES, "redis", "not_installed")
        with pytest.raises(SystemExit) as ended:
            lookups.main()
        return int(ended.value.code or 0)

    return measure


def test_look_ups_by_turns(measure_lookups: Measure, capsys: pytest.CaptureFixture[str]) -> None:
    """All services are loaded by turns. A service that cannot be asked has a row that says why."""
    good = {"none": a_run(2000, 0.1, 0.2, 500), "sync": a_run(1000, 0.1, 0.2, 700, 0.3, 0.1)}
    for report in good.values():
        report["errors"] = {}
    loads: list[tuple[int, int]] = []
    assert measure_lookups(good, loads, "--clients=2,3", "--workers=1", "--runs=2") == 0
    assert loads == [(2, 0), (2, 1), (2, 0), (2, 1), (3, 0), (3, 1), (3, 0), (3, 1)]
    lines = capsys.readouterr().out.splitlines()
    none, sync, redis = [line for line in lines if re.match(r"\w+ +3 ", line)]
    assert none.split() == ["none", "3", "1", "2000", "0.50", "1.00", "-", "100", "50", "10%", "0%", "0"]
    assert sync.split() == ["sync", "3", "1", "1000", "0.70", "1.40", "400", "200", "100", "10%", "0%", "0"]
    assert redis.split(maxsplit=3)[3].startswith("not measured: the agent's Python cannot import not_installed: ")
    assert lines[-1] == "ms of a look-up for a handler, p50 of 200, one at a time: sync 1.50"


def test_wrong_answers_of_look_ups(measure_lookups: Measure, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of any run is listed, and the exit status is 1."""
    reports = {"none": {**a_run(2000, 0.1, 0.2, 500), "errors": {}}, "http": a_run(1000, 0.1, 0.2, 700, 0.3)}
    assert measure_lookups(reports, [], "--clients=2", "--workers=1,2", "--runs=3") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("http ")] == ["3", "3"]
    assert lines[-1] == "note: http, 2 clients: other body: 6 times"


def test_unknown_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lookups", "--services=none,mysql"])
    with pytest.raises(SystemExit, match="2"):
        lookups.main()
    known = "none, sync, redis, postgresql, http"
    assert f"argument --services: mysql: it must be some of {known}\n" in capsys.readouterr().err

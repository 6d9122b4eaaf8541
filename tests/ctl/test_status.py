"""ctl.status: what the status page shows, on a terminal. The agent of these tests is a small web server."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from spoa_twisted.ctl import status as command
from spoa_twisted.ctl.endpoint import DEFAULT_STATUS
from spoa_twisted.ctl.status import fetching
from spoa_twisted.ctl.status.checking import check_status
from spoa_twisted.ctl.status.text import Answer, Style, as_lines, clear, wants_colours
from spoa_twisted.status.report import Status
from tests.programs import LIMIT
from tests.status.examples import EXAMPLES, example, message, problem

from .spoactl import spoactl

reactor: Any = default_reactor


class Served(Resource):
    """Serves ``content`` as /status.json; a status is encoded."""

    isLeaf = True

    def __init__(self, content: Status | bytes) -> None:
        super().__init__()
        self.content = content
        #: The paths of the requests.
        self.paths: list[bytes] = []

    def render_GET(self, request: Request) -> bytes:
        self.paths.append(request.path)
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


def site(resource: Resource) -> Site:
    """Return a site that logs no requests, and has no timer for its connections."""
    made = Site(resource, timeout=None)
    made.noisy = False
    made.log = lambda request: None  # type: ignore[method-assign]
    return made


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A function that serves a status, bytes, a resource or a factory, and returns the endpoint."""
    ports: list[Any] = []

    def serve(served: Any) -> str:
        if isinstance(served, (dict, bytes)):
            served = Served(served)  # type: ignore[arg-type]
        factory = site(served) if isinstance(served, Resource) else served
        path = f"{tmp_path}/{len(ports)}"
        ports.append(reactor.listenUNIX(path, factory))
        return f"unix:{path}"

    yield serve
    for port in ports:
        pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that runs ``spoactl status`` in this process, and returns its output and exit status."""
    monkeypatch.setenv("COLUMNS", "100")

    async def look(*arguments: str) -> tuple[str, int]:
        options = command.parser().parse_intermixed_args(arguments)
        status = 0
        try:
            await command.run(reactor, options)
        except SystemExit as error:
            assert isinstance(error.code, int)
            status = error.code
        return capsys.readouterr().out, status

    return look


@pytest_twisted.ensureDeferred
async def test_everything_of_one_agent(serve: Any, look: Any) -> None:
    """The verdict and what is known about it, the other problems, and the tables of the page."""
    endpoint = serve(example("handler failing"))
    out, status = await look("--status", endpoint)
    assert status == 2
    lines = out.splitlines()
    assert lines[:4] == [
        "CRITICAL  The handler of 'check-token' fails: 62 % of its calls in the last minute",
        "  ConnectionRefusedError: 192.0.2.7:5432: connection refused (tokens.py, line 31, in verify)",
        "  HAProxy gets the variables of on_error. The log has the traceback.",
        "  Still happens: 41,230 times, the first 3 min ago, the last now",
    ]
    assert lines[4].startswith(f"  {endpoint}, ")
    assert "note  The handler of 'check-token' timed out" in lines
    assert (
        "check-token        361/s    62 %   ≤ 25 ms    ≤ 25 ms   83 ms  ok 8,229 · error 13,402 · timeout 24" in lines
    )
    for title in ("Other problems", "Messages of the last minute", "Workers", "HAProxys", "Agent"):
        assert title in lines
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("name", "status"), [("all well", 0), ("idle", 0), ("no HAProxy", 1), ("draining", 1), ("standing still", 2)]
)
@pytest_twisted.ensureDeferred
async def test_the_exit_status_is_that_of_monitoring_plugins(name: str, status: int, serve: Any, look: Any) -> None:
    """0 for ok, 1 for a warning, 2 for critical."""
    assert (await look("--status", serve(example(name))))[1] == status


@pytest_twisted.ensureDeferred
async def test_several_agents(serve: Any, look: Any) -> None:
    """Each has its verdict, its figures and its problems, but neither notes nor tables. The worst one counts."""
    agents = [serve(example("all well")), serve(example("worker lost")), "unix:/nonexistent/status"]
    out, status = await look(*[f"--status={agent}" for agent in agents])
    assert status == 2
    well, lost, silent = [block.splitlines()[0] for block in out.split("\n\n")]
    assert well == "OK  All is well: 1,234 NOTIFYs/s"
    assert lost == "WARNING  Worker 3 has ended and is not replaced yet: it was ended by the signal SIGSEGV"
    assert silent.startswith("CRITICAL  No status: ")
    assert "check-token" not in out
    assert "3 of 4 workers ready." in out
    assert all(agent in out for agent in agents)


@pytest_twisted.ensureDeferred
async def test_a_problem_besides_the_worst_one(serve: Any, look: Any) -> None:
    """Of several agents, all that is worse than a note is shown."""
    status = example("handler failing")
    status["reloads"] = example("reload refused")["reloads"]
    out, _ = await look("--status", serve(status), "--status", serve(example("all well")))
    assert (
        "\nWARNING  The reload failed, the old code still runs: SyntaxError: expected ':' (iprep.py, line 12)\n" in out
    )


@pytest_twisted.ensureDeferred
async def test_json(serve: Any, look: Any) -> None:
    """An agent is a line. One that does not answer has no status."""
    status = example("handler slow")
    agents = [serve(status), "unix:/nonexistent/status"]
    out, _ = await look("--json", *[f"--status={agent}" for agent in agents])
    first, second = map(json.loads, out.splitlines())
    assert {key: first[key] for key in ("agent", "level", "verdict", "status")} == {
        "agent": agents[0],
        "level": "critical",
        "verdict": "The handler of 'check-dnsbl' times out: 18 % of its calls in the last minute",
        "status": status,
    }
    assert first["problems"][0]["text"] == "longer than 1 s"
    assert (second["agent"], second["level"], second["problems"], second["status"]) == (agents[1], "critical", [], None)
    assert second["verdict"].startswith("No status: ")


@pytest_twisted.ensureDeferred
async def test_over_tcp(look: Any) -> None:
    """The path is that of the documentation, whatever the endpoint is."""
    served = Served(example("all well"))
    port = reactor.listenTCP(0, site(served), interface="127.0.0.1")
    out, status = await look("--status", f"tcp:127.0.0.1:{port.getHost().port}")
    await port.stopListening()
    assert (out.splitlines()[0], status) == ("OK  All is well: 1,234 NOTIFYs/s", 0)
    assert served.paths == [b"/status.json"]


class Silent(Resource):
    """Does not answer."""

    isLeaf = True

    def render_GET(self, request: Request) -> int:
        return NOT_DONE_YET


class Stalling(Resource):
    """Answers half of a body."""

    isLeaf = True

    def render_GET(self, request: Request) -> int:
        request.setHeader(b"content-length", b"100")
        request.write(b"{")
        return NOT_DONE_YET


class Breaking(Resource):
    """Closes the connection amid the body."""

    isLeaf = True

    def render_GET(self, request: Request) -> int:
        request.setHeader(b"content-length", b"100")
        request.write(b"{")
        request.loseConnection()
        return NOT_DONE_YET


class Missing(Resource):
    """Knows no path."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        request.setResponseCode(404)
        return b"not found"


class Greeting(Protocol):
    """A server that does not speak HTTP."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"220 smtp.example ESMTP\r\n")


class Closing(Protocol):
    """A server that closes the connection, as an agent does that gets HTTP in place of SPOP."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


STANDS_STILL = "no answer within 0.1 s: does the agent stand still?"
WHICH = "is this the endpoint of --status?"


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        (Silent(), STANDS_STILL),
        (Stalling(), STANDS_STILL),
        (Factory.forProtocol(Protocol), STANDS_STILL),
        (Breaking(), f"the connection was closed without an answer: {WHICH}"),
        (Factory.forProtocol(Closing), f"the connection was closed without an answer: {WHICH}"),
        (Factory.forProtocol(Greeting), f"the answer is no HTTP: {WHICH}"),
        (Missing(), f"HTTP status 404 for /status.json: {WHICH}"),
        (b"<html>", f"the answer is no JSON: {WHICH}"),
        (b"\xff", f"the answer is no JSON: {WHICH}"),
        (b"NaN", "the answer is no JSON: it has NaN"),
        (b"[]", "the answer is not the status of an agent of this version: it is of the type list, not dict"),
        (b"{}", "the answer is not the status of an agent of this version: version is missing"),
        (b"[" * 100_000, f"the answer is no JSON: {WHICH}"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest_twisted.ensureDeferred
async def test_no_status(served: Any, reason: str, serve: Any) -> None:
    """The reason is one line that says what to look at."""
    limit = 0.1 if reason == STANDS_STILL else LIMIT
    answer = await fetching.fetch(reactor, serve(served), limit)
    assert answer.level == "critical"
    assert answer.reason.startswith(reason)
    assert answer.sentence == f"No status: {answer.reason}"


@pytest_twisted.ensureDeferred
async def test_nobody_listens(tmp_path: Path) -> None:
    """The reason says what to do."""
    answer = await fetching.fetch(reactor, f"unix:{tmp_path}/nobody", LIMIT)
    assert answer.reason.endswith("; does an agent run with --status there?")


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_too_long(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the memory."""
    monkeypatch.setattr(fetching, "MAX_LENGTH", 10)
    answer = await fetching.fetch(reactor, serve(b" " * 2**20), LIMIT)
    assert answer.reason == "the answer is longer than 10 bytes, so it is not from an agent"


@pytest_twisted.ensureDeferred
async def test_control_characters_of_an_error_are_escaped(serve: Any) -> None:
    """A key of the answer is part of the error."""
    status: Any = example("all well")
    status["restarts"] = {"\x1b[2J": "x"}
    answer = await fetching.fetch(reactor, serve(json.dumps(status).encode()), LIMIT)
    assert answer.reason.endswith(": restarts.\\x1b[2J is of the type str, not int")


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_status_is_one(name: str) -> None:
    """As it comes out of JSON, with more items than this version knows."""
    status = json.loads(json.dumps(example(name)))
    status["newer"] = status["processes"][0]["newer"] = [None]
    assert check_status(status) == status


def _buckets(status: Any) -> None:
    status["recent"]["notify"]["buckets"].pop()


def _infinite(status: Any) -> None:
    status["time"] = float("inf")


def _large(status: Any) -> None:
    status["totals"]["stalls"] = 2**64


def _bool(status: Any) -> None:
    status["processes"][1]["pid"] = True


def _text(status: Any) -> None:
    status["longest"] = {"m": "1"}


def _less(status: Any) -> None:
    del status["engines"][0]["peer"]


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_buckets, "recent.notify.buckets is 14 long, not 15"),
        (_infinite, "time is too large"),
        (_large, "totals.stalls is too large"),
        (_bool, "processes.1.pid is of the type bool, not int"),
        (_text, "longest.m is of the type str, not float"),
        (_less, "engines.0.peer is missing"),
    ],
)
def test_what_is_no_status(spoil: Callable[[Any], None], error: str) -> None:
    """The error says where."""
    status = example("all well")
    spoil(status)
    with pytest.raises(ValueError) as caught:
        check_status(status)
    assert str(caught.value) == f"the answer is not the status of an agent of this version: {error}"


@pytest.mark.parametrize("width", [1, 30, 40, 60, 80, 100, 300])
@pytest.mark.parametrize("name", EXAMPLES)
def test_lines_fit(name: str, width: int) -> None:
    """Whatever the width of the terminal is, from 30 characters on. No line is wider than 120."""
    status = example(name)
    status["recent"]["messages"]["m" * 64] = message(ok=1, other=3)
    status["engines"] = [*status["engines"], {**example("all well")["engines"][0], "engine": "e" * 300}]
    for answers in ([Answer("unix:/run/spoa/status", status)], [Answer("a", status), Answer("b" * 90, None, "c" * 90)]):
        lines = as_lines(answers, Style(width, False))
        assert max(map(len, lines)) <= max(30, min(120, width))


def test_many_problems() -> None:
    """As on the page, the least important ones are left out."""
    status = example("handler failing")
    status["problems"] += [problem("MessageUnhandled", f"m{number}", "", 1, number, number) for number in range(30)]
    assert "12 more are in /status.json." in as_lines([Answer("a", status)], Style(100, False))


def test_colours() -> None:
    """They add nothing to the text. What is well has none, but for the verdict."""
    status = example("standing still")
    status["reloads"] = example("reload refused")["reloads"]
    answer = Answer("a", status)
    plain = as_lines([answer], Style(100, False))
    coloured = as_lines([answer], Style(100, True))
    assert coloured[0] == f"\x1b[1;31m{plain[0]}\x1b[0m"
    text = "\n".join(coloured)
    for colour in ("1;31", "1;33", "2", "1", "0"):
        assert f"\x1b[{colour}m" in text
        text = text.replace(f"\x1b[{colour}m", "")
    assert text == "\n".join(plain)


class Terminal(io.StringIO):
    """A stdout that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_who_wants_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal does, unless NO_COLOR is set or the terminal has none."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colours(Terminal())
    assert not wants_colours(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colours(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colours(Terminal())


def test_a_terminal_without_the_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have substitutes; other characters are escaped."""
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, "ascii"))
    command._print("p50 ≤ 5 ms · é\n")
    sys.stdout.flush()
    assert file.getvalue() == b"p50 <= 5 ms , \\xe9\n"


class Ended(Exception):
    """The terminal was closed."""


class ShortTerminal(Terminal):
    """A terminal, or a file, that is closed after two looks."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.looks: list[str] = []
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        if len(self.looks) == 2:
            raise Ended
        self.looks += [text] if text else []
        return len(text)


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest_twisted.ensureDeferred
async def test_watch(is_terminal: bool, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, each look replaces the last one, and is no longer than the terminal. A file has all looks."""
    terminal = ShortTerminal(is_terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("NO_COLOR", "1")
    options = command.parser().parse_args(["--status", serve(example("all well")), "--watch", "0.01"])
    with pytest.raises(Ended):
        await command.run(reactor, options)
    first, second = terminal.looks
    assert first == second
    verdict = "OK  All is well: 1,234 NOTIFYs/s"
    if is_terminal:
        assert first.startswith(f"\x1b[H{verdict}\x1b[K\n")
        assert first.endswith("\x1b[J")
        assert first.count("\n") == 9
    else:
        assert first.startswith(f"{verdict}\n")
        assert first.endswith("health checks\n\n")


def test_clear() -> None:
    """Nothing of the last look is left behind a line, or below the last one."""
    assert clear(["a", "b"]) == "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"


@pytest_twisted.ensureDeferred
async def test_as_a_program(serve: Any) -> None:
    """The exit status is that of the process."""
    out, err, status = await spoactl("status", "--status", serve(example("reload refused")))
    assert out.startswith("WARNING  The reload failed, the old code still runs: SyntaxError")
    assert (err, status) == ("", 1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["unix:/run/status"], "argument ENDPOINT: 'unix:/run/status' is an endpoint; write --status unix:/run/status"),
        (["agent"], "argument ENDPOINT: 'agent' is not an option"),
        (["--watch", "0"], "argument --watch: '0' is not a number of seconds above 0"),
        (["--status", "8404"], "argument --status: '8404' is not a Twisted client endpoint: write tcp:127.0.0.1:8404"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is not 2, which is critical for monitoring."""
    with pytest.raises(SystemExit) as caught:
        command.parser().parse_intermixed_args(arguments)
    assert caught.value.code == 3
    assert capsys.readouterr().err.endswith(f"spoactl status: error: {error}\n")


def test_the_default_is_one_agent() -> None:
    """On this machine."""
    assert command.parser().parse_args([]).status is None
    assert DEFAULT_STATUS == "tcp:127.0.0.1:8404"
    assert command.parser().parse_args(["--watch"]).watch == 1

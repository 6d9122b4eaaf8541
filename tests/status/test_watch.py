"""status.watch and status.watch_resource: the next NOTIFYs are seen, and the agent pays nothing when nobody looks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Client as TCPClient
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, SPOAFactory
from spoa_twisted.client import SPOEClient
from spoa_twisted.ctl import watch as watch_command
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.spop.messages import Message
from spoa_twisted.status import watch_resource
from spoa_twisted.status.watch import MAX_WATCHERS, TooManyWatchers, ValuesNotAllowed, Watch, WatchedHandlers
from spoa_twisted.status.watch_resource import WatchResource
from tests.conftest import Logged
from tests.handlers.answers import Recorder, later
from tests.needs import needs_chunks

reactor: Any = default_reactor

SECRET = "swordfish"


class Agent:
    """A factory with a Clock, and the watch of it."""

    def __init__(self, handlers: IHandlers, observer: Recorder | None = None, *, allow_values: bool = False) -> None:
        self.clock = Clock()
        self.factory = SPOAFactory(handlers, reactor=self.clock, observer=observer)
        self.watch = Watch(self.factory, allow_values=allow_values)
        self.seen: list[dict[str, Any]] = []

    def begin(self, count: int = 10, *, values: bool = False) -> Any:
        return self.watch.begin(count, values=values, deliver=self.seen.append)

    def notify(self, *messages: Message) -> Any:
        return later(self.factory.responder.respond(list(messages), 1000, self.clock, 0, self.factory.outcomes))


def is_watched(factory: SPOAFactory) -> bool:
    return isinstance(factory.responder, WatchedHandlers)


CHECK = Message("check", [("token", SECRET), ("ip", None)])


def handlers(answer: Any = None) -> Handlers:
    def check(token: str) -> Any:
        return {"txn.user": token, "sess.old": None} if answer is None else answer

    return Handlers({"check": check, "other": lambda: None})


def test_nothing_is_wrapped_when_nobody_looks() -> None:
    """The agent has its own handlers before and after, and no timer is left."""
    agent = Agent(handlers())
    assert not is_watched(agent.factory)
    first, second = agent.begin(1), agent.begin(2)
    assert is_watched(agent.factory)
    agent.notify(CHECK)
    assert first.is_over
    assert is_watched(agent.factory)
    agent.notify(CHECK)
    assert second.is_over
    assert not is_watched(agent.factory)
    assert agent.clock.getDelayedCalls() == []
    agent.notify(CHECK)
    assert len(agent.seen) == 3


def test_types_are_seen() -> None:
    """The values are not."""
    agent = Agent(handlers())
    agent.begin()
    agent.notify(CHECK)
    assert agent.seen == [
        {
            "time": 0.0,
            "seconds": 0.0,
            "messages": [
                {
                    "name": "check",
                    "arguments": [{"name": "token", "type": "str", "size": 9}, {"name": "ip", "type": "null"}],
                }
            ],
            "actions": [{"set": "txn.user", "type": "str", "size": 9}, {"unset": "sess.old"}],
        }
    ]


def test_values_are_seen_if_allowed() -> None:
    """Without the permission, asking for them is an error, and nothing is wrapped."""
    agent = Agent(handlers())
    with pytest.raises(ValuesNotAllowed):
        agent.begin(values=True)
    assert not is_watched(agent.factory)
    agent = Agent(handlers(), allow_values=True)
    agent.begin()
    agent.begin(values=True)
    agent.notify(CHECK)
    assert SECRET not in json.dumps(agent.seen[0])
    assert agent.seen[1]["messages"][0]["arguments"][0]["value"] == SECRET
    assert agent.seen[1]["actions"][0]["value"] == SECRET


def test_an_answer_that_comes_later() -> None:
    """It is seen when it is there, with its time. A watcher ends after the answers that it waits for."""
    answers: list[Deferred[Any]] = [Deferred(), Deferred()]
    waiting = iter(answers)
    agent = Agent(Handlers({"check": lambda token: next(waiting)}))
    watcher = agent.begin(2)
    results = [agent.notify(CHECK), agent.notify(CHECK)]
    agent.notify()
    agent.clock.advance(2)
    answers[1].callback({"txn.a": 1})
    assert not watcher.is_over
    agent.clock.advance(1)
    answers[0].callback(None)
    assert watcher.is_over
    assert [(seen["seconds"], len(seen["actions"])) for seen in agent.seen] == [(2.0, 1), (3.0, 0)]
    assert [type(result.result) for result in results] == [bytes, bytes]


def test_an_answer_that_is_cancelled() -> None:
    """The connection has ended."""
    agent = Agent(Handlers({"check": lambda token: Deferred()}))
    watcher = agent.begin(1)
    answer = agent.notify(CHECK)
    answer.addErrback(lambda _: None)
    answer.cancel()
    assert agent.seen[0]["unanswered"]
    assert watcher.is_over


def test_an_end_before_the_answer() -> None:
    """Nothing is delivered to a watcher that has gone, and the answer is not touched."""
    answer: Deferred[Any] = Deferred()
    agent = Agent(handlers(answer))
    watcher = agent.begin()
    result = agent.notify(CHECK)
    watcher.end()
    watcher.end()
    answer.callback({"txn.a": 1})
    assert agent.seen == []
    assert isinstance(result.result, bytes)


def test_a_reload() -> None:
    """New handlers are watched at once, and stay when the watch ends."""
    agent = Agent(handlers())
    watcher = agent.begin()
    new: Any = Handlers({"check": lambda token: {"txn.new": True}})
    agent.factory.use(new)
    assert agent.factory.handlers is new
    agent.notify(CHECK)
    assert agent.seen[0]["actions"] == [{"set": "txn.new", "type": "bool"}]
    watcher.end()
    assert not is_watched(agent.factory)
    agent.notify(CHECK)
    assert len(agent.seen) == 1
    assert agent.factory.handlers is new


def test_a_watch_is_no_reload() -> None:
    """An observer does not hear of new handlers, and the log does not begin anew."""
    recorder = Recorder()
    agent = Agent(handlers(), recorder)
    agent.begin().end()
    assert recorder.take() == []


def test_watchers_are_limited() -> None:
    """Each costs time for each NOTIFY."""
    agent = Agent(handlers())
    watchers = [agent.begin() for _ in range(MAX_WATCHERS)]
    with pytest.raises(TooManyWatchers):
        agent.begin()
    watchers[0].end()
    agent.begin()


def test_a_notify_that_is_too_long() -> None:
    """Its names are seen."""
    agent = Agent(handlers())
    agent.begin(1)
    agent.factory.responder.refuse(("check", "x\n"), 1000)
    assert agent.seen == [{"refused": ["check", "x\\n"]}]


def test_what_is_shown_is_bounded() -> None:
    """A peer may send many messages with many arguments."""
    agent = Agent(Handlers(default=lambda message: {f"txn.v{number}": number for number in range(60)}))
    agent.begin()
    many = Message("m" * 1000, [("a" * 1000, "v")] * 255)
    agent.factory.responder.respond([many] * 30, 10**6, agent.clock, 0, agent.factory.outcomes)
    (seen,) = agent.seen
    assert len(seen["messages"]) == 20
    assert seen["more_messages"] == 10
    assert seen["messages"][0]["more_arguments"] == 205
    assert (len(seen["actions"]), seen["more_actions"]) == (50, 10)
    assert len(json.dumps(seen)) < 200_000


@implementer(IHandlers)
class Foreign:
    """Handlers of an application. They return what they should not."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("answer", "key"), [(b"\x09", "error"), (None, "unanswered"), (succeed(b""), "unanswered"), ("x", "unanswered")]
)
def test_handlers_that_return_anything(answer: Any, key: str) -> None:
    """The agent gets what they return."""
    agent = Agent(Foreign(answer))
    agent.begin()
    assert agent.notify(CHECK) is answer
    assert key in agent.seen[0]


def test_handlers_that_raise() -> None:
    """So does the wrapper, and the watcher ends as it should."""
    agent = Agent(Foreign(RuntimeError("boom")))
    watcher = agent.begin(1)
    with pytest.raises(RuntimeError, match="boom"):
        agent.notify(CHECK)
    assert agent.seen[0]["unanswered"]
    assert watcher.is_over


def test_a_watcher_that_fails(logged: Logged) -> None:
    """It ends. The handler's answer is sent, and the fault is in the log."""
    agent = Agent(handlers())

    def fail(seen: object) -> None:
        raise RuntimeError("boom")

    agent.watch.begin(5, values=False, deliver=fail)
    assert isinstance(agent.notify(CHECK), bytes)
    assert not is_watched(agent.factory)
    assert logged.take() == ["critical: a watcher of NOTIFYs has failed: RuntimeError: boom"]


def test_a_message_that_cannot_be_shown(logged: Logged) -> None:
    """The watcher is told so, and the handler's answer is sent."""
    agent = Agent(Handlers({"check": lambda: None}))
    agent.begin()
    assert isinstance(agent.notify(Message("check", [("a", cast("Any", object()))])), bytes)
    assert agent.seen[0]["error"] == "the agent cannot show this NOTIFY: its log says why"
    assert logged.take() == ["critical: a NOTIFY cannot be shown to a watcher: TypeError: a object has no SPOP type"]


# By HTTP, with the command.


class Server:
    """An agent on a Unix socket, and its watch in a site on TCP."""

    def __init__(self, folder: Path, own: IHandlers, *, allow_values: bool) -> None:
        self.factory = SPOAFactory(own)
        self.client = SPOEClient(f"unix:{folder}/agent")
        root = Resource()
        self.watch = Watch(self.factory, allow_values=allow_values)
        root.putChild(b"watch", WatchResource(self.watch, reactor))
        self.ports = [
            reactor.listenUNIX(f"{folder}/agent", self.factory),
            reactor.listenTCP(0, Site(root), interface="127.0.0.1"),
        ]
        self.status = f"tcp:127.0.0.1:{self.ports[1].getHost().port}"

    async def stop(self) -> None:
        await self.client.disconnect()
        for port in self.ports:
            await port.stopListening()

    async def watched(self) -> None:
        """Return when the handlers are wrapped."""
        while not is_watched(self.factory):
            await turn()


def turn() -> Deferred[None]:
    turned: Deferred[None] = Deferred()
    reactor.callLater(0.001, turned.callback, None)
    return turned


@pytest_twisted.async_yield_fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Server]]:
    """Starts a server. The fixture stops it."""
    servers: list[Server] = []

    def start(own: IHandlers, *, allow_values: bool = False) -> Server:
        servers.append(Server(tmp_path, own, allow_values=allow_values))
        return servers[-1]

    yield start
    for server in servers:
        await server.stop()


def run(server: Server, *options: str) -> Deferred[None]:
    arguments = watch_command.parser().parse_intermixed_args(["--status", server.status, *options])
    return Deferred.fromCoroutine(watch_command.run(reactor, arguments))


@needs_chunks
@pytest_twisted.ensureDeferred
async def test_the_command(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the next NOTIFYs, and ends."""
    server = serve(handlers())
    done = run(server, "--count", "2")
    await server.watched()
    await server.client.notify("check", token=SECRET)
    await server.client.notify("other")
    await done
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("  0.000000 after ")
    assert lines[0].endswith(" ms: check(token=str(9)) -> txn.user=str(9) unset sess.old")
    assert lines[1].endswith(" ms: other() -> no variables")
    assert err.splitlines()[1] == "spoactl: 2 NOTIFYs"
    assert not is_watched(server.factory)


@needs_chunks
@pytest_twisted.ensureDeferred
async def test_the_command_with_values(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    """If the agent allows it."""
    server = serve(handlers(), allow_values=True)
    done = run(server, "--count", "1", "--values")
    await server.watched()
    await server.client.notify("check", token=SECRET * 100)
    await done
    shown = (SECRET * 100)[:100]
    assert f"check(token=str:{shown}...(900)) -> txn.user=str:{shown}...(900)" in capsys.readouterr().out


@needs_chunks
@pytest_twisted.ensureDeferred
async def test_the_command_with_json(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    """It ends after a time, too."""
    server = serve(handlers())
    done = run(server, "--seconds", "0.2", "--json")
    await server.watched()
    await server.client.notify("check", token=SECRET)
    await done
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["messages"][0]["name"] == "check"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--values"], "answers 403: the agent shows no values"),
        (["--count", "100000"], "answers 400: count is a number above 0, up to 10000"),
        (["--seconds", "601"], "answers 400: seconds is a number above 0, up to 600"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_agent_refuses(options: list[str], error: str, serve: Callable[..., Server]) -> None:
    """The error has its reason."""
    server = serve(handlers())
    with pytest.raises(ValueError, match=error):
        await run(server, *options)
    assert not is_watched(server.factory)


@pytest_twisted.ensureDeferred
async def test_the_client_goes(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    """The wrapper goes with it."""
    server = serve(handlers())
    done = run(server)
    await server.watched()
    while "watching" not in capsys.readouterr().err:
        await turn()
    (channel,) = [reader for reader in reactor.getReaders() if is_client_of(reader, server)]
    channel.abortConnection()
    with pytest.raises(Exception, match="has closed the connection before the end"):
        await done
    while is_watched(server.factory):
        await turn()


def is_client_of(reader: Any, server: Server) -> bool:
    return isinstance(reader, TCPClient) and reader.getPeer().port == server.ports[1].getHost().port


class Requested:
    """What WatchResource needs of a request."""

    def __init__(self, method: bytes = b"GET", host: str = "127.0.0.1", name: bytes = b"localhost") -> None:
        self.method = method
        self.args: dict[bytes, list[bytes]] = {}
        self.code = 200
        self.written: list[bytes] = []
        self.finished = False
        self.headers: dict[bytes, bytes] = {}
        self._host = host
        self.channel = None
        self._name = name

    def getClientAddress(self) -> Any:
        return type("Address", (), {"host": self._host})()

    def getRequestHostname(self) -> bytes:
        return self._name

    def setResponseCode(self, code: int) -> None:
        self.code = code

    def setHeader(self, name: bytes, value: bytes) -> None:
        self.headers[name] = value

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        pass

    def notifyFinish(self) -> Deferred[None]:
        return Deferred()

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Requested(method=b"POST"), 405),
        (Requested(host="192.0.2.1"), 403),
        (Requested(name=b"evil.example"), 403),
        (Requested(name=b"localhost.evil.example"), 403),
        (Requested(host="::ffff:192.0.2.1"), 403),
    ],
    ids=["POST", "another machine", "a name of an attacker", "a longer name", "IPv4 in IPv6"],
)
def test_who_may_not_watch(request_: Requested, code: int) -> None:
    """Clients on other machines are refused: the answers would show them the requests of users."""
    agent = Agent(handlers())
    WatchResource(agent.watch, agent.clock).render(request_)  # type: ignore[arg-type]
    assert request_.code == code
    # Not the version of Twisted.
    assert request_.headers[b"server"] == b"spoa_twisted"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_a_client_that_does_not_read(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some lines may wait for it. The others are dropped, and counted."""
    monkeypatch.setattr(watch_resource, "MAX_UNREAD", 1)
    agent = Agent(handlers())
    request = Requested(host=host, name=b"127.0.0.1")
    request.args = {b"count": [b"6"]}
    WatchResource(agent.watch, agent.clock).render(request)  # type: ignore[arg-type]
    request.producer.pauseProducing()
    for _ in range(3):
        agent.notify(CHECK)
    # With workers, one of them may have dropped some before.
    (watcher,) = agent.watch._watchers
    assert watcher.take()
    watcher.answered({"dropped": 4})
    assert len(request.written) == 2
    request.producer.resumeProducing()
    for _ in range(2):
        agent.notify(CHECK)
    lines = [json.loads(line) for line in request.written[1:]]
    assert ["dropped" in line for line in lines] == [False, True, False, False]
    assert lines[1] == {"dropped": 6}
    assert request.finished
    assert agent.clock.getDelayedCalls() == []
    request.producer.stopProducing()


def test_a_query_that_is_wrong() -> None:
    """The error says what is expected."""
    agent = Agent(handlers())
    request = Requested()
    request.args = {b"count": [b"many"]}
    body = WatchResource(agent.watch, agent.clock).render(request)  # type: ignore[arg-type]
    assert (request.code, body) == (400, b"count is a number above 0, up to 10000\n")


def test_a_client_that_goes() -> None:
    """Nothing is written to it any more."""
    agent = Agent(handlers())
    request = Requested()
    WatchResource(agent.watch, agent.clock).render(request)  # type: ignore[arg-type]
    request.producer.stopProducing()
    assert not is_watched(agent.factory)
    assert request.written == [b""]
    assert not request.finished


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        ({"dropped": 3}, "... 3 NOTIFYs were dropped: the output is slower than the traffic"),
        (
            {"dropped": 3, "worker": 2},
            "... 3 NOTIFYs were dropped by worker 2: the output is slower than the traffic",
        ),
        ({"refused": ["a", "b"]}, "a NOTIFY that is too long was refused: a, b"),
        ({"refused": ["a"], "worker": 2}, "a NOTIFY that is too long was refused by worker 2: a"),
        ({"time": 2.0, "actions": [], "worker": 2}, "  0.000000 after 0 ms by worker 2: no messages -> no variables"),
        ({"error": "boom"}, "  0.000000 after 0 ms: no messages -> error: boom"),
        (
            {"time": 2.5, "seconds": 0.001, "messages": [], "more_messages": 4, "unanswered": True},
            "  0.500000 after 1 ms: and 4 more -> no answer: the connection has ended, or the handlers have failed",
        ),
        (
            {
                "messages": [{"name": "m", "arguments": [{"name": "a", "type": "bool", "value": True}]}],
                "actions": [{"unset": "txn.a"}],
                "more_actions": 2,
            },
            "  0.000000 after 0 ms: m(a=bool:true) -> unset txn.a and 2 more",
        ),
        (
            {"messages": [{"name": "m", "arguments": [], "more_arguments": 5}], "actions": []},
            "  0.000000 after 0 ms: m(and 5 more) -> no variables",
        ),
    ],
)
def test_the_lines_of_the_command(seen: dict[str, Any], line: str) -> None:
    """What is not an ordinary answer is said in words."""
    assert watch_command.show_seen(seen, 2.0) == line


@pytest_twisted.ensureDeferred
async def test_what_answers_is_no_status(tmp_path: Path) -> None:
    """The error names the endpoint."""
    port = reactor.listenUNIX(f"{tmp_path}/closing", Factory.forProtocol(Closing))
    options = watch_command.parser().parse_args(["--status", f"unix:{tmp_path}/closing"])
    with pytest.raises(ValueError, match=f"unix:{tmp_path}/closing has closed the connection without an answer"):
        await watch_command.run(reactor, options)
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_nothing_listens(tmp_path: Path) -> None:
    """The error names the endpoint, and the option that the agent may lack."""
    options = watch_command.parser().parse_args(["--status", f"unix:{tmp_path}/none"])
    with pytest.raises(ValueError, match=f"^unix:{tmp_path}/none: .*; does an agent run with --status there") as raised:
        await watch_command.run(reactor, options)
    assert "\n" not in str(raised.value)


class Closing(Protocol):
    """A server that closes the connection at the first byte."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

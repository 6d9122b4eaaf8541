"""Real HAProxy, old and new: ``spoactl explain`` names the true cause of each error that a test provokes.

The tests have the mark soak, because most errors come only after a timeout of HAProxy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import Factory, Protocol

from spoa_twisted import Handlers
from spoa_twisted.haproxy.explanations.meaning import Generation
from spoa_twisted.haproxy.explanations.search import Found, search
from spoa_twisted.haproxy.explanations.statuses import explain_status
from spoa_twisted.spop.errors import STATUS_WORDS
from spoa_twisted.spop.frames import NO_IDS, AgentHello, Flags, FrameType, encode_frame
from spoa_twisted.spop.typeddata import UInt32, encode_kv_list
from tests.ctl.agents import Agent, ack, agent_disconnect
from tests.haproxy.branches import Branch
from tests.haproxy.conftest import Serve, StartHAProxy
from tests.haproxy.harness import bounded

pytestmark = pytest.mark.soak

reactor: Any = default_reactor

LOG = "log stdout format raw local0"

#: No program listens on tcpmux. A free port could be taken by another test.
UNUSED_PORT = "1"

EVENT = """\
    messages m
    log global
{more}
spoe-message m
    args a={argument}
    event on-frontend-http-request
"""

GROUP = """\
    groups g
    log global

spoe-message m
    args a=str(x)

spoe-group g
    messages m
"""

ANSWER = "    http-request return status 200\n"

Answer = Callable[[bytes, int], bytes | None]


def agent_hello(*items: tuple[str, Any], flags: int = 1) -> bytes:
    return encode_frame(FrameType.AGENT_HELLO, flags, NO_IDS, encode_kv_list(items))


def silent(ids: bytes, count: int) -> bytes:
    return b""


def closing(ids: bytes, count: int) -> None:
    return None


def good(ids: bytes, count: int) -> bytes:
    return ack(ids)


@dataclass(frozen=True)
class Case:
    """An error, and a part of the text of its true cause."""

    name: str
    #: The status and the cause of HAProxy <= 3.0 and of HAProxy >= 3.1; ``None`` if it sees no error.
    old: tuple[int, str] | None
    new: tuple[int, str] | None
    answer: Answer = silent
    #: Lines of the spoe-agent section.
    spoe: str = "    timeout processing 1s"
    argument: str = "str(x)"
    hello: bytes | None = None
    #: The server, in place of the agent. %d becomes a port on which nothing listens.
    server: str | dict[str, str] | None = None
    backend: str = ""
    capabilities: str = "pipelining fragmentation"


LONG = f"str({'a' * 400})"

CASES = [
    Case("slow", (1, "handler is slow"), (1, "handler is slow")),
    Case("another stream-id", (1, "sends no ACK"), (1, "wrong stream-id"), answer=lambda ids, count: ack(b"\x63\x63")),
    Case("nothing listens", (1, "nothing listens"), (1, "nothing listens"), server="127.0.0.1:%d"),
    Case(
        "nothing listens, and the retries are used up",
        (1, "nothing listens"),
        (257, "Nothing listens"),
        server="127.0.0.1:%d",
        spoe="    timeout processing 4s",
    ),
    Case("no HELLO", (1, "HELLOs failed"), (1, "refused the other's HELLO"), hello=b""),
    Case("HELLO refused", (1, "HELLOs failed"), (1, "HELLO"), hello=agent_disconnect(8, "no")),
    Case("wrong version", (1, "HELLOs failed"), (1, "HELLO"), hello=agent_hello(("version", "1.0"))),
    Case("no server", (2, "no server line"), (257, "no server line"), server={}),
    Case("disabled server", (2, "all are disabled"), (257, "No server"), server="127.0.0.1:9 disabled"),
    Case(
        "too long without fragments",
        (3, "no option send-frag-payload"),
        (3, '"max-frame-size"'),
        spoe="    max-frame-size 256\n    no option send-frag-payload",
        argument=LONG,
    ),
    Case("too long", None, (3, "An argument is long"), good, spoe="    max-frame-size 256", argument=LONG),
    Case(
        "idle",
        (256, '"timeout idle"'),
        (1, "handler is slow"),
        spoe="    timeout idle 300ms\n    timeout processing 1s",
    ),
    Case("ACK without FIN", (256, "without the flag FIN"), (1, "no flag FIN"), lambda ids, count: ack(ids, flags=0)),
    Case("closed", (257, "closed the connection"), (257, "was killed"), closing),
    Case("server timeout", (257, '"timeout server"'), (257, '"timeout server"'), backend="timeout server 300ms"),
    Case(
        "smaller frames",
        (259, "lowered max-frame-size"),
        (259, "lower max-frame-size"),
        good,
        hello=encode_frame(FrameType.AGENT_HELLO, 1, NO_IDS, AgentHello(max_frame_size=256).encode()),
        argument=LONG,
    ),
    Case(
        "ACK too long",
        (259, "ACK was too long"),
        (1, "too long"),
        lambda ids, count: encode_frame(FrameType.ACK, 1, ids, bytes(20_000)),
    ),
    Case(
        "no SPOP",
        (259, "no SPOP agent"),
        (1, "could not read the ACK"),
        lambda ids, count: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ),
    Case(
        "closed with async",
        (1, "The connection ended"),
        (257, "was killed"),
        closing,
        capabilities="pipelining async fragmentation",
    ),
]


def explained(line: str, branch: Branch) -> Found:
    """Return the explanation of a line of ``branch``."""
    (found,) = search(line)
    assert [meaning.of for meaning in found.meanings] == [generation_of(branch).value]
    return found


def generation_of(branch: Branch) -> Generation:
    return Generation.NEW if branch.rewritten else Generation.OLD


def causes(found: Found) -> str:
    return " ".join([cause.text for cause in found.meanings[0].explanation.causes])


@pytest.fixture
def listen() -> Iterator[Callable[[Factory], str]]:
    """A function that listens with a factory, and returns the address in the syntax of HAProxy's ``server`` line."""
    ports = []

    def listen(factory: Factory) -> str:
        ports.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))
        return f"127.0.0.1:{ports[-1].getHost().port}"

    yield listen
    for port in ports:
        port.stopListening()


def server_of(case: Case, listen: Callable[[Factory], str]) -> str | dict[str, str]:
    if isinstance(case.server, str) and "%d" in case.server:
        return case.server.replace("%d", UNUSED_PORT)
    if case.server is not None:
        return case.server
    agent = Agent(case.answer)
    agent.hello = case.hello
    agent.capabilities = frozenset(case.capabilities.split())
    return listen(agent)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@bounded
async def test_an_error(case: Case, branch: Branch, listen: Any, start_haproxy: StartHAProxy) -> None:
    """The line of HAProxy's log has the status, and the explanation that fits its times names the cause."""
    haproxy = start_haproxy(
        server_of(case, listen),
        spoe=EVENT.format(more=case.spoe, argument=case.argument),
        web=ANSWER,
        process=LOG,
        backend=case.backend,
    )
    response = await haproxy.get()
    found = explained((await haproxy.said(r"SPOE: \[test\] .*"))[0], branch)
    expected = case.new if branch.rewritten else case.old
    if expected is None:
        assert (response.error, found.facts["status"]) == (None, 0)
    else:
        status, cause = expected
        assert (response.error, found.facts["status"]) == (str(status), status)
        assert cause in causes(found)


@pytest.mark.parametrize("code", [*STATUS_WORDS, 200])
@bounded
async def test_agent_disconnect(code: int, branch: Branch, listen: Any, start_haproxy: StartHAProxy) -> None:
    """The status is 256 + the code, but HAProxy >= 3.1 has 257 for the code 0."""
    haproxy = start_haproxy(
        listen(Agent(lambda ids, count: agent_disconnect(code, "no"))),
        spoe=EVENT.format(more="", argument="str(x)"),
        web=ANSWER,
        process=LOG,
    )
    await haproxy.get()
    found = explained((await haproxy.said(r"SPOE: \[test\] .*"))[0], branch)
    assert found.facts["status"] == 256 + (1 if branch.rewritten and code == 0 else code)
    text = found.meanings[0].explanation.text + causes(found)
    assert "agent" in text.lower()
    if code not in {0, 1, 3, 4}:
        assert f"AGENT-DISCONNECT {code}, " in text


@bounded
async def test_a_group_that_is_cut_off(branch: Branch, listen: Any, start_haproxy: StartHAProxy) -> None:
    """HAProxy logs no line, and sets the variable."""
    haproxy = start_haproxy(
        listen(Agent(silent)),
        spoe=GROUP,
        web="    tcp-request inspect-delay 300ms\n    tcp-request content send-spoe-group test g\n" + ANSWER,
        process=LOG,
    )
    response = await haproxy.get()
    assert response.error == ("4" if branch.rewritten else "5")
    explanation = explain_status(int(response.error), generation_of(branch))
    assert explanation is not None
    assert "inspect-delay" in explanation.causes[0].text
    assert "no line" in explanation.text
    assert "SPOE: [" not in haproxy.output


class Aborting(Protocol):
    """An agent that stops a NOTIFY at its first fragment."""

    def __init__(self) -> None:
        self._frames = 0

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self._frames += 1
        if self._frames == 1:
            hello = AgentHello(max_frame_size=256, capabilities=frozenset({"pipelining", "fragmentation"}))
            self.transport.write(encode_frame(FrameType.AGENT_HELLO, 1, NO_IDS, hello.encode()))
        elif self._frames == 2:
            # 4 bytes of the length, 1 of the type, 4 of the flags, and the ids.
            self.transport.write(ack(data[9:11], flags=Flags.FIN | Flags.ABORT))


@bounded
async def test_a_payload_that_the_agent_refuses(branch: Branch, listen: Any, start_haproxy: StartHAProxy) -> None:
    """HAProxy <= 3.0 sends fragments, and the agent stops them by an ACK with ABORT."""
    haproxy = start_haproxy(
        listen(Factory.forProtocol(Aborting)),
        spoe=EVENT.format(more="    max-frame-size 256", argument="req.body"),
        web="    option http-buffer-request\n" + ANSWER,
        # So large that the ACK comes before the last fragment is written.
        process=f"{LOG}\n    tune.bufsize 2000000",
    )
    response = await haproxy.post("/", b"a" * 1_000_000)
    found = explained((await haproxy.said(r"SPOE: \[test\] .*"))[0], branch)
    assert found.facts["status"] == int(response.error or 0) == (3 if branch.rewritten else 4)
    assert ("argument is long" if branch.rewritten else "longer than the agent accepts") in causes(found)


@bounded
async def test_a_payload_that_spoa_twisted_refuses(
    branch: Branch, serve: Serve, start_haproxy: StartHAProxy, logged: Any
) -> None:
    """With HAProxy <= 3.0 this is no error: the variables of on_error are set."""
    handlers = Handlers()
    handlers.message("m", on_error={"txn.long": True})(lambda a: None)
    haproxy = start_haproxy(
        serve(handlers, max_payload_size=2000),
        spoe=EVENT.format(more="    max-frame-size 256", argument="hdr(long)"),
        web=ANSWER,
        process=LOG,
    )
    response = await haproxy.get(long="a" * 12_000)
    found = explained((await haproxy.said(r"SPOE: \[test\] .*"))[0], branch)
    if branch.rewritten:
        assert found.facts["status"] == 3
    else:
        assert found.facts["status"] == 0
        assert "refused a NOTIFY of 'm'" in logged.take()[0]
    assert response.error == ("3" if branch.rewritten else None)


@bounded
async def test_the_counter_of_errors(branch: Branch, listen: Any, start_haproxy: StartHAProxy) -> None:
    """HAProxy 3.2.26 and >= 3.3 count NOTIFYs that ended well as errors. Older ones do not."""
    haproxy = start_haproxy(listen(Agent(good)), spoe=EVENT.format(more="", argument="str(x)"), web=ANSWER, process=LOG)
    for _ in range(3):
        await haproxy.get()
    # Not the times of HAProxy <= 3.0, of which the second may be 3 ms: 0/3/0/0/3.
    line = (await haproxy.said(r"SPOE: \[test\] .* [0-9]+/3(?![/0-9])"))[0]
    found = explained(line, branch)
    assert found.facts["status"] == 0
    assert found.facts["total"] == {"errors": 2 if branch.rewritten else 0, "notifies": 3}


class Server(Protocol):
    """A server that answers with fixed bytes, or closes."""

    factory: Any

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if self.factory.answer is None:
            self.transport.loseConnection()
        else:
            self.transport.write(self.factory.answer)


VERSION, SIZE, CAPABILITIES = ("version", "2.0"), ("max-frame-size", UInt32(16380)), ("capabilities", "")
REFUSED = ("L7RSP", "AGENT-DISCONNECT")

#: The bytes of a server, and the result of its health check with a part of the cause: <= 3.0 and >= 3.1.
CHECKS: dict[str, tuple[bytes | None, tuple[str, str] | None, tuple[str, str]]] = {
    "silent": (b"", ("L7TOUT", "hangs"), ("L7TOUT", "hangs")),
    "closes": (None, ("L7RSP", "is stopping"), ("L7RSP", "is stopping")),
    "web server": (b"HTTP/1.1 400 Bad Request\r\n\r\n", ("L7TOUT", "no SPOP agent"), ("L7RSP", "not use SPOP")),
    "disconnect 0": (agent_disconnect(0, "no"), ("L7RSP", "is stopping"), REFUSED),
    "disconnect 3": (agent_disconnect(3, "no"), ("L7RSP", "too long"), REFUSED),
    "disconnect 200": (agent_disconnect(200, "no"), ("L7RSP", "does not list"), REFUSED),
    "no version": (agent_hello(SIZE, CAPABILITIES), ("L7RSP", "item version"), ("L7RSP", "item version")),
    "no size": (agent_hello(VERSION, CAPABILITIES), ("L7RSP", "max-frame-size"), ("L7RSP", "max-frame-size")),
    "no capabilities": (agent_hello(VERSION, SIZE), None, ("L7RSP", "item capabilities")),
    "version 1.0": (
        agent_hello(("version", "1.0"), SIZE, CAPABILITIES),
        ("L7RSP", "another version"),
        ("L7RSP", "another version"),
    ),
    "large frames": (
        agent_hello(VERSION, ("max-frame-size", UInt32(100_000)), CAPABILITIES),
        ("L7RSP", "fixed size"),
        ("L7RSP", "fixed size"),
    ),
    "nothing listens": (b"unused", ("L4CON", "does not run"), ("L4CON", "does not run")),
}


@pytest.mark.parametrize("name", CHECKS)
@bounded
async def test_a_health_check(name: str, branch: Branch, listen: Any, start_haproxy: StartHAProxy) -> None:
    """The line about a failed check, the line about the server, and the one about the backend are explained."""
    answer, old, new = CHECKS[name]
    expected = new if branch.rewritten else old
    # A server that answers has time for it.
    limit = "400ms" if expected and expected[0] == "L7TOUT" else "30s"
    if name == "nothing listens":
        server = f"127.0.0.1:{UNUSED_PORT}"
    else:
        factory = Factory.forProtocol(Server)
        factory.answer = answer  # type: ignore[attr-defined]
        server = listen(factory)
    haproxy = start_haproxy(
        f"{server} check inter 100ms fall 1 rise 1",
        spoe=EVENT.format(more="", argument="str(x)"),
        web=ANSWER,
        process=LOG,
        backend=f"option spop-check\n    timeout check {limit}\n    option log-health-checks",
    )
    if expected is None:
        (found,) = search((await haproxy.said("Health check for server agents/agent succeeded.*"))[0])
        assert found.facts["check"] == "L7OK"
        return
    result, cause = expected
    (failed,) = search((await haproxy.said("Health check for server agents/agent failed.*"))[0])
    assert failed.facts["server"] == "agents/agent"
    assert failed.facts["check"] == result
    assert cause in causes(failed)
    (down,) = search((await haproxy.said("Server agents/agent is DOWN.*"))[0])
    assert down.meanings[0].of == "server DOWN"
    (none,) = search((await haproxy.said("backend 'agents' has no server available!"))[0])
    assert none.facts == {"backend": "agents"}


@bounded
async def test_a_server_that_comes_back(
    branch: Branch, tmp_path: Path, serve: Serve, start_haproxy: StartHAProxy
) -> None:
    """Without option log-health-checks, the line about the server has the reason."""
    haproxy = start_haproxy(
        f"unix@{tmp_path}/agent check inter 100ms fall 1 rise 1",
        spoe=EVENT.format(more="", argument="str(x)"),
        web=ANSWER,
        process=LOG,
        backend="option spop-check\n    timeout check 400ms",
    )
    (down,) = search((await haproxy.said("Server agents/agent is DOWN.*"))[0])
    assert down.facts["server"] == "agents/agent"
    assert down.facts["check"] == "SOCKERR"
    assert "unix socket" in causes(down)
    serve(Handlers({}), f"unix:{tmp_path}/agent")
    (up,) = search((await haproxy.said("Server agents/agent is UP.*"))[0])
    assert up.facts["server"] == "agents/agent"
    assert up.meanings[0].explanation.text.endswith("This is no error.")

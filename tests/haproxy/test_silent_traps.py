"""What HAProxy accepts, but does not do as it is written: the reasons of ``spoactl check`` for order and spoe.conf.

Each test shows what HAProxy does with the line that a check finds, and with the line that the check's page proposes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from spoa_twisted import Handlers, Message, Value, Variables

from .branches import Branch
from .conftest import Serve, StartHAProxy
from .harness import Client, Response, as_server, bounded, listening_socket

# Each test starts one HAProxy or two, some wait for a timeout of HAProxy, and the default run has tests enough.
pytestmark = pytest.mark.soak


class Agent:
    """An agent that keeps each message, and sets the variables that belong to its name."""

    def __init__(self, answers: Mapping[str, Variables] = {}) -> None:
        self.messages: list[Message] = []
        self.handlers = Handlers()
        self.handlers.default(self._answer)
        self._answers = answers
        self._waiting: dict[str, Deferred[None]] = {}

    @property
    def names(self) -> list[str]:
        """The names of the messages, in the order in which they came."""
        return [message.name for message in self.messages]

    def arguments(self, name: str) -> dict[str, Value]:
        """Return the arguments of the only message of this name."""
        (message,) = [message for message in self.messages if message.name == name]
        return dict(message)

    async def asked(self, name: str) -> None:
        """Wait for a message of this name."""
        if name not in self.names:
            self._waiting[name] = Deferred()
            await self._waiting[name]

    def _answer(self, message: Message) -> Variables | Deferred[Variables]:
        self.messages.append(message)
        if message.name in self._waiting:
            self._waiting.pop(message.name).callback(None)
        if message.name == "never-answered":
            return Deferred(lambda cancelled: None)
        return self._answers.get(message.name, {})


def headers(*variables: str) -> str:
    """Return rules that show each variable that is set, in a header of its name with ``-`` in place of ``_``."""
    rule = "    http-after-response set-header {} %[var({})] if {{ var({}) -m found }}\n"
    return "".join(rule.format(name.replace("_", "-"), name, name) for name in variables)


def message(name: str, event: str = "", arguments: str = "") -> str:
    """Return a section spoe-message."""
    lines = [
        f"spoe-message {name}",
        *([f"args {arguments}"] if arguments else []),
        *([f"event {event}"] if event else []),
    ]
    return "\n" + "\n    ".join(lines) + "\n"


def two_events(name: str, *conditions: str) -> str:
    """Return a section spoe-message with two events. Each may have a condition."""
    first, second = [f" if {condition}" for condition in conditions] + [""] * (2 - len(conditions))
    return message(name, f"on-client-session{first}") + f"    event {HTTP_REQUEST}{second}\n"


def group(name: str, *messages: str) -> str:
    """Return a section spoe-group."""
    return f"\nspoe-group {name}\n    messages {' '.join(messages)}\n"


HTTP_REQUEST = "on-frontend-http-request"

#: Bytes that the header and the body of a request share: tune.bufsize without tune.maxrewrite, by default.
ROOM = 16384 - 1024

#: Words for spoe.conf: HAProxy gives the agent up after a tenth of a second.
SHORT = "    timeout processing 100ms\n"


@bounded
async def test_messages_and_groups(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """HAProxy ignores unknown words, the first of two events, and each section that nothing names.

    The last condition of two events counts, even if the last event has none.
    """
    agent = Agent()
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages unknown-words only-first last-holds first-holds control both\n    groups sent twice never\n"
        "\nspoe-message unknown-words\n    arg ip=src\n    ACL local src 127.0.0.1\n"
        f"    event {HTTP_REQUEST}\nglobal\n    maxconn 10\n"
        + two_events("only-first", "{ src 192.0.2.1 }")
        + two_events("last-holds", "{ src 192.0.2.1 }", "{ src 127.0.0.0/8 }")
        + two_events("first-holds", "{ src 127.0.0.0/8 }", "{ src 192.0.2.1 }")
        + message("control", HTTP_REQUEST)
        + message("both", HTTP_REQUEST)
        + message("never-named", HTTP_REQUEST)
        + message("in-group", "on-http-response if { method GET }")
        + message("in-group-with-condition", "on-http-response if { method POST }")
        + message("in-unsent-group")
        + group("sent", "in-group", "in-group-with-condition")
        + group("twice", "both")
        + group("never", "in-unsent-group")
        + "\n[other]\nspoe-agent lost\n    messages outside\n"
        + message("outside", HTTP_REQUEST),
        web="    http-request send-spoe-group test sent\n    http-request send-spoe-group test twice\n"
        "    http-request return status 200\n",
    )

    response = await haproxy.get()

    assert response.error is None
    assert agent.arguments("unknown-words") == {}
    assert agent.names == ["unknown-words", "last-holds", "control", "both", "in-group", "both"]


@bounded
async def test_names_with_a_scope(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """HAProxy puts ``txn.`` and the prefix before each name that an option makes, even before ``txn.``."""
    agent = Agent()
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe=f"{SHORT}    messages never-answered\n    option set-on-error txn.failed\n"
        "    option set-process-time txn.ms\n" + message("never-answered", HTTP_REQUEST),
        web=headers("txn.spoa.failed", "txn.spoa.ms", "txn.spoa.txn.failed", "txn.spoa.txn.ms")
        + "    http-request return status 200\n",
    )

    response = await haproxy.get()

    assert response["txn.spoa.failed"] is response["txn.spoa.ms"] is None
    assert response["txn.spoa.txn.failed"] == "1"
    assert response["txn.spoa.txn.ms"] is not None


@bounded
async def test_a_handler_sets_the_variable_of_set_on_error(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """A rule cannot tell the handler's value from an error."""
    agent = Agent({"lookup": {"txn.error": 0}})
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages lookup\n" + message("lookup", HTTP_REQUEST),
        web="    http-request deny deny_status 503 if { var(txn.spoa.error) -m found }\n"
        "    http-request return status 200\n",
    )
    response = await haproxy.get()
    assert (response.status, response.error) == (503, "0")


@bounded
async def test_maxerrrate(branch: Branch, start_haproxy: StartHAProxy) -> None:
    """HAProxy <= 3.0 asks no agent after too many errors, and sets no error. HAProxy >= 3.1 ignores the setting."""
    with listening_socket() as silent:
        haproxy = start_haproxy(
            f"127.0.0.1:{silent.getsockname()[1]}",
            spoe=f"{SHORT}    messages lookup\n    maxerrrate 2\n" + message("lookup", HTTP_REQUEST),
            web="    http-request return status 200\n",
        )
        errors = [(await haproxy.get()).error for _ in range(4)]
    assert errors == (["1"] * 4 if branch.rewritten else ["1", "1", None, None])


@bounded
async def test_two_messages_of_one_event(serve: Serve, start_haproxy: StartHAProxy, tmp_path: Path) -> None:
    """HAProxy computes the arguments of all messages of an event before it sends the frame.

    With two engines, it waits for the answer of the first filter's engine before it asks the second one.
    """
    agent = Agent({"first": {"txn.x": 1, "sess.x": 1}, "fourth": {"txn.y": 1}})
    arguments = "txn=var(txn.spoa.x) sess=var(sess.spoa.x) other=var(txn.after.y)"
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages first second third\n"
        + message("first", HTTP_REQUEST)
        + message("second", HTTP_REQUEST, arguments)
        + message("third", "on-backend-http-request", arguments)
        + "\n[after]\nspoe-agent after\n    use-backend agents\n    timeout processing 15s\n    messages fourth\n"
        "    timeout hello 10s\n    timeout idle 30s\n" + message("fourth", HTTP_REQUEST, arguments),
        web="    filter spoe engine after config spoe.conf\n    default_backend origin\n",
        options=["-C", str(tmp_path / "haproxy1")],
    )
    assert (await haproxy.get()).error is None
    assert agent.arguments("second") == {"txn": None, "sess": None, "other": None}
    assert agent.arguments("fourth") == {"txn": 1, "sess": 1, "other": None}
    assert agent.arguments("third") == {"txn": 1, "sess": 1, "other": 1}
    assert agent.names == ["first", "second", "fourth", "third"]


@pytest.mark.parametrize("where", ["event", "group"])
@pytest.mark.parametrize("order", ["first second", "second first"])
@bounded
async def test_two_handlers_set_one_variable(serve: Serve, start_haproxy: StartHAProxy, where: str, order: str) -> None:
    """The last one wins, so a request passes that the other one refuses. With a variable each, both can refuse."""
    agent = Agent(
        {"first": {"txn.allowed": False, "txn.first": False}, "second": {"txn.allowed": True, "txn.second": True}}
    )
    event = HTTP_REQUEST if where == "event" else ""
    send = "    http-request send-spoe-group test both\n" if where == "group" else ""
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe=(f"    messages {order}\n" if where == "event" else "    groups both\n")
        + "".join(message(name, event) for name in order.split())
        + (group("both", *order.split()) if where == "group" else ""),
        web=f"{send}    http-request deny deny_status 403 unless {{ var(txn.spoa.allowed) -m bool }}\n"
        "    http-request deny deny_status 401 unless { var(txn.spoa.first) -m bool }\n"
        "    http-request return status 200\n",
    )
    # 401 is the answer of the second rule: the first rule has let the request pass.
    assert (await haproxy.get()).status == (401 if agent.names[-1:] == ["second"] else 403)
    assert sorted(agent.names) == ["first", "second"]


@bounded
async def test_commas_in_headers(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """``req.hdr`` is what follows the last comma, whatever the header means. ``req.fhdr`` is the whole header."""
    agent = Agent()
    names = ["authorization", "cookie", "date", "if-modified-since", "referer", "user-agent"]
    arguments = " ".join(f"hdr-{name}=req.hdr({name}) fhdr-{name}=req.fhdr({name})" for name in names)
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages request response\n"
        + message("request", HTTP_REQUEST, f"{arguments} alias=hdr(user-agent)")
        + message("response", "on-http-response", "part=res.hdr(location) whole=res.fhdr(location)"),
        web="    default_backend origin\n",
        origin='    http-request return status 200 hdr location "/a, /b"',
    )
    assert (await haproxy.get(**dict.fromkeys(names, "first, second"))).status == 200
    parts = {f"hdr-{name}": "second" for name in names}
    whole = {f"fhdr-{name}": "first, second" for name in names}
    assert agent.arguments("request") == {**parts, **whole, "alias": "second"}
    assert agent.arguments("response") == {"part": "/b", "whole": "/a, /b"}


@pytest.mark.parametrize("path", ["//admin", "/x/../admin", "/%61dmin"])
@bounded
async def test_spellings_of_a_path(serve: Serve, start_haproxy: StartHAProxy, path: str) -> None:
    """``normalize-uri`` makes one of several spellings, for the groups and the rules below it.

    A message of on-frontend-http-request is sent before each rule, so it has the client's spelling. That of
    on-backend-http-request comes after the frontend's rules.
    """
    agent = Agent()
    haproxy = start_haproxy(
        serve(agent.handlers),
        process="expose-experimental-directives",
        spoe="    messages frontend backend\n    groups before after\n"
        + message("frontend", HTTP_REQUEST, "path=path")
        + message("backend", "on-backend-http-request", "path=path")
        + message("above", "", "path=path")
        + message("below", "", "path=path")
        + group("before", "above")
        + group("after", "below"),
        web="    http-request send-spoe-group test before\n"
        "    http-request normalize-uri percent-decode-unreserved\n"
        "    http-request normalize-uri path-merge-slashes\n"
        "    http-request normalize-uri path-strip-dotdot full\n"
        "    http-request send-spoe-group test after\n"
        "    http-request deny deny_status 403 if !{ path /admin }\n"
        "    default_backend origin\n",
    )
    assert (await haproxy.get(path)).status == 200
    for name, seen in {"frontend": path, "above": path, "below": "/admin", "backend": "/admin"}.items():
        assert agent.arguments(name) == {"path": seen}


@bounded
async def test_an_address_equals_no_text(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """HAProxy sends ``src`` as an address, not as a text."""
    agent = Agent()
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages lookup\n" + message("lookup", HTTP_REQUEST, "ip=src"),
        web="    http-request return status 200\n",
    )
    await haproxy.get()
    ip = agent.arguments("lookup")["ip"]
    assert ip == IPv4Address("127.0.0.1")
    assert str(ip) == "127.0.0.1"
    assert ip != "127.0.0.1"


@bounded
async def test_a_variable_of_the_environment_that_is_not_set(
    branch: Branch, serve: Serve, start_haproxy: StartHAProxy
) -> None:
    """HAProxy 2.6 drops the rest of the line, later ones drop the word, and 3.4 refuses the file."""
    agent = Agent()
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe='    messages "${SPOA_UNSET-lookup}" "${SPOA_UNSET}" control\n'
        + message("lookup", HTTP_REQUEST, 'path=path "${SPOA_UNSET}" method=method')
        + message("control", HTTP_REQUEST),
        web="    http-request return status 200\n",
    )
    if branch.version >= (3, 4):
        assert await haproxy.ended() != 0
        return
    assert (await haproxy.get()).error is None
    cut = branch.version <= (2, 6)
    assert agent.arguments("lookup") == ({"path": "/"} if cut else {"path": "/", "method": "GET"})
    assert ("control" in agent.names) == (not cut)


@bounded
async def test_failures_that_are_not_logged(start_haproxy: StartHAProxy, tmp_path: Path) -> None:
    """Without ``log`` in spoe-agent, and with a level above ``warning``, HAProxy logs no failure."""
    agents = {"silent": "", "strict": "log stdout format raw local0 err", "logging": "log global"}
    with listening_socket() as silent:
        haproxy = start_haproxy(
            f"127.0.0.1:{silent.getsockname()[1]}",
            process="log stdout format raw local0",
            spoe="".join(
                f"\n[{name}]\nspoe-agent {name}\n    use-backend agents\n    messages lookup\n    timeout hello 10s\n"
                f"    timeout idle 30s\n    timeout processing 100ms\n    {log}\n" + message("lookup", HTTP_REQUEST)
                for name, log in agents.items()
            ),
            web="".join(f"    filter spoe engine {name} config spoe.conf\n" for name in agents)
            + "    http-request return status 200\n",
            options=["-C", str(tmp_path / "haproxy1")],
        )
        await haproxy.get()
        await haproxy.said(r"SPOE: \[logging\] <EVENT:on-frontend-http-request> .*st=1 ")
    assert "SPOE: [silent]" not in haproxy.output
    assert "SPOE: [strict]" not in haproxy.output


@pytest.mark.parametrize("option", ["", "    option continue-on-error\n"])
@bounded
async def test_continue_on_error(serve: Serve, start_haproxy: StartHAProxy, option: str) -> None:
    """With the option, HAProxy asks at later events too. The error stays set although they succeed."""
    agent = Agent({"second": {"txn.score": 1}})
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe=f"{SHORT}    messages never-answered second\n{option}"
        + message("never-answered", "on-frontend-tcp-request")
        + message("second", HTTP_REQUEST),
        web=headers("txn.spoa.score") + "    http-request return status 200\n",
    )
    response = await haproxy.get()
    assert (response.error, response["txn.spoa.score"]) == ("1", "1" if option else None)
    assert ("second" in agent.names) == bool(option)


@bounded
async def test_frames_that_are_too_small(
    branch: Branch, serve: Serve, start_haproxy: StartHAProxy, tmp_path: Path
) -> None:
    """HAProxy >= 3.1 sends no fragments: the error is 3. Two bodies of one event need twice the room.

    A frame has 32 bytes beside its messages, and 33 with HAProxy >= 3.1.
    """
    agent = Agent()
    room = 223 if branch.rewritten else 224
    constant = "x" * (room - len("_m_") - len("_big") - len("T_"))
    engines = {
        "two": message("m", HTTP_REQUEST, "body=req.body") + message("m2", HTTP_REQUEST, "body=req.body"),
        "full": "    no option send-frag-payload\n    max-frame-size 256\n"
        + message("m", HTTP_REQUEST, f"big=str({constant})"),
        "over": "    no option send-frag-payload\n    max-frame-size 256\n"
        + message("m", HTTP_REQUEST, f"big=str({constant}x)"),
    }
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages scan\n    max-frame-size 4096\n"
        + message("scan", HTTP_REQUEST, "body=req.body")
        + "".join(
            f"\n[{name}]\nspoe-agent {name}\n    use-backend agents\n    messages m {'m2' * (name == 'two')}\n"
            "    timeout hello 10s\n    timeout idle 30s\n    timeout processing 15s\n    option set-on-error error\n"
            f"{rest}"
            for name, rest in engines.items()
        ),
        web="".join(f"    filter spoe engine {name} config spoe.conf\n" for name in engines)
        + "    option http-buffer-request\n"
        + headers(*(f"txn.{name}.error" for name in engines))
        + "    http-request return status 200\n",
        options=["-C", str(tmp_path / "haproxy1")],
    )
    errors = {}
    for size in (3000, 5000, 10_000):
        response = await haproxy.post("/", b"x" * size)
        errors[size] = (response.error, response["txn.two.error"])
        assert (response["txn.full.error"], response["txn.over.error"]) == (None, "3")
    split = "3" if branch.rewritten else None
    assert errors == {3000: (None, None), 5000: (split, None), 10_000: (split, split)}


@bounded
async def test_order(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """A rule or an argument sees what was set before it, in the order of HAProxy and not in that of the files."""
    names = ("session", "frontend", "group", "backend", "response")
    agent = Agent({name: {f"sess.{name}": 1} for name in names})
    arguments = "real=var(txn.real) tenant=req.hdr(x-tenant) ip=src id=unique-id"

    def mark(when: str, name: str) -> str:
        return f"set-var(sess.{when}_{name}) int(1) if {{ var(sess.spoa.{name}) -m found }}"

    with listening_socket() as web, listening_socket() as origin:
        haproxy = start_haproxy(
            serve(agent.handlers),
            spoe="    messages session frontend backend response\n    groups group\n"
            + message("session", "on-client-session")
            + message("frontend", HTTP_REQUEST, arguments)
            + message("backend", "on-backend-http-request")
            + message("response", "on-http-response")
            + message("group", "", arguments)
            + group("group", "group"),
            web=f"""
    tcp-request session {mark("early", "session")}
    tcp-request content {mark("late", "session")}
    tcp-request content {mark("early", "frontend")}
    http-request return status 200 if {{ path /own }}
    http-request {mark("late", "frontend")}
    http-request {mark("early", "group")}
    http-request {mark("early", "backend")}
    http-request set-var(txn.real) str(real)
    http-request set-header X-Tenant blue
    http-request set-src ipv4(192.0.2.1)
    http-request send-spoe-group test group
    http-request {mark("late", "group")}
    http-response {mark("late", "response")}
{headers(*(f"sess.{when}_{name}" for when in ("early", "late") for name in names))}
    default_backend app

backend app
    http-request {mark("late", "backend")}
    http-request {mark("early", "response")}
    server app 127.0.0.1:{origin.getsockname()[1]}
""",
            listeners=(web, origin),
        )
        response = await haproxy.get()
        asked = agent.names
        assert {name for name in response.headers if name.startswith("sess.")} == {
            f"sess.late-{name}" for name in names
        }
        assert asked == list(names)
        client = IPv4Address("127.0.0.1")
        assert agent.arguments("frontend") == {"real": None, "tenant": None, "ip": client, "id": None}
        forged = IPv4Address("192.0.2.1")
        assert agent.arguments("group") == {"real": "real", "tenant": "blue", "ip": forged, "id": None}
        # HAProxy answers itself: it asks neither at the later events, nor at on-http-response.
        await haproxy.get("/own")
        assert agent.names[len(asked) :] == ["session", "frontend"]


@bounded
async def test_defaults_and_listen(serve: Serve, start_haproxy: StartHAProxy, tmp_path: Path) -> None:
    """Rules of defaults come first. In a ``listen``, on-backend-http-request is on-frontend-http-request."""
    agent = Agent({"first": {"txn.first": 1}, "second": {"txn.second": 1}})
    first, second = (f"abns@spoa-traps-{os.getpid()}-{name}" for name in ("first", "second"))
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    groups first\n    messages second\n"
        + message("first")
        + group("first", "first")
        + message("second", "on-backend-http-request"),
        web=f"""
    use_backend %[path,field(2,/)]

backend first
    server first {first}

backend second
    server second {second}

listen listen
    bind {second}
    filter spoe engine test config spoe.conf
    tcp-request inspect-delay 5s
    tcp-request content set-var(txn.early_second) int(1) if {{ var(txn.spoa.second) -m found }}
    http-request set-var(txn.late_second) int(1) if {{ var(txn.spoa.second) -m found }}
{headers("txn.early_second", "txn.late_second")}
    http-request return status 200

defaults early
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    http-request set-var(txn.early_first) int(1) if {{ var(txn.spoa.first) -m found }}

frontend with-defaults from early
    bind {first}
    filter spoe engine test config spoe.conf
    http-request send-spoe-group test first
    http-request set-var(txn.late_first) int(1) if {{ var(txn.spoa.first) -m found }}
{headers("txn.early_first", "txn.late_first")}
    http-request return status 200

defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
""",
        options=["-C", str(tmp_path / "haproxy1")],
    )
    for path, name in (("/first", "first"), ("/second", "second")):
        response = await haproxy.get(path)
        assert (response[f"txn.early-{name}"], response[f"txn.late-{name}"]) == (None, "1")


@bounded
async def test_http_events_over_tcp(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """HAProxy does not parse requests in mode tcp, so it has no events of HTTP. A backend in mode http changes that."""
    agent = Agent()
    with listening_socket() as web, listening_socket() as origin:
        port = origin.getsockname()[1]
        haproxy = start_haproxy(
            serve(agent.handlers),
            web_mode="tcp",
            spoe="    messages session request backend response\n"
            + message("session", "on-client-session")
            + message("request", HTTP_REQUEST)
            + message("backend", "on-backend-http-request")
            + message("response", "on-http-response"),
            web=f"""
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.len gt 0 }}
    use_backend http if {{ req.payload(0,4) -m str POST }}
    default_backend tcp

backend tcp
    mode tcp
    server app 127.0.0.1:{port}

backend http
    mode http
    server app 127.0.0.1:{port}
""",
            listeners=(web, origin),
        )
        assert (await haproxy.get()).status == 200
        assert agent.names == ["session"]
        assert (await haproxy.post("/", b"x")).status == 200
        assert agent.names == ["session", "session", "request", "backend", "response"]


class Server(Protocol):
    """A web server that sends the head of its response, and the body when the test says so."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        self.factory.served.callback(self)


def mark(when: str, *variables: str) -> str:
    """Return the end of a rule that sets ``txn.WHEN_NAME`` if the variable of this name is set."""
    return "".join(
        f"set-var(txn.{when}_{name.rpartition('.')[2]}) int(1) if {{ var({name}) -m found }}" for name in variables
    )


def post(client: Client, body: bytes) -> Deferred[Response]:
    """Send the head of a request whose body comes later."""
    return client._request("POST", "/", {"content-length": str(len(body))}, b"")


@bounded
async def test_bodies_of_requests(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """An event does not wait for the body. A group after ``wait-for-body`` has the whole body, and the backend too."""
    agent = Agent()
    arguments = "body=req.body len=req.body_len size=req.body_size"
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages frontend backend\n    groups group\n"
        + message("frontend", HTTP_REQUEST, arguments)
        + message("backend", "on-backend-http-request", arguments)
        + message("group", "", arguments)
        + group("group", "group"),
        web="    http-request wait-for-body time 10s\n    http-request send-spoe-group test group\n"
        "    default_backend origin\n",
    )
    async with haproxy.client() as client:
        response = post(client, b"hello world")
        await agent.asked("frontend")
        client.transport.write(b"hello world")
        assert (await response).status == 200
    assert agent.arguments("frontend") == {"body": b"", "len": 0, "size": 11}
    whole = {"body": b"hello world", "len": 11, "size": 11}
    assert agent.arguments("group") == agent.arguments("backend") == whole


@pytest.mark.parametrize("where", ["frontend", "backend"])
@bounded
async def test_buffered_requests(serve: Serve, start_haproxy: StartHAProxy, where: str) -> None:
    """``option http-buffer-request`` must stand in the frontend for the frontend's event."""
    agent = Agent()
    option = "    option http-buffer-request\n"
    with listening_socket() as web, listening_socket() as origin:
        haproxy = start_haproxy(
            serve(agent.handlers),
            spoe="    messages session frontend backend\n"
            + message("session", "on-client-session")
            + message("frontend", HTTP_REQUEST, "body=req.body")
            + message("backend", "on-backend-http-request", "body=req.body"),
            web=f"{option if where == 'frontend' else ''}    default_backend app\n\nbackend app\n"
            f"{option if where == 'backend' else ''}    server app 127.0.0.1:{origin.getsockname()[1]}\n",
            listeners=(web, origin),
        )
        async with haproxy.client() as client:
            response = post(client, b"hello world")
            await agent.asked("frontend" if where == "backend" else "session")
            client.transport.write(b"hello world")
            assert (await response).status == 200
    assert agent.arguments("frontend") == {"body": b"hello world" if where == "frontend" else b""}
    assert agent.arguments("backend") == {"body": b"hello world"}


@bounded
async def test_long_bodies(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """The header and the body share a buffer, of which tune.maxrewrite stays free."""
    agent = Agent()
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages scan\n" + message("scan", HTTP_REQUEST, "len=req.body_len size=req.body_size"),
        web="    option http-buffer-request\n    http-request return status 200\n",
    )
    assert (await haproxy.post("/", b"x" * 15_000)).status == 200
    assert agent.arguments("scan") == {"len": 15_000, "size": 15_000}
    agent.messages.clear()
    await haproxy.post("/", b"x" * 40_000)
    length = agent.arguments("scan")["len"]
    assert isinstance(length, int)
    assert 15_000 < length < ROOM
    assert agent.arguments("scan")["size"] == 40_000


@bounded
async def test_bodies_of_responses(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """Nothing can wait before on-http-response. A group after ``http-response wait-for-body`` has the whole body."""
    agent = Agent()
    factory = Factory.forProtocol(Server)
    factory.served = Deferred()  # type: ignore[attr-defined]
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    haproxy = start_haproxy(
        serve(agent.handlers),
        spoe="    messages event\n    groups group\n"
        + message("event", "on-http-response", "body=res.body")
        + message("group", "", "body=res.body")
        + group("group", "group"),
        web="    http-response wait-for-body time 10s\n    http-response send-spoe-group test group\n"
        f"    default_backend app\n\nbackend app\n    server app {as_server(port.getHost())}\n",
    )
    response = Deferred.fromCoroutine(haproxy.get())
    server = await factory.served  # type: ignore[attr-defined]
    await agent.asked("event")
    server.transport.write(b"hello")
    assert (await response).status == 200
    assert agent.arguments("event") == {"body": b""}
    assert agent.arguments("group") == {"body": b"hello"}
    server.transport.loseConnection()
    await port.stopListening()


@pytest.mark.parametrize("condition", ["", "if { req.len gt 0 }"])
@bounded
async def test_payload_over_tcp(serve: Serve, start_haproxy: StartHAProxy, condition: str) -> None:
    """At on-frontend-tcp-request nothing has come from the client. A group can wait for it, by a condition."""
    agent = Agent()
    arguments = "len=req.len payload=req.payload(0,4)"
    with listening_socket() as web, listening_socket() as origin:
        haproxy = start_haproxy(
            serve(agent.handlers),
            web_mode="tcp",
            spoe="    messages event\n    groups group\n"
            + message("event", "on-frontend-tcp-request", arguments)
            + message("group", "", arguments)
            + group("group", "group"),
            web=f"""
    tcp-request inspect-delay 20s
    tcp-request content send-spoe-group test group {condition}
    default_backend app

backend app
    mode tcp
    server app 127.0.0.1:{origin.getsockname()[1]}
""",
            listeners=(web, origin),
        )
        async with haproxy.client() as client:
            await agent.asked("event" if condition else "group")
            assert (await client.get()).status == 200
    nothing: dict[str, Value] = {"len": 0, "payload": None}
    assert agent.arguments("event") == nothing
    assert agent.arguments("group") == ({"len": 29, "payload": b"GET "} if condition else nothing)


DELAY = "tcp-request inspect-delay 200ms"
CONTENT = "tcp-request content send-spoe-group test group"


@pytest.mark.parametrize(
    ("rules", "is_asked"),
    [
        ((DELAY, CONTENT), True),
        ((CONTENT,), False),
        # The delay is over when HAProxy comes to the group.
        ((DELAY, f"{CONTENT} if WAIT_END"), False),
        ((DELAY, "tcp-request content set-var(txn.x) int(1) if WAIT_END", CONTENT), False),
    ],
    ids=["short", "without", "WAIT_END", "after WAIT_END"],
)
@bounded
async def test_inspect_delay(
    branch: Branch, serve: Serve, start_haproxy: StartHAProxy, rules: tuple[str, ...], is_asked: bool
) -> None:
    """HAProxy ends a group with the inspect-delay, long before ``timeout processing``, and logs nothing.

    If no time is left, most versions do not even ask the agent.
    """
    agent = Agent()
    haproxy = start_haproxy(
        serve(agent.handlers),
        process="log stdout format raw local0",
        spoe="    log global\n    groups group\n" + message("never-answered") + group("group", "never-answered"),
        web="".join(f"    {rule}\n" for rule in (*rules, "http-request return status 200")),
    )
    response = await haproxy.get()
    assert response.error == ("4" if branch.rewritten else "5")
    assert not is_asked or agent.names == ["never-answered"]
    assert "SPOE: [" not in haproxy.output

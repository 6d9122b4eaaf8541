"""Tests of ``examples/forward_auth``: an authentication service that allows, refuses, and fails in all ways."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address

import pytest
import pytest_twisted

from spoa_twisted import SPOEClient, Value
from tests.haproxy.branches import Branch
from tests.machine import Agent
from tests.services.web import Answer, Request, WebServer

from .conftest import OpenExample
from .example import Example, require

pytestmark = pytest.mark.each_spoe

COMMAND = "twistd --reactor=asyncio -n spoa --handlers handlers.py"

USERS = {"session=a1": "alice", "session=b2": "bob"}

LOGIN = "https://login.example.org/?to=%2F"


def check(request: Request) -> Answer:
    """Answer as an authentication service does."""
    cookie = request.headers["Cookie"]
    if request.headers["Authorization"] == "Bearer carol":
        return Answer(200, headers={"X-User": "carol"})
    if cookie in USERS:
        # The agent must not take this cookie to the next request.
        return Answer(200, b"fine", {"X-User": USERS[cookie], "Set-Cookie": f"{cookie}; Path=/"})
    if cookie == "session=guest":
        return Answer(200)
    if cookie is not None:
        return Answer(403)
    return Answer(302, headers={"Location": LOGIN}) if request.headers["Accept"] == "text/html" else Answer(401)


@pytest.fixture
def service() -> Iterator[WebServer]:
    with contextlib.ExitStack() as stack:
        server = WebServer(stack)
        server.answer = check
        yield server


@pytest.fixture
def example(open_example: OpenExample, service: WebServer) -> Example:
    require("httpx")
    example = open_example("forward_auth")
    example.environment["AUTH_URL"] = f"http://127.0.0.1:{service.port}/auth"
    return example


async def ask(agent: Agent, *requests: Mapping[str, str]) -> Sequence[Mapping[str, Value]]:
    """Ask the agent without HAProxy. Return the variables for each request."""
    client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")
    usual = {"method": "GET", "url": "/", "host": "shop.example", "accept": None, "cookie": None, "authorization": None}
    answers = [
        await client.notify("check-access", ip=IPv4Address("192.0.2.1"), tls=False, **{**usual, **request})
        for request in requests
    ]
    await client.disconnect()
    return answers


def test_the_configuration(example: Example) -> None:
    example.check_generated("--engine auth")
    example.check_problems()


def test_the_readme(example: Example) -> None:
    commands = example.commands()
    assert COMMAND in commands
    assert "spoactl config --handlers handlers.py --engine auth --whole --output ." in commands
    assert "pip install -r requirements.txt" in commands


def test_answers(example: Example, service: WebServer, branch: Branch) -> None:
    """The service decides, and the application gets its X-User, never the client's own."""
    agent = example.agent(COMMAND)
    request = example.site(branch, agent)

    assert request(Cookie="session=a1") == (200, "user: alice")
    assert request(Cookie="session=b2", **{"X-User": "admin"}, X_User="admin") == (200, "user: bob")
    assert request(Authorization="Bearer carol") == (200, "user: carol")
    assert request(Cookie="session=guest", **{"X-User": "admin"}) == (200, "user: None")
    assert request(Cookie="session=old")[0] == 403
    # No cookie of another request is in the one of a client who has none.
    assert request()[0] == 401
    connection = http.client.HTTPConnection(*example.website, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Accept": "text/html"})
        response = connection.getresponse()
        assert (response.status, response.headers["Location"]) == (302, LOGIN)

    # What the service is told. The client's own X-Forwarded-For is not part of it.
    body = b"name=value"
    assert request(
        path="/cart?item=1", method="POST", body=body, Cookie="session=a1", Host="shop.example", X_Forwarded_For="::1"
    ) == (200, "user: alice")
    asked = service.requests[-1]
    assert (asked.method, asked.path) == ("GET", "/auth")
    told = {name: value for name, value in asked.headers.items() if name.startswith("X-")}
    assert told == {
        "X-Forwarded-Method": "POST",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "shop.example",
        "X-Forwarded-Uri": "/cart?item=1",
        "X-Forwarded-For": "127.0.0.1",
    }
    assert "Content-Length" not in asked.headers
    # Connections are used again.
    assert len({asked.connection for asked in service.requests}) < len(service.requests)
    output = agent.stop()
    assert "session=" not in output
    assert "carol" not in output


def test_two_headers(example: Example, branch: Branch) -> None:
    example.site(branch, "127.0.0.1:1")
    connection = http.client.HTTPConnection(*example.website, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("GET", "/")
        connection.putheader("Cookie", "session=old")
        connection.putheader("Cookie", "session=a1")
        connection.endheaders()
        assert connection.getresponse().status == 400


@pytest_twisted.ensureDeferred
async def test_header_injection(example: Example, service: WebServer) -> None:
    """No value of a client can end its header, and bytes that are not ASCII arrive as they are."""
    agent = example.agent(COMMAND)
    values = ("a\r\nX-User: admin", "a\nX-User: admin", "a\rb", "a\0b", "a\x7f", "a\x01")
    names = ("method", "url", "host", "accept", "cookie", "authorization")
    for answer in await ask(agent, *({name: value} for name in names for value in values)):
        assert answer == {"txn.allowed": False, "txn.status": 400, "txn.location": None, "req.user": None}
    assert service.requests == []

    await ask(agent, {"cookie": "nämé"}, {"cookie": "\udcff\udcfe"}, {"url": "/\udcff ?"})
    cookies = [request.headers["Cookie"] for request in service.requests]
    assert [cookie and cookie.encode("latin-1") for cookie in cookies] == ["nämé".encode(), b"\xff\xfe", None]


def test_wrong_answers(example: Example, service: WebServer, branch: Branch) -> None:
    """Whatever is neither a yes nor a no is a failure: 503."""
    agent = example.agent(COMMAND)
    request = example.site(branch, agent)
    for answer in (
        Answer(204, headers={"X-User": "alice"}),
        Answer(404),
        Answer(500),
        Answer(302),
        Answer(302, headers={"Location": "/login\x01"}),
        Answer(302, headers={"Location": "javascript:alert(1)"}),
        Answer(raw=b"hello\r\n\r\n"),
        Answer(raw=b""),
        Answer(raw=b"HTTP/1.1 200 OK\r\nX-User: alice\r\nX-User: admin\r\nContent-Length: 0\r\n\r\n"),
        Answer(raw=b"HTTP/1.1 200 OK\r\nX-User: al\xffice\r\nContent-Length: 0\r\n\r\n"),
        Answer(200, headers={"X-User": "a" * 256}),
        Answer(raw=b"HTTP/1.1 200 OK\r\nX-User: alice\r\nContent-Length: 9\r\n\r\n"),
    ):
        service.answer = lambda _, answer=answer: answer  # type: ignore[misc]
        assert request(Cookie="session=a1")[0] == 503, answer

    # A long body is not read to its end, and does not matter.
    service.answer = lambda _: Answer(200, b"x" * 10_000_000, {"X-User": "alice"})
    assert request(Cookie="session=a1") == (200, "user: alice")
    service.answer = check
    assert request(Cookie="session=b2") == (200, "user: bob")


def test_the_service_is_down(example: Example, service: WebServer, branch: Branch) -> None:
    """It is down when the agent starts, comes, and goes: 503 without it."""
    with contextlib.ExitStack() as stack:
        service.stop()
        agent = example.agent(COMMAND)
        request = example.site(branch, agent)
        assert request(Cookie="session=a1")[0] == 503
        agent.program.said("RuntimeError: no answer from the service: ConnectError ")
        again = WebServer(stack, service.port)
        again.answer = check
        assert request(Cookie="session=a1") == (200, "user: alice")
    # A connection that is open may still be answered. Only a new one shows that the port is closed.
    again.answer = lambda _: Answer(raw=b"")
    assert request(Cookie="session=a1")[0] == 503


def test_a_slow_service(example: Example, service: WebServer, branch: Branch) -> None:
    """Checks end in time, the pool is not used up by those that were cancelled, and no answer is mixed up."""
    example.edit("handlers.py", "max_connections=100", "max_connections=4")
    later = threading.Event()
    service.answer = lambda request: check(request)._replace(until=later)
    request = example.site(branch, example.agent(COMMAND))
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: request(Cookie="session=a1")[0], range(12)))
    assert answers == [503] * 12

    # Those answers come now, to connections that are closed.
    service.answer = check
    later.set()
    with ThreadPoolExecutor(8) as threads:
        names = ["session=a1", "session=b2"] * 20
        users = list(threads.map(lambda name: request(Cookie=name)[1], names))
    assert users == [f"user: {USERS[name]}" for name in names]


def test_a_body_that_does_not_end(example: Example, service: WebServer, branch: Branch) -> None:
    """The status alone is not enough: an answer that is not complete in time is a failure."""
    later = threading.Event()
    service.answer = lambda request: check(request)._replace(until=later, late_body=True)
    request = example.site(branch, example.agent(COMMAND))
    assert request(Cookie="session=a1")[0] == 503
    later.set()


def test_connections_that_the_service_has_closed(example: Example, service: WebServer, branch: Branch) -> None:
    """The service closes each connection behind its answer, without saying so before. No request fails."""
    service.answer = lambda request: check(request)._replace(close=True)
    request = example.site(branch, example.agent(COMMAND))
    for _ in range(30):
        assert request(Cookie="session=a1") == (200, "user: alice")
    assert len({asked.connection for asked in service.requests}) >= 30


@pytest_twisted.ensureDeferred
async def test_new_workers(example: Example) -> None:
    """A reload starts workers with a client of their own, and the old ones close theirs."""
    agent = example.agent(f"{COMMAND} --workers 1")
    agent.program.signal(1)
    agent.program.said("reloaded: 1 worker was replaced")
    (answer,) = await ask(agent, {"cookie": "session=b2"})
    assert answer["req.user"] == "bob"
    assert "Traceback" not in agent.stop()

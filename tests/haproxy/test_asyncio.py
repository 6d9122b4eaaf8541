"""Handlers that await packages for asyncio and Deferreds in one function: an agent on Twisted's asyncio reactor."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from spoa_twisted import Message, SPOEClient
from tests.programs import ANY_PORT, LISTENING, STOPPED, TWIST, TWISTD, spoa

from .conftest import StartHAProxy
from .harness import HERE, Process, bounded

#: Requests that are sent with each number of requests in flight.
MANY = 200

ON_ASYNCIO = [*TWISTD, "--reactor=asyncio", "-n", "--pidfile="]

Start = Callable[..., Process]


class WebServer(ThreadingHTTPServer):
    """Answers with the query of the URL. It never answers to the path ``/hang``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ended = Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        if self.path.startswith("/hang"):
            self.server.ended.wait()
            self.close_connection = True
            return
        body = self.path.partition("?")[2].encode()
        # In one write: the kernel holds back a second segment until the first is acknowledged.
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server in threads."""
    with WebServer() as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def start(processes: list[Process]) -> Start:
    """Starts an agent with the handlers of ``asyncio_handlers.py``."""

    def start(*options: str, program: Sequence[str] = ON_ASYNCIO) -> Process:
        agent = Process(spoa(*options, handlers=HERE / "asyncio_handlers.py", listen=[ANY_PORT], program=program))
        processes.append(agent)
        return agent

    return start


async def client_of(agent: Process) -> SPOEClient:
    return SPOEClient(f"tcp:{(await agent.said(LISTENING))[1]}")


async def check_clean_end(agent: Process) -> None:
    """Check that the agent ends on SIGTERM, and that it has logged no failure, neither by Twisted nor by asyncio."""
    agent.signal(signal.SIGTERM)
    assert await agent.ended() in STOPPED
    for word in ("Traceback", "Error", "Task", "never"):
        assert word not in agent.output, agent.output


@pytest.mark.parametrize("in_flight", [1, 16])
@bounded
async def test_load(in_flight: int, start: Start, web: WebServer) -> None:
    """Each request gets its own answer, with one request at a time and with many."""
    agent = start()
    client = await client_of(agent)
    tokens = DeferredSemaphore(in_flight)

    def send(number: int) -> Deferred[Any]:
        return client.send(Message("fetch", [("url", web.url), ("number", str(number))]))

    await send(-1)
    answers = await gatherResults([tokens.run(send, number) for number in range(MANY)], consumeErrors=True)
    assert answers == [{"txn.body": f"number={number}", "txn.number": str(number)} for number in range(MANY)]
    await client.disconnect()
    await check_clean_end(agent)


@bounded
async def test_a_request_that_is_gone(start: Start, web: WebServer) -> None:
    """What its handler waits for is cancelled, and nothing is logged. The next request is answered."""
    agent = start()
    for deferred in (False, True):
        client = await client_of(agent)
        client.send(Message("gone", [("url", f"{web.url}/hang"), ("deferred", deferred)])).addErrback(lambda _: None)
        await agent.says("gone: pending")
        await client.disconnect()
        await agent.says("cancelled: await of " + ("a Deferred" if deferred else "httpx"))
    assert "cancelled: Deferred" in agent.output
    client = await client_of(agent)
    answer = await client.send(Message("fetch", [("url", web.url), ("number", "1")]))
    assert answer == {"txn.body": "number=1", "txn.number": "1"}
    await client.disconnect()
    await check_clean_end(agent)


@bounded
async def test_a_stop_with_requests_that_never_end(start: Start, web: WebServer) -> None:
    """asyncio logs nothing about their Tasks, which may not have another turn."""
    agent = start("--drain-timeout=0.1")
    client = await client_of(agent)
    for deferred in (False, True):
        client.send(Message("gone", [("url", f"{web.url}/hang"), ("deferred", deferred)])).addErrback(lambda _: None)
        await agent.says("gone: pending")
    await check_clean_end(agent)
    assert "1 connections that were not drained in time" in agent.output
    await client.disconnect()


@pytest.mark.parametrize("program", [[*TWISTD, "-n", "--pidfile="], TWIST], ids=["twistd", "twist"])
@bounded
async def test_another_reactor(program: list[str], start: Start, web: WebServer) -> None:
    """The log says what the handler needs, and the message sets the variables of on_error."""
    agent = start(program=program)
    client = await client_of(agent)
    answer = await client.send(Message("fetch", [("url", web.url), ("number", "1")]))
    assert answer == {"txn.failed": "handler"}
    await agent.said(r"the handler of the message 'fetch' failed")
    await agent.said(r"this needs twistd --reactor=asyncio")
    await client.disconnect()


@pytest.mark.parametrize("program", [ON_ASYNCIO, [*TWIST, "--reactor=asyncio"]], ids=["twistd", "twist"])
@bounded
async def test_with_haproxy(program: list[str], start: Start, start_haproxy: StartHAProxy, web: WebServer) -> None:
    """The answers of one request: of httpx and a Deferred, of a handler that takes too long, of one that fails."""
    agent = start(program=program)
    haproxy = start_haproxy(
        (await agent.said(LISTENING))[1],
        spoe=f"""\
    messages fetch hang raise

spoe-message fetch
    args url=str({web.url}) number=req.hdr(number)
    event on-frontend-http-request

spoe-message hang
    args url=str({web.url}/hang)
    event on-frontend-http-request if {{ req.hdr(number) 0 }}

spoe-message raise
    args url=str({web.url})
    event on-frontend-http-request if {{ req.hdr(number) 0 }}
""",
        web="""\
    http-after-response set-header late %[var(txn.spoa.late)] if { var(txn.spoa.late) -m found }
    http-after-response set-header failed %[var(txn.spoa.failed)] if { var(txn.spoa.failed) -m found }
    http-request return status 200 hdr body %[var(txn.spoa.body)]
""",
    )
    requests = [Deferred.fromCoroutine(haproxy.get(number=str(number))) for number in range(30)]
    responses = await gatherResults(requests, consumeErrors=True)
    seen = [(response.error, response["body"], response["late"], response["failed"]) for response in responses]
    assert seen[0] == (None, "number=0", "1", "handler")
    assert seen[1:] == [(None, f"number={number}", None, None) for number in range(1, 30)]
    await agent.said("cancelled: httpx")
    await agent.said("LookupError: after httpx")
    assert agent.output.count("Traceback") == 1

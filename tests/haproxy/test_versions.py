"""How the branches of HAProxy differ. Each test with a feature observes and checks a row of a table.

The table is in docs/reference/haproxy_versions.rst.
"""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, gatherResults

from spoa_twisted import Handlers, Variables
from spoa_twisted.spop.frames import Flags, FrameType

from .branches import Branch
from .conftest import CheckTable, Serve, StartHAProxy, StartRelay
from .features import FEATURES, PAGE, Table, feature
from .harness import (
    HAPROXY_CFG,
    SHOW_LENGTH,
    SPOE_CONF,
    Response,
    bound_socket,
    bounded,
    listening_socket,
    shown,
)
from .test_sizes import LongestAnswer

SCORE = """\
    messages score

spoe-message score
    args path=path
    event on-frontend-http-request
"""

SCAN = """\
    messages scan

spoe-message scan
    args body=req.body
    event on-frontend-http-request
"""

SHOW_SCORE = shown("txn.spoa.score")
SHOW_SIZE = "    option http-buffer-request\n" + shown("txn.spoa.size")

#: More requests than HAProxy has in flight on one connection, which is at most 20.
MANY = 60


def error_of(response: Response) -> str:
    """Return the cell text for the error of a request for which the agent set no variable."""
    assert (response.status, response["txn.spoa.score"], response["txn.spoa.size"]) == (200, None, None)
    assert response.error is not None
    return f"error {response.error}"


def score() -> Variables:
    return {"txn.score": 42}


def scan(body: bytes) -> Variables:
    return {"txn.size": len(body)}


class Pending:
    """A handler whose call for ``/pending`` returns a Deferred that the test fires. All other calls answer at once."""

    def __init__(self) -> None:
        self.called: Deferred[None] = Deferred()
        self.result: Deferred[Variables] = Deferred(lambda result: None)

    def __call__(self, path: str) -> Deferred[Variables] | Variables:
        if path != "/pending":
            return score()
        self.called.callback(None)
        return self.result


def test_the_table_has_all_rows() -> None:
    """The rows of the page's table are the features of the tests in this file, in the same order."""
    assert Table.of_page().features == FEATURES


def test_the_table_is_printed_as_the_page_has_it() -> None:
    """Without new observations, the printed table is the page's text. A new branch becomes a new column."""
    table = Table.of_page()
    assert max(map(len, table.as_rst().splitlines())) <= 120
    assert table.as_rst() in PAGE.read_text("utf-8")
    assert table.updated({}).as_rst() == table.as_rst()
    assert " 3.10" in table.updated({(FEATURES[0], "3.10"): "new"}).as_rst().splitlines()[1]


@pytest.mark.parametrize(
    ("version", "column"),
    [("2.4", "2.6"), ("2.6", "2.6"), ("2.9", "2.8"), ("3.1", "3.2"), ("3.3", "3.2"), ("3.5", "3.4"), ("3.10", "3.4")],
)
def test_the_column_for_a_branch(version: str, column: str) -> None:
    """A branch without a column is compared with the column of a branch that has the same SPOE."""
    major, minor = version.split(".")
    assert Table.of_page().column_for(Branch((int(major), int(minor)), Path())) == column


@feature("mode of the agents' backend")
def test_modes(branch: Branch, tmp_path: Path, check_table: CheckTable) -> None:
    """The table says which modes HAProxy accepts for the agents' backend. HAProxy >= 3.1 adds ``mode spop``."""
    spoe_conf, haproxy_cfg = tmp_path / "spoe.conf", tmp_path / "haproxy.cfg"
    spoe_conf.write_text(SPOE_CONF.format(spoe=SCORE))
    accepted = []
    for mode in ("tcp", "spop", "http"):
        haproxy_cfg.write_text(
            HAPROXY_CFG.format(
                **dict.fromkeys(["process", "show_error", "web", "origin", "backend"], ""),
                mode=mode,
                threads=1,
                web_mode="http",
                spoe_conf=spoe_conf,
                web_fd=0,
                origin_fd=0,
                origin_port=1,
                servers="    server agent 127.0.0.1:1",
            )
        )
        with listening_socket() as listening:
            check = subprocess.run(
                [branch.executable, "-c", "-f", haproxy_cfg],
                stdin=listening.fileno(),
                capture_output=True,
                text=True,
                timeout=20,
            )
        if check.returncode == 0:
            accepted.append(mode)
        else:
            # HAProxy must refuse the file because of the mode, and for no other reason.
            assert re.search(r"unknown proxy mode|HTTP mode|SPOP mode", check.stderr), check.stderr
    check_table(", ".join(accepted))


async def max_in_flight(serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, options: str = "") -> int:
    """Send ``MANY`` requests, and return the largest number of NOTIFYs that HAProxy had in flight on one connection."""
    waiting: list[Deferred[Variables]] = []

    def answer(path: str) -> Deferred[Variables] | Variables:
        if path == "/first":
            return score()
        waiting.append(Deferred())
        if len(waiting) == MANY:
            for result in waiting:
                result.callback(score())
        return waiting[-1]

    relay, server = await start_relay(serve(Handlers({"score": answer}), pipelining="always"))
    haproxy = start_haproxy(server, spoe=options + SCORE, web=SHOW_SCORE)
    # HAProxy >= 3.1 shares only a connection that is already established, so open one first.
    await haproxy.get("/first")
    responses = await gatherResults([Deferred.fromCoroutine(haproxy.get()) for _ in range(MANY)])
    assert [(response.error, response["txn.spoa.score"]) for response in responses] == [(None, "42")] * MANY
    return max(connection.max_in_flight for connection in relay.connections)


@feature("NOTIFYs at a time on a connection")
@bounded
async def test_pipelining(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable
) -> None:
    """The table says how many NOTIFYs HAProxy has in flight on one connection, with pipelining."""
    check_table(str(await max_in_flight(serve, start_haproxy, start_relay)))


@feature("the same with ``no option pipelining``")
@bounded
async def test_no_pipelining(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable
) -> None:
    """The table says how many NOTIFYs HAProxy has in flight on one connection, with ``no option pipelining``."""
    check_table(str(await max_in_flight(serve, start_haproxy, start_relay, "    no option pipelining\n")))


async def answer_over_another_connection(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, options: str = ""
) -> Response:
    """Close the connection of a pending NOTIFY, and return the response to its request.

    If HAProxy announced async, the agent answers over another connection.
    """
    pending = Pending()
    relay, server = await start_relay(serve(Handlers({"score": pending}), async_=True))
    haproxy = start_haproxy(server, spoe=options + SCORE, web=SHOW_SCORE)
    assert (await haproxy.get()).error is None
    request = Deferred.fromCoroutine(haproxy.get("/pending"))
    await pending.called
    (busy,) = [connection for connection in relay.connections if connection.in_flight]
    for connection in relay.connections:
        connection.cut()
    await relay.until(lambda: busy.closed)
    if "async" in busy.capabilities:
        await relay.until(
            lambda: any(not connection.closed and connection.received for connection in relay.connections)
        )
        pending.result.callback(score())
    return await request


@feature("ACK over another connection, ``--async``")
@bounded
async def test_async(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable
) -> None:
    """With async (HAProxy <= 3.0 only), an ACK reaches HAProxy over another connection when its own is closed."""
    response = await answer_over_another_connection(serve, start_haproxy, start_relay)
    check_table("yes" if (response.error, response["txn.spoa.score"]) == (None, "42") else error_of(response))


@feature("the same with ``no option async``")
@bounded
async def test_no_async(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable
) -> None:
    """With ``no option async``, a request fails as soon as the connection of its NOTIFY is closed."""
    response = await answer_over_another_connection(serve, start_haproxy, start_relay, "    no option async\n")
    check_table(error_of(response))


async def post_a_long_body(serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, spoe: str) -> str:
    """Return the cell text for how HAProxy sends a body longer than a frame. A short body must work afterwards."""
    relay, server = await start_relay(serve(Handlers({"scan": scan})))
    haproxy = start_haproxy(server, spoe=spoe, web=SHOW_SIZE)
    long = await haproxy.post("/", bytes(4000))
    short = await haproxy.post("/", bytes(500))
    assert (short.error, short["txn.spoa.size"]) == (None, "500")
    fragments = sum(connection.sent_types().count("UNSET") for connection in relay.connections)
    if fragments:
        assert (long.error, long["txn.spoa.size"]) == (None, "4000")
        return "fragments"
    return error_of(long)


@feature("body longer than a frame")
@bounded
async def test_long_body(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable
) -> None:
    """HAProxy <= 3.0 sends a body that is longer than a frame in fragments. HAProxy >= 3.1 does not send it."""
    spoe = "    max-frame-size 1024\n" + SCAN
    check_table(await post_a_long_body(serve, start_haproxy, start_relay, spoe))


@feature("the same with ``no option send-frag-payload``")
@bounded
async def test_no_fragments(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable
) -> None:
    """With ``no option send-frag-payload``, no branch sends a body that is longer than a frame."""
    spoe = "    max-frame-size 1024\n    no option send-frag-payload\n" + SCAN
    check_table(await post_a_long_body(serve, start_haproxy, start_relay, spoe))


@feature("client goes away amid such a body")
@bounded
async def test_aborted_body(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable, agent_log: list[str]
) -> None:
    """When the client closes amid the fragments, HAProxy aborts the NOTIFY with an UNSET frame (FIN and ABORT).

    No handler gets a part of the body, and the next request succeeds. HAProxy >= 3.1 sends no fragments.
    """
    sizes: list[int] = []

    def scan_first(body0: bytes) -> Variables:
        sizes.append(len(body0))
        return {"txn.size": len(body0)}

    # The body is sent 10 times, so that HAProxy and the kernel cannot buffer it all while the relay does not read.
    arguments = " ".join(f"body{number}=req.body" for number in range(10))
    relay, server = await start_relay(serve(Handlers({"scan": scan_first})))
    haproxy = start_haproxy(
        server,
        process="tune.bufsize 65536\n    tune.sndbuf.server 4096",
        spoe="    max-frame-size 16380\n    timeout processing 300ms\n" + SCAN.replace("body=req.body", arguments),
        web="    log stdout format raw local0\n    log-format ended:%ST\n" + SHOW_SIZE,
    )
    relay.holding = True
    async with haproxy.client() as client:
        request = Deferred.fromCoroutine(client.post("/", bytes(60_000)))
        outcome: list[object] = []
        request.addBoth(outcome.append).addCallback(lambda _: relay.changed())
        await relay.until(lambda: bool(outcome) or any(connection.held for connection in relay.connections))
        if not outcome:
            # Close with a reset: after a FIN, HAProxy could assume that the client still reads the response.
            client.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.transport.abortConnection()
        await haproxy.said("ended:")
    relay.holding = False
    for held in [connection for connection in relay.connections if connection.held]:
        held.release()
        await relay.until(lambda held=held: held.sent[-1].flags != 0)  # type: ignore[misc]
        assert held.sent_types()[:2] == ["HAPROXY_HELLO", "NOTIFY"]
        assert (held.sent[-1].type, held.sent[-1].flags) == (FrameType.UNSET, Flags.FIN | Flags.ABORT)
    after = await haproxy.post("/", bytes(100))
    assert (after.error, after["txn.spoa.size"], sizes) == (None, "100", [100])
    assert agent_log == []
    check_table("taken back" if any(connection.held for connection in relay.connections) else "never sent")


@feature("longest answer, in bytes")
@bounded
async def test_longest_answer(serve: Serve, start_haproxy: StartHAProxy, check_table: CheckTable) -> None:
    """The table says how many bytes of actions an ACK may have. HAProxy accepts an ACK of this length."""
    handlers = LongestAnswer()
    haproxy = start_haproxy(serve(handlers), spoe=SCORE, web=SHOW_LENGTH)
    response = await haproxy.get()
    assert (response.error, response["length"]) == (None, str(handlers.lengths[0]))
    check_table(str(handlers.sizes[0]))


async def lose_connection(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, *, reset: bool
) -> Response:
    """Close or reset the connection of a pending NOTIFY, and return the response to its request."""
    pending = Pending()
    relay, server = await start_relay(serve(Handlers({"score": pending})))
    haproxy = start_haproxy(server, spoe="    timeout processing 1s\n" + SCORE, web=SHOW_SCORE)
    request = Deferred.fromCoroutine(haproxy.get("/pending"))
    await pending.called
    for connection in relay.connections:
        connection.cut(reset=reset)
    lost = await request
    after = await haproxy.get()
    assert (after.error, after["txn.spoa.score"]) == (None, "42")
    return lost


@feature("connection ends before the answer")
@bounded
async def test_lost(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable
) -> None:
    """The table says which error HAProxy sets when a connection is closed while a NOTIFY is pending."""
    check_table(error_of(await lose_connection(serve, start_haproxy, start_relay, reset=False)))


@bounded
async def test_reset(branch: Branch, serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay) -> None:
    """When a connection is reset while a NOTIFY is pending, HAProxy sets error 257.

    HAProxy >= 3.1 sometimes does not notice the reset, and sets error 1 after ``timeout processing``.
    """
    lost = error_of(await lose_connection(serve, start_haproxy, start_relay, reset=True))
    assert lost in (["error 257", "error 1"] if branch.rewritten else ["error 257"])


@feature("connection ends between requests")
@bounded
async def test_idle(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable
) -> None:
    """When the agent closes an idle connection, HAProxy opens another one, and the next request does not fail."""
    relay, server = await start_relay(serve(Handlers({"score": score})))
    haproxy = start_haproxy(server, spoe=SCORE, web=SHOW_SCORE)
    before = await haproxy.get()
    for connection in relay.connections:
        connection.cut()
    after = await haproxy.get()
    assert (before.error, before["txn.spoa.score"]) == (None, "42")
    assert any(not connection.closed for connection in relay.connections)
    check_table("no error" if (after.error, after["txn.spoa.score"]) == (None, "42") else error_of(after))


@feature("no agent is up")
@bounded
async def test_no_agent(start_haproxy: StartHAProxy, check_table: CheckTable) -> None:
    """The table says which error HAProxy sets when the health checks have marked all agents DOWN."""
    with bound_socket() as unused_socket:
        server = f"127.0.0.1:{unused_socket.getsockname()[1]} check inter 100ms fall 1"
        haproxy = start_haproxy(server, backend="option spop-check", spoe=SCORE, web=SHOW_SCORE)
        await haproxy.said("Server agents/agent is DOWN")
        check_table(error_of(await haproxy.get()))


@feature("answer after ``timeout processing``")
@bounded
async def test_late(serve: Serve, start_haproxy: StartHAProxy, check_table: CheckTable, agent_log: list[str]) -> None:
    """The table says which error HAProxy sets after ``timeout processing``. HAProxy ignores the late ACK."""
    pending = Pending()
    haproxy = start_haproxy(
        serve(Handlers({"score": pending})), spoe="    timeout processing 200ms\n" + SCORE, web=SHOW_SCORE
    )
    late = await haproxy.get("/pending")
    pending.result.callback({"txn.score": 41})
    after = await haproxy.get()
    assert (after.error, after["txn.spoa.score"]) == (None, "42")
    assert agent_log == []
    check_table(error_of(late))


@feature("``on-client-session`` in 3 kept-alive requests")
@bounded
async def test_client_session(serve: Serve, start_haproxy: StartHAProxy, check_table: CheckTable) -> None:
    """HAProxy runs ``on-client-session`` once for each request, although a kept-alive connection is one session."""
    sessions: list[int] = []
    haproxy = start_haproxy(
        serve(Handlers({"session": lambda: sessions.append(1), "score": score})),
        spoe=SCORE.replace("messages score", "messages session score")
        + "\nspoe-message session\n    event on-client-session\n",
        web=SHOW_SCORE,
    )
    async with haproxy.client() as client:
        responses = [await client.get() for _ in range(3)]
    assert [(response.error, response["txn.spoa.score"]) for response in responses] == [(None, "42")] * 3
    check_table(str(len(sessions)))


@feature("idle connection is ended with")
@bounded
async def test_idle_for_long(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable, agent_log: list[str]
) -> None:
    """HAProxy <= 3.0 sends HAPROXY-DISCONNECT after ``timeout idle``. HAProxy >= 3.1 sends no frame.

    HAProxy >= 3.1 ignores ``timeout idle``, and closes the connection after ``pool-purge-delay``.
    """
    relay, server = await start_relay(serve(Handlers({"score": score})))
    options = " pool-purge-delay 100ms"
    haproxy = start_haproxy(server + options, spoe="    timeout idle 100ms\n" + SCORE, web=SHOW_SCORE)
    assert (await haproxy.get()).error is None
    await relay.until(lambda: any(connection.closed for connection in relay.connections))
    (closed, *_) = [connection for connection in relay.connections if connection.closed]
    disconnected = FrameType(closed.sent[-1].type) is FrameType.HAPROXY_DISCONNECT
    assert agent_log == []
    check_table("DISCONNECT" if disconnected else "no message")


@feature("soft stop ends connections with")
@bounded
async def test_soft_stop(
    serve: Serve, start_haproxy: StartHAProxy, start_relay: StartRelay, check_table: CheckTable, agent_log: list[str]
) -> None:
    """At a soft stop, HAProxy <= 3.0 sends HAPROXY-DISCONNECT on an idle connection. HAProxy >= 3.1 sends no frame."""
    relay, server = await start_relay(serve(Handlers({"score": score})))
    haproxy = start_haproxy(server, spoe=SCORE, web=SHOW_SCORE)
    assert (await haproxy.get()).error is None
    haproxy.signal(signal.SIGUSR1)
    assert await haproxy.ended() == 0
    await relay.until(lambda: all(connection.closed for connection in relay.connections))
    (used,) = [connection for connection in relay.connections if "NOTIFY" in connection.sent_types()]
    disconnected = FrameType(used.sent[-1].type) is FrameType.HAPROXY_DISCONNECT
    assert agent_log == []
    check_table("DISCONNECT" if disconnected else "no message")

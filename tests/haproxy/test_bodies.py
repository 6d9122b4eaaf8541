"""Bodies: the scanner in docs/howto/bodies.rst gets every body whole, or HAProxy refuses the request.

The tests use exactly the configuration and the handler that readers copy. The web server answers 200 to each request
that HAProxy lets through.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import pytest

from tests.docs.iprep import START
from tests.docs.pages import Page
from tests.machine import Agent, Machine, machine, on_any_port

from .branches import Branch

__all__ = ["machine"]  # a fixture

PAGE = Page("howto/bodies")

#: The longest body that the page promises, in bytes.
LONGEST = 2**20

#: tune.bufsize in the page, in bytes.
BUFSIZE = 1114112

#: The default value of tune.maxrewrite, in bytes.
MAXREWRITE = 1024

#: Seconds for a response. The limit only ends a test that hangs.
LIMIT = 60.0

EMPTY_CHUNK = b"0\r\n\r\n"


class Site:
    """A web server, a HAProxy and an agent, with the configuration of the page.

    :param options: options of ``twistd spoa``.
    :param changes: texts in the configuration, the handler included, and what replaces each of them.
    """

    def __init__(self, machine: Machine, branch: Branch, *options: str, changes: dict[str, str] | None = None) -> None:
        texts = [PAGE.blocks[name] for name in ("haproxy.cfg, bodies", "spoe.conf, bodies", "scan.py")]
        for old, new in (changes or {}).items():
            assert sum(text.count(old) for text in texts) == 1
            texts = [text.replace(old, new) for text in texts]
        haproxy_cfg, spoe_conf, handlers = texts
        machine.write(scan_py=handlers)
        command = on_any_port(START.replace("iprep", "scan"))
        self.agent: Agent = machine.start(" ".join([command, *options]))
        haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}")
        haproxy_cfg = haproxy_cfg.replace("127.0.0.1:12345", f"127.0.0.1:{self.agent.port}")
        machine.haproxy(branch, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
        self._address = machine.website

    def send(self, head: str, *pieces: bytes) -> int:
        """Send a request, each piece in a write of its own. Return the status.

        HAProxy may refuse the request before it has read all of it.
        """
        with self.client(head) as client:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    client.sendall(piece)
            return read_status(client)

    def client(self, head: str) -> socket.socket:
        """Connect, and send ``head`` with the host and the connection header added. The body is missing."""
        client = socket.create_connection(self._address, timeout=LIMIT)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(f"{head}\r\nhost: web\r\nconnection: close\r\n\r\n".encode())
        return client

    def post(self, body: bytes, headers: str = "") -> int:
        """Send a body with its length, in two pieces."""
        head = f"POST / HTTP/1.1\r\ncontent-length: {len(body)}{headers}"
        return self.send(head, body[:100], body[100:])

    def post_chunks(self, *chunks: bytes, end: bytes = EMPTY_CHUNK) -> int:
        """Send a body without its length."""
        encoded = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
        return self.send("POST / HTTP/1.1\r\ntransfer-encoding: chunked", *encoded, end)


def read_status(client: socket.socket) -> int:
    """Read the first line of the response, and return the status."""
    with client.makefile("rb") as answer:
        return int(answer.readline().split()[1])


Start = Callable[..., Site]


@pytest.fixture
def start(machine: Machine, branch: Branch) -> Start:
    """Starts a :class:`Site`."""
    return lambda *options, **keywords: Site(machine, branch, *options, **keywords)


def with_virus_at_the_end(size: int) -> bytes:
    """Return a body that is clean if its last byte is missing."""
    return b"EICAR".rjust(size, b"x")


def test_small_bodies(start: Start) -> None:
    """The agent gets bodies that come after the headers, and that are longer than HAProxy's default buffer."""
    site = start()
    assert site.send("GET / HTTP/1.1") == 200
    assert [site.post(b"x" * size) for size in (0, 1, 15_000, 100_000)] == [200] * 4
    assert [site.post(with_virus_at_the_end(size)) for size in (5, 15_000, 100_000)] == [403] * 3
    output = site.agent.stop()
    assert "#warn" not in output
    assert "#error" not in output
    assert "Traceback" not in output


def test_bodies_without_a_length(start: Start) -> None:
    """They are refused: HAProxy does not tell whether such a body is whole. A body of no bytes passes."""
    site = start()
    assert site.post_chunks(b"x") == 411
    assert site.post_chunks(b"x" * 1000, b"y" * 1000) == 411
    assert site.send("GET / HTTP/1.1\r\ntransfer-encoding: chunked", b"1\r\nx\r\n", EMPTY_CHUNK) == 411
    assert site.post_chunks() == 200


def test_connect(start: Start) -> None:
    """CONNECT is refused. If an application accepted it, HAProxy would pass everything on that follows it."""
    assert start().send("CONNECT web:80 HTTP/1.1", b"EICAR") == 405


def test_an_agent_that_is_stopped(start: Start) -> None:
    """Every request is refused, with and without a body."""
    site = start()
    assert "Traceback" not in site.agent.stop()
    assert site.send("GET / HTTP/1.1") == 503
    assert site.post(b"x" * 1000) == 503


@pytest.mark.parametrize("option", ["--max-payload-size=1000", "--max-reassembly-size=1000"])
def test_a_body_that_the_agent_refuses(start: Start, branch: Branch, option: str) -> None:
    """The request gets 503: HAProxy <= 3.0 sets the variables of on_error, and HAProxy >= 3.1 sets the error 3.

    Later requests succeed. The log of the agent has the name of the message, and the option that helps.
    """
    site = start(option, changes={"    timeout hello 2s\n": "    timeout hello 2s\n    max-frame-size 1024\n"})
    for _ in range(10):
        assert site.post(b"x" * 100_000) == 503
        assert site.post(b"x" * 100) == 200
    output = site.agent.stop()
    text = f"a NOTIFY of 'scan-body': {'its fragments' if 'payload' in option else 'the fragments of all connections'}"
    assert output.count(text) == (0 if branch.rewritten else 10)
    assert output.count(f"raise {option.partition('=')[0]} to accept it") == output.count(text)


@pytest.mark.parametrize("size", [20_000, 2**17])
def test_bodies_in_fragments(start: Start, branch: Branch, size: int) -> None:
    """With a shorter max-frame-size, HAProxy <= 3.0 sends the whole body all the same. HAProxy >= 3.1 sends nothing."""
    site = start(changes={"    timeout hello 2s\n": "    timeout hello 2s\n    max-frame-size 16380\n"})
    assert site.post(b"x" * size) == (503 if branch.rewritten else 200)
    assert site.post(with_virus_at_the_end(size)) == (503 if branch.rewritten else 403)


def test_without_the_option(start: Start) -> None:
    """If ``option http-buffer-request`` is forgotten, the agent often gets no body. No bad body passes even then."""
    site = start(changes={"    option http-buffer-request\n": ""})
    assert site.send("GET / HTTP/1.1") == 200
    for _ in range(10):
        assert site.post(with_virus_at_the_end(15_000)) in {403, 413}


def test_waiting_by_a_rule(start: Start) -> None:
    """``http-request wait-for-body`` and a group do the same as the option."""
    site = start(
        changes={
            "    option http-buffer-request\n": "",
            "    # Long headers": "    http-request wait-for-body time 1s\n"
            "    http-request send-spoe-group scan bodies\n    # Long headers",
            "    messages scan-body\n": "    groups bodies\n",
            "    event on-frontend-http-request\n": "\nspoe-group bodies\n    messages scan-body\n",
        }
    )
    assert site.send("GET / HTTP/1.1") == 200
    assert [site.post(b"x" * size) for size in (0, 1, 15_000, 100_000)] == [200] * 4
    assert [site.post(with_virus_at_the_end(size)) for size in (5, 15_000, 100_000)] == [403] * 3
    assert site.post_chunks(b"x") == 411


@pytest.mark.soak  # HAProxy takes up to 20 seconds to refuse a body that does not end
def test_a_body_that_does_not_end(start: Start) -> None:
    """HAProxy answers 408 after ``timeout http-request``."""
    site = start(changes={"timeout http-request 20s": "timeout http-request 1s"})
    assert site.send("POST / HTTP/1.1\r\ncontent-length: 10", b"x") == 408
    assert site.send("POST / HTTP/1.1\r\ncontent-length: 10") == 408
    assert site.post_chunks(b"x", end=b"") == 408
    assert site.post_chunks(end=b"") == 408


@pytest.mark.soak  # dozens of bodies of a megabyte
def test_large_bodies(start: Start) -> None:
    """The longest body that the page promises passes, with long headers too. Longer ones are refused."""
    site = start()
    headers = "".join(f"\r\nx-{number}: {'y' * 300}" for number in range(90))
    for size in (LONGEST - 1, LONGEST):
        assert [site.post(b"x" * size), site.post(b"x" * size, headers)] == [200] * 2
        assert [site.post(with_virus_at_the_end(size)), site.post(with_virus_at_the_end(size), headers)] == [403] * 2
    for size in (BUFSIZE - MAXREWRITE, BUFSIZE, 2 * 2**20, 5 * 2**20):
        assert site.post(with_virus_at_the_end(size)) == 413
        assert site.post_chunks(*[b"x" * 2**18] * (size // 2**18), b"EICAR") == 411
    # At the end of what the buffer holds: never a cut body that passes.
    room = BUFSIZE - MAXREWRITE
    for size in range(room - 400, room, 25):
        assert site.post(with_virus_at_the_end(size)) in {403, 413}
    output = site.agent.stop()
    assert "#warn" not in output
    assert "Traceback" not in output


def test_heads_that_fill_the_buffer(start: Start) -> None:
    """HAProxy reads no byte of the body then, and does not know that there is one. All these requests are refused.

    The heads are sent before the first body. A shorter buffer than in the page makes it fill faster.
    """
    site = start(changes={f"tune.bufsize {BUFSIZE}": "tune.bufsize 65536"})
    sizes = [30_000, 40_000, *[65536 - MAXREWRITE - left for left in range(130, 180, 4)]]
    chunked = "HTTP/1.1\r\ntransfer-encoding: chunked"
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(site.client(head))
            for size in sizes
            for head in (f"POST / {chunked}\r\nx: {'y' * size}", f"POST /{'y' * size} {chunked}")
        ]
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"5\r\nEICAR\r\n" + EMPTY_CHUNK)
        statuses = {read_status(client) for client in clients}
    # HAProxy itself refuses heads that are still longer, with 400 or 431.
    assert statuses <= {400, 411, 431}
    assert 431 in statuses

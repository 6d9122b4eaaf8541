"""A web server whose answers the test chooses: it stands for a service that an agent asks over HTTP."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Callable, Mapping
from email.message import Message
from typing import NamedTuple

from tests.programs import LIMIT


class Request(NamedTuple):
    """A request that the server has got."""

    method: str
    path: str
    headers: Message
    #: The connection that it came over, by the port of the client.
    connection: int


class Answer(NamedTuple):
    """What the server answers.

    :ivar raw: bytes to send instead of an answer. The connection is closed behind them.
    :ivar until: nothing more is sent before this event: headers, if ``body`` is late, or nothing at all.
    :ivar close: close the connection behind the answer, without telling the client before.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    raw: bytes | None = None
    until: threading.Event | None = None
    late_body: bool = False
    close: bool = False


class WebServer:
    """A server in threads of this process.

    :param stack: ends it.
    :param port: the port; by default a free one.
    :param tls: the certificate, for https.
    """

    def __init__(self, stack: contextlib.ExitStack, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        #: What is answered. The test replaces it.
        self.answer: Callable[[Request], Answer] = lambda _: Answer()
        #: The requests so far.
        self.requests: list[Request] = []
        self._changed = threading.Condition()
        self._ended = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                request = Request(self.command, self.path, self.headers, self.client_address[1])
                server._add(request)
                answer = server.answer(request)
                if answer.until is not None and not answer.late_body:
                    answer.until.wait(LIMIT)
                # The client may have gone away while it waited.
                with contextlib.suppress(ConnectionError):
                    self._send(answer)

            def _send(self, answer: Answer) -> None:
                if answer.raw is not None:
                    self.close_connection = True
                    self.wfile.write(answer.raw)
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if answer.until is not None and answer.late_body:
                    answer.until.wait(LIMIT)
                self.wfile.write(answer.body)
                if answer.close:
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            # A handshake is part of the thread of its connection: one that fails does not stop the others.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        stack.callback(self.stop)

    def _add(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Wait until the server has got so many requests."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, LIMIT), self.requests

    def stop(self) -> None:
        """Close the port. A second call does nothing. Connections that are open are answered on."""
        if not self._ended.is_set():
            self._ended.set()
            self._server.shutdown()
            self._server.socket.close()

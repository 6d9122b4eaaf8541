"""Connections to an agent that greet it, ask once, and then say nothing, until standard input ends.

``python -m benchmarks.idle ADDRESS COUNT`` prints ``open`` when the agent has answered all of them, and in the end how
many it did not keep. ``benchmarks.connections`` runs it.
"""

from __future__ import annotations

import argparse
import socket
import ssl
import sys
from typing import Final

from spoa_twisted.ctl.bench.shapes import SHAPES
from spoa_twisted.ctl.files import OTHER_FILES, allow_files
from spoa_twisted.spop.connection import PIPELINING, Ack, EngineConnection
from spoa_twisted.spop.frames import AgentHello, HAProxyHello

#: Seconds that the agent may take to answer.
TIMEOUT: Final = 30.0

#: So many connect before the first of them is read: fewer than may wait to be accepted.
AT_A_TIME: Final = 50


class Idle:
    """One connection."""

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), TIMEOUT)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket)
        self._haproxy = EngineConnection(HAProxyHello(capabilities=frozenset({PIPELINING})))
        self._socket.sendall(self._haproxy.data_to_send())

    def ask(self) -> None:
        """Read the agent's HELLO, and ask."""
        if not isinstance(self._read(), AgentHello):
            raise SystemExit("the agent did not greet")
        self._haproxy.send_notify([SHAPES["small"]])
        self._socket.sendall(self._haproxy.data_to_send())

    def rest(self) -> None:
        """Read the answer, and nothing more from now on."""
        if not isinstance(self._read(), Ack):
            raise SystemExit("the agent did not answer")
        self._socket.setblocking(False)

    def kept(self) -> bool:
        """Return whether the connection is still open, and the agent has said nothing more."""
        try:
            if self._haproxy.next_event() is None:
                self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def _read(self) -> object:
        while (event := self._haproxy.next_event()) is None:
            data = self._socket.recv(2**14)
            if not data:
                raise SystemExit("the agent ended a connection")
            self._haproxy.receive_data(data)
        return event


def main() -> None:
    """Open them, wait, count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("count", type=int)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    try:
        allow_files(options.count + OTHER_FILES)
    except OSError as error:
        raise SystemExit(str(error)) from error
    tls = None
    if options.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    idle: list[Idle] = []
    while len(idle) < options.count:
        some = [Idle(options.address, tls) for _ in range(min(AT_A_TIME, options.count - len(idle)))]
        for connection in some:
            connection.ask()
        for connection in some:
            connection.rest()
        idle += some
    print("open", len(idle), flush=True)
    sys.stdin.read()
    print("not kept", sum(not connection.kept() for connection in idle), flush=True)


if __name__ == "__main__":
    main()

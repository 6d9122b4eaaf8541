"""Holds idle connections to an agent: each exchanges HELLOs and one NOTIFY, and then nothing until standard input ends.

``python -m benchmarks.idle ADDRESS COUNT`` prints ``open COUNT`` when the agent has answered on all connections. At the
end it prints ``not kept`` and the number of connections that the agent closed or on which it sent more.
``benchmarks.connections`` runs it.
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

#: Timeout in seconds for each connect, read and write on a socket.
TIMEOUT: Final = 30.0

#: Connections opened before the first of them is read. More could overflow the agent's listen queue.
AT_A_TIME: Final = 50


class Idle:
    """One connection, on a blocking socket: it sends HAPROXY-HELLO when it is made."""

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), TIMEOUT)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket)
        self._haproxy = EngineConnection(HAProxyHello(capabilities=frozenset({PIPELINING})))
        self._socket.sendall(self._haproxy.data_to_send())

    def send_notify(self) -> None:
        """Read AGENT-HELLO, and send a NOTIFY."""
        if not isinstance(self._read(), AgentHello):
            raise SystemExit("the agent did not answer HAPROXY-HELLO with AGENT-HELLO")
        self._haproxy.send_notify([SHAPES["small"]])
        self._socket.sendall(self._haproxy.data_to_send())

    def read_ack(self) -> None:
        """Read the ACK. From now on the connection is idle."""
        if not isinstance(self._read(), Ack):
            raise SystemExit("the agent did not answer NOTIFY with ACK")
        # For kept(), which must not wait.
        self._socket.setblocking(False)

    def kept(self) -> bool:
        """Return whether the connection is still open, and the agent has sent nothing since the ACK."""
        try:
            if self._haproxy.next_event() is None:
                self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            # No data and no EOF.
            return True
        except OSError:
            pass
        return False

    def _read(self) -> object:
        while (event := self._haproxy.next_event()) is None:
            data = self._socket.recv(2**14)
            if not data:
                raise SystemExit("the agent closed a connection")
            self._haproxy.receive_data(data)
        return event


def main() -> None:
    """Open the connections, wait for EOF on standard input, and count the connections that are left."""
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
        # The agent's certificate is self-signed, made by benchmarks.connections.
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    idle: list[Idle] = []
    while len(idle) < options.count:
        some = [Idle(options.address, tls) for _ in range(min(AT_A_TIME, options.count - len(idle)))]
        for connection in some:
            connection.send_notify()
        for connection in some:
            connection.read_ack()
        idle += some
    print("open", len(idle), flush=True)
    sys.stdin.read()
    print("not kept", sum(not connection.kept() for connection in idle), flush=True)


if __name__ == "__main__":
    main()

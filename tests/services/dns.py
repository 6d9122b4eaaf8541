"""A DNS server in a process of its own, on a free port of 127.0.0.1, by UDP and TCP. It can also answer wrongly.

``python -m tests.services.dns '{"2.0.0.127.bad.example": "127.0.0.2"}'`` starts it. It knows the names of its
argument, and answers others with NXDOMAIN. Instead of an address, a name may have one of these words:

- ``silent``: no answer.
- ``late``: the address 127.0.0.2, after SIGUSR1.
- ``servfail``, ``refused``: this error.
- ``empty``: no error, and no record.
- ``other``: the answer to another query.
- ``truncated``: by UDP only that the answer is truncated, by TCP the address 127.0.0.2.
- ``long``: by UDP and by TCP only that the answer is truncated.
- ``cut``: as ``truncated``, but by TCP no answer.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
from typing import Any

from twisted.internet import reactor
from twisted.names import dns, server

from tests.programs import Program

#: The TTL of each answer in seconds.
TTL = 300

_ERRORS = {"servfail": dns.ESERVER, "refused": dns.EREFUSED}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Answers(server.DNSServerFactory):
    """Answers queries from a table, and prints each of them."""

    noisy = False

    def __init__(self, table: dict[str, str]) -> None:
        super().__init__()
        self._table = table
        self._late: list[Any] = []
        self._marks = 0

    def handleQuery(self, message: Any, protocol: Any, address: Any) -> None:
        (query,) = message.queries
        name = query.name.name.decode()
        by_udp = address is not None
        _say(f"{'UDP' if by_udp else 'TCP'} {name}")
        word = self._table.get(name, "")
        reply = dns.Message(id=message.id, answer=1, recDes=message.recDes, recAv=1)
        reply.queries = message.queries
        if word in ("silent", "late") or (word == "cut" and not by_udp):
            if word == "late":
                self._late.append((protocol, reply, query, address))
            return
        if word in _ERRORS:
            reply.rCode = _ERRORS[word]
        elif word == "long" or (word in ("truncated", "cut") and by_udp):
            reply.trunc = 1
        elif word == "other":
            reply.queries = [dns.Query("other.example", dns.A, dns.IN)]
        elif not word:
            reply.rCode = dns.ENAME
            soa = dns.Record_SOA(b"localhost", b"nobody.invalid", minimum=TTL, ttl=TTL)
            reply.authority = [dns.RRHeader(b"example", dns.SOA, ttl=TTL, payload=soa)]
        elif word != "empty":
            self._add(reply, query, "127.0.0.2" if word == "truncated" else word)
        self._send(protocol, reply, address)

    def answer_late(self) -> None:
        """Answer the queries whose answer is ``late``."""
        late, self._late = self._late, []
        for protocol, reply, query, address in late:
            self._add(reply, query, "127.0.0.2")
            self._send(protocol, reply, address)
        _say(f"{len(late)} late answers")

    def mark(self) -> None:
        """Print a line of its own: all queries until now were printed before it."""
        self._marks += 1
        _say(f"mark {self._marks}")

    @staticmethod
    def _add(reply: Any, query: Any, address: str) -> None:
        payload = dns.Record_A(address, ttl=TTL)
        reply.answers.append(dns.RRHeader(query.name.name, dns.A, ttl=TTL, payload=payload))

    @staticmethod
    def _send(protocol: Any, reply: Any, address: Any) -> None:
        protocol.writeMessage(*([reply] if address is None else [reply, address]))


class DNS:
    """The server, as a test sees it.

    :param table: what it answers, by name.
    :param stack: ends it.
    :param port: its port; by default a free one.
    """

    def __init__(self, table: dict[str, str], stack: contextlib.ExitStack, port: int = 0) -> None:
        self._table = table
        self._stack = stack
        # The marks that this server was asked for.
        self._marks = 0
        self._start(port)

    def _start(self, port: int) -> None:
        command = [sys.executable, "-m", __name__, json.dumps(self._table), str(port)]
        self.program = self._stack.enter_context(Program(command))
        #: The port, for UDP and TCP.
        self.port = int(self.program.said(r"DNS server on port (\d+)\n")[1])
        #: The address as in the settings of agents.
        self.address = f"127.0.0.1:{self.port}"

    @property
    def queries(self) -> list[str]:
        """The queries that the server has answered until now: ``UDP 2.0.0.127.bad.example``."""
        # An answer may arrive here before the line that the server has printed.
        if self.program.send(signal.SIGUSR2):
            self._marks += 1
            self.program.said(rf"(?m)^mark {self._marks}\n")
        return [line for line in self.program.output.splitlines() if line.startswith(("UDP ", "TCP "))]

    def answer_late(self) -> None:
        """Let it answer the names whose answer is ``late``. It has sent the answers when this returns."""
        self.program.signal(signal.SIGUSR1)
        self.program.said("late answers")

    def stop(self) -> None:
        """End it. Its port stays closed."""
        self.program.stop()

    def restart(self, **table: str) -> None:
        """Start it again on the same port, with more names in its table."""
        self._table |= table
        self._marks = 0
        self._start(self.port)


def _free_port() -> int:
    """Return a port that is free for UDP and TCP."""
    while True:
        with socket.socket() as by_tcp, socket.socket(type=socket.SOCK_DGRAM) as by_udp:
            by_tcp.bind(("127.0.0.1", 0))
            port: int = by_tcp.getsockname()[1]
            with contextlib.suppress(OSError):
                by_udp.bind(("127.0.0.1", port))
                return port


def main() -> None:
    table, port = json.loads(sys.argv[1]), int(sys.argv[2]) or _free_port()
    answers = Answers(table)
    clock: Any = reactor
    clock.listenUDP(port, dns.DNSDatagramProtocol(answers), interface="127.0.0.1")
    clock.listenTCP(port, answers, interface="127.0.0.1")
    signal.signal(signal.SIGUSR1, lambda *_: clock.callFromThread(answers.answer_late))
    signal.signal(signal.SIGUSR2, lambda *_: clock.callFromThread(answers.mark))
    _say(f"DNS server on port {port}")
    clock.run()


if __name__ == "__main__":
    main()

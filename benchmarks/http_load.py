"""Clients of a web server on 127.0.0.1: each asks again over its one connection as soon as it is answered.

``python -m benchmarks.http_load PORT`` prints JSON. ``benchmarks.haproxy`` runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from typing import Any, Final

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure

from spoa_twisted.ctl.cpu import CPUMeter, waited
from spoa_twisted.ctl.latency import Latencies
from spoa_twisted.ctl.load.window import Window

REQUEST: Final = b"GET / HTTP/1.1\r\nhost: www.example.com\r\nuser-agent: benchmark\r\naccept: */*\r\n\r\n"

#: Seconds for the last answers.
TIMEOUT: Final = 5.0


class Load:
    """What the clients counted."""

    def __init__(self, expected: bytes | None) -> None:
        #: The body of each answer; ``None``: that of the first one.
        self.expected = expected
        #: A whole answer that is good.
        self.good = b""
        self.asking = True
        self.answered = 0
        self.latencies = Latencies()
        self.errors: Counter[str] = Counter()
        self._began = self._cpu = 0
        self._waited = waited_here()
        self.report: dict[str, Any] = {}

    def begin(self) -> None:
        """Count from now on."""
        self._began, self._cpu, self._waited = time.perf_counter_ns(), time.process_time_ns(), waited_here()
        self.answered = 0
        self.latencies = Latencies()

    def end(self) -> None:
        """Count no more; each client ends when it has its answer."""
        seconds = (time.perf_counter_ns() - self._began) / 1e9
        self.asking = False
        self.report = {
            "requests": self.answered,
            "requests_per_second": self.answered / seconds,
            "busy": (time.process_time_ns() - self._cpu) / 1e9 / seconds,
            "waited": (waited_here() - self._waited) / 1e9 / seconds,
        }

    def judge(self, answer: bytes) -> bool:
        """Judge an answer that differs from the good one; return whether it is whole."""
        head, end, body = answer.partition(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if not end or (length and len(body) < int(length[0].split(b":")[1])):
            return False
        if self.expected is None:
            self.expected = body
        if not head.startswith(b"HTTP/1.1 200 "):
            self.errors[f"status {head[9:12].decode('ascii', 'replace')}"] += 1
        elif body != self.expected:
            self.errors["other body"] += 1
        else:
            self.good = answer
        return True


def waited_here() -> int:
    """Return for how many nanoseconds this process was ready and had no core."""
    return waited(os.getpid()) or 0


class Client(Protocol):
    """One client."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._asked = 0
        self._done = False
        self.ended: Deferred[None] = Deferred()

    def ask(self) -> None:
        """Ask once; the answer asks again."""
        self._asked = time.perf_counter_ns()
        transport: Any = self.transport
        if not isinstance(transport, FileDescriptor) or transport.writeSomeData(REQUEST) != len(REQUEST):
            # A request that the kernel does not take: the connection is gone.
            transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Take in an answer."""
        now = time.perf_counter_ns()
        load = self._load
        self._received += data
        if self._received != load.good and not load.judge(self._received):
            return
        if self._received == load.good:
            load.answered += 1
            load.latencies.add(now - self._asked)
        self._received = b""
        if load.asking:
            self.ask()
        else:
            self._done = True
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count a connection that was to stay."""
        if not self._done:
            self._load.errors["connection lost"] += 1
        self.ended.callback(None)


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Load the web server, print what came of it."""
    load = Load(None if options.expect is None else options.expect.encode())
    cpus = [CPUMeter.of_process(pid) for pid in options.pid]
    clients = [Client(load) for _ in range(options.clients)]
    for client in clients:
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", options.port), client)
    window = Window(reactor, options.warm_up, options.duration)
    for cpu in cpus:
        window.watch(cpu.begin, cpu.end)
    window.watch(load.begin, load.end)
    for client in clients:
        client.ask()
    ended = gatherResults([client.ended for client in clients], consumeErrors=True)
    bounded = options.warm_up + options.duration + TIMEOUT
    await ended.addTimeout(bounded, reactor, lambda *_: load.errors.update({"no answer": 1}))
    latencies = load.latencies
    report = {
        **load.report,
        "latency_us": {name: latencies.percentile(share) / 1e3 for name, share in (("p50", 50), ("p99", 99))},
        "errors": dict(load.errors),
        "busy_of": [(cpu.seconds or 0.0) / cpu.measured for cpu in cpus],
        "waited_of": [(cpu.waited or 0.0) / cpu.measured for cpu in cpus],
    }
    print(json.dumps(report))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--duration", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--expect", help="the body of each answer")
    parser.add_argument("--pid", type=int, action="append", default=[])
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, options)))


if __name__ == "__main__":
    main()

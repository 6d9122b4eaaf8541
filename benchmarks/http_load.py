"""HTTP clients of a web server on 127.0.0.1. Each has one connection, and sends its next request after an answer.

``python -m benchmarks.http_load PORT`` prints a report in JSON. ``benchmarks.haproxy`` and ``benchmarks.cores`` run it.
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

#: Seconds after the end of the measurement in which the last answers must arrive.
TIMEOUT: Final = 5.0


class Load:
    """The state that all clients share: the expected answer, the counters, and at the end the report."""

    def __init__(self, expected: bytes | None) -> None:
        #: The body that each answer must have; ``None`` until the first answer sets it.
        self.expected = expected
        #: The bytes of a complete correct answer. Comparing with them is much cheaper than parsing each answer.
        self.good = b""
        #: Whether clients send another request after an answer.
        self.sending = True
        #: Correct answers since :meth:`begin`.
        self.answered = 0
        self.latencies = Latencies()
        #: All errors, also those during the warm-up.
        self.errors: Counter[str] = Counter()
        # Nanoseconds: the clock, this process's CPU time, and its time without a core, when the measurement began.
        self._began = self._cpu = 0
        self._waited = waited_for_core()
        self.report: dict[str, Any] = {}

    def begin(self) -> None:
        """Begin the measurement, after the warm-up."""
        self._began, self._cpu, self._waited = time.perf_counter_ns(), time.process_time_ns(), waited_for_core()
        self.answered = 0
        self.latencies = Latencies()

    def end(self) -> None:
        """End the measurement. Each client closes its connection when its last answer has arrived."""
        seconds = (time.perf_counter_ns() - self._began) / 1e9
        self.sending = False
        self.report = {
            "requests": self.answered,
            "requests_per_second": self.answered / seconds,
            "busy": (time.process_time_ns() - self._cpu) / 1e9 / seconds,
            "waited": (waited_for_core() - self._waited) / 1e9 / seconds,
        }

    def check(self, answer: bytes) -> bool:
        """Check an answer that differs from :attr:`good`, and count an error. Return whether the answer is complete."""
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


def waited_for_core() -> int:
    """Return the nanoseconds in which this process was ready to run and had no core. 0 if the kernel does not say."""
    return waited(os.getpid()) or 0


class Client(Protocol):
    """One client with one connection. It has one request in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        # The part of the answer that has arrived.
        self._received = b""
        # When the request was sent, in nanoseconds of perf_counter_ns().
        self._sent_at = 0
        self._done = False
        #: Fires when the connection is closed.
        self.ended: Deferred[None] = Deferred()

    def send_request(self) -> None:
        """Send a request. When its answer arrives, :meth:`dataReceived` sends the next."""
        self._sent_at = time.perf_counter_ns()
        transport: Any = self.transport
        # writeSomeData() sends at once. write() would send in the next turn of the reactor: that is not HAProxy's time.
        if not isinstance(transport, FileDescriptor) or transport.writeSomeData(REQUEST) != len(REQUEST):
            # The send buffer is empty, so the kernel refuses a request only when the connection is gone.
            transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Add to the answer. When it is complete and correct, count it; then send the next request or close."""
        now = time.perf_counter_ns()
        load = self._load
        self._received += data
        if self._received != load.good and not load.check(self._received):
            return
        if self._received == load.good:
            load.answered += 1
            load.latencies.add(now - self._sent_at)
        self._received = b""
        if load.sending:
            self.send_request()
        else:
            self._done = True
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count an error if the web server closed the connection, not this client."""
        if not self._done:
            self._load.errors["connection lost"] += 1
        self.ended.callback(None)


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Connect all clients, load the web server, and print the report."""
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
        client.send_request()
    ended = gatherResults([client.ended for client in clients], consumeErrors=True)
    limit = options.warm_up + options.duration + TIMEOUT
    await ended.addTimeout(limit, reactor, lambda *_: load.errors.update({"no answer": 1}))
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
    """Read the command line, and run the load."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, help="port of the web server on 127.0.0.1")
    parser.add_argument("--clients", type=int, default=16, help="concurrent clients (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=3.0, help="seconds to measure (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds of load before (default: %(default)s)")
    parser.add_argument("--expect", help="body that each answer must have (default: the body of the first answer)")
    parser.add_argument("--pid", type=int, action="append", default=[], help="process to measure too; repeatable")
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, options)))


if __name__ == "__main__":
    main()

"""An agent as users start it, in a process of its own, and what it takes of memory, time and descriptors."""

from __future__ import annotations

import os
import re
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from tests.conformance import rawspop
from tests.conformance.rawspop import ANSWER_LIMIT, SetVar, int64, message
from tests.programs import ANY_PORT, STOPPED, TWIST, Program, spoa

HERE = Path(__file__).parent

MIB = 2**20

PYPY = sys.implementation.name == "pypy"

#: What a measured memory may exceed its bound by: what the allocators of C and Python keep in reserve. On PyPy, also
#: garbage that waits for the next collection, and what the compiler made of the code that it found busy: 20 MiB in all
#: were measured after a million NOTIFYs, and after 15,000 connections.
SLACK = (32 if PYPY else 4) * MIB

#: What an agent may grow by while it does the same again, thousands of times. PyPy 7.3.19 was seen to grow by 2 MiB.
GROWTH = (4 if PYPY else 1) * MIB

#: What OpenSSL takes for a connection, in bytes.
TLS_SIZE = 100 * 1024

ECHO = message("echo", ("x", int64(7)))
ECHOED = [SetVar("txn.x", int64(7))]

#: Runs a program that may have so many files open.
WITH_DESCRIPTORS = """\
import os, resource, sys
number, *command = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(number), int(number)))
os.execv(command[0], command)
"""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


class Peer(rawspop.Peer):
    """HAProxy's end of a connection of any kind, on a socket that is connected."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.agreed = None


class Agent(Program):
    """An agent with the handlers of ``handlers.py``, on a port of 127.0.0.1 unless told to listen elsewhere.

    :param options: options of ``spoa``.
    :param listen: the endpoints.
    :param program: the command that ``spoa`` is a subcommand of.
    :param stdout: where the process writes to. Without it, what it writes is :attr:`output`.
    :param inherited: a listening socket, which is passed on as systemd does, and replaces ``listen``. The process need
        not say then where it listens.
    :param descriptors: how many files it may have open.
    """

    def __init__(
        self,
        *options: str,
        listen: Sequence[str] = (ANY_PORT,),
        program: Sequence[str] = TWIST,
        stdout: IO[bytes] | int = subprocess.PIPE,
        inherited: socket.socket | None = None,
        descriptors: int | None = None,
    ) -> None:
        #: The connections to it, which end with it.
        self.peers: list[Peer] = []
        self._listen = listen
        self._before = 0
        self._descriptors = 0
        self._stopped = False
        command = spoa(*options, handlers=HERE / "handlers.py", listen=listen, program=program, inherited=inherited)
        if descriptors is not None:
            command = [sys.executable, "-c", WITH_DESCRIPTORS, str(descriptors), *command]
        super().__init__(command, sockets=[] if inherited is None else [inherited], stdout=stdout)
        if inherited is None:
            self.addresses = [self.address(number) for number in range(1, len(listen) + 1)]
        else:
            self.addresses = ["{}:{}".format(*inherited.getsockname())]

    def connect(self, to: int = 0, *, receive_buffer: int | None = None) -> Peer:
        """Connect, without HELLO, to the endpoint number ``to``."""
        peer = _connected(self.addresses[to], receive_buffer, tls=self._listen[to].startswith("ssl:"))
        self.peers.append(peer)
        return peer

    def greeted(self, to: int = 0, *, receive_buffer: int | None = None) -> Peer:
        """Connect, and exchange HELLOs."""
        peer = self.connect(to, receive_buffer=receive_buffer)
        peer.handshake()
        return peer

    def answers(self, times: int = 1, to: int = 0) -> None:
        """Judge that a connection of its own is answered: a HELLO and so many NOTIFYs."""
        peer = self.greeted(to)
        for _ in range(times):
            assert peer.request(ECHO) == ECHOED
        peer.close()

    def counts(self) -> tuple[int, int]:
        """How many NOTIFYs handlers hold now, and how many of those they held were cancelled so far."""
        peer = self.greeted()
        held, cancelled = peer.request(message("count"))
        peer.close()
        return number(held), number(cancelled)

    def until(self, condition: Callable[[], bool], limit: float = ANSWER_LIMIT) -> None:
        """Let the agent answer normal requests, which is what it is to do meanwhile, until ``condition`` holds."""
        peer = self.greeted()
        deadline = monotonic() + limit
        while not condition():
            assert monotonic() < deadline, f"not within {limit} s"
            assert peer.request(ECHO) == ECHOED
        peer.close()

    def rest(self) -> None:
        """Warm it up, and remember what memory it has: what it grows by is counted from here."""
        for to in range(len(self.addresses)):
            self.answers(10, to)
        self._before = self.memory
        self._descriptors = self.descriptors

    def drop_peers(self) -> None:
        """Close all connections without a word, and wait until it has no more files open than when it was at rest."""
        for peer in self.peers:
            peer.close()
        self.peers.clear()
        deadline = monotonic() + ANSWER_LIMIT
        while self.descriptors > self._descriptors:
            assert monotonic() < deadline, "connections that are closed stay open"
            sleep(0.01)

    @property
    def grown(self) -> int:
        """By how many bytes its resident memory has grown since it was at rest."""
        return self.memory - self._before

    @property
    def most_grown(self) -> int:
        """By how many bytes its resident memory had grown since it was at rest, when it was largest."""
        return self.peak - self._before

    @property
    def memory(self) -> int:
        """Its resident memory, in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE

    @property
    def peak(self) -> int:
        """The most resident memory that it ever had, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    @property
    def seconds(self) -> float:
        """The processor's time that it took, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    @property
    def descriptors(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def logged(self) -> list[str]:
        """The lines that it logged since it listened."""
        _, _, lines = self.output.partition("Starting reactor...\n")
        return lines.splitlines()

    def exhaust_descriptors(self) -> Callable[[], None]:
        """Let it open no more files, and fill what it has with connections; return what takes that back."""
        kept = self.greeted()
        soft, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (self.descriptors + 5, hard))
        # The first time, a connection may just have closed; twice means that there is no more.
        for times in (1, 2):
            while self.output.count("EMFILE recovery: Closed socket") < times:
                with suppress(ConnectionResetError):
                    self.connect()
                assert kept.request(ECHO) == ECHOED
        return lambda: resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, hard)) and None

    def stop(self) -> int:
        """End it as users do, and return its exit status."""
        self._stopped = True
        return super().stop()

    def ends_well(self) -> None:
        """Judge that it is there until it is stopped, answers once more, and ends cleanly."""
        if not self._stopped:
            assert self.status is None, f"it has ended by itself: {self.status}"
            self.answers()
            for peer in self.peers:
                peer.close()
            assert self.stop() in STOPPED
        assert "Unhandled" not in self.output
        assert "Unable to format" not in self.output

    def kill(self) -> None:
        for peer in self.peers:
            peer.close()
        super().kill()


def _connected(address: str, receive_buffer: int | None, *, tls: bool) -> Peer:
    unix = address.startswith("/")
    connected = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    try:
        connected.settimeout(ANSWER_LIMIT)
        if receive_buffer is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if unix:
            connected.connect(address)
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host, _, port = address.rpartition(":")
            connected.connect((host, int(port)))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connected = context.wrap_socket(connected)
    except BaseException:
        connected.close()
        raise
    return Peer(connected)


def number(action: rawspop.Action) -> int:
    """Return the integer that ``action`` sets its variable to."""
    assert isinstance(action, SetVar)
    assert isinstance(action.value.data, int)
    return action.value.data

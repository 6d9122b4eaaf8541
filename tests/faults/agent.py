"""An agent in a separate process, started as users do, with its use of memory, CPU time and file descriptors."""

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

#: Bytes that a measurement of memory may exceed its bound by, because the allocators of C and Python keep a reserve.
#: On PyPy, garbage that is not yet collected and machine code of the JIT compiler count too: together 20 MiB were
#: measured after a million NOTIFYs, and after 15,000 connections.
SLACK = (32 if PYPY else 4) * MIB

#: Bytes that an agent may grow by while it repeats the same work thousands of times. PyPy 7.3.19 grew by 2 MiB.
GROWTH = (4 if PYPY else 1) * MIB

#: Bytes that OpenSSL needs for a connection, at most.
TLS_SIZE = 100 * 1024

ECHO = message("echo", ("x", int64(7)))
ECHOED = [SetVar("txn.x", int64(7))]

#: Runs a command with a limit of open files: soft and hard limit are the first argument.
WITH_DESCRIPTORS = """\
import os, resource, sys
number, *command = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(number), int(number)))
os.execv(command[0], command)
"""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


class Peer(rawspop.Peer):
    """HAProxy's end of a connection, on a socket that is already connected: TCP, Unix or TLS."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.agreed = None


class Measured:
    """The memory, CPU time and files of a running process with the attribute ``pid``."""

    pid: int

    @property
    def memory(self) -> int:
        """Its resident memory, in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE

    @property
    def peak(self) -> int:
        """The peak of its resident memory since it started, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    @property
    def cpu_seconds(self) -> float:
        """The CPU time that it has used, user and system, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    @property
    def waited_seconds(self) -> float:
        """The time that its main thread could have run, but other processes used the CPUs, in seconds."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    @property
    def descriptors(self) -> int:
        """The number of files that it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Agent(Measured, Program):
    """An agent, by default with the handlers of ``handlers.py`` and on a free port of 127.0.0.1.

    :param options: options of ``spoa``.
    :param handlers: the file of the handlers. They must answer :data:`ECHO`.
    :param listen: the endpoints.
    :param program: the command that ``spoa`` is a subcommand of.
    :param stdout: the file that the process writes to. By default its output is collected in :attr:`output`.
    :param inherited: a listening socket that the process inherits, as from systemd. It replaces ``listen``. The test
        then knows the address, even if the agent cannot print it.
    :param descriptors: the limit of open files of the process.
    """

    def __init__(
        self,
        *options: str,
        handlers: Path = HERE / "handlers.py",
        listen: Sequence[str] = (ANY_PORT,),
        program: Sequence[str] = TWIST,
        stdout: IO[bytes] | int = subprocess.PIPE,
        inherited: socket.socket | None = None,
        descriptors: int | None = None,
    ) -> None:
        #: The connections to the agent. They are closed when it is killed.
        self.peers: list[Peer] = []
        self._listen = listen
        self._before = 0
        self._descriptors = 0
        self._stopped = False
        command = spoa(*options, handlers=handlers, listen=listen, program=program, inherited=inherited)
        if descriptors is not None:
            command = [sys.executable, "-c", WITH_DESCRIPTORS, str(descriptors), *command]
        super().__init__(command, sockets=[] if inherited is None else [inherited], stdout=stdout)
        if inherited is None:
            self.addresses = [self.address(number) for number in range(1, len(listen) + 1)]
        else:
            self.addresses = ["{}:{}".format(*inherited.getsockname())]

    def connect(self, to: int = 0, *, receive_buffer: int | None = None) -> Peer:
        """Connect to the endpoint number ``to``, and send nothing.

        :param receive_buffer: bytes of the socket's receive buffer; small, so that unread data fills it soon.
        """
        peer = connected(self.addresses[to], receive_buffer, tls=self._listen[to].startswith("ssl:"))
        self.peers.append(peer)
        return peer

    def connect_with_hello(self, to: int = 0, *, receive_buffer: int | None = None) -> Peer:
        """Connect to the endpoint number ``to``, and exchange HELLOs."""
        peer = self.connect(to, receive_buffer=receive_buffer)
        peer.handshake()
        return peer

    def check_answers(self, times: int = 1, to: int = 0) -> None:
        """Check that the agent answers HELLO and ``times`` NOTIFYs on a new connection."""
        peer = self.connect_with_hello(to)
        for _ in range(times):
            assert peer.request(ECHO) == ECHOED
        peer.close()

    def held_and_cancelled(self) -> tuple[int, int]:
        """Ask the agent how many NOTIFYs its "hold" handlers hold now, and how many of them were cancelled so far."""
        peer = self.connect_with_hello()
        held, cancelled = peer.request(message("count"))
        peer.close()
        return number(held), number(cancelled)

    def answer_until(self, condition: Callable[[], bool], limit: float = ANSWER_LIMIT) -> None:
        """Send normal requests until ``condition`` holds, and check that the agent answers each of them."""
        peer = self.connect_with_hello()
        deadline = monotonic() + limit
        while not condition():
            assert monotonic() < deadline, f"the condition did not hold within {limit} s"
            assert peer.request(ECHO) == ECHOED
        peer.close()

    def begin_measuring(self) -> None:
        """Warm the agent up, and remember its memory and descriptors: growth is measured from here."""
        for to in range(len(self.addresses)):
            self.check_answers(10, to)
        self._before = self.memory
        self._descriptors = self.descriptors

    def close_peers(self) -> None:
        """Close all connections, and wait until the agent has no more files open than at :meth:`begin_measuring`."""
        for peer in self.peers:
            peer.close()
        self.peers.clear()
        self.wait_for_closed_files(self._descriptors)

    def wait_for_closed_files(self, descriptors: int, limit: float = ANSWER_LIMIT) -> None:
        """Wait until the agent has no more than ``descriptors`` files open, after the end of all connections."""
        deadline = monotonic() + limit
        while (left := self.descriptors - descriptors) > 0:
            assert monotonic() < deadline, f"{left} files are open {limit:.0f} s after the end of all connections"
            sleep(0.01)

    @property
    def growth(self) -> int:
        """Bytes that its resident memory has grown by since :meth:`begin_measuring`."""
        return self.memory - self._before

    @property
    def peak_growth(self) -> int:
        """Bytes between its resident memory at :meth:`begin_measuring` and its peak."""
        return self.peak - self._before

    def logged(self) -> list[str]:
        """Return the lines that it has logged since its start was complete."""
        _, _, lines = self.output.partition("Starting reactor...\n")
        return lines.splitlines()

    def exhaust_descriptors(self) -> Callable[[], None]:
        """Limit its open files, and open connections until no descriptor is left.

        Return a function that restores the limit.
        """
        kept = self.connect_with_hello()
        soft, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (self.descriptors + 5, hard))
        # After the first EMFILE a connection may close, and its descriptor is free again. Wait for the second one.
        for times in (1, 2):
            while self.output.count("EMFILE recovery: Closed socket") < times:
                with suppress(ConnectionResetError):
                    self.connect()
                assert kept.request(ECHO) == ECHOED
        return lambda: resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, hard)) and None

    def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit status."""
        self._stopped = True
        return super().stop()

    def check_clean_end(self) -> None:
        """Check that the agent still runs and answers, unless the test has stopped it, and that it ends cleanly."""
        if not self._stopped:
            assert self.status is None, f"the agent has ended by itself: {self.status}"
            self.check_answers()
            for peer in self.peers:
                peer.close()
            assert self.stop() in STOPPED
        assert "Unhandled" not in self.output
        assert "Unable to format" not in self.output

    def kill(self) -> None:
        for peer in self.peers:
            peer.close()
        super().kill()


def connected(address: str, receive_buffer: int | None = None, *, tls: bool = False) -> Peer:
    """Connect to an agent's address, and send nothing."""
    unix = address.startswith("/")
    peer = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    try:
        peer.settimeout(ANSWER_LIMIT)
        if receive_buffer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if unix:
            peer.connect(address)
        else:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host, _, port = address.rpartition(":")
            peer.connect((host, int(port)))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            peer = context.wrap_socket(peer)
    except BaseException:
        peer.close()
        raise
    return Peer(peer)


def number(action: rawspop.Action) -> int:
    """Return the integer that ``action`` sets its variable to."""
    assert isinstance(action, SetVar)
    assert isinstance(action.value.data, int)
    return action.value.data

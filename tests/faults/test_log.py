"""Logs that the agent cannot write: a full disk, a closed pipe, a full pipe that no process reads."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest

from tests.conformance.rawspop import ANSWER_LIMIT, SetVar, boolean, message, notify
from tests.programs import STOPPED, TWIST, TWISTD

from .agent import SLACK, Agent
from .conftest import Launch

#: NOTIFYs whose handler fails.
MANY = 2000

#: Linux's fcntl() command that returns the capacity of a pipe. PyPy's module fcntl does not define it.
F_GETPIPE_SZ = 1032

FAILED = [SetVar("txn.failed", boolean(True))]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A listening socket for an agent that cannot print its address, because the test breaks its log."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def let_fail(agent: Agent, times: int = MANY) -> None:
    """Send NOTIFYs whose handler logs a line and fails, and check the answers."""
    peer = agent.connect_with_hello()
    for _ in range(times // 100):
        peer.send(*[notify(message("fail"), stream_id=i) for i in range(100)])
        for i in range(100):
            assert peer.actions(stream_id=i) == FAILED
    peer.close()


def twistd(log: Path | str) -> list[str]:
    return [*TWISTD, "-n", "--pidfile=", f"--logfile={log}"]


@pytest.mark.parametrize("program", [twistd("/dev/full"), TWIST], ids=["twistd --logfile", "twist"])
def test_full_disk_from_the_beginning(launch: Launch, listening: socket.socket, program: list[str]) -> None:
    """An agent that cannot write its log at all starts, answers, does not grow, and ends."""
    with open("/dev/full", "wb") as full:
        agent = launch(program=program, stdout=full, inherited=listening)
    let_fail(agent, 100)
    agent.begin_measuring()
    let_fail(agent)
    assert agent.peak_growth < SLACK


def test_disk_that_fills_up(launch: Launch, listening: socket.socket, tmp_path: Path) -> None:
    """When the disk of the log is full, the agent still answers. When the disk has room again, it logs again."""
    log = tmp_path / "twistd.log"
    agent = launch(program=twistd(log), stdout=subprocess.DEVNULL, inherited=listening)
    let_fail(agent, 100)
    agent.begin_measuring()
    size = log.stat().st_size
    # Stands for a full disk: beyond this file size, write() fails with EFBIG, as with ENOSPC on a full disk.
    _, hard = resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (size + 1000, resource.RLIM_INFINITY))
    let_fail(agent)
    assert log.stat().st_size == size + 1000
    assert agent.peak_growth < SLACK
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    let_fail(agent, 100)
    assert log.read_text()[size + 1000 :].count("a line of the handler that always fails") >= 100


def test_log_whose_reader_is_gone(launch: Launch, listening: socket.socket) -> None:
    """When the process that reads the log has ended, the agent still answers."""
    reading, writing = os.pipe()
    agent = launch(stdout=writing, inherited=listening)
    os.close(writing)
    agent.begin_measuring()
    os.close(reading)
    let_fail(agent, 100)
    let_fail(agent)
    assert agent.peak_growth < SLACK


def test_log_whose_pipe_is_full(launch: Launch, listening: socket.socket) -> None:
    """When the pipe of the log is full, the agent blocks in write(). Once it is read, no answer or line is lost."""
    reading, writing = os.pipe()
    agent = launch(stdout=writing, inherited=listening)
    agent.begin_measuring()
    peer = agent.connect_with_hello()
    # Each NOTIFY logs more than 50 bytes, so all together fill the pipe.
    many = fcntl.fcntl(writing, F_GETPIPE_SZ) // 50
    peer.send(*[notify(message("fail"), stream_id=i) for i in range(many)])
    deadline = monotonic() + ANSWER_LIMIT
    while select.select([], [writing], [], 0)[1]:
        assert monotonic() < deadline, "the agent has not filled the pipe"
        sleep(0.01)
    os.close(writing)
    lines = 0

    def read() -> None:
        nonlocal lines
        while chunk := os.read(reading, 2**16):
            lines += chunk.count(b"a line of the handler that always fails")
        os.close(reading)

    reader = Thread(target=read)
    reader.start()
    try:
        for i in range(many):
            assert peer.actions(stream_id=i) == FAILED
        agent.check_answers()
        assert agent.peak_growth < SLACK
    finally:
        peer.close()
        assert agent.stop() in STOPPED
        reader.join()
    assert lines == many

"""Logs that cannot be written: a full disk, a closed pipe, a pipe that nobody reads."""

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

MANY = 2000

#: Linux's number, which PyPy's fcntl does not have: how long a pipe is.
F_GETPIPE_SZ = 1032

FAILED = [SetVar("txn.failed", boolean(True))]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket for an agent that cannot say where it listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def let_fail(agent: Agent, times: int = MANY) -> None:
    """Send NOTIFYs whose handler fails, which the log would tell of each, and judge the answers."""
    peer = agent.greeted()
    for _ in range(times // 100):
        peer.send(*[notify(message("fail"), stream_id=i) for i in range(100)])
        for i in range(100):
            assert peer.actions(stream_id=i) == FAILED
    peer.close()


def twistd(log: Path | str) -> list[str]:
    return [*TWISTD, "-n", "--pidfile=", f"--logfile={log}"]


@pytest.mark.parametrize("program", [twistd("/dev/full"), TWIST], ids=["twistd --logfile", "twist"])
def test_full_disk_from_the_beginning(launch: Launch, listening: socket.socket, program: list[str]) -> None:
    """An agent that can write no log at all starts, answers, keeps its memory, and ends."""
    with open("/dev/full", "wb") as full:
        agent = launch(program=program, stdout=full, inherited=listening)
    let_fail(agent, 100)
    agent.rest()
    let_fail(agent)
    assert agent.most_grown < SLACK


def test_disk_that_fills_up(launch: Launch, listening: socket.socket, tmp_path: Path) -> None:
    """When the log's disk is full the agent answers on, and when there is room again it logs on."""
    log = tmp_path / "twistd.log"
    agent = launch(program=twistd(log), stdout=subprocess.DEVNULL, inherited=listening)
    let_fail(agent, 100)
    agent.rest()
    size = log.stat().st_size
    # Whatever else that limits, writing fails with EFBIG as it does with ENOSPC.
    _, hard = resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (size + 1000, resource.RLIM_INFINITY))
    let_fail(agent)
    assert log.stat().st_size == size + 1000
    assert agent.most_grown < SLACK
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    let_fail(agent, 100)
    assert log.read_text()[size + 1000 :].count("this handler always fails") >= 100


def test_log_whose_reader_is_gone(launch: Launch, listening: socket.socket) -> None:
    """When the process that reads the log has ended, the agent answers on."""
    reading, writing = os.pipe()
    agent = launch(stdout=writing, inherited=listening)
    os.close(writing)
    agent.rest()
    os.close(reading)
    let_fail(agent, 100)
    let_fail(agent)
    assert agent.most_grown < SLACK


def test_log_that_nobody_reads(launch: Launch, listening: socket.socket) -> None:
    """A log's pipe that is full blocks an agent, as it does whoever writes to it; when it is read, nothing is lost."""
    reading, writing = os.pipe()
    agent = launch(stdout=writing, inherited=listening)
    agent.rest()
    peer = agent.greeted()
    # Each of them logs more than 100 bytes.
    many = fcntl.fcntl(writing, F_GETPIPE_SZ) // 100
    peer.send(*[notify(message("fail"), stream_id=i) for i in range(many)])
    deadline = monotonic() + ANSWER_LIMIT
    while select.select([], [writing], [], 0)[1]:
        assert monotonic() < deadline, "the pipe is not full"
        sleep(0.01)
    os.close(writing)
    lines = 0

    def read() -> None:
        nonlocal lines
        while chunk := os.read(reading, 2**16):
            lines += chunk.count(b"RuntimeError: this handler always fails")
        os.close(reading)

    reader = Thread(target=read)
    reader.start()
    try:
        for i in range(many):
            assert peer.actions(stream_id=i) == FAILED
        agent.answers()
        assert agent.most_grown < SLACK
    finally:
        peer.close()
        assert agent.stop() in STOPPED
        reader.join()
    assert lines == many

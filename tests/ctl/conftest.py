"""Fixtures for the tests of ``spoactl``: an endpoint, what listens on it, and ``spoactl bench`` in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory

from spoa_twisted.ctl import bench
from tests.haproxy.harness import Process

from .spoactl import Start


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    """The endpoint on which ``listen`` listens."""
    return f"unix:{tmp_path}/agent"


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[[Factory], Any]]:
    """A function that listens on ``endpoint`` with a factory, and returns the port. The fixture closes the ports."""
    ports = []

    def listen(factory: Factory) -> Any:
        ports.append(reactor.listenUNIX(f"{tmp_path}/agent", factory))  # type: ignore[attr-defined]
        return ports[-1]

    yield listen
    for port in [port for port in ports if port.connected]:
        pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a command as a process. The fixture kills the processes."""
    processes: list[Process] = []

    def start(command: list[str]) -> Process:
        processes.append(Process(command))
        return processes[-1]

    yield start
    for process in processes:
        pytest_twisted.blockon(Deferred.fromCoroutine(process.kill()))


class Result:
    """What ``spoactl bench --json`` printed, and its exit status."""

    def __init__(self, report: dict[str, Any], status: int) -> None:
        self.report = report
        self.errors: dict[str, int] = report["errors"]
        self.status = status


@pytest.fixture
def run_bench(endpoint: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """A function that runs ``spoactl bench`` in this process, for 0.1 s unless its arguments say otherwise."""

    async def run_bench(*arguments: str) -> Result:
        defaults = ["--json", "--duration=0.1", "--warm-up=0", "--timeout=2", "--connections=2", "--in-flight=4"]
        options = bench.parser().parse_intermixed_args([*defaults, "--agent", endpoint, *arguments])
        status = 0
        try:
            await bench.run(reactor, options)
        except SystemExit as error:
            assert isinstance(error.code, int)
            status = error.code
        return Result(json.loads(capsys.readouterr().out), status)

    return run_bench

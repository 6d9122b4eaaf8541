"""runner.watch: the option --watch, and the resource that it adds to the status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from spoa_twisted import Handlers, SPOAFactory, SPOAService
from spoa_twisted.client import SPOEClient
from spoa_twisted.ctl import watch as watch_command
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.watch import watch_of
from spoa_twisted.status import service as service_module
from spoa_twisted.status import site
from spoa_twisted.status.service import StatusService
from spoa_twisted.status.watch import Watch, WatchedHandlers
from spoa_twisted.tap import Options
from tests.needs import needs_chunks

reactor: Any = default_reactor


def test_a_wrong_mode() -> None:
    """The error says what to write."""
    with pytest.raises(CannotStart, match="write types or values"):
        Options().parseOptions(["--handlers=x", "--watch=all"])
    options = Options()
    options.parseOptions(["--handlers=x", "--watch=types"])
    assert options["watch"] == "types"


def test_it_needs_a_status() -> None:
    """The endpoint of --status serves it."""
    with pytest.raises(ValueError, match="--watch needs --status"):
        watch_of(SPOAFactory(Handlers()), {"watch": "types", "status": None})


@pytest.mark.parametrize(("mode", "allows"), [("types", False), ("values", True)])
def test_the_modes(mode: str, allows: bool) -> None:
    """Only one of them allows to see values."""
    service = SPOAService(SPOAFactory(Handlers()), ["tcp:0"])
    watch = watch_of(service, {"watch": mode, "status": "tcp:1", "workers": None})
    assert watch is not None
    assert watch.allow_values is allows
    assert watch_of(service, {"watch": None, "status": None}) is None


def test_an_endpoint_without_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the option of this command."""
    with pytest.raises(SystemExit):
        watch_command.parser().parse_args(["unix:/run/status"])
    assert "is an endpoint; write --status unix:/run/status" in capsys.readouterr().err


@needs_chunks
@pytest_twisted.ensureDeferred
async def test_the_status_serves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch may last longer than other requests. While it runs, the status still has the names of the messages."""
    clock = Clock()
    monkeypatch.setattr(service_module, "site", lambda resource, reactor: site.site(resource, clock))
    factory = SPOAFactory(Handlers({"check": lambda: {"txn.a": 1}}))
    agent = SPOAService(factory, [f"unix:{tmp_path}/agent"])
    status = StatusService(agent, f"unix:{tmp_path}/status", watch=Watch(factory))
    for service in (agent, status):
        service.startService()
    options = watch_command.parser().parse_args(["--status", f"unix:{tmp_path}/status", "--count", "2"])
    done = Deferred.fromCoroutine(watch_command.run(reactor, options))
    while not isinstance(factory.responder, WatchedHandlers):
        await deferLater(reactor, 0.001)
    client = SPOEClient(f"unix:{tmp_path}/agent")
    await client.notify("check")
    reported = status._source.status()
    assert not isinstance(reported, Deferred)
    assert "check" in reported["messages"]
    clock.advance(site.LONGEST_CONNECTION + 1)
    await client.notify("check")
    await done
    assert [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()] == ["check() -> txn.a=int64"] * 2
    await client.disconnect()
    await agent.stopService()
    await status.stopService()

"""docs/howto/lifecycle.rst: the functions run when the page says."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed

from spoa_twisted import (
    IHandlers,
    SPOEClient,
)
from spoa_twisted.testing import FakeHAProxy
from tests.machine import Machine, on_any_port

from .iprep import START
from .pages import Page

PAGE = Page("howto/lifecycle")


class Pool:
    """A pool of connections to no database, which keeps its calls."""

    calls: list[str] = []

    def __init__(self, *arguments: object, **keywords: object) -> None:
        self.calls.clear()

    def runQuery(self, query: str) -> Deferred[list[object]]:
        self.calls.append(query)
        return succeed([])

    def close(self) -> None:
        self.calls.append("close")


@PAGE.run(text="lists.py", commands="Run code at startup, at shutdown and at intervals 2")
@pytest_twisted.ensureDeferred
async def test_startup_shutdown_every(text: str, commands: str, machine: Machine) -> None:
    """The agent reads the blocklist and opens the database before it listens, and stops in order.

    Without the table, it does not start. The commands of the page make the list and the database.
    """
    machine.write(lists_py=text)
    blocklist, _, database = commands.partition("\n")
    machine.run(blocklist)
    command = on_any_port(START.replace("iprep", "lists"))
    failed = subprocess.run(
        command.split(), cwd=machine.folder, env=machine.environment, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    line = "spoa: startup function lists.open_database failed: OperationalError: no such table: user"
    assert failed.stdout.count(line) == 1

    machine.run(database)
    agent = machine.start(command)
    client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")
    for ip, allowed in (("192.0.2.1", False), ("192.0.2.2", True), ("2001:db8::1", False)):
        assert await client.notify("check-ip", ip=ipaddress.ip_address(ip)) == {"txn.allowed": allowed}
    assert await client.notify("check-user", token="swordfish") == {"txn.known": True}
    assert await client.notify("check-user", token=None) == {"txn.known": False}
    await client.disconnect()
    output = agent.stop()
    assert "Traceback" not in output
    assert "Unhandled" not in output


@PAGE.run(text="lists.py")
def test_startup_shutdown_every_in_memory(
    text: str, load_text: Callable[[str, str], IHandlers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``FakeHAProxy`` runs the functions, as the README says: the blocklist is read again after 30 seconds."""
    monkeypatch.setattr("twisted.enterprise.adbapi.ConnectionPool", Pool)
    blocklist = tmp_path / "blocklist.txt"
    blocklist.write_text("192.0.2.1\n")
    ip = ipaddress.IPv4Address("192.0.2.2")
    with FakeHAProxy(load_text("lists", text)) as haproxy:
        assert haproxy.notify("check-ip", ip=ip) == {"txn.allowed": True}
        blocklist.write_text("192.0.2.2\n")
        haproxy.clock.advance(29)
        assert haproxy.notify("check-ip", ip=ip) == {"txn.allowed": True}
        haproxy.clock.advance(1)
        assert haproxy.notify("check-ip", ip=ip) == {"txn.allowed": False}
        assert Pool.calls == ["SELECT 1 FROM user"]
    assert Pool.calls == ["SELECT 1 FROM user", "close"]

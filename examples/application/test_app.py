"""Tests of the application, without sockets. Run them with: pytest"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_twisted
from app import Blocklist, make_handlers

from spoa_twisted.testing import FakeHAProxy

CLIENT = ip_address("192.0.2.1")


@pytest.fixture
def blocklist(tmp_path: Path) -> Blocklist:
    return Blocklist(str(tmp_path / "blocked.sqlite"))


@pytest.fixture
def haproxy(blocklist: Blocklist) -> Iterator[FakeHAProxy]:
    """It opens the list, and closes it at the end."""
    with FakeHAProxy(make_handlers(blocklist)) as haproxy:
        yield haproxy


@pytest_twisted.ensureDeferred
async def test_an_address_is_blocked_and_unblocked(haproxy: FakeHAProxy, blocklist: Blocklist) -> None:
    assert await haproxy.send("check-address", ip=CLIENT) == {"txn.allowed": True}

    await blocklist.add(CLIENT, "a test")
    assert await haproxy.send("check-address", ip=CLIENT) == {"txn.allowed": False}
    assert await haproxy.send("check-address", ip=ip_address("192.0.2.2")) == {"txn.allowed": True}
    assert await blocklist.all() == {"192.0.2.1": "a test"}

    await blocklist.remove(CLIENT)
    assert await haproxy.send("check-address", ip=CLIENT) == {"txn.allowed": True}
    assert haproxy.failures == []


@pytest_twisted.ensureDeferred
async def test_two_ways_to_write_an_address(haproxy: FakeHAProxy, blocklist: Blocklist) -> None:
    assert await haproxy.send("check-address", ip=CLIENT) == {"txn.allowed": True}
    await blocklist.add(ip_address("::ffff:192.0.2.1"), "a test")
    assert await haproxy.send("check-address", ip=CLIENT) == {"txn.allowed": False}


@pytest_twisted.ensureDeferred
async def test_the_database_fails(haproxy: FakeHAProxy, blocklist: Blocklist) -> None:
    """The request is not allowed: HAProxy gets the variable of on_error."""
    assert await haproxy.send("check-address", ip=CLIENT) == {"txn.allowed": True}
    blocklist.close()
    assert await haproxy.send("check-address", ip=CLIENT) == {"txn.error": "handler"}
    assert [failure.name for failure in haproxy.failures] == ["check-address"]

"""docs/explanation/waiting.rst: its examples do what the page says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest_twisted

from spoa_twisted import IHandlers, SPOEClient
from spoa_twisted.testing import FakeHAProxy
from tests.machine import Machine, on_any_port

from .blocks import Steps, contains

KINDS = ["plain", "deferred", "coroutine", "thread"]


def lookups() -> tuple[str, str]:
    """Return the examples as one file, and the line of the log at the end of the page."""
    page = Steps("explanation/waiting")
    text = "\n\n".join(page.take("lookups.py") for _ in range(8))
    line = page.take()
    page.finish()
    return text, line


@pytest_twisted.ensureDeferred
async def test_the_kinds(load_text: Callable[[str, str], IHandlers]) -> None:
    """Each kind of handler answers."""
    haproxy = FakeHAProxy(load_text("lookups", lookups()[0]))
    for kind in [*KINDS, "at-most-two"]:
        for ip, listed in ((IPv4Address("127.0.0.99"), True), (IPv4Address("127.0.0.1"), False)):
            assert await haproxy.send(kind, ip=ip) == {"txn.listed": listed}, kind


def test_a_cancelled_handler_lets_go(load_text: Callable[[str, str], IHandlers], logged: Any) -> None:
    """After the timeout, the variables of on_error are set, and the semaphore is free again."""
    haproxy = FakeHAProxy(load_text("lookups", lookups()[0]))
    two = sys.modules["lookups"].two
    answers: list[Any] = []
    haproxy.send("at-most-two", ip=IPv4Address("127.0.0.1")).addCallback(answers.append)
    assert two.tokens == 1

    haproxy.clock.advance(0.2)

    assert answers == [{"txn.error": "handler"}]
    assert two.tokens == 2
    (line,) = logged.take()
    assert "'at-most-two' took longer than 0.2 s" in line


@pytest_twisted.ensureDeferred
async def test_asyncio_and_the_blocking_handler(machine: Machine) -> None:
    """With the command of the page, all kinds answer, and the log names the handler that blocks."""
    text, line = lookups()
    machine.write(lookups_py=text)
    agent = machine.start(on_any_port("twistd --reactor=asyncio -n spoa --handlers lookups"))
    client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")
    for kind in [*KINDS, "with-asyncio"]:
        assert await client.notify(kind, ip=IPv4Address("127.0.0.99")) == {"txn.listed": True}
    assert await client.notify("blocks") == {"txn.listed": False}
    agent.program.said("'blocks' held the agent up")
    await client.disconnect()
    printed = agent.stop()
    assert contains(line, printed), printed

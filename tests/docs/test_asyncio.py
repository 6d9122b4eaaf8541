"""docs/howto/asyncio.rst: the handler awaits a library of asyncio and a Deferred."""

from __future__ import annotations

import pytest_twisted

from spoa_twisted import (
    SPOEClient,
)
from tests.machine import Machine, on_any_port

from .pages import Page

PAGE = Page("howto/asyncio")


@PAGE.run(text="accounts.py", command="Use asyncio libraries 2")
@pytest_twisted.ensureDeferred
async def test_the_handler_for_asyncio(text: str, command: str, machine: Machine) -> None:
    """It awaits httpx and a Deferred on the asyncio reactor, and fails on another."""
    machine.write(accounts_py=text.replace("8081", machine.app()))
    for other, variables in (
        (False, {"txn.account": True, "txn.limit": 5}),
        (True, {"txn.error": "handler"}),
    ):
        line = command.replace("--reactor=asyncio ", "--reactor=poll ") if other else command
        agent = machine.start(on_any_port(line))
        client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")
        assert await client.notify("check-account", name="alice") == variables
        await client.disconnect()
        assert ("this needs twistd --reactor=asyncio" in agent.stop()) is other

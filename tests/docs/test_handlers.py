"""docs/howto/handlers.rst: the handlers answer as the page says."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest_twisted

from spoa_twisted import (
    Handlers,
    IHandlers,
    Message,
    SPOEClient,
)
from spoa_twisted.testing import FakeHAProxy
from tests.handlers.answers import late_line
from tests.machine import Machine, on_any_port

from .pages import Page

PAGE = Page("howto/handlers")


@PAGE.run(text="iprep.py")
@pytest_twisted.ensureDeferred
async def test_the_handlers(text: str, load_text: Callable[[str, str], IHandlers]) -> None:
    """A function, a Deferred and a coroutine answer, and what one that fails sets is set."""
    haproxy = FakeHAProxy(load_text("iprep", text))
    bad, listed, unknown = (ipaddress.IPv4Address(f"127.0.0.{number}") for number in (66, 99, 1))

    assert haproxy.notify("get-ip-reputation", ip=bad) == {"txn.allowed": False}
    assert haproxy.notify("get-ip-reputation", ip=unknown) == {"txn.allowed": True}
    assert await haproxy.send("check-dnsbl", ip=listed) == {"txn.unlisted": False}
    assert await haproxy.send("check-dnsbl", ip=unknown) == {"txn.unlisted": True}
    variables = await haproxy.send("check-token", token="swordfish")
    assert variables == {"txn.known": True, "req.user": "alice"}
    for token in ("sesame", None):
        variables = await haproxy.send("check-token", token=token)
        assert variables == {"txn.known": False, "req.user": None}


@PAGE.run(text="iprep.py")
def test_the_handler_with_a_timeout(text: str, load_text: Callable[[str, str], IHandlers], logged: Any) -> None:
    """After 0.2 s, its timeout, the variables of its on_error are set."""
    haproxy = FakeHAProxy(load_text("iprep", text))
    variables: list[Any] = []

    haproxy.send("check-token", token="swordfish").addCallback(variables.append)
    haproxy.clock.advance(0.2)

    assert variables == [{"txn.error": "token"}]
    assert logged.take() == [late_line("check-token", 0.2)]


@PAGE.run(text="more.py")
def test_the_options(text: str, load_text: Callable[[str, str], IHandlers], logged: Any) -> None:
    """The mapping, the options, the default handler and the binding of arguments are what the comments say."""
    handlers = load_text("more", text)
    assert isinstance(handlers, Handlers)
    haproxy = FakeHAProxy(handlers)

    arguments: dict[str, Any] = {"user-agent": "a bot", "a.b": 1, "c": 2}
    variables = haproxy.notify("check-client", "unnamed", **arguments)
    assert variables == {"txn.human": False, "txn.others": 2}
    assert haproxy.notify("scan-body", body=b"EICAR") == {"txn.clean": False}
    assert haproxy.notify("scan-body", body=b"text") == {"txn.clean": True}
    assert haproxy.notify("anything") == {"txn.unknown": "anything"}
    assert logged.take() == []

    assert haproxy.notify("check-client", status=1) == {"txn.error": "handler"}
    assert haproxy.notify("scan-body", body="text") == {"txn.clean": False}
    missing, wrong = logged.take()
    assert "'check-client' was not called: the message 'check-client' has no argument 'user_agent'" in missing
    assert "'scan-body' failed: TypeError" in wrong


def test_the_whole_message() -> None:
    """The parameter ``message`` has what the README lists."""
    handlers = Handlers()
    seen: list[Any] = []

    @handlers.message("whole")
    def whole(message: Message) -> None:
        seen.extend([message.name, message["ip"], message[0], message["arg(0)"], *message])

    FakeHAProxy(handlers).notify("whole", 7, ip="there")

    assert seen == ["whole", "there", 7, 7, ("", 7), ("ip", "there")]


@PAGE.run(handlers="iprep.py", command="A module with handlers 2")
@pytest_twisted.ensureDeferred
async def test_the_agent(handlers: str, command: str, machine: Machine) -> None:
    """The command starts an agent that answers."""
    machine.write(iprep_py=handlers)
    agent = machine.start(on_any_port(command))
    client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")
    assert await client.notify("check-token", token="swordfish") == {"txn.known": True, "req.user": "alice"}
    await client.disconnect()
    assert "Server Shut Down." in agent.stop()

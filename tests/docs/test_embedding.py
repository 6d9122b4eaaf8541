"""docs/howto/embedding.rst: the application and the .tac file serve."""

from __future__ import annotations

import ipaddress
import shlex
import signal
import sys

import pytest_twisted
from twisted.internet.defer import gatherResults

from spoa_twisted import (
    SPOEClient,
)
from tests.machine import Machine
from tests.programs import LIMIT, LISTENING, STOPPED

from .iprep import HANDLERS
from .pages import Page

PAGE = Page("howto/embedding")


@PAGE.run(text="app.py")
@pytest_twisted.ensureDeferred
async def test_the_application(text: str, machine: Machine) -> None:
    """It serves its method, and logs that it listens, but no connection and no health check."""
    machine.write(app_py=text.replace("tcp:12345", "tcp:0"))
    app = machine.start(shlex.join([sys.executable, "app.py"]))
    client = SPOEClient(f"tcp:127.0.0.1:{app.port}")

    assert await client.notify("get-ip-reputation", ip=ipaddress.IPv4Address("127.0.0.9")) == {"txn.allowed": True}
    assert await client.notify("get-ip-reputation", ip=ipaddress.IPv4Address("192.0.2.1")) == {"txn.allowed": False}
    await client.ping()
    await client.disconnect()
    check_log(app.stop())


#: In place of the application's handler. The answers to other clients wait for a request of a client on this machine.
WAITING_APP = """\
class App:
    waiting = []

    def check(self, ip):
        if ip.is_loopback:
            for answer in self.waiting:
                answer.callback({"txn.allowed": False})
            return {"txn.allowed": True}
        self.waiting.append(Deferred())
        return self.waiting[-1]
"""


@PAGE.run(text="app.py")
@pytest_twisted.ensureDeferred
async def test_the_application_answers_what_is_pending_when_it_is_stopped(text: str, machine: Machine) -> None:
    """SIGTERM comes while 200 requests are pending. Each of them, and one that comes later, is answered."""
    handler = text[text.index("class App:") : text.index("\n\ndef main(")]
    app_py = text.replace(handler, WAITING_APP).replace("handler_timeout=0.5", "handler_timeout=0")
    machine.write(app_py=app_py.replace("tcp:12345", "tcp:0"))
    app = machine.start(shlex.join([sys.executable, "app.py"]))
    client = SPOEClient(f"tcp:127.0.0.1:{app.port}", timeout=LIMIT)
    local, other = ipaddress.IPv4Address("127.0.0.9"), ipaddress.IPv4Address("192.0.2.1")

    assert await client.notify("get-ip-reputation", ip=local) == {"txn.allowed": True}
    pending = [client.notify("get-ip-reputation", ip=other) for _ in range(200)]
    # The health check takes several turns of the reactor. The first of them has written the requests.
    await client.ping()
    app.program.signal(signal.SIGTERM)
    app.program.said(r"\(TCP Port \d+ Closed\)")
    pending.append(client.notify("get-ip-reputation", ip=local))
    allowed = [variables["txn.allowed"] for variables in await gatherResults(pending, consumeErrors=True)]
    assert allowed == [False] * 200 + [True]
    assert app.program.ended() in STOPPED
    check_log(app.program.output)


def check_log(output: str) -> None:
    """Check that an agent has logged that it listens, but no connection, no health check, and no exception."""
    assert LISTENING.search(output)
    for text in (": connected", "HAProxyHello(", ": ended: ", "Traceback"):
        assert text not in output


@PAGE.run(text="agent.tac", command="In a .tac file 2")
@pytest_twisted.ensureDeferred
async def test_the_tac_file(text: str, command: str, machine: Machine) -> None:
    """twistd serves it, and logs no connection and no health check."""
    machine.write(iprep_py=HANDLERS, agent_tac=text.replace("tcp:12345", "tcp:0"))
    agent = machine.start(command)
    client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")

    assert await client.notify("get-ip-reputation", ip=ipaddress.IPv4Address("192.0.2.1")) == {"txn.allowed": True}
    await client.ping()
    await client.disconnect()
    said = agent.stop()
    assert "Server Shut Down." in said
    check_log(said)

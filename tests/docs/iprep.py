"""The agent and the configuration that most pages use: ``iprep.py``, and HAProxy's two files."""

from __future__ import annotations

import ipaddress
import json
import re
import urllib.request

from spoa_twisted import SPOEClient
from tests.machine import Agent

from .pages import Page

#: The module with the handlers, and the command that starts the agent. test_handlers.py runs both.
HANDLERS = Page("howto/handlers").blocks["iprep.py"]
START = Page("howto/handlers").blocks["A module with handlers 2"]

#: HAProxy's configuration. test_haproxy_side.py runs it.
HAPROXY_CFG = Page("howto/haproxy_side").blocks["haproxy.cfg"]
SPOE_CONF = Page("howto/haproxy_side").blocks["spoe.conf"]

#: The first line of the agents' backend.
BACKEND = "backend iprep-agents\n"


def with_server(server: str) -> str:
    """Return ``HAPROXY_CFG`` with another ``server`` line."""
    before, line = HAPROXY_CFG.split("    server agent1 ")
    assert line == "127.0.0.1:12345\n"
    # A busy machine may need longer for a TLS handshake.
    before = before.replace("timeout connect 100ms", "timeout connect 5s").replace("check 500ms", "check 5s")
    return f"{before}    server agent1 {server}\n"


def to_agent(command: str, agent: Agent) -> str:
    """Return a command of ``spoactl`` that sends to ``agent``."""
    return re.sub(r"^spoactl \w+", rf"\g<0> --agent tcp:127.0.0.1:{agent.port}", command)


async def check_status(agent: Agent) -> None:
    """Send a NOTIFY to ``agent``, and check that its status has it. Then stop ``agent``."""
    client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")
    await client.notify("get-ip-reputation", ip=ipaddress.IPv4Address("192.0.2.1"))
    await client.disconnect()
    (address,) = re.findall(r"the status is at (\S+)", agent.program.output)
    with urllib.request.urlopen(f"http://{address}/status.json") as answer:
        status = json.load(answer)
    assert status["totals"]["messages"]["get-ip-reputation"]["results"] == {"ok": 1}
    assert "Server Shut Down." in agent.stop()

"""docs/howto/endpoints.rst: HAProxy reaches the agent by a Unix socket and by TLS."""

from __future__ import annotations

from pathlib import Path

from tests.certificates import self_signed
from tests.haproxy.branches import Branch
from tests.machine import Agent, Machine

from .iprep import HANDLERS, SPOE_CONF, with_server
from .pages import Page

PAGE = Page("howto/endpoints")


def server_of(text: str) -> str:
    """Return what a block with a ``server`` line has behind the server's name."""
    return text.split("    server agent1 ")[1].strip()


def check_endpoint(machine: Machine, branch: Branch, agent: Agent, server: str) -> None:
    """Let HAProxy ask the agent through this ``server`` line."""
    haproxy_cfg = with_server(server)
    haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}")
    request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg, spoe_conf=SPOE_CONF)

    assert request(client="127.0.0.66")[0] == 403
    assert request(**{"X-Token": "swordfish"}) == (200, "user: alice")
    assert "Traceback" not in agent.stop()


@PAGE.run(command="A Unix socket 1", server="haproxy.cfg, unix")
def test_unix_socket(command: str, server: str, machine: Machine, branch: Branch) -> None:
    """HAProxy reaches the agent by its Unix socket, which only owner and group may use."""
    machine.write(iprep_py=HANDLERS)
    path = str(machine.folder / "agent.sock")
    agent = machine.start(command.replace("/run/spoa/agent.sock", path))
    assert Path(path).stat().st_mode & 0o777 == 0o660
    check_endpoint(machine, branch, agent, server_of(server).replace("/run/spoa/agent.sock", path))


@PAGE.run(command="TLS 1", server="haproxy.cfg, TLS")
def test_tls(command: str, server: str, machine: Machine, branch: Branch) -> None:
    """HAProxy reaches the agent by TLS, and trusts its certificate."""
    machine.write(iprep_py=HANDLERS)
    self_signed(machine.folder)
    agent = machine.start(command.replace(":12345:", ":0:"))
    check_endpoint(machine, branch, agent, server_of(server).replace("12345", agent.port))

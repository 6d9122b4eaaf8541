"""docs/howto/several_agents.rst: HAProxy goes on with the agent that is left."""

from __future__ import annotations

from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port

from .iprep import BACKEND, HANDLERS, HAPROXY_CFG, SPOE_CONF, START
from .pages import Page

PAGE = Page("howto/several_agents")


@PAGE.run(backend="haproxy.cfg, two agents")
def test_two_agents(backend: str, machine: Machine, branch: Branch) -> None:
    """HAProxy goes on with one of them when the other is stopped."""
    if branch.rewritten:
        backend = backend.replace("mode tcp\n", "mode spop\n").replace(" on-marked-down shutdown-sessions", "")
    machine.write(iprep_py=HANDLERS)
    agents = [machine.start(on_any_port(START).replace("-n", f"-n --pidfile={n}.pid")) for n in (1, 2)]
    haproxy_cfg = HAPROXY_CFG[: HAPROXY_CFG.index(BACKEND)] + backend[backend.index(BACKEND) :]
    for port, agent in zip(("12345", "12346"), agents, strict=True):
        haproxy_cfg = haproxy_cfg.replace(port, agent.port)
    haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}")
    request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg, spoe_conf=SPOE_CONF)

    for _ in range(4):
        assert request(client="127.0.0.66")[0] == 403
    assert "Traceback" not in agents[0].stop()
    for _ in range(4):
        assert request(client="127.0.0.66")[0] == 403
    assert "Traceback" not in agents[1].stop()

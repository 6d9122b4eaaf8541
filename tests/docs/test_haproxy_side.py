"""docs/howto/haproxy_side.rst: spoactl writes the configuration, and HAProxy decides by it."""

from __future__ import annotations

import re
import shlex

from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port, without_rules

from .iprep import HANDLERS, START
from .pages import Page

PAGE = Page("howto/haproxy_side")


@PAGE.run(
    haproxy_cfg="haproxy.cfg",
    spoe_conf="spoe.conf",
)
def test_haproxy_asks(haproxy_cfg: str, spoe_conf: str, machine: Machine, branch: Branch) -> None:
    """HAProxy finds no fault with the files as they stand, and decides by what the three handlers set."""
    machine.write(iprep_py=HANDLERS, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
    machine.run(f"{shlex.quote(str(branch.executable))} -c -f haproxy.cfg")

    agent = machine.start(on_any_port(START))
    haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}").replace("12345", agent.port)
    request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg)

    assert request(**{"X-Token": "swordfish", "X-User": "root"}) == (200, "user: alice")
    assert request()[0] == 401
    assert request(**{"X-Token": "sesame"})[0] == 401
    assert request(client="127.0.0.66", **{"X-Token": "swordfish"})[0] == 403
    assert request(client="127.0.0.99", **{"X-Token": "swordfish"})[0] == 403
    said = agent.stop()
    assert "Server Shut Down." in said
    assert "Traceback" not in said


@PAGE.run(command="Let spoactl write the files 1", haproxy_cfg="haproxy.cfg", spoe_conf="spoe.conf")
def test_the_configuration_is_written(command: str, haproxy_cfg: str, spoe_conf: str, machine: Machine) -> None:
    """``spoactl config`` writes it from the handlers. Only the rules that read what the agent sets are the reader's."""
    machine.write(iprep_py=HANDLERS)
    machine.run(command)
    written = (machine.folder / "haproxy.cfg").read_text()
    assert (machine.folder / "spoe.conf").read_text() == spoe_conf.removeprefix("# spoe.conf\n")
    assert without_rules(written) == without_rules(haproxy_cfg)
    # The comments of the written one become three of the rules.
    for name in ("allowed", "unlisted", "known"):
        assert f"#http-request deny unless {{ var(txn.iprep.{name}) -m bool }}\n" in written
        assert re.search(
            rf"http-request deny deny_status 40\d unless {{ var\(txn.iprep.{name}\) -m bool }}\n", haproxy_cfg
        )


@PAGE.run(console="Check the files 1", haproxy_cfg="haproxy.cfg", spoe_conf="spoe.conf")
def test_spoactl_check(console: str, haproxy_cfg: str, spoe_conf: str, machine: Machine) -> None:
    """It prints nothing for the files of the page."""
    machine.write(iprep_py=HANDLERS, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
    assert machine.run(f"{console.removeprefix('$ ').strip()} --no-haproxy") == ""

"""docs/howto/bodies.rst: spoactl writes the configuration, and the scanner answers."""

from __future__ import annotations

import shlex

from spoa_twisted.runner.loading import load
from spoa_twisted.testing import FakeHAProxy
from tests.haproxy.branches import Branch
from tests.machine import Machine, without_rules

from .pages import Page

PAGE = Page("howto/bodies")


@PAGE.run(
    haproxy_cfg="haproxy.cfg, bodies", spoe_conf="spoe.conf, bodies", handlers="scan.py", command="The configuration 1"
)
def test_the_scanner(
    haproxy_cfg: str, spoe_conf: str, handlers: str, command: str, machine: Machine, branch: Branch
) -> None:
    """``spoactl config`` writes the configuration, but for the rules, and HAProxy accepts it.

    tests/haproxy/test_bodies.py sends bodies of many sizes.
    """
    machine.write(scan_py=handlers)
    machine.run(command)
    assert (machine.folder / "spoe.conf").read_text() == spoe_conf.removeprefix("# spoe.conf, bodies\n")
    assert without_rules((machine.folder / "haproxy.cfg").read_text()) == without_rules(haproxy_cfg)
    machine.write(haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
    machine.run(f"{shlex.quote(str(branch.executable))} -c -f haproxy.cfg")
    haproxy = FakeHAProxy(load(str(machine.folder / "scan.py")))
    assert haproxy.notify("scan-body", body=b"good", size=4) == {"txn.whole": True, "txn.clean": True}
    assert haproxy.notify("scan-body", body=b"EICAR", size=5) == {"txn.whole": True, "txn.clean": False}
    assert haproxy.notify("scan-body", body=b"good", size=5) == {"txn.whole": False, "txn.clean": False}

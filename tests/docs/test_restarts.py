"""docs/explanation/restarts.rst: the commands and the backend are right, and the figure is the README's."""

from __future__ import annotations

import re
import subprocess

from spoa_twisted.agent.drain import MAX_PATIENCE
from spoa_twisted.limits import LIMITS
from tests.haproxy.branches import Branch
from tests.machine import Machine

from .blocks import Steps
from .pages import DOCS

HANDLERS = """\
from spoa_twisted import Handlers

handlers = Handlers(on_error={"txn.error": "handler"})


@handlers.message("check-ip", args={"ip": "src"}, event="on-frontend-http-request", sets={"txn.allowed": bool})
def check_ip(ip):
    return {"txn.allowed": True}
"""

TEXT = (DOCS / "explanation" / "restarts.rst").read_text("utf-8")


def test_the_reload(machine: Machine) -> None:
    """The agent starts with the options of the page, and ``spoactl reload`` replaces its workers."""
    page = Steps("explanation/restarts")
    start, reload = page.take().splitlines()
    page.take("haproxy.cfg")
    page.finish()
    machine.write(shop_py=HANDLERS)
    status = "--status unix:status"
    start = re.sub(r"--status \S+", status, start)
    agent = machine.start(f"{start} --listen tcp:0:interface=127.0.0.1")
    agent.program.said(r"worker \d is ready", times=2)
    assert re.match(r"reloaded: 2 workers were replaced", machine.run(f"{reload} {status}"))
    agent.stop()


def test_the_backend(machine: Machine, branch: Branch) -> None:
    """``spoactl config`` writes it with the options of the page, and HAProxy accepts it."""
    page = Steps("explanation/restarts")
    page.take()
    backend = page.take("haproxy.cfg")
    machine.write(shop_py=HANDLERS)
    servers = re.search(r"``(--server [^`]*)``", TEXT)
    assert servers is not None
    machine.run(f"spoactl config --handlers shop {servers[1]} --whole --output .")
    assert backend in (machine.folder / "haproxy.cfg").read_text()
    command = [str(branch.executable), "-c", "-f", "haproxy.cfg"]
    subprocess.run(command, cwd=machine.folder, check=True, capture_output=True)


def test_the_figures() -> None:
    """The times are those of the code."""
    assert "for a third of a second at most" in TEXT
    assert 0.3 < MAX_PATIENCE < 0.34
    assert f"``--drain-timeout``, {LIMITS['drain_timeout'].default:.0f} seconds by default" in TEXT

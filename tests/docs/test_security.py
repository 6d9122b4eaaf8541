"""docs/explanation/security.rst: the rules, the handler and the limits are what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from spoa_twisted import IHandlers
from spoa_twisted.agent.outbox import UNSENT_TIMEOUT
from spoa_twisted.limits import LIMITS
from spoa_twisted.spop.messages import MAX_MESSAGES
from spoa_twisted.testing import FakeHAProxy
from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port

from .blocks import Steps
from .pages import DOCS

TEXT = (DOCS / "explanation" / "security.rst").read_text("utf-8")

#: A handler for both examples of rules.
HANDLERS = """\
from spoa_twisted import Handlers

handlers = Handlers(on_error={"txn.error": "handler"})


@handlers.message(
    "check-ip",
    args={"ip": "src"},
    event="on-frontend-http-request",
    sets={"txn.allowed": bool, "txn.blocked": bool},
)
def check_ip(ip):
    blocked = str(ip) == "127.0.0.66"
    return {"txn.allowed": not blocked, "txn.blocked": blocked}
"""


@pytest.mark.parametrize(
    ("position", "caption", "without_agent"),
    [(0, "refuses when the agent fails", 503), (1, "lets requests pass when the agent fails", 200)],
    ids=["closed", "open"],
)
def test_the_rules(position: int, caption: str, without_agent: int, machine: Machine, branch: Branch) -> None:
    """While the agent works, both examples do the same. When it is stopped, only the first refuses."""
    page = Steps("explanation/security")
    rules = [page.take("refuses when the agent fails"), page.take("lets requests pass when the agent fails")][position]
    machine.write(shop_py=HANDLERS)
    agent = machine.start(on_any_port("twistd -n spoa --handlers shop"))
    machine.run(f"spoactl config --handlers shop --server 127.0.0.1:{agent.port} --whole --output .")
    text = (machine.folder / "haproxy.cfg").read_text()
    text = re.sub(r"    #?http-request deny .*\n", "", text)
    text = text.partition("\n# It stands for your application")[0] + "\n"
    text = text.replace("    default_backend", f"{rules}    default_backend").replace("check 500ms", "check 5s")
    request = machine.haproxy(
        branch,
        haproxy_cfg=text.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}"),
        spoe_conf=(machine.folder / "spoe.conf").read_text(),
    )
    assert request("127.0.0.1")[0] == 200
    assert request("127.0.0.66")[0] == 403
    agent.stop()
    assert request("127.0.0.66")[0] == without_agent


def test_the_handler(load_text: Callable[[str, str], IHandlers]) -> None:
    """It takes any bytes, and no header at all, and allows only the secret token."""
    page = Steps("explanation/security")
    page.take("refuses when the agent fails")
    page.take("lets requests pass when the agent fails")
    haproxy = FakeHAProxy(load_text("tokens", page.take("tokens.py")))
    page.finish()
    tokens: dict[Any, bool] = {"correct horse": True, "sesame": False, "\udcff\udcfe": False, None: False}
    for token, allowed in tokens.items():
        assert haproxy.notify("check-token", token=token) == {"txn.allowed": allowed}


def test_the_limits() -> None:
    """The table has the defaults of the agent."""
    text = " ".join(TEXT.split())
    for name, shown in re.findall(r"``--([a-z-]+)``, ([0-9,]+(?: MiB)?)", text):
        number, _, unit = shown.partition(" ")
        value = int(number.replace(",", "")) * (2**20 if unit else 1)
        assert LIMITS[name.replace("-", "_")].default == value, name
    assert text.count("``--max-") == 7
    assert f"{UNSENT_TIMEOUT:.0f} seconds with more than ``--max-unsent``" in text
    assert f"{MAX_MESSAGES:,} messages" in text

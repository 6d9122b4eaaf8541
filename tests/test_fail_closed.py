"""The configurations in ``docs`` and in ``examples`` refuse every request that the agent has not allowed.

The tests use exactly the HAProxy rules and handlers that readers copy. HAProxy answers 503 when the agent or a handler
fails, and 401 or 403 when the agent refuses the request.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import shlex
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.iprep import HANDLERS, HAPROXY_CFG, SPOE_CONF, START
from tests.haproxy.branches import Branch
from tests.machine import Agent, Machine, machine, on_any_port
from tests.programs import LIMIT, ROOT

__all__ = ["machine"]  # a fixture

#: Replaces the 2 seconds of the configurations, so that a request without an answer takes less time.
PROCESSING = "timeout processing 500ms"

#: Python statements that make each handler exceed PROCESSING. The plain function comes last: it blocks the whole agent,
#: so a good request directly after it may be late too.
LATE = {
    "check_dnsbl": "return deferLater(reactor, 1, dict)",
    "check_token": "await deferLater(reactor, 1, dict)",
    "get_ip_reputation": "time.sleep(1)",
}


class Request(NamedTuple):
    """A request by what the agent decides on: the address and the token of the client."""

    client: str = "127.0.0.1"
    token: str | None = "swordfish"


GOOD = Request()


def replaced(text: str, old: str, new: str) -> str:
    """Replace ``old`` by ``new``. ``text`` must contain ``old`` exactly once."""
    assert text.count(old) == 1
    return text.replace(old, new)


def freeze(agent: Agent) -> None:
    """Send SIGSTOP to the agent, and wait until its process has stopped. Its port and connections stay open."""
    agent.program.signal(signal.SIGSTOP)
    deadline = time.monotonic() + LIMIT
    # os.waitid() would wait for it, but PyPy does not have it. "T" is the state of a stopped process.
    while Path(f"/proc/{agent.program.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "the agent's process has not stopped after SIGSTOP"


class Site:
    """A web server, a HAProxy and agents with one configuration.

    :param answers: requests, and the HTTP status that each gets while the agents work.
    :param servers: the addresses of the agents in ``haproxy_cfg``, to be replaced.
    """

    def __init__(
        self,
        machine: Machine,
        branch: Branch,
        *,
        haproxy_cfg: str,
        spoe_conf: str,
        handlers: str,
        answers: dict[Request, int],
        servers: tuple[str, ...] = ("127.0.0.1:12345",),
    ) -> None:
        self.machine = machine
        self.branch = branch
        self.haproxy_cfg = haproxy_cfg
        self.spoe_conf = spoe_conf
        self.handlers = handlers
        self.answers = answers
        self.servers = servers
        self.agents: list[Agent] = []

    def start(self) -> None:
        """Start the web server, the agents and HAProxy. Check the answer to each request of ``answers``."""
        self.machine.write(iprep_py=self.handlers)
        haproxy_cfg = replaced(self.haproxy_cfg, "127.0.0.1:8081", f"127.0.0.1:{self.machine.app()}")
        for number, server in enumerate(self.servers):
            command = replaced(on_any_port(START), " -n ", f" -n --pidfile={number}.pid ")
            agent = self.machine.start(command)
            self.agents.append(agent)
            haproxy_cfg = replaced(haproxy_cfg, server, f"127.0.0.1:{agent.port}")
        spoe_conf = replaced(self.spoe_conf, "timeout processing 2s", PROCESSING)
        # On a busy machine, an agent may answer a health check so late that HAProxy marks it down.
        haproxy_cfg = haproxy_cfg.replace("timeout check 500ms", "timeout check 5s")
        self.machine.haproxy(self.branch, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
        assert {request: self.get(request) for request in self.answers} == self.answers

    @contextlib.contextmanager
    def connection(self, client: str = GOOD.client) -> Iterator[http.client.HTTPConnection]:
        """Yield an HTTP connection from this client address."""
        connection = http.client.HTTPConnection(*self.machine.website, timeout=60, source_address=(client, 0))
        with contextlib.closing(connection):
            yield connection

    def get(self, request: Request = GOOD, over: http.client.HTTPConnection | None = None) -> int:
        """Send ``request``, by default over a new connection, and return the HTTP status."""
        with contextlib.nullcontext(over) if over else self.connection(request.client) as connection:
            connection.request("GET", "/", headers={"X-Token": request.token} if request.token else {})
            response = connection.getresponse()
            response.read()
            return response.status

    def get_all(self, kept: http.client.HTTPConnection) -> list[int]:
        """Send all requests at the same time, and a good one over the persistent connection; return the statuses."""
        assert kept.sock is not None
        with ThreadPoolExecutor(1 + len(self.answers)) as threads:
            return [*threads.map(self.get, [GOOD, *self.answers], [kept, *[None] * len(self.answers)])]

    def set_failure(self, failure: str) -> None:
        """Set which handler fails from now on, and how: "NAME raises", "NAME is late", or "nothing"."""
        (self.machine.folder / "failure").write_text(failure)

    def make_handlers_fail_on_demand(self) -> list[str]:
        """Add code to each handler that lets it fail as :meth:`set_failure` says. Return the names of the handlers."""
        names = re.findall(r"^(?:async )?def (get_ip_reputation|check_\w+)\(", self.handlers, re.MULTILINE)
        assert len(names) == self.handlers.count("\n@handlers.message(")
        for name in names:
            self.handlers, count = re.subn(
                rf"^((?:async )?def {name}\(.*\n(?:    \"\"\".*\n)?)",
                rf"\1    if is_failure('{name} raises'):\n        raise RuntimeError\n"
                rf"    if is_failure('{name} is late'):\n        {LATE[name]}\n",
                self.handlers,
                flags=re.MULTILINE,
            )
            assert count == 1
        self.handlers += (
            "\n\nimport time\nfrom pathlib import Path\n\n\n"
            "def is_failure(failure):\n    return Path('failure').read_text() == failure\n"
        )
        self.set_failure("nothing")
        return names

    def without_on_error(self) -> None:
        """Remove every ``on_error`` from the handlers: a handler that fails then sets no variable."""
        self.handlers, count = re.subn(r"(, )?on_error=\{.*?\}", "", self.handlers)
        assert count


def haproxy_side(machine: Machine, branch: Branch) -> Site:
    """Return a site with the configuration in ``docs/howto/haproxy_side.rst``."""
    answers = {
        GOOD: 200,
        Request(token="sesame"): 401,
        Request(token=None): 401,
        Request(client="127.0.0.66"): 403,
        Request(client="127.0.0.99"): 403,
    }
    return Site(
        machine,
        branch,
        haproxy_cfg=HAPROXY_CFG,
        spoe_conf=SPOE_CONF,
        handlers=HANDLERS,
        answers=answers,
    )


def ip_reputation(machine: Machine, branch: Branch) -> Site:
    """Return a site with the files of ``examples/ip_reputation``."""
    folder = ROOT / "examples" / "ip_reputation"
    return Site(
        machine,
        branch,
        haproxy_cfg=(folder / "haproxy.cfg").read_text(),
        spoe_conf=(folder / "spoe.conf").read_text(),
        handlers=(folder / "handlers.py").read_text(),
        answers={GOOD: 200, Request(client="127.0.0.66"): 403},
    )


def container(machine: Machine, branch: Branch) -> Site:
    """Return a site with the configuration for containers, on 127.0.0.1, and the handlers of the image."""
    site = ip_reputation(machine, branch)
    haproxy_cfg = (ROOT / "examples" / "container" / "haproxy.cfg").read_text()
    site.haproxy_cfg = replaced(haproxy_cfg, "bind :8080", "bind 127.0.0.1:8080")
    return site


def scale(machine: Machine, branch: Branch) -> Site:
    """Return a site with the configuration of ``examples/scale``, and the handlers in ``docs/howto/handlers.rst``."""
    folder = ROOT / "examples" / "scale"
    return Site(
        machine,
        branch,
        haproxy_cfg=(folder / "haproxy.cfg").read_text(),
        spoe_conf=(folder / "spoe.conf").read_text(),
        handlers=HANDLERS,
        answers={GOOD: 200, Request(client="127.0.0.66"): 403},
        servers=("127.0.0.1:12341", "127.0.0.1:12342"),
    )


SITES = {"haproxy_side": haproxy_side, "ip_reputation": ip_reputation, "container": container, "scale": scale}


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, machine: Machine, branch: Branch) -> Site:
    """A site for each configuration, not yet started."""
    return SITES[request.param](machine, branch)


@pytest.fixture(params=["haproxy_side", "ip_reputation"])
def site_with_handlers(request: pytest.FixtureRequest, machine: Machine, branch: Branch) -> Site:
    """A site for each module of handlers, not yet started."""
    return SITES[request.param](machine, branch)


def test_every_configuration_is_here() -> None:
    """The tests cover every folder of ``examples/`` that has a HAProxy configuration.

    The examples that ask a service have tests of their own in ``tests/examples``, with the real service.
    """
    folders = {path.parent.name for path in (ROOT / "examples").rglob("*.cfg")}
    own = {name for name in folders if (ROOT / "tests" / "examples" / f"test_{name}.py").exists()}
    assert folders == (SITES.keys() - {"haproxy_side"}) | own


def test_haproxy_accepts_the_configuration(site: Site) -> None:
    """``haproxy -c`` accepts the unchanged files."""
    site.machine.write(haproxy_cfg=site.haproxy_cfg, spoe_conf=site.spoe_conf)
    site.machine.run(f"{shlex.quote(str(site.branch.executable))} -c -f haproxy.cfg")


def test_agents_that_are_stopped(site: Site) -> None:
    """When all agents are stopped, every request gets 503, on a new connection and on a persistent one."""
    site.start()
    with site.connection() as kept:
        assert site.get(over=kept) == 200
        for agent in site.agents:
            assert "Traceback" not in agent.stop()
        assert set(site.get_all(kept)) == {503}


def test_agents_that_are_frozen_and_killed(site: Site) -> None:
    """While the processes of all agents are stopped by SIGSTOP, and after they are killed, every request gets 503."""
    site.start()
    with site.connection() as kept:
        assert site.get(over=kept) == 200
        for agent in site.agents:
            freeze(agent)
        assert set(site.get_all(kept)) == {503}
        for agent in site.agents:
            agent.program.kill()
        assert set(site.get_all(kept)) == {503}


def test_handlers_that_fail(site_with_handlers: Site) -> None:
    """When one of several handlers raises or is late, every request gets 503."""
    site = site_with_handlers
    names = site.make_handlers_fail_on_demand()
    site.start()
    for failure in [f"{name} raises" for name in names] + [f"{name} is late" for name in LATE if name in names]:
        site.set_failure("nothing")
        assert (failure, site.get()) == (failure, 200)
        site.set_failure(failure)
        assert (failure, site.get()) == (failure, 503)
    (agent,) = site.agents
    output = agent.stop()
    for name in names:
        assert f"the handler of the message '{name.replace('_', '-')}' failed\n" in output


def test_handlers_that_fail_and_have_no_on_error(site_with_handlers: Site) -> None:
    """Without ``on_error``, a handler that fails sets no variable. HAProxy still refuses: its rules need a variable."""
    site = site_with_handlers
    site.without_on_error()
    names = site.make_handlers_fail_on_demand()
    site.start()
    for name in names:
        site.set_failure(f"{name} raises")
        assert (name, site.get()) == (name, 401 if name == "check_token" else 403)


@pytest.mark.parametrize(("scope", "status"), [("txn", 403), ("sess", 200)])
def test_the_scope_of_what_allows(machine: Machine, branch: Branch, scope: str, status: int) -> None:
    """A variable of the scope "sess" also allows the next request on the same connection. One of "txn" does not."""
    site = haproxy_side(machine, branch)
    site.without_on_error()
    site.handlers = replaced(site.handlers, 'return {"txn.allowed"', f'return {{"{scope}.allowed"')
    site.haproxy_cfg = replaced(site.haproxy_cfg, "txn.iprep.allowed", f"{scope}.iprep.allowed")
    site.make_handlers_fail_on_demand()
    site.start()
    with site.connection() as kept:
        assert site.get(over=kept) == 200
        assert kept.sock is not None
        site.set_failure("get_ip_reputation raises")
        assert site.get(over=kept) == status
    assert site.get() == 403

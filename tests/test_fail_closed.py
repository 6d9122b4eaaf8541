"""The configurations of the README and of ``examples/`` refuse every request that the agent has not allowed.

The HAProxy rules are the ones that a reader copies, and so are the handlers. HAProxy answers 503 when the agent or a
handler fails, and 401 or 403 when the agent refuses.
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

from tests.haproxy.branches import Branch
from tests.programs import LIMIT, ROOT
from tests.test_readme import BLOCKS, Agent, Machine, machine, on_any_port, with_backend

__all__ = ["machine"]  # a fixture

#: In place of the configurations' own 2 seconds, for which each request would have to wait.
PROCESSING = "timeout processing 500ms"

#: Python that makes each handler late. The plain function comes last: it blocks the whole agent for longer than
#: PROCESSING, so that a good request right after it may be late too.
LATE = {
    "check_dnsbl": "return deferLater(reactor, 1, dict)",
    "check_token": "await deferLater(reactor, 1, dict)",
    "get_ip_reputation": "time.sleep(1)",
}


class Request(NamedTuple):
    """What the agent decides by: the address of a client, and its token."""

    client: str = "127.0.0.1"
    token: str | None = "swordfish"


GOOD = Request()


def replaced(text: str, old: str, new: str) -> str:
    """Replace what ``text`` has exactly once."""
    assert text.count(old) == 1
    return text.replace(old, new)


def freeze(agent: Agent) -> None:
    """Stop the agent's process, and wait until it stands still. It keeps its port and its connections."""
    agent.program.signal(signal.SIGSTOP)
    deadline = time.monotonic() + LIMIT
    # PyPy has no os.waitid, which would tell.
    while Path(f"/proc/{agent.program.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "it does not stand still"


class Site:
    """A website with the HAProxy and the agents of one configuration.

    :param answers: requests, and the statuses that they get while the agents work.
    :param servers: the addresses of the agents in ``haproxy_cfg``.
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
        """Start the web server, the agents and HAProxy, and let HAProxy answer a request of each kind."""
        self.machine.write(iprep_py=self.handlers)
        haproxy_cfg = replaced(self.haproxy_cfg, "127.0.0.1:8081", f"127.0.0.1:{self.machine.app()}")
        for number, server in enumerate(self.servers):
            command = replaced(on_any_port(BLOCKS["Handlers 2"]), " -n ", f" -n --pidfile={number}.pid ")
            agent = self.machine.start(command)
            self.agents.append(agent)
            haproxy_cfg = replaced(haproxy_cfg, server, f"127.0.0.1:{agent.port}")
        spoe_conf = replaced(self.spoe_conf, "timeout processing 2s", PROCESSING)
        self.machine.haproxy(self.branch, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
        assert {request: self.get(request) for request in self.answers} == self.answers

    @contextlib.contextmanager
    def connection(self, client: str = GOOD.client) -> Iterator[http.client.HTTPConnection]:
        """Give the connection of a client."""
        connection = http.client.HTTPConnection(*self.machine.website, timeout=60, source_address=(client, 0))
        with contextlib.closing(connection):
            yield connection

    def get(self, request: Request = GOOD, over: http.client.HTTPConnection | None = None) -> int:
        """Return the status of the answer to ``request``, made over a connection of its own unless one is given."""
        with contextlib.nullcontext(over) if over else self.connection(request.client) as connection:
            connection.request("GET", "/", headers={"X-Token": request.token} if request.token else {})
            response = connection.getresponse()
            response.read()
            return response.status

    def get_all(self, kept: http.client.HTTPConnection) -> list[int]:
        """Make all requests at the same time, and a good one over the connection that was kept alive."""
        assert kept.sock is not None
        with ThreadPoolExecutor(1 + len(self.answers)) as threads:
            return [*threads.map(self.get, [GOOD, *self.answers], [kept, *[None] * len(self.answers)])]

    def tell(self, what: str) -> None:
        """Tell the handlers of :meth:`obedient` which one is to fail from now on, and how."""
        (self.machine.folder / "told").write_text(what)

    def obedient(self) -> list[str]:
        """Let each handler fail when it is told so; return their names."""
        names = re.findall(r"^(?:async )?def (get_ip_reputation|check_\w+)\(", self.handlers, re.MULTILINE)
        assert len(names) == self.handlers.count("\n@handlers.message(")
        for name in names:
            self.handlers, count = re.subn(
                rf"^((?:async )?def {name}\(.*\n(?:    \"\"\".*\n)?)",
                rf"\1    if told('{name} raises'):\n        raise RuntimeError\n"
                rf"    if told('{name} is late'):\n        {LATE[name]}\n",
                self.handlers,
                flags=re.MULTILINE,
            )
            assert count == 1
        self.handlers += (
            "\n\nimport time\nfrom pathlib import Path\n\n\n"
            "def told(what):\n    return Path('told').read_text() == what\n"
        )
        self.tell("nothing")
        return names

    def without_on_error(self) -> None:
        """Take every ``on_error`` away: a handler that fails sets no variable at all."""
        self.handlers, count = re.subn(r"(, )?on_error=\{.*?\}", "", self.handlers)
        assert count


def readme(machine: Machine, branch: Branch) -> Site:
    """Return what the README shows for this branch."""
    haproxy_cfg = with_backend(
        BLOCKS["haproxy.cfg"], "127.0.0.1:12345 check", BLOCKS["haproxy.cfg, HAProxy >= 3.1"], branch
    )
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
        haproxy_cfg=haproxy_cfg,
        spoe_conf=BLOCKS["spoe.conf"],
        handlers=BLOCKS["iprep.py"],
        answers=answers,
    )


def ip_reputation(machine: Machine, branch: Branch) -> Site:
    """Return what is in ``examples/ip_reputation``."""
    folder = ROOT / "examples" / "ip_reputation"
    return Site(
        machine,
        branch,
        haproxy_cfg=(folder / "haproxy.cfg").read_text(),
        spoe_conf=(folder / "spoe.conf").read_text(),
        handlers=(folder / "handlers.py").read_text(),
        answers={GOOD: 200, Request(client="127.0.0.66"): 403},
    )


def scale(machine: Machine, branch: Branch) -> Site:
    """Return what is in ``examples/scale``, with the README's handlers."""
    folder = ROOT / "examples" / "scale"
    return Site(
        machine,
        branch,
        haproxy_cfg=(folder / "haproxy.cfg").read_text(),
        spoe_conf=(folder / "spoe.conf").read_text(),
        handlers=BLOCKS["iprep.py"],
        answers={GOOD: 200, Request(client="127.0.0.66"): 403},
        servers=("127.0.0.1:12340", "127.0.0.1:12341"),
    )


SITES = {"README": readme, "ip_reputation": ip_reputation, "scale": scale}


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, machine: Machine, branch: Branch) -> Site:
    """A site with each configuration."""
    return SITES[request.param](machine, branch)


@pytest.fixture(params=["README", "ip_reputation"])
def site_with_handlers(request: pytest.FixtureRequest, machine: Machine, branch: Branch) -> Site:
    """A site with each module of handlers."""
    return SITES[request.param](machine, branch)


def test_every_configuration_is_here() -> None:
    """No folder of ``examples/`` has a configuration that the tests here leave out."""
    folders = {path.parent.name for path in (ROOT / "examples").rglob("*.cfg")}
    assert folders == SITES.keys() - {"README"}


def test_haproxy_accepts_the_configuration(site: Site) -> None:
    """HAProxy finds no fault with the files as they stand."""
    site.machine.write(haproxy_cfg=site.haproxy_cfg, spoe_conf=site.spoe_conf)
    site.machine.run(f"{shlex.quote(str(site.branch.executable))} -c -f haproxy.cfg")


def test_agents_that_are_stopped(site: Site) -> None:
    """No request passes, on a new connection or on one that is kept alive, and 503 says that the agent is the cause."""
    site.start()
    with site.connection() as kept:
        assert site.get(over=kept) == 200
        for agent in site.agents:
            assert "Traceback" not in agent.stop()
        assert set(site.get_all(kept)) == {503}


def test_agents_that_are_frozen_and_killed(site: Site) -> None:
    """No request passes while the processes stand still, nor when they are gone."""
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
    """No request passes when one handler of several raises or is late, and 503 says that it is not a refusal."""
    site = site_with_handlers
    names = site.obedient()
    site.start()
    for failure in [f"{name} raises" for name in names] + [f"{name} is late" for name in LATE if name in names]:
        site.tell("nothing")
        assert (failure, site.get()) == (failure, 200)
        site.tell(failure)
        assert (failure, site.get()) == (failure, 503)
    (agent,) = site.agents
    said = agent.stop()
    for name in names:
        assert f"the handler of the message '{name.replace('_', '-')}' failed\n" in said


def test_handlers_that_fail_and_have_no_on_error(site_with_handlers: Site) -> None:
    """No request passes even if a handler that fails sets no variable: each rule refuses what is not allowed."""
    site = site_with_handlers
    site.without_on_error()
    names = site.obedient()
    site.start()
    for name in names:
        site.tell(f"{name} raises")
        assert (name, site.get()) == (name, 401 if name == "check_token" else 403)


@pytest.mark.parametrize(("scope", "status"), [("txn", 403), ("sess", 200)])
def test_the_scope_of_what_allows(machine: Machine, branch: Branch, scope: str, status: int) -> None:
    """What allowed a request allows the next one on the same connection in the scope sess, but not in txn."""
    site = readme(machine, branch)
    site.without_on_error()
    site.handlers = replaced(site.handlers, "txn.allowed", f"{scope}.allowed")
    site.haproxy_cfg = replaced(site.haproxy_cfg, "txn.iprep.allowed", f"{scope}.iprep.allowed")
    site.obedient()
    site.start()
    with site.connection() as kept:
        assert site.get(over=kept) == 200
        assert kept.sock is not None
        site.tell("get_ip_reputation raises")
        assert site.get(over=kept) == status
    assert site.get() == 403

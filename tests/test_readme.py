"""Every code block of README.rst does what the README says, and its tables are true."""

from __future__ import annotations

import configparser
import contextlib
import ipaddress
import json
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from docutils import nodes
from docutils.core import publish_doctree
from twisted.internet.defer import Deferred, gatherResults, succeed

from spoa_twisted import (
    NULL,
    Handlers,
    IHandlers,
    Int32,
    Int64,
    Message,
    SPOAFactory,
    SPOAService,
    SPOEClient,
    UInt32,
    UInt64,
)
from spoa_twisted.limits import LIMITS
from spoa_twisted.runner.loading import load
from spoa_twisted.spop.typeddata import DataType, encode_typed_data
from spoa_twisted.testing import FakeHAProxy
from tests import readme_commands, readme_options
from tests.certificates import self_signed
from tests.examples.test_ip_reputation import Checkout, checkout
from tests.handlers.answers import late_line
from tests.haproxy.branches import Branch
from tests.machine import Agent, Machine, load_text, machine, on_any_port, without_rules
from tests.programs import LIMIT, LISTENING, ROOT, STOPPED, Program

__all__ = ["checkout", "load_text", "machine"]  # fixtures

TEXT = readme_commands.README.read_text("utf-8")


def name_blocks() -> dict[str, str]:
    """Return the code blocks: a file by its name, which its first line says; others by section and number."""
    named: dict[str, str] = {}
    sections: dict[str, int] = {}
    for block in readme_commands.blocks():
        sections[block.section] = sections.get(block.section, 0) + 1
        first = block.text.partition("\n")[0]
        name = first[2:] if first.startswith("# ") else f"{block.section} {sections[block.section]}"
        assert name not in named
        named[name] = block.text
    return named


BLOCKS = name_blocks()
RUN: set[str] = set()


def readme(**names: str) -> pytest.MarkDecorator:
    """Give a test code blocks as arguments, and count them as run."""
    RUN.update(names.values())
    return pytest.mark.parametrize(tuple(names), [[BLOCKS[name] for name in names.values()]], ids=["README"])


# What the blocks are run with.


class Pool:
    """A pool of connections to no database, which keeps its calls."""

    calls: list[str] = []

    def __init__(self, *arguments: object, **keywords: object) -> None:
        self.calls.clear()

    def runQuery(self, query: str) -> Deferred[list[object]]:
        self.calls.append(query)
        return succeed([])

    def close(self) -> None:
        self.calls.append("close")


def with_server(haproxy_cfg: str, server: str) -> str:
    """Return the configuration of the README with another ``server`` line."""
    before, line = haproxy_cfg.split("    server agent1 ")
    assert line == "127.0.0.1:12345\n"
    # A busy machine may need longer for a TLS handshake.
    before = before.replace("timeout connect 100ms", "timeout connect 5s").replace("check 500ms", "check 5s")
    return f"{before}    server agent1 {server}\n"


#: The first line of the agents' backend.
BACKEND = "backend iprep-agents\n"


# The README as a whole.


def doctree() -> nodes.document:
    return publish_doctree(TEXT, settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"})


def table(section: str) -> list[list[str]]:
    """Return the rows, without the head, of the table in a section: the text of each cell."""
    rows = []
    for part in doctree().findall(nodes.section):
        if part.next_node(nodes.title).astext() == section:
            for row in part.next_node(nodes.tbody).findall(nodes.row):
                rows.append([entry.astext() for entry in row.findall(nodes.entry)])
    assert rows
    return rows


def test_it_is_valid() -> None:
    """docutils reads it without a complaint, and finds the code blocks that these tests find, and no others."""
    found = [node.astext() + "\n" for node in doctree().findall(nodes.literal_block)]
    assert found == [block.text for block in readme_commands.blocks()]
    assert not list(doctree().findall(nodes.doctest_block))


def test_it_points_to_all_documentation() -> None:
    """It names each page in docs/, and each file and folder that it names is there."""
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.rst")}
    named = set(re.findall(r"``((?:docs|examples)/[\w./-]+)``", TEXT))
    assert pages <= named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_block_is_run() -> None:
    """No code block is left out by the tests here."""
    assert sorted(BLOCKS) == sorted(RUN)


# Try it.


@readme(command="Try it 1", output="Try it 2")
def test_the_command_that_runs_the_example(command: str, output: str, checkout: Checkout, branch: Branch) -> None:
    """Its last step, as written, prints what the README shows; .ci/run runs all of it on a machine that has nothing."""
    python = checkout.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)

    ended = subprocess.run(
        ["/bin/sh", "-c", command.rpartition("&&")[2]],
        cwd=checkout.folder,
        env=checkout.with_haproxy(branch.executable),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith(f"\n\n{output}")


@readme(example="Try it 1", tests="Try it 3")
def test_the_set_up_commands(example: str, tests: str) -> None:
    """They are what ``python3 -m tests.readme_commands`` prints for .ci/run, and the extras that they name exist."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for number, command in enumerate((example, tests), 1):
        printed = subprocess.run(
            [sys.executable, "-m", "tests.readme_commands", str(number)], cwd=ROOT, capture_output=True, check=True
        )
        assert printed.stdout.decode() == command
        assert subprocess.run(["/bin/sh", "-n", "-c", command], check=False).returncode == 0
        extra = re.search(r'pip install -e "\.\[(\w+)\]"', command)
        assert extra is not None
        assert setup["options.extras_require"][extra[1]]
    assert tests.endswith(".venv/bin/python -m pytest\n")
    assert "tests.readme_commands" in (ROOT / ".ci" / "stages.py").read_text()


# Handlers.


@readme(text="iprep.py")
@pytest_twisted.ensureDeferred
async def test_the_handlers(text: str, load_text: Callable[[str, str], IHandlers]) -> None:
    """A function, a Deferred and a coroutine answer, and what one that fails sets is set."""
    haproxy = FakeHAProxy(load_text("iprep", text))
    bad, listed, unknown = (ipaddress.IPv4Address(f"127.0.0.{number}") for number in (66, 99, 1))

    assert haproxy.notify("get-ip-reputation", ip=bad) == {"txn.allowed": False}
    assert haproxy.notify("get-ip-reputation", ip=unknown) == {"txn.allowed": True}
    assert await haproxy.send("check-dnsbl", ip=listed) == {"txn.unlisted": False}
    assert await haproxy.send("check-dnsbl", ip=unknown) == {"txn.unlisted": True}
    variables = await haproxy.send("check-token", token="swordfish")
    assert variables == {"txn.known": True, "req.user": "alice"}
    for token in ("sesame", None):
        variables = await haproxy.send("check-token", token=token)
        assert variables == {"txn.known": False, "req.user": None}


@readme(text="iprep.py")
def test_the_handler_with_a_timeout(text: str, load_text: Callable[[str, str], IHandlers], logged: Any) -> None:
    """After its 0.2 s, its on_error is set in its stead."""
    haproxy = FakeHAProxy(load_text("iprep", text))
    variables: list[Any] = []

    haproxy.send("check-token", token="swordfish").addCallback(variables.append)
    haproxy.clock.advance(0.2)

    assert variables == [{"txn.error": "token"}]
    assert logged.take() == [late_line("check-token", 0.2)]


@readme(text="lists.py", command="Handlers 2")
@pytest_twisted.ensureDeferred
async def test_startup_shutdown_every(text: str, command: str, machine: Machine) -> None:
    """The agent reads the blocklist and opens the database before it listens, and stops in order.

    Without the table, it does not start.
    """
    machine.write(lists_py=text, blocklist_txt="192.0.2.1\n2001:db8::1\n")
    command = on_any_port(command.replace("iprep", "lists"))
    failed = subprocess.run(
        command.split(), cwd=machine.folder, env=machine.environment, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    line = "spoa: startup function lists.open_database failed: OperationalError: no such table: user"
    assert failed.stdout.count(line) == 1

    with contextlib.closing(sqlite3.connect(machine.folder / "users.db")) as database:
        database.execute("CREATE TABLE user (name, token)")
        database.execute("INSERT INTO user VALUES ('alice', 'swordfish')")
        database.commit()
    agent = machine.start(command)
    client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")
    for ip, allowed in (("192.0.2.1", False), ("192.0.2.2", True), ("2001:db8::1", False)):
        assert await client.notify("check-ip", ip=ipaddress.ip_address(ip)) == {"txn.allowed": allowed}
    assert await client.notify("check-user", token="swordfish") == {"txn.known": True}
    assert await client.notify("check-user", token=None) == {"txn.known": False}
    await client.disconnect()
    output = agent.stop()
    assert "Traceback" not in output
    assert "Unhandled" not in output


@readme(text="lists.py")
def test_startup_shutdown_every_in_memory(
    text: str, load_text: Callable[[str, str], IHandlers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``FakeHAProxy`` runs the functions, as the README says: the blocklist is read again after 30 seconds."""
    monkeypatch.setattr("twisted.enterprise.adbapi.ConnectionPool", Pool)
    blocklist = tmp_path / "blocklist.txt"
    blocklist.write_text("192.0.2.1\n")
    ip = ipaddress.IPv4Address("192.0.2.2")
    with FakeHAProxy(load_text("lists", text)) as haproxy:
        assert haproxy.notify("check-ip", ip=ip) == {"txn.allowed": True}
        blocklist.write_text("192.0.2.2\n")
        haproxy.clock.advance(29)
        assert haproxy.notify("check-ip", ip=ip) == {"txn.allowed": True}
        haproxy.clock.advance(1)
        assert haproxy.notify("check-ip", ip=ip) == {"txn.allowed": False}
        assert Pool.calls == ["SELECT 1 FROM user"]
    assert Pool.calls == ["SELECT 1 FROM user", "close"]


@readme(text="more.py")
def test_the_options(text: str, load_text: Callable[[str, str], IHandlers], logged: Any) -> None:
    """The mapping, the options, the default handler and the binding of arguments are what the comments say."""
    handlers = load_text("more", text)
    assert isinstance(handlers, Handlers)
    haproxy = FakeHAProxy(handlers)

    arguments: dict[str, Any] = {"user-agent": "a bot", "a.b": 1, "c": 2}
    variables = haproxy.notify("check-client", "unnamed", **arguments)
    assert variables == {"txn.human": False, "txn.others": 2}
    assert haproxy.notify("scan-body", body=b"EICAR") == {"txn.clean": False}
    assert haproxy.notify("scan-body", body=b"text") == {"txn.clean": True}
    assert haproxy.notify("anything") == {"txn.unknown": "anything"}
    assert logged.take() == []

    assert haproxy.notify("check-client", status=1) == {"txn.error": "handler"}
    assert haproxy.notify("scan-body", body="text") == {"txn.clean": False}
    missing, wrong = logged.take()
    assert "'check-client' was not called: the message 'check-client' has no argument 'user_agent'" in missing
    assert "'scan-body' failed: TypeError" in wrong


@readme(text="accounts.py", command="asyncio 2")
@pytest_twisted.ensureDeferred
async def test_the_handler_for_asyncio(text: str, command: str, machine: Machine) -> None:
    """It awaits httpx and a Deferred on the asyncio reactor, and fails on another."""
    machine.write(accounts_py=text.replace("8081", machine.app()))
    for other, variables in (
        (False, {"txn.account": True, "txn.limit": 5}),
        (True, {"txn.error": "handler"}),
    ):
        line = command.replace("--reactor=asyncio ", "--reactor=poll ") if other else command
        agent = machine.start(on_any_port(line))
        client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")
        assert await client.notify("check-account", name="alice") == variables
        await client.disconnect()
        assert ("this needs twistd --reactor=asyncio" in agent.stop()) is other


def test_the_whole_message() -> None:
    """The parameter ``message`` has what the README lists."""
    handlers = Handlers()
    seen: list[Any] = []

    @handlers.message("whole")
    def whole(message: Message) -> None:
        seen.extend([message.name, message["ip"], message[0], message["arg(0)"], *message])

    FakeHAProxy(handlers).notify("whole", 7, ip="there")

    assert seen == ["whole", "there", 7, 7, ("", 7), ("ip", "there")]


# HAProxy's side.


@readme(
    handlers="iprep.py",
    command="Handlers 2",
    haproxy_cfg="haproxy.cfg",
    spoe_conf="spoe.conf",
)
def test_haproxy_asks(
    handlers: str, command: str, haproxy_cfg: str, spoe_conf: str, machine: Machine, branch: Branch
) -> None:
    """HAProxy finds no fault with the files as they stand, and decides by what the three handlers set."""
    machine.write(iprep_py=handlers, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
    machine.run(f"{shlex.quote(str(branch.executable))} -c -f haproxy.cfg")

    agent = machine.start(on_any_port(command))
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


@readme(handlers="iprep.py", command="HAProxy's side 1", haproxy_cfg="haproxy.cfg", spoe_conf="spoe.conf")
def test_the_configuration_is_written(
    handlers: str, command: str, haproxy_cfg: str, spoe_conf: str, machine: Machine
) -> None:
    """``spoactl config`` writes it from the handlers. Only the rules that read what the agent sets are the reader's."""
    machine.write(iprep_py=handlers)
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


@readme(haproxy_cfg="haproxy.cfg, bodies", spoe_conf="spoe.conf, bodies", handlers="scan.py", command="Bodies 2")
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


@readme(handlers="iprep.py", command="Handlers 2", backend="haproxy.cfg, two agents")
def test_two_agents(handlers: str, command: str, backend: str, machine: Machine, branch: Branch) -> None:
    """HAProxy goes on with one of them when the other is stopped."""
    if branch.rewritten:
        backend = backend.replace("mode tcp\n", "mode spop\n").replace(" on-marked-down shutdown-sessions", "")
    machine.write(iprep_py=handlers)
    agents = [machine.start(on_any_port(command).replace("-n", f"-n --pidfile={n}.pid")) for n in (1, 2)]
    haproxy_cfg = BLOCKS["haproxy.cfg"]
    haproxy_cfg = haproxy_cfg[: haproxy_cfg.index(BACKEND)] + backend[backend.index(BACKEND) :]
    for port, agent in zip(("12345", "12346"), agents, strict=True):
        haproxy_cfg = haproxy_cfg.replace(port, agent.port)
    haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}")
    request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg, spoe_conf=BLOCKS["spoe.conf"])

    for _ in range(4):
        assert request(client="127.0.0.66")[0] == 403
    assert "Traceback" not in agents[0].stop()
    for _ in range(4):
        assert request(client="127.0.0.66")[0] == 403
    assert "Traceback" not in agents[1].stop()


def server_of(text: str) -> str:
    """Return what a block with a ``server`` line has behind the server's name."""
    return text.split("    server agent1 ")[1].strip()


def check_endpoint(machine: Machine, branch: Branch, agent: Agent, server: str) -> None:
    """Let HAProxy ask the agent through this ``server`` line."""
    haproxy_cfg = with_server(BLOCKS["haproxy.cfg"], server)
    haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}")
    request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg, spoe_conf=BLOCKS["spoe.conf"])

    assert request(client="127.0.0.66")[0] == 403
    assert request(**{"X-Token": "swordfish"}) == (200, "user: alice")
    assert "Traceback" not in agent.stop()


@readme(handlers="iprep.py", command="Endpoints 1", server="haproxy.cfg, unix")
def test_unix_socket(handlers: str, command: str, server: str, machine: Machine, branch: Branch) -> None:
    """HAProxy reaches the agent by its Unix socket, which only owner and group may use."""
    machine.write(iprep_py=handlers)
    path = str(machine.folder / "agent.sock")
    agent = machine.start(command.replace("/run/spoa/agent.sock", path))
    assert Path(path).stat().st_mode & 0o777 == 0o660
    check_endpoint(machine, branch, agent, server_of(server).replace("/run/spoa/agent.sock", path))


@readme(handlers="iprep.py", command="Endpoints 3", server="haproxy.cfg, TLS")
def test_tls(handlers: str, command: str, server: str, machine: Machine, branch: Branch) -> None:
    """HAProxy reaches the agent by TLS, and trusts its certificate."""
    machine.write(iprep_py=handlers)
    self_signed(machine.folder)
    agent = machine.start(command.replace(":12345:", ":0:"))
    check_endpoint(machine, branch, agent, server_of(server).replace("12345", agent.port))


# What it does: --status.


@readme(handlers="iprep.py", command="What it does: --status 1")
@pytest_twisted.ensureDeferred
async def test_the_status(handlers: str, command: str, machine: Machine) -> None:
    """The status counts a request."""
    machine.write(iprep_py=handlers)
    await check_status(machine.start(on_any_port(command).replace("tcp:8404", "tcp:0")))


@readme(handlers="iprep.py", text="status.tac", command="What it does: --status 3")
@pytest_twisted.ensureDeferred
async def test_the_status_in_a_tac_file(handlers: str, text: str, command: str, machine: Machine) -> None:
    """The same of an application."""
    machine.write(iprep_py=handlers, status_tac=text.replace("tcp:12345", "tcp:0").replace("tcp:8404", "tcp:0"))
    await check_status(machine.start(command))


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


# Workers.


@readme(handlers="iprep.py", command="Workers 1", ports="Workers 2")
def test_workers(handlers: str, command: str, ports: str, machine: Machine) -> None:
    """SIGHUP reloads. With the second command, each worker has an endpoint of its own."""
    machine.write(iprep_py=handlers)
    agent = machine.start(on_any_port(command))
    for number in (1, 2):
        agent.program.said(f"worker {number} is ready")
    agent.program.signal(signal.SIGHUP)
    agent.program.said("reloaded: 2 workers")
    assert "Traceback" not in agent.stop()
    agent = machine.start(ports.replace("tcp:1234{worker}:interface=127.0.0.1", f"unix:{machine.folder}/{{worker}}"))
    assert agent.program.address(2) == f"{machine.folder}/2"
    agent.stop()


# In an application.


@readme(text="app.py")
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


@readme(text="app.py")
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


@readme(handlers="iprep.py", text="agent.tac", command="In an application 3")
@pytest_twisted.ensureDeferred
async def test_the_tac_file(handlers: str, text: str, command: str, machine: Machine) -> None:
    """twistd serves it, and logs no connection and no health check."""
    machine.write(iprep_py=handlers, agent_tac=text.replace("tcp:12345", "tcp:0"))
    agent = machine.start(command)
    client = SPOEClient(f"tcp:127.0.0.1:{agent.port}")

    assert await client.notify("get-ip-reputation", ip=ipaddress.IPv4Address("192.0.2.1")) == {"txn.allowed": True}
    await client.ping()
    await client.disconnect()
    said = agent.stop()
    assert "Server Shut Down." in said
    check_log(said)


# Testing handlers.


@readme(handlers="iprep.py", test="test_iprep.py")
def test_the_test(handlers: str, test: str, machine: Machine) -> None:
    """Pytest runs it, and it passes."""
    machine.write(iprep_py=handlers)
    (machine.folder / "test_iprep.py").write_text(test)
    command = shlex.join([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_iprep.py"])
    assert "3 passed" in machine.run(command)


@readme(handlers="iprep.py", command="Handlers 2", console="Testing handlers 2", options="Testing handlers 3")
def test_spoactl(handlers: str, command: str, console: str, options: str, machine: Machine) -> None:
    """It prints what the README shows of sessions with the agent above."""
    machine.write(iprep_py=handlers)
    agent = machine.start(on_any_port(command))
    session = ""
    for line in (console + options).splitlines():
        if line.startswith("$ "):
            session += f"{line}\n{machine.run(to_agent(line[2:], agent))}"
    assert session == console + options
    agent.stop()


def to_agent(command: str, agent: Agent) -> str:
    """Return a command of ``spoactl`` that sends to ``agent``."""
    return re.sub(r"^spoactl \w+", rf"\g<0> --agent tcp:127.0.0.1:{agent.port}", command)


@readme(handlers="iprep.py", console="Logs and processes 1")
def test_check(handlers: str, console: str, machine: Machine) -> None:
    """``--check`` prints what the README shows."""
    machine.write(iprep_py=handlers)
    command, _, shown = console.partition("\n")
    assert machine.run(command.removeprefix("$ ")) == shown


@readme(handlers="iprep.py", command="Handlers 2", console="Speed 1")
def test_spoactl_bench(handlers: str, command: str, console: str, machine: Machine) -> None:
    """It prints what the README shows, but for the figures and a note on them."""
    machine.write(iprep_py=handlers)
    agent = machine.start(on_any_port(command))
    typed, _, shown = console.partition("\n")
    line = to_agent(typed.removeprefix("$ "), agent)
    printed = machine.run(f"{line} --duration 0.3 --warm-up 0.1")
    assert "errors     none" in printed

    def without_figures(text: str) -> list[str]:
        lines = [line for line in text.splitlines() if not line.startswith("note ")]
        return [re.sub(r"[0-9][0-9.,%]*( [nµm]?s\b)?", "N", line) for line in lines]

    assert without_figures(printed) == without_figures(shown)
    agent.stop()


@readme(
    handlers="iprep.py",
    command="Handlers 2",
    haproxy_cfg="haproxy.cfg",
    spoe_conf="spoe.conf",
    proxy="Looking at the traffic 1",
    frames="Looking at the traffic 2",
)
def test_spoactl_proxy(
    handlers: str,
    command: str,
    haproxy_cfg: str,
    spoe_conf: str,
    proxy: str,
    frames: str,
    machine: Machine,
    branch: Branch,
) -> None:
    """It prints the frames that the README shows, but for the figures and the engine-id."""
    machine.write(iprep_py=handlers)
    agent = machine.start(on_any_port(command))
    command = proxy.replace("tcp:127.0.0.1:12345", f"tcp:127.0.0.1:{agent.port}")
    command = command.replace("tcp:12346:interface=127.0.0.1", "unix:proxy")
    between = machine.start(command, re.compile("(listening on .*)"))
    server = f"unix@{machine.folder}/proxy"
    haproxy_cfg = with_server(haproxy_cfg, server)
    request = machine.haproxy(
        branch, haproxy_cfg=haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}"), spoe_conf=spoe_conf
    )
    assert request(**{"X-Token": "swordfish"}) == (200, "user: alice")
    between.program.said(re.compile("< (ACK)"))

    def shape(text: str) -> list[str]:
        """Return the types, and the messages and variables."""
        found = re.findall(r"[<>] (NOTIFY|ACK) .*(: \w[^:\n]*)$", text, re.MULTILINE)
        return [" ".join(parts) for parts in found]

    assert len(shape(frames)) == 2
    assert shape(between.program.output) == shape(frames)
    if not branch.rewritten:
        names = re.compile(r"[<>] ([A-Z-]+) 0:[01] ")
        assert names.findall(frames) == ["HAPROXY-HELLO", "AGENT-HELLO", "NOTIFY", "ACK"]
    between.stop()


@readme(handlers="iprep.py", command="Looking at the traffic 4", session="Looking at the traffic 5")
def test_spoactl_watch(handlers: str, command: str, session: str, machine: Machine) -> None:
    """It prints what the README shows, but for the times."""
    machine.write(iprep_py=handlers)
    agent = machine.start(on_any_port(command.replace("tcp:8404:interface=127.0.0.1", "unix:status")))
    typed, _, shown = session.partition("\n")
    words = shlex.split(f"{typed.removeprefix('$ ')} --status unix:status")
    words[0] = shutil.which(words[0], path=machine.environment["PATH"]) or words[0]
    with Program(words, cwd=machine.folder, environment=machine.environment) as watching:
        watching.said(re.compile("(watching the agent)"))
        for message in ("get-ip-reputation ip=192.0.2.1", "check-token token=swordfish", "check-dnsbl ip=127.0.0.99"):
            machine.run(to_agent(f"spoactl send {message}", agent))
        watching.said(re.compile("(3) NOTIFYs"))
        printed = watching.output
    seen = re.compile(r"^ +[0-9.]+ after [0-9.e+]+ ms: (.*)$", re.MULTILINE)
    assert len(seen.findall(shown)) == 3
    assert seen.findall(printed) == seen.findall(shown)
    agent.stop()


@readme(console="Looking at the traffic 3")
def test_spoactl_decode(console: str, machine: Machine) -> None:
    """It prints what the README shows. The exit status of a wrong frame is 1."""
    session = ""
    for line in console.splitlines():
        if line.startswith("$ "):
            session += f"{line}\n{machine.run(f'{line[2:]} || true')}"
    assert session == console


# The tables.

TYPES: dict[str, list[Any]] = {
    "NULL": [NULL],
    "BOOL": [True],
    "INT32": [Int32(-5)],
    "UINT32": [UInt32(5)],
    "INT64": [-5, Int64(5)],
    "UINT64": [UInt64(5)],
    "IPV4": [ipaddress.IPv4Address("192.0.2.1")],
    "IPV6": [ipaddress.IPv6Address("2001:db8::1")],
    "STRING": ["text"],
    "BINARY": [b"data", bytearray(b"data"), memoryview(b"data")],
}


def type_name(value: object) -> str:
    """Return how the README calls the class of a value."""
    if value in (None, NULL):
        return repr(value)
    name = type(value).__name__
    return f"ipaddress.{name}" if name.startswith("IPv") else name


def test_the_types() -> None:
    """What is sent for a type goes as that type, and arrives as what the table says."""
    arrived: list[Any] = []
    haproxy = FakeHAProxy(Handlers({"value": lambda value: arrived.append(value)}))
    rows = []
    for name, values in TYPES.items():
        arrived.clear()
        for value in values:
            assert encode_typed_data(value)[0] & 0x0F == DataType[name]
            haproxy.notify("value", value=value)
        (arrives_as,) = {type_name(value) for value in arrived}
        rows.append([name, arrives_as, ", ".join([type_name(value) for value in values])])

    assert table("Types") == rows


def test_the_values_of_a_handler() -> None:
    """``None`` unsets, ``NULL`` is sent, integers may be negative; the rest is an error of the handler."""
    values: dict[str, Any] = {"txn.a": None, "txn.b": NULL, "txn.c": -5}
    haproxy = FakeHAProxy(Handlers({"value": lambda: values}))
    assert haproxy.notify("value") == {"txn.a": None, "txn.b": NULL, "txn.c": -5}
    for value in (1.5, UInt32(-1), 2**63, object()):
        values["txn.a"] = value
        with pytest.raises((TypeError, ValueError)):
            haproxy.notify("value")


def test_the_options_of_the_command_line() -> None:
    """The table is what ``tests.readme_options`` makes of the options, and docutils finds each of them in it."""
    assert readme_options.with_table(TEXT) == TEXT, "run: python -m tests.readme_options"
    assert [option for option, *_ in table("Options")] == [option.strip("`") for option, *_ in readme_options.rows()]


def test_the_options_that_are_keywords() -> None:
    """The text above the table names the first and the last limit, and keywords that exist."""
    text = " ".join(TEXT.partition("\nOptions\n-------\n")[2].partition("===")[0].split())
    first, last = re.findall(r"``--([a-z-]+)`` to ``--([a-z-]+)``", text)[0]
    names = [option[2:] for option, *_ in table("Options")]
    limits = names[names.index(first) : names.index(last) + 1]
    assert [name.replace("-", "_") for name in limits] == list(LIMITS)
    factory = SPOAFactory(Handlers(), async_=True, drain_timeout=2)
    assert SPOAService(factory).drain_timeout == 2
    assert SPOAService(factory, drain_timeout=1).drain_timeout == 1


def test_the_python_versions() -> None:
    """The table, the first section and setup.cfg name the same Pythons, and the same oldest Twisted."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    classifiers = setup["metadata"]["classifiers"]
    rows = table("Python versions")
    names = [name.split() for name, *_ in rows]
    versions = [version for name, version in names if name == "CPython"]

    assert versions == re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    assert {name for name, _ in names} == set(re.findall(r"Implementation :: (\w+)$", classifiers, re.MULTILINE))
    assert setup["options"]["python_requires"] == f">={versions[0]}"
    first = " ".join(TEXT.partition("\nTry it\n")[0].split())
    assert f"It needs Python {versions[0]} or newer," in first
    pypys = " and ".join([version for name, version in names if name == "PyPy"])
    assert f"CPython {versions[0]} to {versions[-1]}, PyPy {pypys}, and Twisted 22.4 to " in first
    assert "twisted>=22.4" in setup["options"]["install_requires"].split()

    for (_, version), (_, tested, ends, dropped) in zip(names, rows, strict=True):
        assert tested.startswith(f"{version}.")
        assert (ends, dropped) == ("open", "open") or int(dropped) == int(ends.split()[1]) + 1

"""The configurations and handlers in docs/howto/other_hosts.rst work, and the commands in it are valid."""

from __future__ import annotations

import shlex
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from docutils import nodes
from docutils.core import publish_doctree
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.names import dns
from twisted.names.server import DNSServerFactory

from spoa_twisted import IHandlers
from spoa_twisted.testing import FakeHAProxy
from tests.conftest import Logged
from tests.haproxy.branches import Branch
from tests.machine import Machine, load_text, machine, on_any_port
from tests.programs import ROOT
from tests.readme_commands import blocks
from tests.test_deployment import agent_options
from tests.test_readme import BACKEND
from tests.test_readme import BLOCKS as README

__all__ = ["load_text", "machine"]  # fixtures

TEXT = (ROOT / "docs" / "howto" / "other_hosts.rst").read_text("utf-8")

#: The blocks by the name in their first line, and the commands.
BLOCKS = {name[2:]: text for block in blocks(TEXT) if (name := (text := block.text).partition("\n")[0])[0] == "#"}
COMMANDS = [block.text.strip() for block in blocks(TEXT) if block.language == "sh"]

reactor: Any = default_reactor


def test_it_is_valid() -> None:
    """docutils reads it without a complaint, and the tests here know each block."""
    document = publish_doctree(
        TEXT, settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"}
    )
    found = [node.astext() + "\n" for node in document.findall(nodes.literal_block) if "code" in node["classes"]]
    assert found == [block.text for block in blocks(TEXT)]
    names = {"haproxy.cfg, several hosts", "haproxy.cfg, DNS", "counting.py", "counting_in_threads.py"}
    assert names == BLOCKS.keys()
    assert len(found) == len(names) + len(COMMANDS)


def test_the_commands() -> None:
    """Their options exist, and the ports are those of ``examples/scale``."""
    endpoints = [agent_options(shlex.split(command))["listen"] for command in COMMANDS]
    (endpoint,) = endpoints[-1]
    haproxy = (ROOT / "examples" / "scale" / "haproxy.cfg").read_text()
    for worker in "12":
        _, port, interface = endpoint.replace("{worker}", worker).split(":")
        assert f"    server agent{worker} {interface.removeprefix('interface=')}:{port}\n" in haproxy
    assert COMMANDS[-1] in haproxy


def configuration(block: str, branch: Branch) -> str:
    """Return the README's configuration with this backend, as the text says it for this branch."""
    frontend, found, _ = README["haproxy.cfg"].partition(BACKEND)
    assert found
    text = frontend + BLOCKS[block].partition("\n")[2]
    if branch.rewritten:
        text = text.replace("mode tcp\n", "mode spop\n").replace(" on-marked-down shutdown-sessions", "")
    return text


@pytest.mark.parametrize("block", ["haproxy.cfg, several hosts", "haproxy.cfg, DNS"])
def test_haproxy_accepts_the_configuration(block: str, machine: Machine, branch: Branch) -> None:
    """``haproxy -c`` accepts the configurations as they are."""
    machine.write(haproxy_cfg=configuration(block, branch), spoe_conf=README["spoe.conf"])
    assert "[WARNING]" not in machine.run(f"{shlex.quote(str(branch.executable))} -c -f haproxy.cfg")


class Names:
    """A DNS server with one name.

    :param addresses: its A records.
    """

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    def query(self, query: dns.Query, timeout: object = None) -> Deferred[Any]:
        name = query.name.name
        assert name == b"agents.example.com"
        found = self.addresses if query.type == dns.A else []
        return succeed(([dns.RRHeader(name, ttl=1, payload=dns.Record_A(address, 1)) for address in found], [], []))


# It waits for HAProxy to ask the DNS server, twice.
@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_hosts_from_dns(machine: Machine, branch: Branch) -> None:
    """Without an address, requests are refused. HAProxy finds an agent in DNS, and another one that takes its place."""
    machine.write(iprep_py=README["iprep.py"])
    command = README["Handlers 2"].strip()
    first = machine.start(on_any_port(command).replace("-n", "-n --pidfile=1.pid"))
    names = Names([])
    port = reactor.listenUDP(0, dns.DNSDatagramProtocol(DNSServerFactory(clients=[names])), interface="127.0.0.1")
    try:
        text = configuration("haproxy.cfg, DNS", branch)
        for old, new in (
            ("192.0.2.53:53", f"127.0.0.1:{port.getHost().port}"),
            (".com:12345", f".com:{first.port}"),
            ("127.0.0.1:8081", f"127.0.0.1:{machine.app()}"),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        get = machine.haproxy(branch, haproxy_cfg=text, spoe_conf=README["spoe.conf"])

        async def status() -> int:
            answer = await deferToThread(get, **{"X-Token": "swordfish"})
            return answer[0]

        assert await status() == 503
        names.addresses = ["127.0.0.1"]
        while await status() != 200:
            pass
        second = machine.start(
            f"{command} --listen tcp:{first.port}:interface=127.0.0.2".replace("-n", "-n --pidfile=2")
        )
        names.addresses = ["127.0.0.2"]
        first.stop()
        while await status() != 200:
            pass
        assert "Traceback" not in second.stop()
        while await status() != 503:
            pass
    finally:
        await port.stopListening()


LoadText = Callable[[str, str], IHandlers]


@pytest_twisted.ensureDeferred
async def test_counting(load_text: LoadText, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 101st request is refused. The script that counts goes to Redis as one command."""
    scripts: list[tuple[str, list[str]]] = []

    class Pool:
        def eval(self, script: str, keys: list[str]) -> Deferred[int]:
            scripts.append((script, keys))
            return succeed(len(scripts))

        def disconnect(self) -> Deferred[bool]:
            return succeed(True)

    module: Any = types.ModuleType("txredisapi")
    module.ConnectionPool = lambda host, port, poolsize: succeed(Pool())
    monkeypatch.setitem(sys.modules, "txredisapi", module)
    haproxy = FakeHAProxy(load_text("counting", BLOCKS["counting.py"]))
    allowed = [(await haproxy.send("count-requests", ip="192.0.2.1"))["txn.allowed"] for _ in range(101)]
    assert allowed == [True] * 100 + [False]
    script, keys = scripts[0]
    assert keys == ["requests:192.0.2.1"]
    assert ("INCR" in script, "EXPIRE" in script) == (True, True)
    haproxy.stop()


@pytest_twisted.ensureDeferred
async def test_counting_in_threads(load_text: LoadText, monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
    """The 101st request is refused, and when Redis is down, ``txn.error`` is set."""
    commands: list[str] = []

    class Pipeline:
        def __enter__(self) -> Pipeline:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def incr(self, key: str) -> Pipeline:
            if commands.count("incr") == 101:
                raise ConnectionError("Redis is down")
            commands.append("incr")
            return self

        def expire(self, key: str, seconds: int, nx: bool) -> Pipeline:
            assert (key, seconds, nx) == ("requests:192.0.2.1", 60, True)
            return self

        def execute(self) -> list[int]:
            return [len(commands), 1]

    class Redis:
        def __init__(self, socket_timeout: float, socket_connect_timeout: float) -> None:
            assert max(socket_timeout, socket_connect_timeout) < 0.5

        def pipeline(self) -> Pipeline:
            return Pipeline()

    module: Any = types.ModuleType("redis")
    module.Redis = Redis
    monkeypatch.setitem(sys.modules, "redis", module)
    haproxy = FakeHAProxy(load_text("counting_in_threads", BLOCKS["counting_in_threads.py"]))
    answers = [await haproxy.send("count-requests", ip="192.0.2.1") for _ in range(102)]
    assert [answer.get("txn.allowed") for answer in answers] == [True] * 100 + [False, None]
    assert answers[-1] == {"txn.error": "redis"}
    assert [str(failure.error) for failure in haproxy.failures] == ["Redis is down"]
    assert len(logged.take()) == 1

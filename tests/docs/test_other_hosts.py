"""The configurations and handlers in docs/howto/other_hosts.rst work, and the commands in it are valid."""

from __future__ import annotations

import shlex
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.names import dns
from twisted.names.server import DNSServerFactory

from spoa_twisted import IHandlers
from spoa_twisted.testing import FakeHAProxy
from tests.conftest import Logged
from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port
from tests.programs import ROOT
from tests.test_deployment import agent_options

from .iprep import BACKEND, HANDLERS, HAPROXY_CFG, SPOE_CONF, START
from .pages import Page

PAGE = Page("howto/other_hosts")

reactor: Any = default_reactor


@PAGE.run(one="One host 1", ports="One host 2")
def test_the_commands(one: str, ports: str) -> None:
    """Their options exist, and the ports are those of ``examples/scale``."""
    assert agent_options(shlex.split(one))["workers"] == 3
    (endpoint,) = agent_options(shlex.split(ports))["listen"]
    haproxy = (ROOT / "examples" / "scale" / "haproxy.cfg").read_text()
    for worker in "12":
        _, port, interface = endpoint.replace("{worker}", worker).split(":")
        assert f"    server agent{worker} {interface.removeprefix('interface=')}:{port}\n" in haproxy
    assert ports.strip() in haproxy


@PAGE.run(formula="What breaks first 1")
def test_the_formula(formula: str) -> None:
    """With the figures of the text, it gives the number of the text."""
    text = formula.replace("requests per second", "5000").replace("CPU seconds of a handler", "0.0002")
    assert round(eval(text), 1) == 1.8
    assert "that is 1.8: two workers" in " ".join(PAGE.text.split())


def configuration(block: str, branch: Branch) -> str:
    """Return the configuration of howto/haproxy_side with this backend, as the text says it for this branch."""
    frontend, found, _ = HAPROXY_CFG.partition(BACKEND)
    assert found
    text = frontend + PAGE.blocks[block].partition("\n")[2]
    if branch.rewritten:
        text = text.replace("mode tcp\n", "mode spop\n").replace(" on-marked-down shutdown-sessions", "")
    return text


CONFIGURATIONS = ["haproxy.cfg, several hosts", "haproxy.cfg, DNS"]
for _block in CONFIGURATIONS:
    PAGE.take(_block)


@pytest.mark.parametrize("block", CONFIGURATIONS)
def test_haproxy_accepts_the_configuration(block: str, machine: Machine, branch: Branch) -> None:
    """``haproxy -c`` accepts the configurations as they are."""
    machine.write(haproxy_cfg=configuration(block, branch), spoe_conf=SPOE_CONF)
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
    machine.write(iprep_py=HANDLERS)
    command = START.strip()
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
        get = machine.haproxy(branch, haproxy_cfg=text, spoe_conf=SPOE_CONF)

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


@PAGE.run(text="counting.py")
@pytest_twisted.ensureDeferred
async def test_counting(text: str, load_text: LoadText, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 101st request is refused. The script that counts goes to Redis as one command."""
    scripts: list[tuple[str, list[str]]] = []

    class Pool:
        def eval(self, script: str, keys: list[str]) -> Deferred[int]:
            scripts.append((script, keys))
            return succeed(len(scripts))

        def disconnect(self) -> Deferred[bool]:
            return succeed(True)

    module: Any = types.ModuleType("txredisapi")
    module.ConnectionPool = lambda host, port, poolsize, replyTimeout: succeed(Pool())
    monkeypatch.setitem(sys.modules, "txredisapi", module)
    haproxy = FakeHAProxy(load_text("counting", text))
    allowed = [(await haproxy.send("count-requests", ip="192.0.2.1"))["txn.allowed"] for _ in range(101)]
    assert allowed == [True] * 100 + [False]
    script, keys = scripts[0]
    assert keys == ["requests:192.0.2.1"]
    assert ("INCR" in script, "EXPIRE" in script) == (True, True)
    haproxy.stop()


@PAGE.run(text="counting_in_threads.py")
@pytest_twisted.ensureDeferred
async def test_counting_in_threads(
    text: str, load_text: LoadText, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
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
    haproxy = FakeHAProxy(load_text("counting_in_threads", text))
    answers = [await haproxy.send("count-requests", ip="192.0.2.1") for _ in range(102)]
    assert [answer.get("txn.allowed") for answer in answers] == [True] * 100 + [False, None]
    assert answers[-1] == {"txn.error": "redis"}
    assert [str(failure.error) for failure in haproxy.failures] == ["Redis is down"]
    assert len(logged.take()) == 1

"""The agent ``dnsbl``: its answers, DNS that fails in many ways, and a real HAProxy that refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from spoa_twisted.agents import dnsbl
from spoa_twisted.agents.dnsbl import handlers
from spoa_twisted.agents.settings import SettingsError, SettingsFile
from spoa_twisted.handlers.lifecycle import StartupFailed
from spoa_twisted.testing import FakeHAProxy
from tests.conftest import Logged
from tests.haproxy.branches import Branch
from tests.machine import Machine, machine, on_any_port  # noqa: F401 - a fixture
from tests.services.dns import DNS

START = "twistd -n spoa --handlers spoa_twisted.agents.dnsbl --settings agents.toml"

ZONES = 'zones = ["bad.example:10", "dial-up.example:4"]\nlimit = 10\n'

NAMES = {
    "2.0.0.127.bad.example": "127.0.0.2",
    "2.0.0.127.dial-up.example": "127.0.0.2",
    "66.0.0.127.bad.example": "127.0.0.4",
    "66.0.0.127.dial-up.example": "servfail",
    "67.0.0.127.bad.example": "servfail",
    "68.0.0.127.dial-up.example": "servfail",
    "69.0.0.127.bad.example": "127.255.255.254",
    "77.0.0.127.dial-up.example": "127.0.0.10",
    "78.0.0.127.bad.example": "late",
}


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def server(stack: contextlib.ExitStack) -> DNS:
    return DNS(NAMES, stack)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[DNS]:
    """A server for tests that do not stop it."""
    with contextlib.ExitStack() as stack:
        yield DNS(NAMES, stack)


def table(folder: Path, server: DNS | None, settings: str = "", zones: str = ZONES) -> Any:
    resolver = "" if server is None else f'resolver = "{server.address}"\n'
    (folder / "agents.toml").write_text(f"[dnsbl]\n{zones}{resolver}{settings}\n")
    return SettingsFile(f"{folder}/agents.toml").take("dnsbl", "the agent")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., FakeHAProxy]]:
    """Starts an agent with these lines in its table, and ends it."""
    made = []

    def make(server: DNS, settings: str = "", zones: str = ZONES) -> FakeHAProxy:
        made.append(FakeHAProxy(handlers(table(tmp_path, server, settings, zones))))
        return made[-1]

    yield make
    for haproxy in made:
        haproxy.stop()


async def ask(haproxy: FakeHAProxy, *addresses: str) -> list[dict[str, Any]]:
    """Return the variables for each address."""
    return [await haproxy.send("check-dnsbl", ip=ip_address(address)) for address in addresses]


def verdict(allowed: bool, score: int, lists: str = "") -> dict[str, Any]:
    return {"txn.dnsbl_allowed": allowed, "txn.dnsbl_score": score, "txn.dnsbl_lists": lists}


Make = Callable[..., FakeHAProxy]


@pytest_twisted.ensureDeferred
async def test_verdicts(make: Make, shared_server: DNS) -> None:
    """The weights are added. An IPv4 address in IPv6 is asked as IPv4."""
    haproxy = make(shared_server)
    answers = await ask(haproxy, "127.0.0.1", "127.0.0.66", "::ffff:127.0.0.66", "127.0.0.77", "2001:db8::1")
    listed = verdict(False, 10, "bad.example")
    assert answers == [verdict(True, 0), listed, listed, verdict(True, 4, "dial-up.example"), verdict(True, 0)]
    # The failure of dial-up.example could not have changed the verdict for 127.0.0.66.
    assert haproxy.failures == []


@pytest_twisted.ensureDeferred
async def test_only_some_answers_count(make: Make, shared_server: DNS) -> None:
    """Those behind the weight."""
    zones = 'zones = ["bad.example:10 127.0.0.4", "dial-up.example:4 127.0.0.2/31"]\n'
    answers = await ask(make(shared_server, zones=zones), "127.0.0.66", "127.0.0.77")
    assert answers == [verdict(False, 10, "bad.example"), verdict(True, 0)]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.67", "bad.example: the DNS server answers with the error code 2"),
        ("127.0.0.69", "bad.example: the answer 127.255.255.254 means that it refuses to answer you"),
        ("127.0.0.78", "bad.example: no answer in time"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_list_fails(make: Make, shared_server: DNS, logged: Logged, address: str, problem: str) -> None:
    """So does the handler, if the list could have changed the verdict."""
    haproxy = make(shared_server, "timeout = 0.3")
    assert await ask(haproxy, address, "127.0.0.68") == [{"txn.error": "dnsbl"}, verdict(True, 0)]
    (failure,) = haproxy.failures
    assert str(failure.error) == problem
    assert len(logged.take()) == 1


@pytest_twisted.ensureDeferred
async def test_a_failed_list_may_be_ignored(make: Make, shared_server: DNS, logged: Logged) -> None:
    """The setting says so in plain words. The log says each minute which lists have failed."""
    haproxy = make(shared_server, 'failed = "allow"')
    assert await ask(haproxy, "127.0.0.67", "127.0.0.69") == [verdict(True, 0), verdict(True, 0)]
    assert haproxy.failures == []
    haproxy.clock.advance(60)
    problem = "the answer 127.255.255.254 means that it refuses to answer you"
    assert logged.take() == [f"error: dnsbl: bad.example: 2 queries have failed; the last one: {problem}"]
    haproxy.clock.advance(60)
    assert logged.take() == []


@pytest_twisted.ensureDeferred
async def test_a_late_answer(make: Make, server: DNS, logged: Logged) -> None:
    """It comes when the request has failed. It is not taken for the answer to another query."""
    haproxy = make(server, "timeout = 0.3")
    assert await ask(haproxy, "127.0.0.78") == [{"txn.error": "dnsbl"}]
    server.answer_late()
    assert await ask(haproxy, "127.0.0.1", "127.0.0.66") == [verdict(True, 0), verdict(False, 10, "bad.example")]
    assert len(logged.take()) == 1


@pytest_twisted.ensureDeferred
async def test_a_cancelled_request(make: Make, server: DNS) -> None:
    """HAProxy has closed the connection. The others that wait for the same answer get it."""
    haproxy = make(server, "timeout = 5")
    await ask(haproxy, "127.0.0.1")
    gone: Any = haproxy.send("check-dnsbl", ip=ip_address("127.0.0.78"))
    gone.addErrback(lambda failure: None)
    haproxy.disconnect()
    again = haproxy.send("check-dnsbl", ip=ip_address("127.0.0.78"))
    server.program.said("UDP 78.0.0.127.bad.example\n")
    server.answer_late()
    assert await again == verdict(False, 10, "bad.example")
    assert haproxy.failures == []


@pytest_twisted.ensureDeferred
async def test_dns_is_down_at_the_start(make: Make, server: DNS, logged: Logged) -> None:
    """The agent starts, and requests fail. When DNS is back, the lists are tested, and requests are answered."""
    server.stop()
    haproxy = make(server, "timeout = 0.3")
    assert await ask(haproxy, "127.0.0.1") == [{"txn.error": "dnsbl"}]
    lines = logged.take()
    assert lines[:2] == [
        f"error: dnsbl: {zone} does not answer: no answer in time" for zone in ("bad.example", "dial-up.example")
    ]

    server.restart()
    assert await ask(haproxy, "127.0.0.1", "127.0.0.66") == [verdict(True, 0), verdict(False, 10, "bad.example")]
    assert "UDP 2.0.0.127.bad.example" in server.queries


@pytest_twisted.ensureDeferred
async def test_a_list_is_given_up(make: Make, server: DNS, logged: Logged) -> None:
    """Its test fails after some time: it lists everybody, for example. Requests fail until it is right again."""
    haproxy = make(server, "kept = 1")
    assert await ask(haproxy, "127.0.0.3") == [verdict(True, 0)]
    server.stop()
    server.restart(**{"1.0.0.127.bad.example": "127.0.0.2"})
    haproxy.clock.advance(600)
    # The queries of the test are sent before these, so they are answered before.
    assert await ask(haproxy, "127.0.0.4") == [verdict(True, 0)]
    problem = "it lists 127.0.0.1, as no list may; it may list everybody"
    assert logged.take() == [f"error: dnsbl: bad.example is not asked: {problem}"]

    assert await ask(haproxy, "127.0.0.5") == [{"txn.error": "dnsbl"}]
    assert len(logged.take()) == 1
    server.stop()
    server.restart(**{"1.0.0.127.bad.example": ""})
    assert await ask(haproxy, "127.0.0.6") == [verdict(True, 0)]


@pytest_twisted.ensureDeferred
async def test_no_answer_to_a_later_test(tmp_path: Path, server: DNS) -> None:
    """The lists stay in use: the requests tell whether DNS answers."""
    made = handlers(table(tmp_path, server, "timeout = 0.3\nkept = 1"))
    (test_again,) = [function.function for function in made.life_cycle if function.seconds == 600]
    haproxy = FakeHAProxy(made)
    assert await ask(haproxy, "127.0.0.3") == [verdict(True, 0)]
    server.stop()
    await test_again()
    server.restart()
    assert await ask(haproxy, "127.0.0.4") == [verdict(True, 0)]
    assert not [query for query in server.queries if query.startswith("UDP 2.")]
    await haproxy.stop()


@pytest_twisted.ensureDeferred
async def test_a_misspelt_list(make: Make, shared_server: DNS) -> None:
    """The agent does not start: it would list nobody."""
    haproxy = make(shared_server, zones='zones = "bed.example:10"\n')
    with pytest.raises(
        StartupFailed, match=r", line 2: dnsbl.zones has bed.example, but it does not list 127.0.0.2, as"
    ):
        await ask(haproxy, "127.0.0.1")


@pytest_twisted.ensureDeferred
async def test_without_the_test(make: Make, shared_server: DNS) -> None:
    """A list of your own may not have the addresses for tests."""
    haproxy = make(shared_server, "test = false", zones='zones = "own.example:1"\n')
    assert await ask(haproxy, "127.0.0.1") == [verdict(True, 0)]


def test_the_resolver_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If its file cannot be read, the error says which key is missing."""

    def fail() -> Any:
        raise PermissionError(13, "Permission denied", "/etc/resolv.conf")

    monkeypatch.setattr(dnsbl, "system_servers", fail)
    with pytest.raises(StartupFailed, match=r"dnsbl.resolver is missing, and /etc/resolv.conf cannot be read: Perm"):
        FakeHAProxy(handlers(table(tmp_path, None)))


@pytest.mark.parametrize("arguments", [{}, {"ip": None}, {"ip": "127.0.0.1"}], ids=["none", "null", "text"])
@pytest_twisted.ensureDeferred
async def test_without_an_address_the_handler_fails(
    make: Make, shared_server: DNS, logged: Logged, arguments: dict[str, Any]
) -> None:
    """A header may be missing, for example. HAProxy's rule then refuses the request."""
    haproxy = make(shared_server)
    answer: Deferred[Any] = haproxy.send("check-dnsbl", **arguments)
    assert await answer == {"txn.error": "dnsbl"}
    assert len(logged.take()) == 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("", "dnsbl.zones is missing; it is required: text, or list of texts"),
        (
            'zones = ["bad.example"]',
            r', line 2: dnsbl.zones is "bad.example": a list is a name in DNS, a colon, and a weig',
        ),
        ('zones = ["a.example:1", "A.example.:2"]', "dnsbl.zones names a list twice; each may stand there once"),
        ('zones = "a.example:1"\nlimit = 2', "dnsbl.limit is 2; allowed is at most the sum of all weights, 1"),
        (
            'zones = "a.example:1"\nresolver = "localhost"',
            r'dnsbl.resolver is "localhost": a DNS server is an IP address',
        ),
        ('zones = "a.example:1"\nfailed = "ignore"', r'dnsbl.failed is "ignore"; allowed is: "allow" or "refuse"'),
        ('zones = "a.example:1"\ntimeout = 60', "dnsbl.timeout is 60; allowed is: number, 0.1 to 10"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: str, error: str) -> None:
    """One line names the file, the key and what is allowed."""
    with pytest.raises(SettingsError, match=rf"^{tmp_path}/agents\.toml.*{error}"):
        handlers(table(tmp_path, None, settings, zones=""))


def site(machine: Machine, branch: Branch, port: str) -> Callable[..., tuple[int, str]]:  # noqa: F811
    """Start HAProxy with the configuration that ``spoactl config`` writes, and the rule that it proposes."""
    machine.run(f"spoactl config {START.partition('spoa ')[2]} --whole --output .")
    text = (machine.folder / "haproxy.cfg").read_text()
    rule = "http-request deny unless { var(txn.dnsbl.dnsbl_allowed) -m bool }"
    assert f"    #{rule}\n" in text
    text = text.replace(f"#{rule}", rule).replace("127.0.0.1:12345", f"127.0.0.1:{port}")
    text = text.partition("\n# It stands for your application")[0].replace("timeout check 500ms", "timeout check 5s")
    return machine.haproxy(branch, haproxy_cfg=text.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}"))


@pytest.mark.each_spoe
def test_with_haproxy(machine: Machine, server: DNS, branch: Branch) -> None:  # noqa: F811
    """The generated configuration refuses what is listed, and all when DNS or the agent is gone."""
    table(machine.folder, server)
    agent = machine.start(on_any_port(START))
    request = site(machine, branch, agent.port)

    clients = ("127.0.0.1", "127.0.0.66", "127.0.0.77", "127.0.0.67", "127.0.0.78")
    assert [request(client)[0] for client in clients] == [200, 403, 200, 503, 503]

    server.stop()
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66", "127.0.0.3")] == [200, 403, 503]
    server.restart()
    assert request("127.0.0.3")[0] == 200

    agent.stop()
    assert request("127.0.0.1")[0] == 503


def test_it_does_not_start_with_a_misspelt_list(machine: Machine, shared_server: DNS) -> None:  # noqa: F811
    """One line names the settings file, the line, the key and the list."""
    table(machine.folder, shared_server, zones='zones = "bed.example:10"\n')
    output = machine.run(f"{on_any_port(START)}; test $? = 1")
    assert (
        "agents.toml, line 2: dnsbl.zones has bed.example, but it does not list 127.0.0.2, as each list must" in output
    )
    assert "Traceback" not in output

"""``examples/dnsbl``: a DNS server that also answers wrongly, the agent, and a real HAProxy."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from subprocess import run

import pytest

from tests.examples.conftest import OpenExample
from tests.examples.example import Example
from tests.haproxy.branches import Branch
from tests.programs import ENVIRONMENT, Program, spoa
from tests.services.dns import DNS

pytestmark = pytest.mark.each_spoe

BAD, DIAL_UP = "bad.example", "dial-up.example"

ZONES = "ZONES=bad.example:10,dial-up.example:4"
START = f"{ZONES} RESOLVER=127.0.0.1:5353 twistd -n spoa --handlers handlers.py"

#: The names that each list has for tests.
TESTS = {f"2.0.0.127.{zone}": "127.0.0.2" for zone in (BAD, DIAL_UP)}

#: Prints what comes of requests from each address of the command line, one after the other.
ASK = """\
import sys
from ipaddress import ip_address
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from spoa_twisted.runner.loading import load
from spoa_twisted.testing import FakeHAProxy

async def main():
    haproxy = FakeHAProxy(load("handlers.py"))
    for ip in sys.argv[1:]:
        variables = await haproxy.send("check-dnsbl", ip=ip_address(ip))
        print(variables, *(failure.error for failure in haproxy.failures))
        haproxy.failures.clear()
    await haproxy.stop()

react(lambda _: Deferred.fromCoroutine(main()))
"""

StartDNS = Callable[..., DNS]


@pytest.fixture
def example(open_example: OpenExample) -> Example:
    return open_example("dnsbl")


@pytest.fixture
def start_dns() -> Iterator[StartDNS]:
    """Starts a DNS server with the test addresses, and with names of bad.example."""
    with contextlib.ExitStack() as stack:

        def start(**bad: str) -> DNS:
            listed = {f"{number.removeprefix('n')}.0.0.127.{BAD}": answer for number, answer in bad.items()}
            return DNS({**TESTS, **listed}, stack)

        yield start


def start_command(dns: DNS) -> str:
    return START.replace("127.0.0.1:5353", dns.address)


def ask(example: Example, dns: DNS, *addresses: str, **settings: str) -> list[str]:
    """Return the variables of requests from these addresses, each with the failure of the handler, if it failed."""
    environment = {**ENVIRONMENT, "ZONES": f"{BAD}:10,{DIAL_UP}:4", "RESOLVER": dns.address, **settings}
    command = [sys.executable, "-c", ASK, *addresses]
    ended = run(command, cwd=example.folder, env=environment, capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()


def verdict(allowed: bool, score: int, *lists: str) -> str:
    return str({"txn.allowed": allowed, "txn.score": score, "txn.lists": ",".join(lists)})


def test_the_configuration_is_the_generated_one(example: Example) -> None:
    """``spoactl config`` needs no settings, and ``spoactl check`` finds nothing."""
    example.check_generated("--engine", "dnsbl")
    example.check_problems()


def test_the_readme(example: Example, branch: Branch, start_dns: StartDNS) -> None:
    """Its lists, which a DNS server of Twisted serves, its agent and its HAProxy: three clients get three answers."""
    server = next(command for command in example.commands() if "bindzone" in command)
    assert {"pip install -r requirements.txt", START, "haproxy -f haproxy.cfg"} <= set(example.commands())
    example.edit("haproxy.cfg", "set-header X-DNSBL", "set-header X-User")
    # The port of a server that has ended is free.
    dns = start_dns()
    dns.stop()
    words = server.replace("5353", str(dns.port)).split()
    words[0] = str(shutil.which(words[0], path=example.environment["PATH"]))
    with Program(words, cwd=example.folder) as lists:
        lists.said("DNSDatagramProtocol starting")
        request = example.site(branch, example.agent(start_command(dns)))

        assert request("127.0.0.1", **{"X-User": "bad.example"})[1] in ("user: ", "user: None")
        assert request("127.0.0.77") == (200, "user: dial-up.example")
        assert request("127.0.0.66")[0] == 403


def test_dns_is_down_and_back(example: Example, branch: Branch, start_dns: StartDNS) -> None:
    """Before the agent starts, and later: requests get 503, but for addresses whose answers are kept."""
    dns = start_dns(n66="127.0.0.4")
    dns.stop()
    agent = example.agent(start_command(dns))
    assert "bad.example: no answer in time" in agent.program.output
    request = example.site(branch, agent)
    assert request("127.0.0.1")[0] == 503

    dns.restart()
    assert request("127.0.0.1")[0] == 200
    assert request("127.0.0.66")[0] == 403

    dns.stop()
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66", "127.0.0.3")] == [200, 403, 503]

    dns.restart()
    assert request("127.0.0.3")[0] == 200

    agent.stop()
    assert request("127.0.0.1")[0] == 503


def test_dns_is_slow(example: Example, branch: Branch, start_dns: StartDNS) -> None:
    """A request whose answer is late gets 503. The late answer is not taken for the one of another request."""
    dns = start_dns(n67="late")
    request = example.site(branch, example.agent(start_command(dns)))

    assert request("127.0.0.67")[0] == 503
    dns.answer_late()
    assert request("127.0.0.1")[0] == 200
    assert request("127.0.0.67")[0] == 503


def test_no_verdict(example: Example, start_dns: StartDNS) -> None:
    """An error, and an answer that means no listing, is a failure of the handler."""
    expected = {
        "servfail": "the DNS server answers with the error code 2",
        "refused": "the DNS server answers with the error code 5",
        "silent": "no answer in time",
        "other": "the answer is one to another query",
        "truncated": "the answer is truncated",
        "127.255.255.254": "the list refuses to answer, or it is none: 127.255.255.254",
        "127.0.0.1": "the list refuses to answer, or it is none: 127.0.0.1",
        "192.0.2.1": "the list refuses to answer, or it is none: 192.0.2.1",
    }
    dns = start_dns(**{f"n{number}": answer for number, answer in enumerate(expected, 10)})
    shown = ask(example, dns, *(f"127.0.0.{number}" for number, _ in enumerate(expected, 10)))

    assert shown == [f"{{'txn.error': 'handler'}} {BAD}: {failure}" for failure in expected.values()]


def test_verdicts(example: Example, start_dns: StartDNS) -> None:
    """IPv4 and IPv6, an IPv4 address in IPv6, an empty answer, and a failure that does not matter."""
    dns = start_dns(n66="127.0.0.4", n10="empty")
    dns.stop()
    six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
    dns.restart(**{f"{six}.{BAD}": "127.0.0.2", f"12.0.0.127.{DIAL_UP}": "servfail", f"66.0.0.127.{DIAL_UP}": "silent"})
    addresses = ["127.0.0.66", "::ffff:127.0.0.66", "127.0.0.10", "127.0.0.12", "2001:db8::1"]
    listed, allowed = verdict(False, 10, BAD), verdict(True, 0)

    assert ask(example, dns, *addresses) == [listed, listed, allowed, allowed, listed]
    assert f"UDP {six}.{BAD}" in dns.queries


def test_answers_are_kept(example: Example, start_dns: StartDNS) -> None:
    """For the TTL of the answer, but not more of them than a limit: the oldest is dropped."""
    example.edit("handlers.py", "MOST_KEPT: Final = 100_000", "MOST_KEPT: Final = 4")
    dns = start_dns(n66="127.0.0.4")
    ask(example, dns, "127.0.0.66", "127.0.0.1", "127.0.0.66", "127.0.0.1", "127.0.0.3", "127.0.0.66")

    assert dns.queries.count(f"UDP 66.0.0.127.{BAD}") == 2
    assert dns.queries.count(f"UDP 1.0.0.127.{BAD}") == 1


def test_many_requests_from_one_address(example: Example, start_dns: StartDNS) -> None:
    """They share a query. When one of them is cancelled, the others get their answer."""
    dns = start_dns(n67="late")
    code = """\
import os, signal, sys
from ipaddress import ip_address
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from spoa_twisted.runner.loading import load
import importlib

async def main():
    load("handlers.py")
    handlers = importlib.import_module("handlers")
    handlers.read_settings()
    first, *others = [handlers.lists.is_listed("67.0.0.127.bad.example") for _ in range(3)]
    first.addErrback(lambda failure: print(failure.type.__name__, flush=True))
    first.cancel()
    print([await other for other in others])
    print(await handlers.lists.is_listed("67.0.0.127.bad.example"))
    handlers.close()

react(lambda _: Deferred.fromCoroutine(main()))
"""
    environment = {"ZONES": f"{BAD}:10", "RESOLVER": dns.address}
    with Program([sys.executable, "-c", code], cwd=example.folder, environment=environment) as program:
        program.said("CancelledError\n")
        dns.program.said(f"UDP 67.0.0.127.{BAD}\n")
        dns.answer_late()
        assert program.ended() == 0, program.output
    assert program.output == "CancelledError\n[True, True]\nTrue\n"
    # A second one may have been sent before the answer came.
    assert set(dns.queries) == {f"UDP 67.0.0.127.{BAD}"}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"ZONES": ""}, "ZONES names no list; write the zones of your lists: ZONES=bad.example:10,dial-up.example:4"),
        ({"ZONES": "bad.example"}, "ZONES: 'bad.example' is no zone with a weight; write ZONES=bad.example:10,"),
        ({"LIMIT": "15"}, "LIMIT is '15'; it must be from 1 to the sum of the weights, 14"),
        ({"RESOLVER": "localhost:53"}, "RESOLVER is 'localhost:53'; write an IP address and a port: RESOLVER="),
        (
            {"ZONES": "bed.example:10"},
            "ZONES: bed.example does not list 127.0.0.2, as each list must; is the name right?",
        ),
    ],
    ids=["no-zones", "no-weight", "limit", "resolver", "misspelt"],
)
def test_the_agent_does_not_start(example: Example, start_dns: StartDNS, settings: dict[str, str], line: str) -> None:
    """One line says which setting is wrong."""
    usual = {"ZONES": f"{BAD}:10,{DIAL_UP}:4", "RESOLVER": start_dns().address}
    with Program(spoa(handlers="handlers.py"), cwd=example.folder, environment={**usual, **settings}) as program:
        assert program.ended() == 1
    assert len(re.findall(f"failed: ValueError: {re.escape(line)}", program.output)) == 1
    assert "Traceback" not in program.output


def test_a_reload(example: Example, start_dns: StartDNS) -> None:
    """SIGHUP with ``--workers``: a new worker reads the settings, and answers."""
    agent = example.agent(f"{start_command(start_dns(n66='127.0.0.4'))} --workers 1")
    example.run(f"kill -HUP {agent.program.pid}")
    agent.program.said("reloaded: 1 worker")
    answer = example.run(f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-dnsbl ip=127.0.0.66")
    assert answer == "txn.allowed=bool:false\ntxn.score=int64:10\ntxn.lists=str:bad.example\n"

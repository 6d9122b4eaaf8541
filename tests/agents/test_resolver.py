"""``Resolver``: UDP and TCP to a DNS server in a process of its own, which also answers wrongly."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.names import dns

from spoa_twisted.agents.resolver import Address, NoAnswer, Resolver, read_address, system_servers
from tests.services.dns import DNS, Answers

NAMES = {
    "listed.example": "127.0.0.2",
    "silent.example": "silent",
    "late.example": "late",
    "servfail.example": "servfail",
    "wrong.example": "other",
    "empty.example": "empty",
    "truncated.example": "truncated",
    "cut.example": "cut",
    "long.example": "long",
}

MakeResolver = Callable[..., Resolver]


@pytest.fixture(scope="module")
def server() -> Iterator[DNS]:
    with contextlib.ExitStack() as stack:
        yield DNS(NAMES, stack)


@pytest.fixture
def make_resolver() -> Iterator[MakeResolver]:
    made = []

    def make(*servers: Address, timeout: float = 5) -> Resolver:
        made.append(Resolver(servers, timeout, reactor))
        return made[-1]

    yield make
    for resolver in made:
        pytest_twisted.blockon(Deferred.fromCoroutine(resolver.close()))


def local(server: DNS) -> Address:
    return "127.0.0.1", server.port


def addresses(message: Any) -> list[str]:
    return [record.payload.dottedQuad() for record in message.answers]


@pytest_twisted.ensureDeferred
async def test_answers(server: DNS, make_resolver: MakeResolver) -> None:
    """A listed name, an empty answer, NXDOMAIN, and an answer by TCP."""
    resolver = make_resolver(local(server))
    assert addresses(await resolver.query("listed.example")) == ["127.0.0.2"]
    assert addresses(await resolver.query("empty.example")) == []
    unknown: Any = await resolver.query("unknown.example")
    assert unknown.rCode == dns.ENAME
    assert addresses(await resolver.query("truncated.example")) == ["127.0.0.2"]
    assert "TCP truncated.example" in server.queries


@pytest.mark.parametrize(
    ("name", "timeout", "problem"),
    [
        ("silent.example", 0.4, "no answer in time"),
        ("cut.example", 0.4, "no answer in time"),
        # These are answered: the timeout is so long that no answer is late.
        ("servfail.example", 30, "the DNS server answers with the error code 2"),
        ("long.example", 30, "the answer is truncated, also by TCP"),
        ("wrong.example", 30, "the answer is one to another query"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_answer(server: DNS, make_resolver: MakeResolver, name: str, timeout: float, problem: str) -> None:
    """Each server is asked, and one server twice."""
    resolver = make_resolver(local(server), timeout=timeout)
    with pytest.raises(NoAnswer, match=re.escape(problem)):
        await resolver.query(name)


@pytest_twisted.ensureDeferred
async def test_the_first_server_is_down(server: DNS, make_resolver: MakeResolver) -> None:
    """Then the second one answers. Also when the kernel refuses to send to the first one."""
    resolver = make_resolver(("127.0.0.9", server.port), local(server), timeout=1)
    assert addresses(await resolver.query("listed.example")) == ["127.0.0.2"]

    resolver = make_resolver(("255.255.255.255", 53), local(server), timeout=1)
    assert addresses(await resolver.query("listed.example")) == ["127.0.0.2"]


@pytest_twisted.ensureDeferred
async def test_no_tcp(make_resolver: MakeResolver) -> None:
    """A truncated answer of a server without TCP is no answer."""
    udp: Any = reactor
    port = udp.listenUDP(0, dns.DNSDatagramProtocol(Answers(NAMES)), interface="127.0.0.1")
    resolver = make_resolver(("127.0.0.1", port.getHost().port))
    with pytest.raises(NoAnswer, match="the answer is truncated, and there is no connection by TCP: "):
        await resolver.query("truncated.example")
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_cancelled_query(server: DNS, make_resolver: MakeResolver) -> None:
    """Its late answer is dropped, and is not taken for the answer to another query."""
    resolver = make_resolver(local(server))
    query = resolver.query("late.example")
    query.cancel()
    with pytest.raises(CancelledError):
        await query
    server.program.said("UDP late.example\n")
    server.answer_late()

    assert addresses(await resolver.query("listed.example")) == ["127.0.0.2"]


@pytest_twisted.ensureDeferred
async def test_an_answer_of_another_host(server: DNS, make_resolver: MakeResolver) -> None:
    """Who guesses the number of a query, but not the address of the server, is not believed."""
    resolver = make_resolver(local(server), timeout=0.4)
    (port,) = resolver._servers
    query = resolver.query("silent.example")
    (number,) = port.liveMessages
    forged = dns.Message(number, answer=1)
    forged.queries = [dns.Query("silent.example", dns.A, dns.IN)]
    port.datagramReceived(forged.toStr(), ("127.0.0.5", server.port))
    port.datagramReceived(b"\0", local(server))

    with pytest.raises(NoAnswer, match="no answer in time"):
        await query


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_read_address(text: str, address: Address) -> None:
    """An IP address, with or without a port."""
    assert read_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:53", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "[::1]:0"]
)
def test_read_a_wrong_address(text: str) -> None:
    """A name of a host would need DNS."""
    with pytest.raises(ValueError, match="a DNS server is an IP address, or one with a port"):
        read_address(text)


def test_system_servers(tmp_path: Path) -> None:
    """Those of resolv.conf, or the one on this machine."""
    path = tmp_path / "resolv.conf"
    path.write_text("# comment\nsearch example\nnameserver 192.0.2.1\nnameserver\nnameserver ::1\n")
    assert system_servers(path) == [("192.0.2.1", 53), ("::1", 53)]
    path.write_text("")
    assert system_servers(path) == [("127.0.0.1", 53)]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        system_servers(path)

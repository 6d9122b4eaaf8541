"""Allows or refuses a request by DNS block lists (DNSBL) that have the client's address.

Run it with: ZONES=bad.example:10,dial-up.example:4 twistd -n spoa --handlers handlers.py
"""

from __future__ import annotations

import os
from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.logger import Logger
from twisted.names import dns

from spoa_twisted import Handlers, Variables

# Seconds to wait for the answer to the first and to the second query. A datagram can be lost, so there is a second one.
# The sum is shorter than the timeout of the handler, and that is shorter than HAProxy's "timeout processing": so the
# handler itself says what has failed.
TRIES: Final = (0.3, 0.5)

# How many answers are kept, and for how many seconds at most, whatever their TTL is.
MOST_KEPT: Final = 100_000
LONGEST_KEPT: Final = 3600
# Seconds for "not listed" without a SOA record, which has the TTL of such an answer.
NOT_LISTED_KEPT: Final = 60
# How many queries may be pending.
MOST_PENDING: Final = 5_000

# An answer in this network means that the address is listed, but for those in REFUSALS: with them, lists say that they
# do not answer you, for example because you ask too often, or by a public resolver.
LISTED: Final = ip_network("127.0.0.0/8")
REFUSALS: Final = [ip_network("127.255.255.0/24"), ip_network("127.0.0.1/32")]

Address = IPv4Address | IPv6Address

log = Logger()

# The agent sets txn.error when the handler fails. The rules in haproxy.cfg then answer 503.
handlers = Handlers(on_error={"txn.error": "handler"})


class ListFailed(Exception):
    """A list has given no answer, or one that does not say whether the address is listed."""


def query_name(ip: Address, zone: str) -> str:
    """Return the name to ask for: 127.0.0.66 in bad.example is 66.0.0.127.bad.example.

    The reversed address is the beginning of its name for reverse lookups, also with IPv6.
    """
    reverse, _, _ = ip.reverse_pointer.rpartition(".ip6.arpa" if ip.version == 6 else ".in-addr.arpa")
    return f"{reverse}.{zone}"


class Server(dns.DNSDatagramProtocol):
    """A DNS server. It is asked by one UDP socket.

    ``twisted.names.client`` makes a socket for each query, and Twisted logs two lines for each socket. There, also,
    callers share a query: when one of them is cancelled, the others fail.

    Do not connect the socket: Twisted's epoll reactor closes a connected one when nothing listens at the other end.
    """

    noisy = False

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(controller=self)
        self._address = address

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        # Twisted 22.4 does not compare the addresses itself.
        if addr == self._address:
            super().datagramReceived(data, addr)

    async def ask(self, name: str) -> Any:
        """Return the answer to a query for the IPv4 addresses of ``name``."""
        for seconds in TRIES:
            try:
                return await self.query(self._address, [dns.Query(name.encode(), dns.A, dns.IN)], seconds)
            except dns.DNSQueryTimeoutError:
                continue
        raise ListFailed("no answer in time")

    def messageReceived(self, *answer: object) -> None:
        """Drop an answer that comes too late."""


class Lists:
    """Asks the lists, and keeps their answers.

    :param address: the IP address and the port of a DNS server.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        # Not at import: "spoactl config" imports this file, and needs no reactor.
        from twisted.internet import reactor

        udp: Any = reactor
        self._clock: IReactorTime = udp
        self._server = Server(address)
        self._port: IListeningPort = udp.listenUDP(0, self._server, interface="::" if ":" in address[0] else "")
        # By name: when the answer expires, and whether the name is listed. The oldest answer is the first one.
        self._kept: OrderedDict[str, tuple[float, bool]] = OrderedDict()
        # By name: those who wait for the answer to a query.
        self._pending: dict[str, list[Deferred[bool]]] = {}

    def is_listed(self, name: str) -> Deferred[bool]:
        """Return a Deferred of whether ``name`` is listed. It fails if there is no answer."""
        expires, listed = self._kept.get(name, (0.0, False))
        if self._clock.seconds() < expires:
            return succeed(listed)
        # Each caller gets a Deferred of its own: a handler that is cancelled does not cancel the query, for which
        # others may wait, and whose answer is worth keeping.
        waiting: Deferred[bool] = Deferred()
        if name in self._pending:
            self._pending[name].append(waiting)
        elif len(self._pending) < MOST_PENDING:
            self._pending[name] = [waiting]
            Deferred.fromCoroutine(self._ask(name)).addBoth(self._on_answer, name)
        else:
            return fail(ListFailed(f"{MOST_PENDING} queries are pending"))
        return waiting

    def _on_answer(self, answer: Any, name: str) -> None:
        for waiting in self._pending.pop(name):
            waiting.callback(answer)  # A Failure fails it.

    async def _ask(self, name: str) -> bool:
        message = await self._server.ask(name)
        # A late answer to an earlier query can have the number of this query.
        if [query.name.name.lower() for query in message.queries] != [name.encode()]:
            raise ListFailed("the answer is one to another query")
        if message.trunc:
            # The answer of a list is short.
            raise ListFailed("the answer is truncated")
        if message.rCode not in (dns.OK, dns.ENAME):
            raise ListFailed(f"the DNS server answers with the error code {message.rCode}")
        records = [record for record in message.answers if record.type == dns.A]
        for record in records:
            answer = IPv4Address(record.payload.address)
            if answer not in LISTED or any(answer in network for network in REFUSALS):
                raise ListFailed(f"the list refuses to answer, or it is none: {answer}")
        seconds = [record.ttl for record in records]
        if not records:
            soas = [record for record in message.authority if record.type == dns.SOA]
            seconds = [min(record.ttl, record.payload.minimum) for record in soas] or [NOT_LISTED_KEPT]
        self._kept.pop(name, None)
        self._kept[name] = self._clock.seconds() + min(*seconds, LONGEST_KEPT), bool(records)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return bool(records)

    def close(self) -> Any:
        return self._port.stopListening()


def read_zones(text: str) -> dict[str, int]:
    """Return the weight of each zone in ``bad.example:10,dial-up.example:4``."""
    zones = {}
    for word in text.replace(",", " ").split():
        zone, _, weight = word.partition(":")
        if not zone or not weight.isdigit():
            raise ValueError(f"ZONES: {word!r} is no zone with a weight; write ZONES=bad.example:10,dial-up.example:4")
        zones[zone.strip(".").lower()] = int(weight)
    if not zones:
        raise ValueError("ZONES names no list; write the zones of your lists: ZONES=bad.example:10,dial-up.example:4")
    return zones


def read_server(text: str) -> tuple[str, int]:
    """Return the address and the port in ``127.0.0.1:5353`` or ``[::1]:5353``."""
    host, _, port = text.rpartition(":")
    try:
        return str(ip_address(host.strip("[]"))), int(port)
    except ValueError:
        raise ValueError(f"RESOLVER is {text!r}; write an IP address and a port: RESOLVER=127.0.0.1:53") from None


def system_server() -> tuple[str, int]:
    """Return the first DNS server of this machine."""
    words = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    servers = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    return (servers or ["127.0.0.1"])[0], dns.PORT


# read_settings sets them before the agent listens.
zones: dict[str, int]
limit: int
lists: Lists


@handlers.startup
def read_settings() -> None:
    # Here and not at import: "spoactl config" imports this file without the settings.
    global zones, limit, lists
    zones = read_zones(os.environ.get("ZONES", ""))
    text = os.environ.get("LIMIT", "10")
    if not text.isdigit() or not 0 < int(text) <= sum(zones.values()):
        raise ValueError(f"LIMIT is {text!r}; it must be from 1 to the sum of the weights, {sum(zones.values())}")
    limit = int(text)
    lists = Lists(read_server(os.environ["RESOLVER"]) if "RESOLVER" in os.environ else system_server())


@handlers.shutdown
def close() -> Any:
    return lists.close()


@handlers.startup
async def check_zones() -> None:
    """Each list has 127.0.0.2, for tests (RFC 5782). If it has not, the name may be misspelt: it would list nobody."""
    for zone in zones:
        try:
            listed = await lists.is_listed(query_name(IPv4Address("127.0.0.2"), zone))
        except Exception as error:
            # DNS may be back soon. Until then, each request is refused.
            log.error("{zone}: {error}", zone=zone, error=error)
        else:
            if not listed:
                raise ValueError(f"ZONES: {zone} does not list 127.0.0.2, as each list must; is the name right?")


@handlers.message(
    "check-dnsbl",
    args={"ip": "src"},
    event="on-frontend-http-request",
    sets={"txn.allowed": bool, "txn.score": int, "txn.lists": str},
    timeout=1.5,
)
async def check_dnsbl(ip: Address) -> Variables:
    """Add up the weights of the lists that have the address. Refuse it if the sum reaches the limit."""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped  # A client with IPv4 at a bind with "v4v6".
    # The queries are sent at the same time.
    answers: list[tuple[bool, Any]] = await DeferredList(
        [lists.is_listed(query_name(ip, zone)) for zone in zones], consumeErrors=True
    )
    found = [zone for zone, (answered, listed) in zip(zones, answers, strict=True) if answered and listed]
    failed = {zone: result for zone, (answered, result) in zip(zones, answers, strict=True) if not answered}
    score = sum(zones[zone] for zone in found)
    # A list that has failed matters only if it could have changed the verdict.
    if score < limit <= score + sum(zones[zone] for zone in failed):
        raise ListFailed("; ".join(f"{zone}: {failure.value}" for zone, failure in failed.items()))
    return {"txn.allowed": score < limit, "txn.score": score, "txn.lists": ",".join(found)}

"""DNS block lists: whether they have an address. Answers are kept as long as their TTL says."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any, Final, final

from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.names import dns

from spoa_twisted.agents.resolver import NoAnswer, Resolver

#: An answer in this network means that the address is listed, but for those of :data:`REFUSALS`.
LISTED: Final = IPv4Network("127.0.0.0/8")

#: Lists answer so when they refuse to answer, for example because of too many queries, or of a public resolver.
REFUSALS: Final = (IPv4Network("127.255.255.0/24"), IPv4Network("127.0.0.1/32"))

#: Addresses of RFC 5782, section 5: each list has the first one, and no list has the second one.
_TESTS: Final = (IPv4Address("127.0.0.2"), IPv4Address("127.0.0.1"))

# Seconds for which answers are kept at most, and for "not listed" without a SOA record, which has the TTL of it.
_LONGEST_KEPT: Final = 3600
_NOT_LISTED_KEPT: Final = 60

# How many queries may be pending at the same time: their numbers have 16 bits.
_MOST_PENDING: Final = 5_000

# Names in DNS have up to 253 characters. The reversed IPv6 address in front of the name has 64.
_LONGEST_NAME: Final = 189


class ListFailed(NoAnswer):
    """The answer does not say whether the list has the address. The text says why."""


class NotAList(ListFailed):
    """The answers for the addresses of RFC 5782 are wrong: the name is misspelt, or the list has been given up."""


@final
@dataclass
class Zone:
    """A list.

    :param name: its name in DNS, in lower case.
    :param weight: what it adds to the score of an address.
    :param answers: only these answers count.
    :param tested: True if nobody has to ask for the addresses of RFC 5782, because the list has them not, or because
        its answers were right.
    """

    name: str
    weight: int
    answers: Sequence[IPv4Network] = (LISTED,)
    tested: bool = field(default=False, compare=False)


@final
class BlockLists:
    """Asks block lists.

    :param resolver: asks the DNS servers.
    :param most_kept: how many answers are kept. Of more, the oldest is dropped.
    :param reactor: the clock.
    """

    def __init__(self, resolver: Resolver, most_kept: int, reactor: IReactorTime) -> None:
        self._resolver = resolver
        self._most_kept = most_kept
        self._reactor = reactor
        # By name: when the answer expires, and its addresses. The oldest one is the first one.
        self._kept: OrderedDict[str, tuple[float, list[IPv4Address]]] = OrderedDict()
        # By name: the callers that wait for the answer.
        self._pending: dict[str, list[Deferred[list[IPv4Address]]]] = {}

    async def has(self, zone: Zone, ip: IPv4Address | IPv6Address) -> bool:
        """Return whether ``zone`` lists an address. A list that is not tested is tested before.

        :raises NoAnswer: if that is not known.
        """
        if not zone.tested:
            await self.test(zone)
        answers = await self._answers(query_name(ip, zone.name))
        return any(answer in network for answer in answers for network in zone.answers)

    async def test(self, zone: Zone) -> None:
        """Ask for the addresses of RFC 5782.

        :raises NotAList: if an answer is wrong.
        :raises NoAnswer: if there is no answer.
        """
        queries = [self._answers(query_name(ip, zone.name)) for ip in _TESTS]
        results: list[tuple[bool, Any]] = await DeferredList(queries, consumeErrors=True)
        for answered, failure in results:
            if not answered:
                raise failure.value
        (_, listed), (_, unlisted) = results
        zone.tested = bool(listed) and not unlisted
        if not listed:
            raise NotAList("it does not list 127.0.0.2, as each list must; its name may be wrong")
        if unlisted:
            raise NotAList("it lists 127.0.0.1, as no list may; it may list everybody")

    def _answers(self, name: str) -> Deferred[list[IPv4Address]]:
        """Return a Deferred of the addresses of ``name``. It fails with :class:`NoAnswer`."""
        expires, addresses = self._kept.get(name, (0.0, []))
        if self._reactor.seconds() < expires:
            return succeed(addresses)
        # Each caller gets a Deferred of its own: a handler that is cancelled does not cancel the query. Others may wait
        # for it, and its answer is worth keeping.
        waiting: Deferred[list[IPv4Address]] = Deferred()
        if name in self._pending:
            self._pending[name].append(waiting)
        elif len(self._pending) < _MOST_PENDING:
            self._pending[name] = [waiting]
            self._resolver.query(name).addCallback(self._keep, name).addBoth(self._on_answer, name)
        else:
            return fail(ListFailed(f"{_MOST_PENDING} queries are pending"))
        return waiting

    def _keep(self, message: Any, name: str) -> list[IPv4Address]:
        """Keep an answer, and return its addresses."""
        records = [record for record in message.answers if record.type == dns.A]
        addresses = [IPv4Address(record.payload.address) for record in records]
        for address in addresses:
            if address not in LISTED:
                raise ListFailed(f"the answer {address} is not in 127.0.0.0/8; no list gives such an answer")
            if any(address in network for network in REFUSALS):
                raise ListFailed(f"the answer {address} means that it refuses to answer you")
        seconds = [record.ttl for record in records]
        if not records:
            soas = [record for record in message.authority if record.type == dns.SOA]
            seconds = [min(record.ttl, record.payload.minimum) for record in soas] or [_NOT_LISTED_KEPT]
        self._kept.pop(name, None)
        self._kept[name] = self._reactor.seconds() + min(*seconds, _LONGEST_KEPT), addresses
        if len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        return addresses

    def _on_answer(self, answer: Any, name: str) -> None:
        for waiting in self._pending.pop(name):
            # If it is a Failure, this is the same as errback.
            waiting.callback(answer)


def query_name(ip: IPv4Address | IPv6Address, zone: str) -> str:
    """Return the name to ask for: 127.0.0.66 in bad.example is 66.0.0.127.bad.example.

    The reversed address is the beginning of its name for reverse lookups, also with IPv6.
    """
    reverse, _, _ = ip.reverse_pointer.rpartition(".ip6.arpa" if ip.version == 6 else ".in-addr.arpa")
    return f"{reverse}.{zone}"


def read_zone(text: str) -> Zone:
    """Return the list that is written as ``bad.example:10``, or with answers ``bad.example:10 127.0.0.2 127.0.0.4/30``.

    :raises ValueError: for another text.
    """
    words = text.split()
    name, _, weight = (words or [""])[0].rpartition(":")
    name = name.rstrip(".").lower()
    if (
        not re.fullmatch(r"([a-z0-9_]([a-z0-9_-]{0,62})\.)*[a-z0-9_][a-z0-9_-]{0,62}", name)
        or len(name) > _LONGEST_NAME
    ):
        raise ValueError('a list is a name in DNS, a colon, and a weight, such as "bad.example:10"')
    if not re.fullmatch("[1-9][0-9]{0,5}", weight):
        raise ValueError('the weight behind the colon is a whole number, 1 to 999999, such as in "bad.example:10"')
    return Zone(name, int(weight), [_read_network(word) for word in words[1:]] or (LISTED,))


def _read_network(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except ValueError:
        network = IPv4Network(0)
    if not network.subnet_of(LISTED):
        raise ValueError(f'the answer "{text}" must be an address or a network in 127.0.0.0/8, such as 127.0.0.4/30')
    return network

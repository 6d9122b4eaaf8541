"""Allows or refuses a request by DNS block lists (DNSBL) that have the client's address. Each list has a weight.

Run it with a table ``[dnsbl]``::

    twistd -n spoa --handlers spoa_twisted.agents.dnsbl --settings agents.toml
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, final

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from spoa_twisted.agents.block_lists import BlockLists, ListFailed, NotAList, Zone, read_zone
from spoa_twisted.agents.resolver import NoAnswer, Resolver, read_address, system_servers
from spoa_twisted.agents.settings import ADDRESS, FLAG, NUMBER, TEXT, TEXTS, WHOLE, Key, Table
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.spop.actions import Variables

_ALLOW: Final = "allow"
_REFUSE: Final = "refuse"

# Seconds between two reports of failures, and between two tests of the lists.
_REPORT_INTERVAL: Final = 60
_TEST_INTERVAL: Final = 600

_log: Final = Logger()

#: The keys of the table.
KEYS: Final = (
    Key(
        "zones",
        TEXTS,
        "The lists: the name of each in DNS, a colon, and its weight. After them, the only answers that count may"
        " follow.",
        check=read_zone,
    ),
    Key("limit", WHOLE, "With this sum of weights, a request is refused.", default=1, at_least=1),
    Key(
        "resolver",
        TEXTS,
        "The IP addresses of DNS servers, which may have a port. By default, they are those of /etc/resolv.conf.",
        default=(),
        check=read_address,
    ),
    Key("timeout", NUMBER, "Seconds for a list to answer.", default=0.8, at_least=0.1, at_most=10),
    Key(
        "failed",
        TEXT,
        "What happens to a request when a list fails that could have changed the verdict.",
        default=_REFUSE,
        choices=(_ALLOW, _REFUSE),
    ),
    Key(
        "test",
        FLAG,
        "Whether each list must have 127.0.0.2 and not 127.0.0.1, as RFC 5782 demands. It notices names that are"
        " misspelt, and lists that have been given up.",
        default=True,
    ),
    Key("kept", WHOLE, "How many answers are kept until their TTL is over.", default=100_000, at_least=1),
    ADDRESS,
)


def handlers(settings: Table) -> Handlers:
    """Return the handlers for a table of settings.

    :raises SettingsError: if the table is wrong.
    """
    values = settings.read(KEYS)
    zones = [replace(read_zone(text), tested=not values["test"]) for text in values["zones"]]
    names = [zone.name for zone in zones]
    if len(set(names)) < len(names):
        raise settings.error("zones", "names a list twice; each may stand there once")
    weights = sum(zone.weight for zone in zones)
    if values["limit"] > weights:
        raise settings.error("limit", f"is {values['limit']}; allowed is at most the sum of all weights, {weights}")
    return _BlockListAgent(settings, values, zones).handlers(values)


@final
class _BlockListAgent:
    def __init__(self, settings: Table, values: dict[str, Any], zones: list[Zone]) -> None:
        self._settings = settings
        self._values = values
        self._zones = zones
        self._limit: int = values["limit"]
        self._allow_failed = values["failed"] == _ALLOW
        # Failures that made no handler fail, since the last report, and the last one of each list.
        self._failures: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def handlers(self, values: dict[str, Any]) -> Handlers:
        # The value says which of several agents in one process has failed.
        handlers = Handlers(on_error={"txn.error": "dnsbl"})
        handlers.startup(self.open)
        handlers.shutdown(self.close)
        handlers.startup(self.test_zones)
        handlers.every(_REPORT_INTERVAL)(self.report)
        if values["test"]:
            handlers.every(_TEST_INTERVAL)(self.test_again)
        register = handlers.message(
            "check-dnsbl",
            args={"ip": values["address"]},
            event="on-frontend-http-request",
            sets={"txn.dnsbl_allowed": bool, "txn.dnsbl_score": int, "txn.dnsbl_lists": str},
            # A list may have to be tested first. The queries end before that: the handler says what has failed.
            timeout=2 * values["timeout"] + 0.2,
        )
        register(self.check_dnsbl)
        return handlers

    def open(self) -> None:
        from twisted.internet import reactor

        clock: Any = reactor
        try:
            servers = [read_address(text) for text in self._values["resolver"]] or system_servers()
        except OSError as error:
            problem = f"is missing, and {error.filename} cannot be read: {error.strerror}"
            raise self._settings.error("resolver", problem) from error
        self._resolver = Resolver(servers, self._values["timeout"], clock)
        self._lists = BlockLists(self._resolver, self._values["kept"], clock)

    async def close(self) -> None:
        await self._resolver.close()

    async def test_zones(self) -> None:
        """Before the agent listens: a list that is none ends the start. DNS that does not answer may be back soon."""
        for zone in self._zones:
            if not zone.tested:
                try:
                    await self._lists.test(zone)
                except NotAList as error:
                    raise self._settings.error("zones", f"has {zone.name}, but {error}") from error
                except NoAnswer as error:
                    _log.error("dnsbl: {zone} does not answer: {error}", zone=zone.name, error=error)

    async def test_again(self) -> None:
        for zone in self._zones:
            try:
                await self._lists.test(zone)
            except NotAList as error:
                _log.error("dnsbl: {zone} is not asked: {error}", zone=zone.name, error=error)
            except NoAnswer:
                # The requests report it.
                continue

    def report(self) -> None:
        for name, count in self._failures.items():
            _log.error(
                "dnsbl: {zone}: {count} queries have failed; the last one: {error}",
                zone=name,
                count=count,
                error=self._last[name],
            )
        self._failures.clear()

    async def check_dnsbl(self, ip: IPv4Address | IPv6Address) -> Variables:
        """Add up the weights of the lists that have the address."""
        if not isinstance(ip, (IPv4Address, IPv6Address)):
            raise TypeError(f"the argument ip is {type(ip).__name__}, not an address: use src or req.hdr_ip(...)")
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
            # A client with IPv4 at a bind with "v4v6".
            ip = ip.ipv4_mapped
        # The queries are sent at the same time.
        queries = [Deferred.fromCoroutine(self._lists.has(zone, ip)) for zone in self._zones]
        answers: list[tuple[bool, Any]] = await DeferredList(queries, consumeErrors=True)
        found, failed = [], []
        for zone, (answered, result) in zip(self._zones, answers, strict=True):
            if not answered:
                failed.append((zone, str(result.value) or result.type.__name__))
            elif result:
                found.append(zone)
        score = sum(zone.weight for zone in found)
        # A list that has failed matters only if it could have changed the verdict.
        undecided = score < self._limit <= score + sum(zone.weight for zone, _ in failed)
        if undecided and not self._allow_failed:
            raise ListFailed("; ".join(f"{zone.name}: {problem}" for zone, problem in failed))
        for zone, problem in failed:
            self._failures[zone.name] += 1
            self._last[zone.name] = problem
        return {
            "txn.dnsbl_allowed": score < self._limit,
            "txn.dnsbl_score": score,
            "txn.dnsbl_lists": ",".join(zone.name for zone in found),
        }

"""``BlockLists``, with a resolver whose answers the test gives, and a clock."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.names import dns

from spoa_twisted.agents.block_lists import _MOST_PENDING, BlockLists, ListFailed, NotAList, Zone, query_name, read_zone
from spoa_twisted.agents.resolver import NoAnswer, Resolver

ONE = ip_address("127.0.0.9")
NAME = "9.0.0.127.bad.example"


class FakeResolver:
    """Keeps the queries until the test answers them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._pending: dict[str, Deferred[Any]] = {}

    def query(self, name: str) -> Deferred[Any]:
        self.asked.append(name)
        self._pending[name] = Deferred()
        return self._pending[name]

    def answer(self, name: str, *addresses: str, ttl: int = 300, soa: int | None = None) -> None:
        message = dns.Message()
        message.answers = [dns.RRHeader(name, dns.A, ttl=ttl, payload=dns.Record_A(text)) for text in addresses]
        if soa is not None:
            payload = dns.Record_SOA(b"a.example", b"b.example", minimum=soa)
            message.authority = [dns.RRHeader("bad.example", dns.SOA, ttl=3600, payload=payload)]
        self._pending.pop(name).callback(message)

    def fail(self, name: str) -> None:
        self._pending.pop(name).errback(NoAnswer("no answer in time"))


class Lists:
    """The lists, with what they need."""

    def __init__(self, kept: int = 10) -> None:
        self.clock = Clock()
        self.resolver = FakeResolver()
        self.lists = BlockLists(cast("Resolver", self.resolver), kept, self.clock)
        self.zone = Zone("bad.example", 10, tested=True)

    def has(self, ip: Any = ONE) -> list[Any]:
        """Return a list that gets the result, or the exception."""
        results: list[Any] = []
        deferred = Deferred.fromCoroutine(self.lists.has(self.zone, ip))
        deferred.addErrback(lambda failure: failure.value).addCallback(results.append)
        return results


def test_answers() -> None:
    """Any address in 127.0.0.0/8 means listed, and none means not listed."""
    lists = Lists()
    result = lists.has()
    lists.resolver.answer(NAME, "127.0.0.2", "127.0.0.10")
    assert result == [True]

    result = lists.has(ip_address("127.0.0.8"))
    lists.resolver.answer("8.0.0.127.bad.example")
    assert result == [False]


def test_only_some_answers_count() -> None:
    """Those in the networks of the zone."""
    lists = Lists()
    lists.zone.answers = [IPv4Network("127.0.0.4/30")]
    for number, listed in ((2, False), (7, True)):
        ip = ip_address(f"127.0.0.{number}")
        result = lists.has(ip)
        lists.resolver.answer(query_name(ip, "bad.example"), f"127.0.0.{number}")
        assert result == [listed]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("127.255.255.254", "the answer 127.255.255.254 means that it refuses to answer you"),
        ("127.0.0.1", "the answer 127.0.0.1 means that it refuses to answer you"),
        ("192.0.2.1", "the answer 192.0.2.1 is not in 127.0.0.0/8; no list gives such an answer"),
    ],
)
def test_answers_that_are_no_listing(answer: str, problem: str) -> None:
    """They are errors, also beside a right answer, and are not kept."""
    lists = Lists()
    for _ in range(2):
        (result,) = [lists.has()]
        lists.resolver.answer(NAME, "127.0.0.2", answer)
        assert [type(result[0]), str(result[0])] == [ListFailed, problem]
    assert lists.resolver.asked == [NAME, NAME]


def test_no_answer() -> None:
    """It is an error, and the next call asks again."""
    lists = Lists()
    result = lists.has()
    lists.resolver.fail(NAME)
    assert [type(error) for error in result] == [NoAnswer]
    lists.has()
    assert lists.resolver.asked == [NAME, NAME]


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ({"addresses": ["127.0.0.2"], "ttl": 30}, 30),
        ({"addresses": ["127.0.0.2"], "ttl": 100_000}, 3600),
        ({"addresses": [], "soa": 20}, 20),
        ({"addresses": []}, 60),
    ],
    ids=["ttl", "long-ttl", "not-listed", "no-soa"],
)
def test_how_long_an_answer_is_kept(answer: dict[str, Any], kept: int) -> None:
    """For its TTL, but an hour at most; NXDOMAIN for the TTL of its SOA record, else a minute."""
    lists = Lists()
    lists.has()
    lists.resolver.answer(NAME, *answer.pop("addresses"), **answer)
    lists.clock.advance(kept - 0.1)
    assert len(lists.has()) == 1
    assert lists.resolver.asked == [NAME]
    lists.clock.advance(0.2)
    assert lists.has() == []
    assert lists.resolver.asked == [NAME, NAME]


def test_how_many_answers_are_kept() -> None:
    """Of more than the limit, the oldest is dropped."""
    lists = Lists(kept=2)
    for number in (1, 2, 3):
        lists.has(ip_address(f"127.0.0.{number}"))
        lists.resolver.answer(f"{number}.0.0.127.bad.example")
    assert [len(lists.has(ip_address(f"127.0.0.{number}"))) for number in (1, 2, 3)] == [0, 1, 1]


def test_a_query_is_shared() -> None:
    """Who is cancelled leaves the query to the others, and the answer is kept."""
    lists = Lists()
    first = Deferred.fromCoroutine(lists.lists.has(lists.zone, ONE))
    others = [lists.has(), lists.has()]
    cancelled: list[Any] = []
    first.addErrback(cancelled.append)
    first.cancel()
    assert cancelled[0].check(CancelledError)
    assert lists.resolver.asked == [NAME]

    lists.resolver.answer(NAME, "127.0.0.2")
    assert others == [[True], [True]]
    assert lists.has() == [True]


def test_all_are_cancelled() -> None:
    """The answer is kept all the same."""
    lists = Lists()
    only = Deferred.fromCoroutine(lists.lists.has(lists.zone, ONE))
    only.addErrback(lambda failure: failure.trap(CancelledError))
    only.cancel()
    lists.resolver.answer(NAME, "127.0.0.2")
    assert lists.has() == [True]
    assert lists.resolver.asked == [NAME]


def test_too_many_queries() -> None:
    """A query above the limit fails at once."""
    lists = Lists()
    for number in range(_MOST_PENDING):
        lists.has(ip_address("10.0.0.0") + number)
    (error,) = lists.has()
    assert str(error) == "5000 queries are pending"
    lists.resolver.answer("0.0.0.10.bad.example")
    assert lists.has() == []


def test_a_zone_is_tested_first() -> None:
    """Before the first answer counts, 127.0.0.2 must be listed, and 127.0.0.1 must not."""
    lists = Lists()
    lists.zone.tested = False
    result = lists.has()
    tests = ["2.0.0.127.bad.example", "1.0.0.127.bad.example"]
    assert lists.resolver.asked == tests
    lists.resolver.answer(tests[0], "127.0.0.2")
    lists.resolver.answer(tests[1])
    lists.resolver.answer(NAME)
    assert result == [False]
    assert lists.zone.tested

    # The answers are kept.
    lists.has(ip_address("127.0.0.8"))
    assert lists.resolver.asked == [*tests, NAME, "8.0.0.127.bad.example"]


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([[], []], "it does not list 127.0.0.2, as each list must; its name may be wrong"),
        ([["127.0.0.2"], ["127.0.0.2"]], "it lists 127.0.0.1, as no list may; it may list everybody"),
    ],
)
def test_a_zone_is_no_list(answers: list[list[str]], problem: str) -> None:
    """Then nothing is asked, whether the zone was right before or not."""
    lists = Lists()
    failures: list[Any] = []
    Deferred.fromCoroutine(lists.lists.test(lists.zone)).addErrback(failures.append)
    for number, addresses in zip((2, 1), answers, strict=True):
        lists.resolver.answer(f"{number}.0.0.127.bad.example", *addresses)
    assert failures[0].check(NotAList)
    assert str(failures[0].value) == problem
    assert not lists.zone.tested

    (error,) = lists.has()
    assert isinstance(error, NotAList)


def test_no_answer_to_the_test() -> None:
    """A zone stays as it was."""
    lists = Lists()
    for tested in (True, False):
        lists.zone.tested = tested
        failures: list[Any] = []
        Deferred.fromCoroutine(lists.lists.test(lists.zone)).addErrback(failures.append)
        lists.resolver.fail("2.0.0.127.bad.example")
        lists.resolver.fail("1.0.0.127.bad.example")
        assert failures[0].check(NoAnswer)
        assert lists.zone.tested is tested


def test_query_names() -> None:
    """The address is reversed: its numbers with IPv4, its hexadecimal digits with IPv6."""
    assert query_name(ip_address("192.0.2.99"), "bad.example") == "99.2.0.192.bad.example"
    assert query_name(ip_address("2001:db8::1"), "bad.example") == f"1.{'0.' * 23}8.b.d.0.1.0.0.2.bad.example"


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("bad.example:10", Zone("bad.example", 10)),
        ("Bad.Example.:1", Zone("bad.example", 1)),
        (
            "bad.example:4 127.0.0.2 127.0.0.4/30",
            Zone("bad.example", 4, [IPv4Network("127.0.0.2/32"), IPv4Network("127.0.0.4/30")]),
        ),
    ],
)
def test_read_zone(text: str, zone: Zone) -> None:
    """A name, a weight, and the answers that count."""
    assert read_zone(text) == zone


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a list is a name in DNS, a colon, and a weight"),
        ("bad.example", "a list is a name in DNS, a colon, and a weight"),
        ("bad example:1", "a list is a name in DNS, a colon, and a weight"),
        (f"{'a.' * 100}b:1", "a list is a name in DNS, a colon, and a weight"),
        ("bad.example:0", "the weight behind the colon is a whole number, 1 to 999999"),
        ("bad.example:1 192.0.2.1", 'the answer "192.0.2.1" must be an address or a network in 127.0.0.0/8'),
        ("bad.example:1 127.0.0.0/7", 'the answer "127.0.0.0/7" must be an address or a network in 127.0.0.0/8'),
    ],
)
def test_read_a_wrong_zone(text: str, problem: str) -> None:
    """The error says what to write."""
    with pytest.raises(ValueError, match=problem):
        read_zone(text)

"""InFlight: pending answers and their limits."""

from __future__ import annotations

from spoa_twisted.agent.in_flight import InFlight
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.messages import Message
from tests.agent.memory import Answer

#: Bytes that a pending message counts besides its arguments.
MESSAGE_SIZE = 1024


def add(in_flight: InFlight, ids: bytes = b"1", size: int = 0, messages: int = 0) -> Answer:
    """Add a NOTIFY with a payload of ``size`` bytes, and return its answer."""
    answer = Answer()
    in_flight.add(answer, Notify(ids, [Message("m")] * messages, size))
    return answer


def is_full(in_flight: InFlight) -> bool:
    """Return ``full``. Mypy would not know that a call can change the attribute."""
    return in_flight.full


def test_nothing_is_pending_at_first() -> None:
    """So it is not full, and an unknown answer has no ids."""
    in_flight = InFlight(1, 1)
    assert (in_flight.count, in_flight.full) == (0, False)
    assert in_flight.remove(Answer()) is None
    assert in_flight.take_all() == {}
    assert (in_flight.count, in_flight.full) == (0, False)


def test_it_is_full_with_max_count_notifys() -> None:
    """When one is answered, another one may be added. Each answer has the ids of its NOTIFY, once."""
    in_flight = InFlight(2, 2**30)
    first = add(in_flight, b"1")
    assert (in_flight.count, in_flight.full) == (1, False)
    second = add(in_flight, b"2")
    assert (in_flight.count, in_flight.full) == (2, True)
    assert in_flight.remove(first) == b"1"
    assert in_flight.remove(first) is None
    assert (in_flight.count, in_flight.full) == (1, False)
    assert in_flight.remove(second) == b"2"
    assert in_flight.count == 0


def test_it_is_full_with_max_size_bytes() -> None:
    """The bytes of an answered NOTIFY do not count any more."""
    in_flight = InFlight(100, 1000)
    first = add(in_flight, size=999)
    assert not is_full(in_flight)
    second = add(in_flight, size=1)
    assert is_full(in_flight)
    in_flight.remove(second)
    assert not is_full(in_flight)
    add(in_flight, size=2)
    assert is_full(in_flight)
    in_flight.remove(first)
    assert not is_full(in_flight)


def test_a_message_counts_more_than_its_bytes() -> None:
    """A NOTIFY of a few kilobytes may hold thousands of empty messages."""
    in_flight = InFlight(100, 3 * MESSAGE_SIZE + 10)
    add(in_flight, size=9, messages=3)
    assert not is_full(in_flight)
    add(in_flight, size=1)
    assert is_full(in_flight)


def test_one_notify_may_be_longer_than_the_limit() -> None:
    """It is accepted, since it has arrived, and fills the limit alone."""
    in_flight = InFlight(100, 10)
    answer = add(in_flight, size=1000)
    assert is_full(in_flight)
    in_flight.remove(answer)
    assert not is_full(in_flight)


def test_all_can_be_taken() -> None:
    """The limits then apply as if nothing had been added."""
    in_flight = InFlight(3, 1000)
    answers = {add(in_flight, ids, size=400): ids for ids in (b"1", b"2", b"3")}
    assert is_full(in_flight)
    assert in_flight.take_all() == answers
    assert (in_flight.count, in_flight.full) == (0, False)
    assert [in_flight.remove(answer) for answer in answers] == [None] * 3
    add(in_flight, size=999)
    assert not is_full(in_flight)

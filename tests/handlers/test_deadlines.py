"""How long handlers may take, when many wait at once: on clocks, and on the reactor."""

from __future__ import annotations

import gc
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted import Handlers, Message
from spoa_twisted.spop.actions import decode_actions
from tests.conftest import Logged
from tests.test_handlers import begin, result_of

reactor: Any = default_reactor


class Waits:
    """Handlers of several timeouts, each with the Deferreds that its calls wait for."""

    def __init__(self, **timeouts: float) -> None:
        self.handlers = Handlers()
        self.waiting: dict[str, list[Deferred[Any]]] = {name: [] for name in timeouts}
        self.noticed_when_cancelled: Callable[[str], None] = lambda name: None
        for name, timeout in timeouts.items():
            self.handlers.message(name, timeout=timeout, on_error={f"sess.{name}": timeout > 0})(self.waits(name))

    def waits(self, name: str) -> Callable[[], Deferred[Any]]:
        def handler() -> Deferred[Any]:
            self.waiting[name].append(Deferred(lambda _: self.noticed_when_cancelled(name)))
            return self.waiting[name][-1]

        return handler

    def begin(self, clock: Any, *names: str) -> Deferred[bytes]:
        return begin(self.handlers, *map(Message, names), clock=clock, timeout=10)


class Times:
    """When each answer came, on a clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seen: dict[str, float] = {}

    def note(self, name: str, answer: Deferred[bytes]) -> None:
        def came(result: Any) -> None:
            self.seen[name] = self.clock.seconds()

        answer.addCallback(came)


class TestTimes:
    @pytest.mark.parametrize("start", [0.0, 0.1, 1e6 + 1 / 3, 1.7e9 + 0.7])
    def test_each_has_its_own_time(self, start: float, logged: Logged) -> None:
        """Neither less nor a turn of the reactor more, whenever it began and whatever the others may take."""
        clock = Clock()
        clock.rightNow = start
        waits = Waits(short=0.5, middle=1.5, long=4.0)
        late: dict[int, tuple[float, Deferred[bytes]]] = {}
        ends: dict[int, float] = {}
        number = 0
        for turn in range(1000):
            clock.advance(0.01)
            if turn < 500 and turn % 7 == 0:
                for name, timeout in (("short", 0.5), ("middle", 1.5), ("long", 4.0)):
                    answer = waits.begin(clock, name)
                    late[number] = (clock.seconds() + timeout, answer)
                    answer.addCallback(lambda _, number: ends.setdefault(number, clock.seconds()), number)
                    number += 1
        assert len(ends) == number
        for each, (deadline, _) in late.items():
            assert deadline <= ends[each] <= deadline + 0.0101
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == number

    def test_the_first_may_finish_early(self, logged: Logged) -> None:
        """Those behind it have their time all the same, not the time of the first."""
        clock = Clock()
        times = Times(clock)
        waits = Waits(m=1.0)
        answers = []
        for number in range(4):
            answers.append(waits.begin(clock, "m"))
            times.note(str(number), answers[-1])
            clock.advance(0.25)
        # It is 1.0: the first has been given up, the second finishes, the third and the fourth go on.
        assert times.seen == {"0": 1.0}
        waits.waiting["m"][1].callback(None)
        clock.advance(0.25)
        assert times.seen == {"0": 1.0, "1": 1.0}
        clock.advance(0.25)
        assert times.seen == {"0": 1.0, "1": 1.0, "2": 1.5}
        clock.advance(0.25)
        assert times.seen["3"] == 1.75
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == 3

    def test_each_message_of_a_notify_has_its_own_time(self, logged: Logged) -> None:
        """The answer comes when the last has finished, or is given up."""
        clock = Clock()
        waits = Waits(short=0.5, long=2.0, never=0)
        answer = waits.begin(clock, "short", "long", "never", "long")
        clock.advance(0.5)
        waits.waiting["long"][0].callback({"sess.in_time": 1})
        clock.advance(1.5)
        assert not answer.called
        assert clock.getDelayedCalls() == []
        clock.advance(1000)
        waits.waiting["never"][0].callback(None)
        assert result_of(answer) == {"sess.short": True, "sess.in_time": 1, "sess.long": True}
        assert len(logged.take()) == 2

    def test_two_clocks(self, logged: Logged) -> None:
        """One set of handlers may serve two factories, each with a reactor of its own."""
        clocks = [Clock(), Clock()]
        waits = Waits(m=1.0)
        answers = [waits.begin(clocks[number % 2], "m") for number in range(6)]
        waits.waiting["m"][0].callback(None)
        waits.waiting["m"][3].callback(None)
        clocks[0].advance(1)
        assert [answer.called for answer in answers] == [True, False, True, True, True, False]
        clocks[1].advance(1)
        assert all(answer.called for answer in answers)
        assert [clock.getDelayedCalls() for clock in clocks] == [[], []]
        assert len(logged.take()) == 4


@implementer(IReadDescriptor)
class Reader:
    """Tells when something has come to a socket."""

    def __init__(self, end: socket.socket, came: Callable[[], None]) -> None:
        self.fileno = end.fileno
        self._came = came

    def doRead(self) -> None:
        reactor.removeReader(self)
        self._came()

    def connectionLost(self, reason: Failure) -> None: ...

    def logPrefix(self) -> str:
        return "-"


@pytest_twisted.ensureDeferred
async def test_what_came_while_the_reactor_was_blocked_came_in_time() -> None:
    """It is read before anything is given up: of two, the second too, and one of another timeout."""
    waits = Waits(a=0.02, b=0.03)
    timers = len(reactor.getDelayedCalls())
    answers = [waits.begin(reactor, name) for name in "aab"]
    ours, theirs = socket.socketpair()

    def came() -> None:
        for each in waits.waiting["a"] + waits.waiting["b"]:
            each.callback({"sess.came": 1})

    with ours, theirs:
        reactor.addReader(Reader(ours, came))
        theirs.send(b"x")
        time.sleep(0.05)
        for answer in answers:
            assert decode_actions(await answer) == {"sess.came": 1}
    assert len(reactor.getDelayedCalls()) == timers


class TestGivingUp:
    def test_one_that_ends_others(self, logged: Logged) -> None:
        """Those that it ends are not given up in their turn."""
        clock = Clock()
        waits = Waits(m=1.0)
        answers = [waits.begin(clock, "m") for _ in range(3)]

        def cancelled(name: str) -> None:
            for each in waits.waiting["m"][1:]:
                if not each.called:
                    each.callback({"sess.rescued": 1})

        waits.noticed_when_cancelled = cancelled
        clock.advance(1)
        assert [result_of(answer) for answer in answers] == [
            {"sess.m": True},
            {"sess.rescued": 1},
            {"sess.rescued": 1},
        ]
        assert len(logged.take()) == 1
        assert clock.getDelayedCalls() == []

    @pytest.mark.parametrize("others", [0, 2])
    def test_one_that_begins_others(self, others: int, logged: Logged) -> None:
        """They have their time from then on."""
        clock = Clock()
        waits = Waits(m=1.0)
        times = Times(clock)
        for _ in range(1 + others):
            waits.begin(clock, "m")
        begun: list[Deferred[bytes]] = []

        def cancelled(name: str) -> None:
            if len(begun) < 3:
                begun.append(waits.begin(clock, "m"))
                times.note(str(len(begun)), begun[-1])

        waits.noticed_when_cancelled = cancelled
        for _ in range(8):
            clock.advance(0.5)
        assert all(answer.called for answer in begun)
        expected = {"1": 2.0, "2": 3.0, "3": 4.0} if not others else {"1": 2.0, "2": 2.0, "3": 2.0}
        assert times.seen == expected
        clock.advance(2)
        assert clock.getDelayedCalls() == []
        logged.take()

    @pytest.mark.parametrize("messages", [1, 2])
    def test_one_that_gives_up_its_own_notify(self, messages: int, logged: Logged) -> None:
        """As when its end closes the connection: the others that are late are given up all the same."""
        clock = Clock()
        waits = Waits(m=1.0)
        own = waits.begin(clock, *["m"] * messages)
        failures: list[Failure] = []
        own.addErrback(failures.append)
        other = waits.begin(clock, "m")
        waits.noticed_when_cancelled = lambda name: own.cancel()
        clock.advance(1)
        assert [failure.type for failure in failures] == [CancelledError]
        assert result_of(other) == {"sess.m": True}
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == 2


def size_of(table: dict[Any, Any]) -> int:
    """Return how many bytes a dict takes, as far as Python tells: PyPy does not."""
    return sys.getsizeof(table, 0)


def test_nothing_is_kept_of_those_that_finish_while_one_hangs(logged: Logged) -> None:
    """Of a hundred thousand: neither objects, nor timers, nor places in a list."""
    clock = Clock()
    waits = Waits(m=1e9)
    hanging = waits.begin(clock, "m")

    def answer(count: int) -> None:
        for _ in range(count):
            given = waits.begin(clock, "m")
            waits.waiting["m"].pop().callback(None)
            assert given.called

    answer(1000)
    gc.collect()
    before = len(gc.get_objects())
    (sizes,) = [waits.handlers._deadlines._by_seconds]  # type: ignore[union-attr]
    size = size_of(sizes[1e9])
    answer(100_000)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert size_of(sizes[1e9]) <= max(size, 10_000)
    assert len(clock.getDelayedCalls()) == 1
    hanging.addErrback(lambda _: None)
    hanging.cancel()
    assert clock.getDelayedCalls() == []


def test_a_clock_that_is_set_back_while_one_is_given_up(logged: Logged) -> None:
    """What begins then has its own time, by the new clock."""
    waits = Waits(a=1)
    clock = Clock()
    clock.advance(10_000)
    answers = [waits.begin(clock, "a"), waits.begin(clock, "a")]

    def set_back(name: str) -> None:
        if len(answers) == 2:
            clock.rightNow -= 5000
            answers.append(waits.begin(clock, "a"))

    waits.noticed_when_cancelled = set_back
    clock.pump([1, 0])
    assert [answer.called for answer in answers] == [True, True, False]
    clock.pump([1, 0])
    assert answers[2].called
    assert len(logged.take()) == 3
    assert clock.getDelayedCalls() == []


def test_a_clock_that_is_set_back(logged: Logged) -> None:
    """Twisted's reactors go by the time of day: nobody waits until it was as late again."""
    waits = Waits(a=1)
    clock = Clock()
    clock.advance(10_000)
    answers = [waits.begin(clock, "a")]
    clock.rightNow -= 5000
    for _ in range(3):
        clock.advance(0.5)
        answers.append(waits.begin(clock, "a"))
    clock.advance(1)
    # What had passed the limit when the reactor was about to wait is given up in its next turn.
    clock.advance(0)
    assert [answer.called for answer in answers] == [True] * 4
    assert len(logged.take()) == 4
    assert clock.getDelayedCalls() == []

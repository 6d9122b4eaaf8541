"""How long handlers may take when many are pending at once: on clocks in memory, and on the reactor."""

from __future__ import annotations

import gc
import socket
import sys
import time
import weakref
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
from spoa_twisted.handlers.deadlines import BUSY, Deadlines, Queue
from spoa_twisted.spop.actions import decode_actions
from tests.conftest import Logged
from tests.handlers.answers import begin, result_of

reactor: Any = default_reactor


class Item:
    """Something with a deadline, which notes when it expires.

    :param on_expired: called when it expires.
    """

    deadline: float

    def __init__(self, clock: Clock, on_expired: Callable[[], object] = lambda: None) -> None:
        self._clock = clock
        self._on_expired = on_expired
        self.expired: list[float] = []
        self.queue: Queue | None = None

    def discard(self) -> None:
        assert self.queue is not None
        self.queue.discard(self)

    def expire(self) -> None:
        self.expired.append(self._clock.seconds())
        self._on_expired()


def finish_item(clock: Clock, deadlines: Deadlines) -> None:
    """Add an item that has finished before anything else happens."""
    item = Item(clock)
    deadlines.add(item, 1)
    item.discard()


def make_busy(clock: Clock, deadlines: Deadlines) -> None:
    """Let ``deadlines`` keep its timer from now on."""
    for _ in range(2 * BUSY):
        finish_item(clock, deadlines)


class TestDeadlines:
    """Deadlines alone, with items that are no handlers."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def deadlines(self, clock: Clock) -> Deadlines:
        return Deadlines(clock)

    def test_an_item_expires_after_its_seconds(self, clock: Clock, deadlines: Deadlines) -> None:
        """Not before, and only once. Then no timer is left."""
        item = Item(clock)
        deadlines.add(item, 2)
        assert item.queue is not None
        assert (item.queue.seconds, item.deadline) == (2, 2)
        clock.advance(1.9)
        assert item.expired == []
        clock.pump([0.1, 0, 5])
        assert item.expired == [2]
        assert clock.getDelayedCalls() == []

    def test_a_discarded_item_does_not_expire(self, clock: Clock, deadlines: Deadlines) -> None:
        """The timer is cancelled when no item with the same timeout is left. To discard an item again does nothing."""
        items = [Item(clock) for _ in range(3)]
        for item in items:
            deadlines.add(item, 1)
        items[0].discard()
        items[1].discard()
        items[1].discard()
        assert len(clock.getDelayedCalls()) == 1
        items[2].discard()
        items[2].discard()
        assert clock.getDelayedCalls() == []
        clock.advance(10)
        assert [item.expired for item in items] == [[], [], []]

    def test_items_with_the_same_timeout_share_a_timer(self, clock: Clock, deadlines: Deadlines) -> None:
        """A timer of Twisted for each item would cost too much. Each item still expires at its own time."""
        items = [Item(clock) for _ in range(100)]
        for number, item in enumerate(items):
            clock.rightNow = number / 128
            deadlines.add(item, 1)
            deadlines.add(Item(clock), 50)
        assert len(clock.getDelayedCalls()) == 2
        clock.pump([1 / 128] * 200)
        assert [item.expired for item in items] == [[1 + number / 128] for number in range(100)]

    def test_an_item_may_discard_all_others_and_add_one(self, clock: Clock, deadlines: Deadlines) -> None:
        """The timer of the new one has started then, and no other starts."""
        other, new = Item(clock), Item(clock)

        def replace() -> None:
            other.discard()
            deadlines.add(new, 1)

        deadlines.add(Item(clock, replace), 1)
        deadlines.add(other, 1)
        clock.pump([1, 0])
        assert len(clock.getDelayedCalls()) == 1
        clock.pump([1, 0])
        assert (other.expired, new.expired) == ([], [2])
        assert clock.getDelayedCalls() == []

    def test_a_busy_agent_keeps_the_timer(self, clock: Clock, deadlines: Deadlines) -> None:
        """It starts none for each item any more. The timer that finds no item ends, and so do all in rest()."""
        timers = []
        for _ in range(5 * BUSY):
            item = Item(clock)
            deadlines.add(item, 1)
            timers += [call for call in clock.getDelayedCalls() if call not in timers]
            item.discard()
            clock.advance(1 / 256)
        assert len(timers) == 2 * BUSY
        assert len(clock.getDelayedCalls()) == 1
        clock.advance(1)
        assert clock.getDelayedCalls() == []
        finish_item(clock, deadlines)
        assert len(clock.getDelayedCalls()) == 1
        deadlines.rest()
        assert clock.getDelayedCalls() == []

    def test_a_timer_that_was_kept(self, clock: Clock, deadlines: Deadlines) -> None:
        """The items that come later have their whole time."""
        make_busy(clock, deadlines)
        clock.advance(0.75)
        late = [Item(clock), Item(clock)]
        deadlines.add(late[0], 1)
        clock.advance(0.5)
        deadlines.add(late[1], 1)
        clock.pump([0.25] * 8)
        assert [item.expired for item in late] == [[1.75], [2.25]]
        assert clock.getDelayedCalls() == []

    def test_few_items_leave_no_timer(self, clock: Clock, deadlines: Deadlines) -> None:
        """An agent that is not busy starts and cancels a timer for each item. It may have been busy before."""
        make_busy(clock, deadlines)
        clock.advance(2)
        for _ in range(2 * BUSY):
            finish_item(clock, deadlines)
            clock.advance(2)
        finish_item(clock, deadlines)
        assert clock.getDelayedCalls() == []

    def test_rest_keeps_the_timers_of_items_that_wait(self, clock: Clock, deadlines: Deadlines) -> None:
        """When they have finished, no timer is left."""
        items = [Item(clock), Item(clock)]
        make_busy(clock, deadlines)
        deadlines.add(items[0], 1)
        deadlines.add(items[1], 2)
        deadlines.rest()
        assert len(clock.getDelayedCalls()) == 2
        items[0].discard()
        assert len(clock.getDelayedCalls()) == 1
        clock.advance(2)
        assert items[1].expired == [2]

    def test_an_item_may_be_discarded_when_the_reactor_was_blocked(self, clock: Clock, deadlines: Deadlines) -> None:
        """The reactor reads once more between the timer and the expiry. The item may finish in that turn."""
        item = Item(clock)
        deadlines.add(item, 1)
        # As a read in the first turn after the reactor was blocked for five seconds.
        clock.callLater(5, item.discard)
        clock.advance(5)
        assert item.expired == []
        assert clock.getDelayedCalls() == []

    def test_an_item_may_discard_others(self, clock: Clock, deadlines: Deadlines) -> None:
        """These do not expire any more, also when their deadlines have passed and none is left."""
        others = [Item(clock), Item(clock)]

        def discard_others() -> None:
            for item in others:
                item.discard()

        first = Item(clock, discard_others)
        for item in (first, *others):
            deadlines.add(item, 1)
        clock.advance(1)
        assert [item.expired for item in (first, *others)] == [[1], [], []]
        assert clock.getDelayedCalls() == []

    def test_an_item_may_add_others(self, clock: Clock, deadlines: Deadlines) -> None:
        """These have their whole time, also when the item was the last one and when others with its timeout follow."""
        added = [Item(clock), Item(clock)]
        last = Item(clock, lambda: deadlines.add(added[1], 1))
        deadlines.add(Item(clock, lambda: deadlines.add(added[0], 1)), 1)
        clock.advance(0.5)
        deadlines.add(last, 1)
        clock.pump([0.25] * 20)
        assert (added[0].expired, last.expired, added[1].expired) == ([2.0], [1.5], [2.5])
        assert clock.getDelayedCalls() == []

    def test_the_clock_may_be_set_back(self, clock: Clock, deadlines: Deadlines) -> None:
        """The next item that is added pulls the earlier deadlines with it, but delays none."""
        clock.rightNow = 10_000
        first, second, third = Item(clock), Item(clock), Item(clock)
        deadlines.add(first, 1)
        clock.rightNow = 5000
        deadlines.add(second, 1)
        assert (first.deadline, second.deadline) == (5001, 5001)
        clock.advance(0.5)
        deadlines.add(third, 1)
        assert first.deadline == 5001
        clock.pump([0.5, 0.5])
        assert (first.expired, second.expired, third.expired) == ([5001], [5001], [5001.5])
        assert clock.getDelayedCalls() == []


class Pending:
    """Handlers with several timeouts, each with the Deferreds that its calls wait for."""

    def __init__(self, **timeouts: float) -> None:
        self.handlers = Handlers()
        #: The deadlines of each agent, by its clock.
        self.agents: dict[Any, Deadlines] = {}
        self.deferreds: dict[str, list[Deferred[Any]]] = {name: [] for name in timeouts}
        self.on_cancelled: Callable[[str], None] = lambda name: None
        for name, timeout in timeouts.items():
            self.handlers.message(name, timeout=timeout, on_error={f"sess.{name}": timeout > 0})(self.handler(name))

    def handler(self, name: str) -> Callable[[], Deferred[Any]]:
        """Return the handler of the message called ``name``."""

        def handler() -> Deferred[Any]:
            self.deferreds[name].append(Deferred(lambda _: self.on_cancelled(name)))
            return self.deferreds[name][-1]

        return handler

    def begin(self, clock: Any, *names: str) -> Deferred[bytes]:
        """Send one NOTIFY with messages of these names to the agent of this clock."""
        if clock not in self.agents:
            self.agents[clock] = Deadlines(clock)
        return begin(self.handlers, *map(Message, names), clock=clock, timeout=10, deadlines=self.agents[clock])


class Times:
    """Notes the time of a clock at which each answer is ready."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seen: dict[str, float] = {}

    def note(self, name: str, answer: Deferred[bytes]) -> None:
        answer.addCallback(lambda _: self.seen.setdefault(name, self.clock.seconds()))


class TestTimes:
    @pytest.mark.parametrize("start", [0.0, 0.1, 1e6 + 1 / 3, 1.7e9 + 0.7])
    def test_each_handler_has_its_own_time(self, start: float, logged: Logged) -> None:
        """It times out at its deadline, at most one turn of the reactor later.

        Neither the time at which it began nor the timeouts of other handlers change that.
        """
        clock = Clock()
        clock.rightNow = start
        pending = Pending(short=0.5, middle=1.5, long=4.0)
        deadlines: list[float] = []
        ends: dict[int, float] = {}
        for turn in range(1000):
            clock.advance(0.01)
            if turn < 500 and turn % 7 == 0:
                for name, timeout in (("short", 0.5), ("middle", 1.5), ("long", 4.0)):
                    answer = pending.begin(clock, name)
                    answer.addCallback(lambda _, number: ends.setdefault(number, clock.seconds()), len(deadlines))
                    deadlines.append(clock.seconds() + timeout)
        assert len(ends) == len(deadlines) > 200
        for number, deadline in enumerate(deadlines):
            assert deadline <= ends[number] <= deadline + 0.0101
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == len(deadlines)

    def test_an_earlier_handler_may_finish(self, logged: Logged) -> None:
        """The handlers that began after it keep their own deadlines."""
        clock = Clock()
        times = Times(clock)
        pending = Pending(m=1.0)
        for number in range(4):
            times.note(str(number), pending.begin(clock, "m"))
            clock.advance(0.25)
        # At 1.0 the first handler has timed out, the second finishes, the third and the fourth stay pending.
        assert times.seen == {"0": 1.0}
        pending.deferreds["m"][1].callback(None)
        clock.advance(0.25)
        assert times.seen == {"0": 1.0, "1": 1.0}
        clock.advance(0.25)
        assert times.seen == {"0": 1.0, "1": 1.0, "2": 1.5}
        clock.advance(0.25)
        assert times.seen["3"] == 1.75
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == 3

    def test_each_message_of_a_notify_has_its_own_time(self, logged: Logged) -> None:
        """The answer is ready when the last handler has finished or timed out. A timeout of 0 is no limit."""
        clock = Clock()
        pending = Pending(short=0.5, long=2.0, never=0)
        answer = pending.begin(clock, "short", "long", "never", "long")
        clock.advance(0.5)
        pending.deferreds["long"][0].callback({"sess.in_time": 1})
        clock.advance(1.5)
        assert not answer.called
        assert clock.getDelayedCalls() == []
        clock.advance(1000)
        pending.deferreds["never"][0].callback(None)
        assert result_of(answer) == {"sess.short": True, "sess.in_time": 1, "sess.long": True}
        assert len(logged.take()) == 2

    def test_handlers_may_serve_two_factories(self, logged: Logged) -> None:
        """Each factory has a reactor of its own. A deadline counts on the reactor of its NOTIFY."""
        clocks = [Clock(), Clock()]
        pending = Pending(m=1.0)
        answers = [pending.begin(clocks[number % 2], "m") for number in range(6)]
        pending.deferreds["m"][0].callback(None)
        pending.deferreds["m"][3].callback(None)
        clocks[0].advance(1)
        assert [answer.called for answer in answers] == [True, False, True, True, True, False]
        clocks[1].advance(1)
        assert all(answer.called for answer in answers)
        assert [clock.getDelayedCalls() for clock in clocks] == [[], []]
        assert len(logged.take()) == 4


@implementer(IReadDescriptor)
class Reader:
    """Calls ``on_read`` once, when there are bytes to read from a socket."""

    def __init__(self, end: socket.socket, on_read: Callable[[], None]) -> None:
        self.fileno = end.fileno
        self._on_read = on_read

    def doRead(self) -> None:
        reactor.removeReader(self)
        self._on_read()

    def connectionLost(self, reason: Failure) -> None: ...

    def logPrefix(self) -> str:
        return "-"


@pytest_twisted.ensureDeferred
async def test_bytes_that_arrived_while_the_reactor_was_blocked_are_in_time() -> None:
    """The reactor reads before any handler times out: all three handlers finish, also the one with another timeout."""
    pending = Pending(a=0.02, b=0.03)
    timers = len(reactor.getDelayedCalls())
    answers = [pending.begin(reactor, name) for name in "aab"]
    ours, theirs = socket.socketpair()

    def on_read() -> None:
        for deferred in pending.deferreds["a"] + pending.deferreds["b"]:
            deferred.callback({"sess.read": 1})

    with ours, theirs:
        reactor.addReader(Reader(ours, on_read))
        theirs.send(b"x")
        # This blocks the reactor beyond both timeouts.
        time.sleep(0.05)
        for answer in answers:
            assert decode_actions(await answer) == {"sess.read": 1}
    assert len(reactor.getDelayedCalls()) == timers


class TestCancelling:
    """The canceller of a handler's Deferred runs when the handler times out, and may do anything."""

    def test_it_may_finish_other_handlers(self, logged: Logged) -> None:
        """These do not time out, although their deadlines have passed."""
        clock = Clock()
        pending = Pending(m=1.0)
        answers = [pending.begin(clock, "m") for _ in range(3)]

        def finish_others(name: str) -> None:
            for deferred in pending.deferreds["m"][1:]:
                if not deferred.called:
                    deferred.callback({"sess.rescued": 1})

        pending.on_cancelled = finish_others
        clock.advance(1)
        assert [result_of(answer) for answer in answers] == [
            {"sess.m": True},
            {"sess.rescued": 1},
            {"sess.rescued": 1},
        ]
        assert len(logged.take()) == 1
        assert clock.getDelayedCalls() == []

    @pytest.mark.parametrize("others", [0, 2])
    def test_it_may_begin_other_handlers(self, others: int, logged: Logged) -> None:
        """These have their whole time from then on."""
        clock = Clock()
        pending = Pending(m=1.0)
        times = Times(clock)
        for _ in range(1 + others):
            pending.begin(clock, "m")
        begun: list[Deferred[bytes]] = []

        def begin_another(name: str) -> None:
            if len(begun) < 3:
                begun.append(pending.begin(clock, "m"))
                times.note(str(len(begun)), begun[-1])

        pending.on_cancelled = begin_another
        for _ in range(8):
            clock.advance(0.5)
        assert all(answer.called for answer in begun)
        expected = {"1": 2.0, "2": 2.0, "3": 2.0} if others else {"1": 2.0, "2": 3.0, "3": 4.0}
        assert times.seen == expected
        clock.advance(2)
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == 1 + others + 3

    @pytest.mark.parametrize("messages", [1, 2])
    def test_it_may_cancel_its_own_notify(self, messages: int, logged: Logged) -> None:
        """As when the canceller closes the connection. The handlers of other NOTIFYs still time out."""
        clock = Clock()
        pending = Pending(m=1.0)
        own = pending.begin(clock, *["m"] * messages)
        failures: list[Failure] = []
        own.addErrback(failures.append)
        other = pending.begin(clock, "m")
        pending.on_cancelled = lambda name: own.cancel()
        clock.advance(1)
        assert [failure.type for failure in failures] == [CancelledError]
        assert result_of(other) == {"sess.m": True}
        assert clock.getDelayedCalls() == []
        assert len(logged.take()) == 2


def size_of_tables(deadlines: Deadlines) -> int:
    """Return how many bytes the dicts in ``deadlines`` take. It is 0 on PyPy, which does not tell."""
    tables = [table for table in gc.get_referents(deadlines) if isinstance(table, dict)]
    assert tables
    inner = [table for outer in tables for table in outer.values() if isinstance(table, dict)]
    return sum([sys.getsizeof(table, 0) for table in tables + inner])


def test_the_tables_do_not_grow_while_one_item_stays(logged: Logged) -> None:
    """A hundred thousand items finish meanwhile: no place in a table, no item and no timer is kept of them."""
    clock = Clock()
    deadlines = Deadlines(clock)
    deadlines.add(Item(clock), 1e9)

    def add_and_discard(count: int) -> weakref.ref[Item]:
        for _ in range(count):
            item = Item(clock)
            deadlines.add(item, 1e9)
            item.discard()
        return weakref.ref(item)

    add_and_discard(1000)
    size = size_of_tables(deadlines)
    last = add_and_discard(100_000)
    gc.collect()
    assert last() is None
    assert size_of_tables(deadlines) <= max(size, 10_000)
    assert len(clock.getDelayedCalls()) == 1


def test_no_object_is_kept_of_handlers_that_finish_while_one_hangs() -> None:
    """Of a hundred thousand handlers neither an object nor a timer is left."""
    clock = Clock()
    pending = Pending(m=1e9)
    hanging = pending.begin(clock, "m")

    def answer(count: int) -> None:
        for _ in range(count):
            given = pending.begin(clock, "m")
            pending.deferreds["m"].pop().callback(None)
            assert given.called

    answer(1000)
    gc.collect()
    before = len(gc.get_objects())
    answer(100_000)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert len(clock.getDelayedCalls()) == 1
    hanging.addErrback(lambda _: None)
    hanging.cancel()
    assert clock.getDelayedCalls() == []


class TestClockSetBack:
    """Twisted's reactors use the time of day, which an administrator or NTP may set back."""

    def test_while_a_handler_times_out(self, logged: Logged) -> None:
        """A handler that begins then has its own time on the new clock."""
        pending = Pending(a=1)
        clock = Clock()
        clock.advance(10_000)
        answers = [pending.begin(clock, "a"), pending.begin(clock, "a")]

        def set_back(name: str) -> None:
            if len(answers) == 2:
                clock.rightNow -= 5000
                answers.append(pending.begin(clock, "a"))

        pending.on_cancelled = set_back
        clock.pump([1, 0])
        assert [answer.called for answer in answers] == [True, True, False]
        clock.pump([1, 0])
        assert answers[2].called
        assert len(logged.take()) == 3
        assert clock.getDelayedCalls() == []

    def test_while_handlers_are_pending(self, logged: Logged) -> None:
        """No handler waits until the clock shows its old deadline again."""
        pending = Pending(a=1)
        clock = Clock()
        clock.advance(10_000)
        answers = [pending.begin(clock, "a")]
        clock.rightNow -= 5000
        for _ in range(3):
            clock.advance(0.5)
            answers.append(pending.begin(clock, "a"))
        clock.advance(1)
        # A handler whose deadline passed when the reactor was about to wait times out in the next turn.
        clock.advance(0)
        assert [answer.called for answer in answers] == [True] * 4
        assert len(logged.take()) == 4
        assert clock.getDelayedCalls() == []

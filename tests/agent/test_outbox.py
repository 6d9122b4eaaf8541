"""Outbox: backpressure. Sender: bytes reach the kernel at once and in order, through real sockets."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.abstract import FileDescriptor
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.agent.outbox import UNSENT_TIMEOUT, Outbox, Sender
from spoa_twisted.spop.frames import HAProxyHello
from tests.agent.memory import OLD, Session, TurnClock, Waiting, Wire, long_answers
from tests.agent.sockets import KINDS, Connect, SendingProtocol, finish, lowest, pair, tls_context, turn
from tests.certificates import skip_without_tls
from tests.conftest import Logged

#: Bytes that a file descriptor of Twisted passes to the kernel in one call, at most.
SEND_LIMIT = FileDescriptor.SEND_LIMIT

#: More bytes than the kernel and the transport buffer for a peer that does not read.
MUCH = 2**24

#: Above this many unsent bytes a peer is dropped at once, unless max_unsent is larger.
BACKLOG = 2**22


def numbered(count: int, size: int) -> bytes:
    """Return ``count`` different chunks of ``size`` bytes."""
    return b"".join([f"{number:08d}".encode().ljust(size, b".") for number in range(count)])


class TestUnsent:
    """The Outbox alone: what counts as unsent, and for how long."""

    @pytest.fixture
    def overflows(self) -> list[float]:
        """When the outbox reported an overflow."""
        return []

    @pytest.fixture
    def outbox(self, turns: TurnClock, overflows: list[float]) -> Outbox:
        return Outbox(Wire(), turns, 100, lambda: overflows.append(turns.seconds()))

    def test_bytes_that_the_transport_takes_do_not_count(self, outbox: Outbox, turns: TurnClock) -> None:
        """The transport has not paused its producer, so its buffer is not full."""
        outbox.write(b"x" * 1000, True, 0)
        assert outbox.is_empty
        assert turns.getDelayedCalls() == []

    def test_max_unsent_bytes_are_allowed(self, outbox: Outbox, turns: TurnClock) -> None:
        """The timer starts with the first byte more."""
        outbox.clogged = True
        assert not outbox.is_empty
        outbox.write(b"x" * 60, True, 0)
        outbox.write(b"x" * 40, False, 0)
        assert turns.getDelayedCalls() == []
        outbox.write(b"x", True, 0)
        (timer,) = turns.getDelayedCalls()
        assert timer.getTime() == UNSENT_TIMEOUT

    def test_an_overflow_is_reported_after_the_timeout(
        self, outbox: Outbox, turns: TurnClock, overflows: list[float]
    ) -> None:
        """Later writes do not extend it, and it is reported once."""
        outbox.clogged = True
        outbox.write(b"x" * 101, True, 0)
        turns.pump([UNSENT_TIMEOUT - 1, 0])
        outbox.write(b"x" * 101, True, 0)
        assert overflows == []
        turns.pump([1, 0, 0])
        assert overflows == [UNSENT_TIMEOUT]
        assert turns.getDelayedCalls() == []

    def test_a_peer_that_reads_in_time(self, outbox: Outbox, turns: TurnClock, overflows: list[float]) -> None:
        """When the transport's buffer is empty, nothing counts as unsent any more."""
        outbox.clogged = True
        outbox.write(b"x" * 101, True, 0)
        outbox.resume()
        assert outbox.is_empty
        assert turns.getDelayedCalls() == []
        outbox.clogged = True
        outbox.write(b"x" * 100, True, 0)
        assert turns.getDelayedCalls() == []
        assert overflows == []

    def test_a_peer_that_reads_while_the_reactor_was_blocked(
        self, outbox: Outbox, turns: TurnClock, overflows: list[float]
    ) -> None:
        """The reactor runs the timer first, and writes after that: the peer had room in time."""
        outbox.clogged = True
        outbox.write(b"x" * 101, True, 0)
        turns.advance(UNSENT_TIMEOUT + 3)
        outbox.resume()
        turns.advance(0)
        assert overflows == []
        assert turns.getDelayedCalls() == []

    def test_a_backlog_overflows_at_once(self, outbox: Outbox, overflows: list[float]) -> None:
        """Unsent bytes and bytes that are held back count together."""
        outbox.clogged = True
        outbox.write(b"x" * (BACKLOG - 10), True, 10)
        assert overflows == []
        outbox.write(b"", True, 11)
        assert overflows == [0]

    def test_held_back_bytes_overflow_alone(self, outbox: Outbox, overflows: list[float]) -> None:
        """The transport need not have paused the producer."""
        outbox.write(b"", True, BACKLOG)
        assert overflows == []
        outbox.write(b"", True, BACKLOG + 1)
        assert overflows == [0]

    def test_a_large_max_unsent_allows_a_larger_backlog(self, turns: TurnClock, overflows: list[float]) -> None:
        """The operator has asked for it."""
        outbox = Outbox(Wire(), turns, 2 * BACKLOG, lambda: overflows.append(turns.seconds()))
        outbox.write(b"", True, 2 * BACKLOG)
        assert overflows == []
        outbox.write(b"", True, 2 * BACKLOG + 1)
        assert overflows == [0]

    def test_no_overflow_is_reported_after_the_end(
        self, outbox: Outbox, turns: TurnClock, overflows: list[float]
    ) -> None:
        """The connection may end within a write, and the write then goes on."""
        outbox.clogged = True
        outbox.write(b"x" * 101, True, 0)
        outbox.end()
        assert turns.getDelayedCalls() == []
        outbox.write(b"", True, BACKLOG + 1)
        assert overflows == []


class TestPeersThatDoNotRead:
    def test_a_peer_that_does_not_read_is_dropped_in_the_end(
        self, clock: Clock, waiting: Waiting, logged: Logged
    ) -> None:
        """More than max_unsent bytes are unsent, and the time for them is over."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_unsent=200, handler_timeout=0)
        session = Session(factory)
        session.wire.capacity = 10
        session.notify(*["wait"] * 10)
        for deferred in waiting.deferreds[:4]:
            deferred.callback({"sess.a": "x" * 80})
            clock.advance(0)
        clock.advance(UNSENT_TIMEOUT - 0.1)
        assert not session.wire.aborted
        clock.advance(0.2)
        assert session.wire.aborted
        assert waiting.cancelled == waiting.deferreds[4:]
        (line,) = logged.take()
        assert "more than max_unsent, 200 bytes" in line

    def test_a_peer_that_reads_much_in_time_is_kept(self, clock: Clock, waiting: Waiting) -> None:
        """The number of bytes makes no difference."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_unsent=200, handler_timeout=0)
        session = Session(factory)
        for _ in range(3):
            session.wire.capacity = 10
            session.notify(*["wait"] * 10)
            for deferred in waiting.deferreds[-10:]:
                deferred.callback({"sess.a": "x" * 80})
            session.wire.capacity = 2**30
            clock.advance(UNSENT_TIMEOUT - 0.1)
            session.wire.drain()
            clock.advance(UNSENT_TIMEOUT)
        assert not session.wire.aborted
        assert len(session.events()) == 30

    @pytest.mark.parametrize("capabilities", [OLD.capabilities, frozenset()])
    def test_the_answers_to_pending_notifys_are_limited(
        self, clock: Clock, waiting: Waiting, logged: Logged, capabilities: frozenset[str]
    ) -> None:
        """A peer that agreed on long frames, and reads no answer, is dropped before the answers fill the memory."""
        factory = SPOAFactory(waiting.handlers, reactor=clock)
        session = Session(factory, HAProxyHello(max_frame_size=2**20, capabilities=capabilities))
        session.wire.capacity = 10
        session.notify(*["wait"] * 100)
        for number in range(10):
            if not session.wire.aborted:
                waiting.deferreds[number].callback({"sess.a": b"x" * 1_000_000})
        assert session.wire.aborted
        assert len(waiting.cancelled) >= 93
        (line,) = logged.take()
        assert "dropped" in line

    def test_a_peer_that_is_dropped_within_a_write(self, clock: Clock, logged: Logged) -> None:
        """The agent answers no further NOTIFY of the same read, writes nothing more, and logs it once."""
        calls: list[int] = []

        def huge() -> dict[str, Any]:
            calls.append(1)
            return {"sess.a": b"x" * (BACKLOG + 1)}

        factory = SPOAFactory(Handlers({"huge": huge}), reactor=clock, max_frame_size=2 * BACKLOG)
        session = Session(factory, HAProxyHello(max_frame_size=2 * BACKLOG, capabilities=frozenset({"pipelining"})))
        # The first ACK is written. The second one is held back until HAProxy has read the first, and is a backlog.
        session.notify(*["huge"] * 20)
        assert len(calls) == 2
        assert len(session.wire.writes) == 2
        assert session.wire.aborted
        assert len(logged.take()) == 1
        session.lose()
        assert clock.getDelayedCalls() == []

    def test_a_connection_that_is_lost_within_a_write(self, clock: Clock) -> None:
        """The agent answers no further NOTIFY of the same read, and nothing is left."""
        factory = SPOAFactory(long_answers(16000), reactor=clock)
        session = Session(factory, OLD)
        session.wire.on_write = session.lose
        session.notify(*["long"] * 20)
        assert len(session.wire.writes) == 2
        assert factory.connections == set()
        assert clock.getDelayedCalls() == []

    def test_a_peer_that_reads_a_part_and_then_nothing(self, clock: Clock, waiting: Waiting, logged: Logged) -> None:
        """It was sent AGENT-DISCONNECT too. It cannot keep its connection, nor the drain."""
        factory = SPOAFactory(waiting.handlers, reactor=clock, max_unsent=10)
        session = Session(factory, HAProxyHello(max_frame_size=2**20, capabilities=frozenset({"pipelining"})))
        session.notify(*["wait"] * 4)
        session.wire.capacity = 10
        for deferred in waiting.deferreds[:3]:
            deferred.callback({"sess.a": b"x" * 500_000})
        drained = factory.drain(3)
        clock.advance(1)
        session.wire.drain()
        clock.pump([0.5] * 60)
        assert session.wire.aborted
        session.lose()
        assert drained.called
        assert clock.getDelayedCalls() == []
        logged.take()


@pytest.mark.parametrize("kind", KINDS)
class TestAtOnce:
    @pytest_twisted.ensureDeferred
    async def test_later_bytes_follow_queued_bytes(self, kind: str, connect: Connect) -> None:
        """``send`` also sends the bytes that ``send_later`` queued in the same turn, in their order."""
        sending, peer = await pair(connect, kind)
        sending.sender.send(b"a")
        sending.sender.send_later(b"b")
        sending.sender.send_later(b"c")
        sending.sender.send(b"d")
        assert peer.read(4) == b"abcd"
        sending.sender.send(b"e")
        assert peer.read(1) == b"e"
        sending.sender.send_later(b"f")
        assert await finish(sending, peer) == b"f"

    @pytest_twisted.ensureDeferred
    async def test_a_producer_that_writes_when_it_is_resumed(self, kind: str, connect: Connect) -> None:
        """The transport resumes it in the middle of doWrite. Bytes that are sent after that must not overtake."""
        sending, peer = await pair(connect, kind)
        sending.on_resume = lambda: sending.sender.send_later(b"resumed")
        sending.sender.send_later(b"x")
        lowest(sending.transport).socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        sending.sender.send(b"y" * 100_000)
        assert sending.pauses == 1
        sending.on_resume = lambda: None
        sending.sender.send(b"after")
        assert await finish(sending, peer) == b"x" + b"y" * 100_000 + b"resumedafter"


@pytest.mark.parametrize("kind", KINDS)
class TestFullKernel:
    @pytest.mark.parametrize("size", [2**16 - 1, 2**16 + 1, SEND_LIMIT, SEND_LIMIT + 1, 3 * SEND_LIMIT + 7])
    @pytest_twisted.ensureDeferred
    async def test_many_bytes_at_once_arrive_whole(self, kind: str, size: int, connect: Connect) -> None:
        """The kernel takes only a part of them at a time, and other bytes follow."""
        sending, peer = await pair(connect, kind, send_buffer=4096)
        much = numbered(size // 16 + 1, 16)[:size]
        sending.sender.send(much)
        sending.sender.send(b"now")
        sending.sender.send_later(b"later")
        sending.sender.send(b"and now")
        assert await finish(sending, peer) == much + b"nowlaterand now"

    @pytest_twisted.ensureDeferred
    async def test_a_kernel_that_takes_nothing(self, kind: str, connect: Connect) -> None:
        """Bytes that are sent meanwhile, at once and later, arrive in their order when the peer reads."""
        sending, peer = await pair(connect, kind, send_buffer=4096)
        expected = bytearray()
        while not lowest(sending.transport).dataBuffer:
            expected += b"f" * 10_000
            sending.sender.send(b"f" * 10_000)
        assert len(expected) < MUCH
        assert not sending.sender.written
        for number in range(1000):
            some = f"{number:08d}".encode()
            expected += some
            (sending.sender.send_later if number % 3 == 1 else sending.sender.send)(some)
            if number % 100 == 0:
                await turn()
        assert await finish(sending, peer) == expected

    @pytest.mark.parametrize("seed", range(3))
    @pytest_twisted.ensureDeferred
    async def test_any_order_of_writes(self, kind: str, seed: int, connect: Connect) -> None:
        """Writes of all sizes, turns of the reactor, a producer that writes, and a peer that reads now and then."""
        chance = random.Random(seed)
        sending, peer = await pair(connect, kind, send_buffer=chance.choice([4096, 2**15, 2**18]))
        expected = bytearray()
        received = bytearray()
        count = 0

        def write(at_once: bool, size: int) -> None:
            nonlocal count
            count += 1
            some = f"<{count}>".encode() * (size // 4 + 1)
            expected.extend(some)
            (sending.sender.send if at_once else sending.sender.send_later)(some)

        def resumed() -> None:
            # As the protocol does: many bytes at once, the others later.
            if chance.random() < 0.5:
                write(chance.random() < 0.3, chance.choice([10, 1000, 70_000]))

        sending.on_resume = resumed
        for _ in range(120):
            write(chance.random() < 0.6, chance.choice([10, 100, 1000, 20_000, 66_000, 140_000]))
            if chance.random() < 0.3:
                await turn()
            if chance.random() < 0.5 and len(received) < len(expected):
                size = chance.randrange(1, len(expected) - len(received) + 1)
                received += await deferToThread(peer.read, size)
        sending.on_resume = lambda: None
        received += await finish(sending, peer)
        assert len(received) == len(expected)
        assert received == expected


@pytest.mark.parametrize("kind", KINDS)
class TestLostConnections:
    @pytest.mark.parametrize("full", [False, True])
    @pytest_twisted.ensureDeferred
    async def test_a_peer_that_resets(self, kind: str, full: bool, connect: Connect) -> None:
        """Bytes that are sent then do no harm: the reactor ends the connection, once."""
        sending, peer = await pair(connect, kind, send_buffer=4096)
        if full:
            sending.sender.send(b"x" * 2**18)
        peer.reset()
        for _ in range(3):
            sending.sender.send(b"y" * 1000)
            sending.sender.send_later(b"z" * 1000)
            sending.sender.send(b"y" * 200_000)
        assert sending.losses == []
        await sending.lost
        for _ in range(3):
            sending.sender.send(b"y")
            sending.sender.send_later(b"z")
            sending.sender.send(b"y")
            await turn()
        assert len(sending.losses) == 1

    @pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
    @pytest_twisted.ensureDeferred
    async def test_a_transport_that_closes(self, kind: str, end: str, connect: Connect) -> None:
        """After loseConnection, earlier bytes arrive. Bytes that are sent later cause no traceback."""
        sending, peer = await pair(connect, kind, send_buffer=4096)
        sending.sender.send(b"x" * 2**18)
        sending.transport.unregisterProducer()
        getattr(sending.transport, end)()
        for _ in range(3):
            sending.sender.send(b"y")
            sending.sender.send_later(b"z")
        if end == "loseConnection":
            received = await deferToThread(peer.read_all)
            assert received[: 2**18] == b"x" * 2**18
            peer.socket.close()
        await sending.lost
        assert len(sending.losses) == 1


@pytest_twisted.ensureDeferred
async def test_tls_that_was_started_later(connect: Connect, tmp_path: Path) -> None:
    """The transport is then both the socket's own and the TLS layer. It sends nothing without encryption."""
    skip_without_tls()

    class StartingProtocol(SendingProtocol):
        def connectionMade(self) -> None:
            self.transport.startTLS(tls_context(tmp_path))
            super().connectionMade()

    sending = StartingProtocol()
    peer = await connect("starttls", Factory.forProtocol(lambda: sending))
    peer.socket.sendall(b"hello")
    await sending.made
    sending.sender.send(b"a")
    assert await deferToThread(peer.read, 1) == b"a"
    sending.sender.send_later(b"b")
    sending.sender.send(b"c")
    assert await finish(sending, peer) == b"bc"


@pytest.mark.parametrize("method", [Sender.send, Sender.send_later])
def test_a_transport_of_an_unknown_kind(method: Callable[[Sender, bytes], None]) -> None:
    """Its write method is called for both, and it counts as written."""
    wire = Wire()
    sender = Sender(wire)
    sender.send(b"a")
    method(sender, b"b")
    sender.send(b"c")
    assert wire.writes == [b"a", b"b", b"c"]
    assert sender.written


def test_what_is_reported() -> None:
    """The bytes of each write, whether it calls the kernel at once or in the next turn."""
    reported: list[int] = []
    wire = Wire()
    outbox = Outbox(wire, Clock(), 1000, lambda: None)
    outbox.report(reported.append)
    outbox.send(b"a")
    outbox.write(b"bc", False, 0)
    outbox.write(b"def", True, 0)
    assert reported == [1, 2, 3]
    assert wire.value() == b"abcdef"
    assert outbox.is_empty

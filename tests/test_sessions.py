"""Random sessions of an agent: random handlers, chunk sizes, pauses and closes of connections, made by Hypothesis.

Each NOTIFY must get one ACK, and no connection, timer or error may be left over.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from spoa_twisted import Handlers, Message, SPOAFactory, SPOAProtocol, Variables
from spoa_twisted.spop.connection import Ack, EngineConnection, State
from spoa_twisted.spop.frames import AgentHello, HAProxyHello
from tests.conftest import Logged
from tests.fuzzing.wire import SlowWire
from tests.profile import SOAK, run_machine

TIMEOUT = 5.0

#: Chunk sizes in bytes, from single bytes to everything that is pending.
sizes = st.integers(1, 60) | st.integers(1, 10_000) | st.just(2**20)

#: The results of the handlers, in turn. The last one is too long for an ACK.
RESULTS: list[Variables | None] = [None, {"txn.v": 1}, {"sess.big": "x" * 15_000}, {"sess.too_big": b"x" * 70_000}]


#: The names of the messages in several NOTIFYs. Each name stands for a kind of handler; "unknown" has none.
notifies = st.lists(
    st.lists(
        st.sampled_from(["deferred", "sync", "coroutine", "stubborn", "nested", "fired", "raise", "failed", "unknown"]),
        max_size=3,
    ),
    min_size=1,
    max_size=10,
)


class Expected(Exception):
    """The exception of the handlers that fail."""


class Peer:
    """HAProxy with one connection to the agent.

    :param old: announce async, as HAProxy <= 3.0 does.
    """

    def __init__(self, factory: SPOAFactory, old: bool) -> None:
        capabilities = frozenset({"pipelining", "async"} if old else {"pipelining"})
        self.engine = EngineConnection(HAProxyHello(capabilities=capabilities))
        agent = factory.buildProtocol(None)
        assert isinstance(agent, SPOAProtocol)
        self.agent = agent
        self.wire = SlowWire(agent)
        self.to_agent = bytearray()
        self.waiting: set[bytes] = set()
        # True after bytes that are no frame. In the middle of a frame, they can become a part of it. Then the agent may
        # wait for the rest of a long frame, and it is right that it does not answer.
        self.garbage_sent = False
        agent.makeConnection(self.wire)

    def deliver(self, size: int) -> None:
        """Pass up to ``size`` pending bytes to the agent, unless it has paused reading."""
        self.to_agent += self.engine.data_to_send()
        if self.wire.reading and self.to_agent:
            data = bytes(self.to_agent[:size])
            del self.to_agent[:size]
            self.agent.dataReceived(data)
        self.wire.turn()

    def read(self, size: int) -> None:
        """Read up to ``size`` bytes that the agent wrote. Each ACK must answer a pending NOTIFY."""
        self.engine.receive_data(self.wire.take(size))
        while (event := self.engine.next_event()) is not None:
            if isinstance(event, Ack):
                self.waiting.remove(event.ids)
            elif not isinstance(event, AgentHello):
                assert self.agent.has_disconnected()
        self.wire.turn()


class Sessions(RuleBasedStateMachine):
    """The rules by which Hypothesis makes sessions: each step calls one of them with random arguments."""

    @initialize(
        in_flight=st.sampled_from([256, 5, 1]),
        in_flight_size=st.sampled_from([2**21, 3000]),
        unsent=st.sampled_from([2**20, 1000]),
        hello_timeout=st.sampled_from([0, 10]),
    )
    def begin(self, in_flight: int, in_flight_size: int, unsent: int, hello_timeout: float) -> None:
        self.clock = Clock()
        self.deferreds: deque[Deferred[Any]] = deque()
        self.handlers = Handlers(on_error={"txn.error": True})
        for name in ("sync", "raise", "deferred", "fired", "failed", "coroutine", "stubborn", "nested"):
            self.handlers.message(name)(getattr(self, f"_{name}"))
        self.factory = SPOAFactory(
            self.handlers,
            reactor=self.clock,
            max_in_flight=in_flight,
            max_in_flight_size=in_flight_size,
            max_unsent=unsent,
            hello_timeout=hello_timeout,
            handler_timeout=TIMEOUT,
        )
        self.peers: list[Peer] = []
        self.drains: list[Deferred[None]] = []
        self.results = 0
        for old in (True, False):
            self.connect(old, greet=True)

    def _result(self) -> Variables | None:
        self.results += 1
        return RESULTS[self.results % len(RESULTS)]

    def _wait(self) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self.deferreds.append(deferred)
        return deferred

    def _sync(self) -> Variables | None:
        return self._result()

    def _raise(self) -> None:
        raise Expected

    def _deferred(self) -> Deferred[Any]:
        return self._wait()

    def _fired(self) -> Deferred[Any]:
        return succeed(self._result())

    def _failed(self) -> Deferred[Any]:
        return fail(Expected())

    async def _coroutine(self) -> Variables | None:
        await self._wait()
        return self._result()

    async def _stubborn(self) -> Variables | None:
        try:
            await self._wait()
        except BaseException:
            await self._wait()
        return self._result()

    def _nested(self) -> Deferred[Any]:
        """Finish another handler while this one is being called."""
        self._fire(0, fails=False)
        return self._wait()

    def _fire(self, which: int, fails: bool) -> None:
        if self.deferreds:
            self.deferreds.rotate(which)
            deferred = self.deferreds.popleft()
            if deferred.called:
                return
            if fails:
                deferred.errback(Expected())
            else:
                deferred.callback(self._result())

    @precondition(lambda self: len(self.peers) < 3)
    @rule(old=st.booleans(), greet=st.booleans())
    def connect(self, old: bool, greet: bool) -> None:
        peer = Peer(self.factory, old)
        self.peers.append(peer)
        if greet:
            peer.deliver(2**20)
            peer.read(2**20)

    @precondition(lambda self: self.peers)
    @rule(which=st.integers(0, 2), notifies=notifies, size=sizes)
    def notify(self, which: int, notifies: list[list[str]], size: int) -> None:
        peer = self.peers[which % len(self.peers)]
        if peer.engine.state is State.RUNNING:
            for names in notifies:
                if len(peer.waiting) < 20:
                    peer.waiting.add(peer.engine.send_notify([Message(name) for name in names]))
        peer.deliver(size)

    @precondition(lambda self: self.peers)
    @rule(which=st.integers(0, 2), size=sizes)
    def deliver(self, which: int, size: int) -> None:
        self.peers[which % len(self.peers)].deliver(size)

    @precondition(lambda self: self.peers)
    @rule(which=st.integers(0, 2), size=sizes)
    def read(self, which: int, size: int) -> None:
        self.peers[which % len(self.peers)].read(size)

    @rule(which=st.integers(0, 20), fails=st.booleans(), count=st.integers(1, 10))
    def handlers_finish(self, which: int, fails: bool, count: int) -> None:
        for _ in range(count):
            self._fire(which, fails)

    @precondition(lambda self: self.peers)
    @rule(
        steps=st.lists(
            st.tuples(st.integers(0, 2), notifies, sizes, st.integers(0, 20), st.booleans(), sizes, st.booleans()),
            min_size=1,
            max_size=5,
        )
    )
    def be_busy(self, steps: list[tuple[int, list[list[str]], int, int, bool, int, bool]]) -> None:
        """Run several rules in one step: Hypothesis leaves out some of the rules in each example."""
        for which, notified, size, finished, fails, taken, late in steps:
            self.notify(which, notified, size)
            self.handlers_finish(finished, fails, finished)
            self.read(which, taken)
            if late:
                self.time_passes(0.03)

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.03, 1.0, TIMEOUT, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for peer in self.peers:
            peer.wire.turn()

    @precondition(lambda self: self.peers)
    @rule(which=st.integers(0, 2), how=st.integers(0, 11))
    def end(self, which: int, how: int) -> None:
        peer = self.peers[which % len(self.peers)]
        match how:
            case 11:
                peer.wire.lose(ConnectionLost)
            case 10:
                peer.wire.lose(ConnectionDone)
            case 9 if peer.wire.reading:
                peer.agent.readConnectionLost()
            case 8:
                peer.engine.disconnect()
                peer.deliver(2**20)
            case 7 if peer.wire.reading:
                peer.garbage_sent = True
                peer.agent.dataReceived(b"\x00\x00\x00\x01garbage")
            case _:
                return
        if peer.wire.lost:
            self.peers.remove(peer)
            assert self.peers or self.drains or self.clock.getDelayedCalls() == []

    @rule(seconds=st.sampled_from([1.0, 10.0]), chance=st.integers(0, 14))
    def drain(self, seconds: float, chance: int) -> None:
        if chance == 14:
            self.drains.append(self.factory.drain(seconds))

    def teardown(self) -> None:
        if not hasattr(self, "clock"):
            return
        # Let all peers and the agent read everything, and let every handler finish or run into its timeout.
        for _ in range(400):
            for peer in self.peers:
                peer.deliver(2**20)
                peer.read(2**20)
            self._fire(0, fails=False)
            self.clock.advance(0.03)
        for peer in self.peers:
            # Every NOTIFY has its ACK, unless the agent is closing the connection.
            if not peer.wire.disconnecting:
                assert peer.engine.state is State.RUNNING
                assert peer.garbage_sent or not peer.waiting
            peer.wire.lose(ConnectionDone)
        assert self.factory.connections == set()
        for drained in self.drains:
            assert drained.called
        self.clock.advance(0)
        assert self.clock.getDelayedCalls() == []
        for deferred in self.deferreds:
            if not deferred.called:
                # Only the second Deferred of the handler "stubborn" may still be pending: the first was cancelled.
                deferred.callback(None)


def test_sessions(logged: Logged) -> None:
    """Every NOTIFY gets its ACK and nothing is left over, for random orders of handlers, peers and time."""
    run_sessions(logged)


def test_garbage_in_a_frame() -> None:
    """The test above accepts that an agent waits, because garbage has become the end of a frame and a length."""
    sessions = Sessions()
    sessions.begin(in_flight=1, in_flight_size=3000, unsent=1000, hello_timeout=0)
    sessions.notify(which=0, notifies=[[]], size=10)
    sessions.end(which=0, how=7)
    assert sessions.peers[0].agent._connection.receiving
    sessions.teardown()


@pytest.mark.soak
def test_many_sessions(logged: Logged) -> None:
    """The test above, with many more examples."""
    run_sessions(logged, times=SOAK)


def run_sessions(logged: Logged, times: int = 1) -> None:
    class LoggedSessions(Sessions):
        """Checks the lines that each session logs. Thousands of sessions together would fill the memory with them."""

        def teardown(self) -> None:
            super().teardown()
            expected = ("error: the variables of the message", "error: the handler of the message", "warn: ")
            for line in logged.take():
                assert line.startswith(expected) or line.endswith(" failed: Expected: ")

    run_machine(LoggedSessions, times=times)

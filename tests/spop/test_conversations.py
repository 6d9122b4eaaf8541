"""Random conversations of an engine and an agent: no frame is lost, repeated or changed, however the bytes arrive."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.connection import (
    ABORTED_ACK,
    Ack,
    AgentConnection,
    EngineConnection,
    Notify,
    PayloadTooBig,
    State,
)
from spoa_twisted.spop.errors import SPOPError
from spoa_twisted.spop.frames import (
    AgentHello,
    Disconnect,
    Flags,
    FrameBuffer,
    FrameType,
    HAProxyHello,
    encode_frame,
    encode_ids,
)
from spoa_twisted.spop.messages import Message, encode_messages
from tests.profile import SOAK, run_machine

from .strategies import messages, typed, variables

#: The largest number of NOTIFYs that HAProxy keeps in flight on one connection.
IN_FLIGHT = 20

MAX_PAYLOAD_SIZE = 3000

sizes = st.integers(1, 50) | st.integers(1, 5000)


class Exchange(RuleBasedStateMachine):
    """The two sides of a connection, and the bytes that were sent and not received yet."""

    @initialize(
        size=st.sampled_from([16380, 1024, 300, 256]),
        old=st.booleans(),
        agents_size=st.sampled_from([2**20, 512, 256]),
        greet=st.booleans(),
    )
    def begin(self, size: int, old: bool, agents_size: int, greet: bool) -> None:
        capabilities = frozenset({"pipelining", "async"} if old else {"pipelining"})
        # HAProxy >= 3.1 never fragments, and stops reading for ever if one read fills its buffer.
        self.old = old
        self.engine = EngineConnection(HAProxyHello(("2.0",), size, capabilities, "engine"))
        self.agent = AgentConnection(agents_size, MAX_PAYLOAD_SIZE)
        self.agreed = min(size, agents_size)
        self.to_agent = bytearray()
        self.to_engine = bytearray()
        #: The NOTIFYs that the agent has not received, in their order.
        self.sent: deque[tuple[bytes, list[Message], int]] = deque()
        #: The ids of the NOTIFYs that the agent has received and not answered.
        self.pending: list[bytes] = []
        #: The ACKs that the engine has not received, in their order.
        self.answered: deque[tuple[bytes, Any, bool]] = deque()
        self.greeted = False
        #: The DISCONNECTs that a rule has sent: the side, the status code and the message.
        self.disconnects: list[tuple[str, int, str]] = []
        #: True after random bytes were sent: then a side may raise SPOPError.
        self.garbage_sent = False
        self._on_the_wire = FrameBuffer(2**20)
        if greet:
            self.agent_receives(2**20)
            self.engine_receives(2**20)

    def _running(self) -> bool:
        return self.engine.state is State.RUNNING

    def _flush_engine(self) -> None:
        waiting = self.engine.bytes_to_send
        data = self.engine.data_to_send()
        assert waiting == len(data)
        self.to_agent += data

    def _flush_agent(self) -> None:
        waiting = self.agent.bytes_to_send
        data = self.agent.data_to_send()
        assert self.agent.bytes_to_send == waiting - len(data)
        self.to_engine += data
        self._on_the_wire.feed(data)
        while (frame := self._on_the_wire.next_frame()) is not None:
            frame_type, flags, ids, payload = frame
            size = 5 + len(ids) + len(payload)
            assert size <= (self.agreed if self.old or frame_type != FrameType.ACK else self.agreed - 1)
            assert flags & Flags.FIN
        assert len(self._on_the_wire) == 0
        if not self.old and self.agent.state is State.RUNNING and not self.garbage_sent:
            # HAProxy's buffer has at least max-frame-size + 4 bytes, and one of them must stay free.
            assert len(self.to_engine) < self.agreed + 4 or not self.greeted

    @rule(size=sizes)
    def agent_receives(self, size: int) -> None:
        self._flush_engine()
        self.agent.receive_data(bytes(self.to_agent[:size]))
        del self.to_agent[:size]
        try:
            while (event := self.agent.next_event()) is not None:
                self._agents_event(event)
        except SPOPError:
            assert self.garbage_sent
            assert self.agent.state is State.CLOSED
        if self.agent.state is State.CLOSED:
            assert self.agent.bytes_received == 0
            assert self.agent.next_event() is None
            self.pending.clear()

    def _agents_event(self, event: Any) -> None:
        if isinstance(event, Notify):
            ids, notified, size = self.sent.popleft()
            assert event.ids == ids
            assert typed(event.messages) == typed(notified)
            assert event.size == size
            self.pending.append(ids)
        elif isinstance(event, PayloadTooBig):
            ids, notified, size = self.sent.popleft()
            assert (event.ids, event.size) == (ids, size)
            assert size > MAX_PAYLOAD_SIZE
            assert list(event.names) == [message.name for message in notified][: len(event.names)]
            assert self.old
            self.agent.send_ack(ids, flags=ABORTED_ACK)
            self.answered.append((ids, [], True))
        elif isinstance(event, Disconnect):
            assert ("engine", event.status_code, event.message) in self.disconnects
        else:
            assert isinstance(event, HAProxyHello)
            assert event.engine_id == "engine"
            assert self.agent.max_frame_size == self.agreed

    @rule(size=sizes)
    def engine_receives(self, size: int) -> None:
        self._flush_agent()
        self.engine.receive_data(bytes(self.to_engine[:size]))
        del self.to_engine[:size]
        try:
            while (event := self.engine.next_event()) is not None:
                self._engines_event(event)
        except SPOPError:
            assert self.garbage_sent

    def _engines_event(self, event: Any) -> None:
        if isinstance(event, Ack):
            assert (event.ids, typed(event.variables), event.aborted) == self.answered.popleft()
        elif isinstance(event, Disconnect):
            if not self.garbage_sent:
                # The agent answers a HAPROXY-DISCONNECT with an AGENT-DISCONNECT with status code 0.
                known = ("agent", event.status_code, event.message) in self.disconnects
                assert known or (event.status_code == 0 and any(side == "engine" for side, *_ in self.disconnects))
        else:
            assert isinstance(event, AgentHello)
            assert event.max_frame_size == self.engine.max_frame_size == self.agreed
            self.greeted = True


class Conversation(Exchange):
    """A random sequence of NOTIFYs, ACKs, DISCONNECTs, aborted fragments, frames to skip, and random bytes."""

    @precondition(lambda self: self._running() and len(self.engine._waiting) < IN_FLIGHT)
    @rule(notified=st.lists(messages, max_size=4), body=st.none() | st.integers(0, 5000), now=st.booleans())
    def notify(self, notified: list[Message], body: int | None, now: bool) -> None:
        """Send a NOTIFY. Its payload may be longer than a frame, and longer than the agent accepts."""
        if body is not None:
            notified = [*notified, Message("body", [("", b"x" * body)])]
        size = len(encode_messages(notified))
        if not self.old and size > self.agreed - 30:
            return
        ids = self.engine.send_notify(notified)
        self.sent.append((ids, notified, size))
        if now:
            self._flush_engine()

    @precondition(lambda self: self._running())
    @rule(number=st.integers(1, IN_FLIGHT))
    def notify_many(self, number: int) -> None:
        """Send many short NOTIFYs at once, as HAProxy does under load."""
        for _ in range(number):
            if len(self.engine._waiting) < IN_FLIGHT:
                self.notify([Message("m")], None, now=False)
        self.agent_receives(2**20)

    @precondition(lambda self: self.pending)
    @rule(which=st.integers(0, IN_FLIGHT), set_=variables, now=st.booleans())
    def acknowledge(self, which: int, set_: dict[str, Any], now: bool) -> None:
        """Answer a NOTIFY. ACKs leave in any order. Actions that do not fit are refused; an empty ACK is sent then."""
        ids = self.pending.pop(which % len(self.pending))
        actions = encode_actions(set_)
        fits = len(actions) <= (self.agent.ack_room - len(ids))
        try:
            self.agent.send_ack(ids, actions)
            assert fits
        except ValueError:
            assert not fits
            set_ = {}
            self.agent.send_ack(ids)
        self.answered.append((ids, typed(set_), False))
        if now:
            self._flush_agent()

    @precondition(lambda self: self.pending)
    @rule(number=st.integers(1, IN_FLIGHT), part=st.integers(1, 40), now=st.booleans())
    def acknowledge_many(self, number: int, part: int, now: bool) -> None:
        """Answer several NOTIFYs with the longest ACKs that fit, or with shorter ones."""
        for ids in self.pending[:number]:
            # 12 bytes: the action, NB-ARGS, scope and name of set-var, the type, and a length of at most three bytes.
            length = max(0, (self.agent.ack_room - len(ids)) // part - 12)
            while part == 1 and len(encode_actions({"txn.v": b"x" * (length + 1)})) <= (self.agent.ack_room - len(ids)):
                length += 1
            self.pending.remove(ids)
            self.pending.insert(0, ids)
            self.acknowledge(0, {"txn.v": b"x" * length}, now)

    @rule()
    def time_passes(self) -> None:
        """Let the engine receive all bytes, and let an interval end."""
        self._flush_agent()
        self.engine_receives(2**20)
        self.agent.interval_ended()
        self._flush_agent()

    @precondition(lambda self: self._running())
    @rule(
        steps=st.lists(
            st.tuples(
                st.lists(messages, max_size=2), st.integers(0, 5000), sizes, st.integers(1, 40), sizes, st.booleans()
            ),
            min_size=1,
            max_size=5,
        )
    )
    def be_busy(self, steps: list[tuple[list[Message], int, int, int, int, bool]]) -> None:
        """Run most rules in one step: Hypothesis leaves out a part of the rules in each example."""
        for notified, body, received, part, read, late in steps:
            if self._running() and len(self.engine._waiting) < IN_FLIGHT:
                self.notify(notified, body, now=True)
                self.notify_many(part)
            self.agent_receives(received)
            self.acknowledge_many(part, part, now=True)
            self.engine_receives(read)
            if late:
                self.time_passes()

    @precondition(lambda self: self._running() and self.old)
    @rule(pieces=st.lists(st.binary(max_size=100), min_size=1, max_size=3), number=st.integers(0, 2**40))
    def give_up_fragments(self, pieces: list[bytes], number: int) -> None:
        """Send fragments and abort them, as HAProxy does when the stream ends. The agent has no event of them."""
        self._flush_engine()
        ids = encode_ids(2 * number, 7)
        frame_type = FrameType.NOTIFY
        for piece in pieces:
            self.to_agent += encode_frame(frame_type, Flags(0), ids, piece)
            frame_type = FrameType.UNSET
        self.to_agent += encode_frame(FrameType.UNSET, Flags.FIN | Flags.ABORT, ids, b"")

    @precondition(lambda self: self._running())
    @rule(payload=st.binary(max_size=100), number=st.integers(4, 100), known=st.booleans())
    def send_frames_that_are_skipped(self, payload: bytes, number: int, known: bool) -> None:
        """Send frames of unknown types to both sides, or a late fragment to the agent and a late ACK to the engine."""
        self._flush_engine()
        self._flush_agent()
        ids = encode_ids(10**6, 1)
        if known:
            self.to_agent += encode_frame(FrameType.UNSET, Flags.FIN, ids, payload)
            skipped = encode_frame(FrameType.ACK, Flags.FIN, ids, payload)
        else:
            assert number not in set(FrameType)
            skipped = encode_frame(number, Flags.FIN, ids, payload)
            self.to_agent += skipped
        if self.old:
            self.to_engine += skipped

    @precondition(lambda self: self._running())
    @rule(code=st.integers(0, 99), text=st.text("abc", max_size=20), engine=st.booleans(), chance=st.integers(0, 19))
    def disconnect(self, code: int, text: str, engine: bool, chance: int) -> None:
        if chance < 19:
            # Otherwise, nearly every conversation would end after a few steps.
            return
        connection = self.engine if engine else self.agent
        state = connection.state
        if state is State.RUNNING:
            self.disconnects.append(("engine" if engine else "agent", code, text))
            connection.disconnect(code, text)
            connection.disconnect(3, "never sent")
            assert connection.state is State.CLOSED
            if not engine:
                self.pending.clear()

    @rule(garbage=st.binary(min_size=1, max_size=50), engine=st.booleans(), chance=st.integers(0, 19))
    def send_garbage(self, garbage: bytes, engine: bool, chance: int) -> None:
        if chance < 19:
            return
        self.garbage_sent = True
        # From here on, either side may return any event, or raise SPOPError.
        self._flush_engine()
        self._flush_agent()
        pipe, connection = (self.to_agent, self.agent) if engine else (self.to_engine, self.engine)
        pipe += garbage
        connection.receive_data(bytes(pipe))
        pipe.clear()
        try:
            while connection.next_event() is not None:
                pass
        except SPOPError:
            assert connection.state is State.CLOSED
        self.agent.close()
        self.engine.close()
        self.pending.clear()

    @invariant()
    def closed_connections_stay_closed(self) -> None:
        for connection in (self.agent, self.engine):
            if connection.state is State.CLOSED:
                connection.receive_data(b"\x00\x00\x00\x07")
                assert connection.next_event() is None
                connection.disconnect()
                assert connection.state is State.CLOSED

    def teardown(self) -> None:
        if not hasattr(self, "engine") or self.garbage_sent:
            return
        for _ in range(3):
            self.agent_receives(2**20)
            self.engine_receives(2**20)
        open_ = not self.disconnects
        while self.pending:
            ids = self.pending.pop()
            self.agent.send_ack(ids)
            self.answered.append((ids, [], False))
        while self.agent.bytes_to_send:
            self.time_passes()
            if not open_:
                break
        self.engine_receives(2**20)
        if open_:
            assert not self.sent
            assert not self.answered
            assert not self.engine._waiting
            assert self.agent.bytes_to_send == self.engine.bytes_to_send == 0
            assert not self.agent.receiving


def test_conversations() -> None:
    """Each NOTIFY and each ACK arrives once, unchanged and in order. No frame exceeds the agreed size, and no unread
    bytes exceed the limit of HAProxy >= 3.1.
    """
    run_machine(Conversation)


@pytest.mark.soak
def test_long_conversations() -> None:
    """The same as test_conversations, with many more examples."""
    run_machine(Conversation, times=SOAK)

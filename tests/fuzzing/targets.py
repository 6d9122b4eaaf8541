"""The targets of the fuzzer: functions that take any bytes. If one raises an exception, the package has an error."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, Message, PendingAnswer, SPOAFactory, SPOAProtocol, Variables
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.spop.actions import decode_actions, encode_actions
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
from spoa_twisted.spop.frames import AgentHello, Flags, FrameBuffer, FrameType, HAProxyHello
from spoa_twisted.spop.messages import decode_messages, encode_messages
from spoa_twisted.spop.reassembly import ReassemblyBudget
from spoa_twisted.spop.typeddata import Value
from tests.frames import Frame, next_frames

from .wire import SlowWire

#: Bytes: small, so that short inputs can exceed it.
MAX_PAYLOAD_SIZE: Final = 4096

#: Stream-id and frame-id of each NOTIFY that the engine sends, as HAProxy <= 3.0 and HAProxy >= 3.1 number them.
STREAMS: Final = [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (3, 1), (5, 1), (7, 1)]


def agent(data: bytes) -> None:
    """Give ``data`` to the agent's side of a connection. The result must not depend on how ``data`` is split."""
    _same_however_cut(_agent_outcome, data)


def engine(data: bytes) -> None:
    """Give ``data`` to HAProxy's side of a connection, with the same check."""
    _same_however_cut(_engine_outcome, data)


def protocol(data: bytes) -> None:
    """Give ``data`` to a complete agent. It also decides what the handlers do, what the peer reads, and how it ends."""
    _Session(data).run()


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"agent": agent, "engine": engine, "protocol": protocol}

#: The folder of the corpus with the inputs of each target.
CORPORA: Final = {"agent": "from-haproxy", "engine": "from-agent", "protocol": "from-haproxy"}


def _same_however_cut(outcome_of: Callable[[Sequence[bytes]], object], data: bytes) -> None:
    whole = outcome_of([data])
    assert outcome_of(list(_cut(data))) == whole
    assert outcome_of([data[i : i + 1] for i in range(len(data))]) == whole


def _random_from(data: bytes) -> random.Random:
    # Derived from the input, so that an input that breaks a target always does so.
    return random.Random(zlib.crc32(data))


def _cut(data: bytes) -> Iterator[bytes]:
    chance = _random_from(data)
    offset = 0
    while offset < len(data):
        size = chance.choice([1, 2, 3, 5, 17, 60, 300, 1000])
        yield data[offset : offset + size]
        offset += size


def _exactly(value: Value) -> tuple[type, Value]:
    """Return ``value`` with its type: without it, ``True == 1`` and ``Int32(1) == 1`` would count as equal."""
    return type(value), value


def _exact_messages(messages: list[Message]) -> list[object]:
    return [(message.name, [(name, _exactly(value)) for name, value in message]) for message in messages]


def _exact_variables(variables: dict[str, Value]) -> list[object]:
    return [(name, _exactly(value)) for name, value in variables.items()]


def _check_error(connection: AgentConnection | EngineConnection, error: SPOPError) -> object:
    assert connection.state is State.CLOSED
    assert 0 < len(str(error).encode()) <= 255
    assert connection.next_event() is None
    return error.status_code


def _agent_outcome(pieces: Sequence[bytes]) -> object:
    budget = ReassemblyBudget()
    connection = AgentConnection(max_payload_size=MAX_PAYLOAD_SIZE, budget=budget)
    outcome: list[object] = []
    sent = bytearray()
    acks = 0
    for piece in pieces:
        connection.receive_data(piece)
        try:
            while (event := connection.next_event()) is not None:
                # It must not raise: logs use it.
                repr(event)
                if isinstance(event, Notify):
                    assert _exact_messages(decode_messages(encode_messages(event.messages))) == _exact_messages(
                        event.messages
                    )
                    outcome.append((event.stream_id, event.frame_id, _exact_messages(event.messages)))
                    actions = _encode_echo(event.messages)
                    fits = len(actions) <= (connection.ack_room - len(event.ids))
                    connection.send_ack(event.ids, actions if fits else b"")
                    acks += 1
                else:
                    if isinstance(event, PayloadTooBig):
                        connection.send_ack(event.ids, flags=ABORTED_ACK)
                        acks += 1
                    outcome.append(event)
                _take_bytes_to_send(connection, sent)
        except SPOPError as error:
            outcome.append(_check_error(connection, error))
        _take_bytes_to_send(connection, sent)
        # Let the pacing for HAProxy >= 3.1 release all delayed ACKs.
        while connection.unread:
            connection.interval_ended()
            _take_bytes_to_send(connection, sent)
        assert connection.bytes_to_send == 0
        # The budget counts the fragments of an incomplete payload, and nothing else.
        assert budget.size <= MAX_PAYLOAD_SIZE if connection.receiving else budget.size == 0
        # The connection may buffer one incomplete frame at most, besides the piece that it has just received.
        assert connection.bytes_received <= connection.max_frame_size + 4 + len(piece)
    state = connection.state
    connection.close()
    assert budget.size == 0
    frames = _frames(bytes(sent), connection.max_frame_size)
    assert [frame.type for frame in frames].count(FrameType.ACK) == acks
    assert all(frame.type != FrameType.AGENT_DISCONNECT for frame in frames[:-1])
    assert all(frame.flags & Flags.FIN for frame in frames)
    # Leave AGENT-DISCONNECT out: its text may depend on how the bytes were split.
    return outcome, [frame for frame in frames if frame.type != FrameType.AGENT_DISCONNECT], state


def _encode_echo(messages: list[Message]) -> bytes:
    """Encode actions that set a variable to each argument. Check that they decode to the same values."""
    variables: dict[str, Value] = {}
    for message in messages:
        for position, (_, value) in enumerate(message):
            variables[f"txn.{len(variables)}_{position}"] = value
    actions = encode_actions(variables)
    assert _exact_variables(decode_actions(actions)) == _exact_variables(variables)
    return actions


def _take_bytes_to_send(connection: AgentConnection | EngineConnection, sent: bytearray) -> None:
    """Append the bytes that the connection would send to ``sent``. Check that ``bytes_to_send`` counts them."""
    before = connection.bytes_to_send
    data = connection.data_to_send()
    assert connection.bytes_to_send == before - len(data)
    sent += data


def _frames(data: bytes, max_frame_size: int) -> list[Frame]:
    """Return the frames of ``data``, which must end at the end of a frame."""
    buffer = FrameBuffer(max_frame_size)
    buffer.feed(data)
    frames = next_frames(buffer)
    assert len(buffer) == 0
    return frames


def _engine_outcome(pieces: Sequence[bytes]) -> object:
    connection = EngineConnection(HAProxyHello(capabilities=frozenset({"pipelining", "async"}), engine_id="engine"))
    outcome: list[object] = []
    sent = bytearray()
    _take_bytes_to_send(connection, sent)
    waiting: set[bytes] = set()
    for piece in pieces:
        connection.receive_data(piece)
        try:
            while (event := connection.next_event()) is not None:
                repr(event)
                if isinstance(event, Ack):
                    waiting.remove(event.ids)
                    outcome.append((event.ids, _exact_variables(event.variables), event.aborted))
                    if not event.variables.keys() & {"proc._"}:
                        _check_variables(event.variables)
                else:
                    outcome.append(event)
                    if isinstance(event, AgentHello):
                        waiting.update([connection.send_notify([Message("m")], *ids) for ids in STREAMS])
        except SPOPError as error:
            outcome.append(_check_error(connection, error))
        _take_bytes_to_send(connection, sent)
        assert connection.bytes_to_send == 0
    frames = _frames(bytes(sent), connection.max_frame_size)
    assert all(frame.type != FrameType.HAPROXY_DISCONNECT for frame in frames[:-1])
    return outcome, [frame for frame in frames if frame.type != FrameType.HAPROXY_DISCONNECT], connection.state


def _check_variables(variables: dict[str, Value]) -> None:
    """Check that the variables of an ACK can be encoded again, unless they have names that our agent refuses."""
    try:
        actions = encode_actions(variables)
    except ValueError as error:
        assert "HAProxy drops names" in str(error)
    else:
        assert _exact_variables(decode_actions(actions)) == _exact_variables(variables)


@implementer(IHandlers)
class _CountingHandlers:
    """Passes each call on to other handlers, and counts the NOTIFYs."""

    def __init__(self, handlers: IHandlers) -> None:
        self._handlers = handlers
        self.notifies = 0

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        self.notifies += 1
        return self._handlers.respond(messages, max_size, reactor, timeout, outcomes)

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        return self._handlers.refuse(names, max_size)


class _Session:
    """One connection to a complete agent, from its start to its end, with random handlers and a random peer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._random = _random_from(data)
        self._clock = Clock()
        self._waiting: list[Deferred[Any]] = []
        self._handlers = _CountingHandlers(Handlers(default=self._handle, on_error={"txn.error": True}))
        self._factory = SPOAFactory(
            self._handlers,
            max_payload_size=MAX_PAYLOAD_SIZE,
            max_in_flight=self._random.choice([1, 20, 256]),
            async_=self._random.random() < 0.3,
            reactor=self._clock,
            log=Logger("spoa_twisted.agent"),
        )
        self._received = bytearray()
        self._faults: list[str] = []

    def run(self) -> None:
        globalLogPublisher.addObserver(self._observe)  # type: ignore[arg-type]
        try:
            self._run()
        finally:
            globalLogPublisher.removeObserver(self._observe)  # type: ignore[arg-type]

    def _run(self) -> None:
        agent = self._factory.buildProtocol(None)
        assert isinstance(agent, SPOAProtocol)
        wire = SlowWire(agent)
        agent.makeConnection(wire)
        for piece in _cut(self._data):
            for _ in range(self._random.randrange(3)):
                self._do_random_step(agent, wire)
            if wire.lost:
                break
            if wire.reading:
                agent.dataReceived(piece)
        self._end(wire)

    def _end(self, wire: SlowWire) -> None:
        answered_all = self._random.random() < 0.5
        if answered_all:
            for _ in range(len(self._data) + 10):
                self._take(wire, 2**20)
                while self._waiting:
                    self._finish_a_handler()
                self._clock.advance(0.05)
        closing = wire.disconnecting
        wire.lose(ConnectionLost)
        # Longer than ENGINE_TIMEOUT: with async, the agent waits that long for another connection of the same engine.
        self._clock.advance(60)
        frames = _frames(bytes(self._received), 2**20) if answered_all else []
        acks = sum(frame.type == FrameType.ACK and not frame.flags & Flags.ABORT for frame in frames)
        assert acks <= self._handlers.notifies
        assert not answered_all or closing or acks == self._handlers.notifies
        assert self._factory.connections == set()
        assert self._factory._reassembly.size == 0
        assert self._clock.getDelayedCalls() == []
        assert all(deferred.called for deferred in self._waiting)
        assert self._faults == []

    def _do_random_step(self, agent: SPOAProtocol, wire: SlowWire) -> None:
        match self._random.randrange(40):
            case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7:
                self._take(wire, self._random.choice([1, 100, 10_000, 2**20]))
            case 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15:
                if self._waiting:
                    self._finish_a_handler()
            case 16 | 17 | 18:
                self._clock.advance(self._random.choice([0, 0.03, 0.3, 3]))
            case 19:
                self._factory.drain(1)
            case 20:
                wire.lose(ConnectionLost)
            case 21 if wire.reading:
                agent.readConnectionLost()
            case _:
                pass
        wire.turn()

    def _take(self, wire: SlowWire, size: int) -> None:
        self._received += wire.take(size)
        wire.turn()

    def _finish_a_handler(self) -> None:
        deferred = self._waiting.pop(self._random.randrange(len(self._waiting)))
        if deferred.called:
            return
        if self._random.random() < 0.2:
            deferred.errback(LookupError("expected"))
        else:
            deferred.callback(self._result())

    def _handle(self, message: Message) -> Any:
        match self._random.randrange(5):
            case 0:
                return self._wait()
            case 1:
                return self._coroutine()
            case 2:
                raise LookupError("expected")
            case 3:
                return {f"txn.a{position}": value for position, (_, value) in enumerate(message)}
            case _:
                return self._result()

    async def _coroutine(self) -> Variables | None:
        result: Variables | None = await self._wait()
        return result

    def _wait(self) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self._waiting.append(deferred)
        return deferred

    def _result(self) -> Variables | None:
        return self._random.choice([None, {}, {"txn.x": 1}, {"sess.long": "x" * 3000}, {"sess.too_long": b"x" * 2**20}])

    def _observe(self, event: LogEvent) -> None:
        if event["log_level"] < LogLevel.warn:
            return
        text = formatEvent(event)
        failure = event.get("log_failure")
        expected = failure is None or failure.check(LookupError) is not None
        if not expected or "\n" in text or not text.isascii():
            self._faults.append(text if failure is None else f"{text}: {failure.getTraceback()}")

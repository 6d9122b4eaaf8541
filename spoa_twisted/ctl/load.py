"""Load for an agent: connections with a constant number of NOTIFYs in flight, and every ACK judged.

It has to be cheaper than the agents that it measures. So the frames of the NOTIFYs are made once, for a ring of ids
that is much longer than what is in flight: an ACK that comes again late finds its ids answered. An ACK is looked up as
a whole, ids and all, among those that were judged before; only one that is new is taken apart by the codec. All
NOTIFYs that the ACKs of one read make room for leave in one write.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast, final

from twisted.internet.defer import Deferred, DeferredQueue, DeferredSemaphore, FirstError, fail, gatherResults
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import ProcessProtocol, Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from spoa_twisted.agent.outbox import Sender
from spoa_twisted.client import DEFAULT_HELLO, AgentDisconnected
from spoa_twisted.ctl.latency import Latencies
from spoa_twisted.spop.actions import decode_actions
from spoa_twisted.spop.connection import FRAGMENTATION, PIPELINING, EngineConnection
from spoa_twisted.spop.errors import FragmentationNotSupported, FrameTooBig, InvalidFrame, SPOPError
from spoa_twisted.spop.frames import (
    AgentHello,
    Disconnect,
    Flags,
    FrameBuffer,
    FrameType,
    HAProxyHello,
)
from spoa_twisted.spop.messages import Message, decode_messages
from spoa_twisted.spop.typeddata import NULL, Value, encode_typed_data

#: What can be wrong. A DISCONNECT is counted by its code, as ``DISCONNECT 4``.
CONNECTION_LOST: Final = "connection lost"
NO_CONNECTION: Final = "no connection"
BROKEN_FRAME: Final = "broken frame"
UNKNOWN_IDS: Final = "unknown ids"
REPEATED_IDS: Final = "repeated ids"
UNDECODABLE: Final = "undecodable ACK"
ABORTED: Final = "aborted NOTIFY"
OTHER_VARIABLES: Final = "other variables"
UNANSWERED: Final = "unanswered NOTIFY"

#: The most NOTIFYs in flight on a connection.
MAX_IN_FLIGHT: Final = 4096

# How many ids the ring has, unless its frames would take more than so many bytes; always twice what is in flight.
_RING: Final = 2048
_RING_BYTES: Final = 2**22

# How many bytes of ACKs judged, whole and payload only, are remembered; each takes so many more for its entry.
_KNOWN_BYTES: Final = 2**24
_ENTRY: Final = 150

# Seconds between a connection's end and the next try, and for a goodbye.
_PAUSE: Final = 0.1
_GOODBYE: Final = 1.0

# How many connections are opened at a time: more than wait to be accepted are refused, or tried again a second later.
_OPENING: Final = 32

_LENGTH: Final = 4
_UNKNOWN: Final = -1
_NEVER_SENT: Final = -1
_ANSWERED: Final = 0

# The longest line between the load's processes.
_LONGEST_LINE: Final = 2**26

ResultT = TypeVar("ResultT")


class LoadFailed(Exception):
    """A process of the load could not do its work; the text says why."""


@dataclass(frozen=True)
class Plan:
    """What the load is to do, as JSON can say it."""

    endpoint: str
    #: The LIST-OF-MESSAGES, in hexadecimal.
    messages: str
    connections: int
    in_flight: int
    #: Seconds for a connection, for its HELLO, and for the last ACKs.
    timeout: float
    #: Whether ``async`` is announced.
    async_: bool
    #: What :func:`canonical` gives for the variables that each ACK is to set; ``None``: what the first one sets.
    expected: dict[str, str] | None = None
    #: Whether ACKs may set other variables than the first one.
    varying: bool = False


@dataclass
class Outcome:
    """What came of it, as JSON can say it."""

    #: The good ACKs that came within the time measured, and that time in seconds.
    notifys: int = 0
    seconds: float = 0.0
    latencies: list[list[int]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    #: The variables of the first ACK, by :func:`canonical`; ``None`` without one.
    variables: dict[str, str] | None = None
    #: Those of the first ACK that set other ones than it should; ``None`` without one.
    other_variables: dict[str, str] | None = None
    #: The CPU seconds that this process used within the time measured.
    cpu: float = 0.0
    #: The seconds that it was ready to run in that time and had no core; ``None`` when the system does not say.
    waited: float | None = None


@dataclass
class Greeting:
    """What the agent said of itself in its HELLO, as JSON can say it."""

    version: str
    max_frame_size: int
    capabilities: list[str]
    #: How many NOTIFYs are in flight on each connection: one without pipelining.
    in_flight: int
    #: How long the NOTIFY's frames are, in bytes.
    notify_size: int


def canonical(variables: dict[str, Value]) -> dict[str, str]:
    """Return what makes two sets of variables equal: values in the types in which they go, in hexadecimal."""
    return {
        name: encode_typed_data(None if value is NULL else value).hex() for name, value in sorted(variables.items())
    }


def waited(pid: int | str) -> int | None:
    """Return how many nanoseconds a process's first thread was ready to run and had no core, as far as Linux tells."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None


class Window:
    """The time that is measured: it begins after the warm-up, and ends after the duration or when told to."""

    def __init__(self, reactor: Any, warm_up: float, duration: float) -> None:
        self._hooks: list[tuple[Callable[[], object], Callable[[], object]]] = []
        self.seconds = (warm_up, duration)
        self._reactor = reactor
        self._call = reactor.callLater(warm_up, self._begin)
        self.begun = False
        self.ended = False
        #: Whether it ended before its time.
        self.interrupted = False

    def watch(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        """Have these called when it begins and ends."""
        self._hooks.append((begin, end))

    def interrupt(self) -> None:
        """End before the time."""
        if not self.ended:
            self.interrupted = True
            self.end()

    def end(self) -> None:
        """End now at the latest."""
        if not self.ended:
            self._call.cancel()
            self._begin_now()
            self._end()

    def _begin(self) -> None:
        self._begin_now()
        # From now on, and not from when it was to begin: on a busy machine little would be left.
        self._call = self._reactor.callLater(self.seconds[1], self._end)

    def _end(self) -> None:
        self.ended = True
        for _, end in self._hooks:
            end()

    def _begin_now(self) -> None:
        if not self.begun:
            self.begun = True
            for begin, _ in self._hooks:
                begin()


class _Ring:
    """The frames of the NOTIFYs, one for each of a ring of ids, and the ACKs known to be good."""

    def __init__(self, engine: EngineConnection, messages: list[Message], in_flight: int) -> None:
        self.agreed = _agreed(engine)
        self.frames: list[bytes] = []
        self.slots: dict[bytes, int] = {}
        #: Whole frames of ACKs, and the slots of their NOTIFYs.
        self.known: dict[bytes, int] = {}
        self.room = _KNOWN_BYTES
        size = 0
        while len(self.frames) < 2 * in_flight or (len(self.frames) < _RING and size < _RING_BYTES):
            ids = engine.send_notify(messages, stream_id=len(self.frames) + 1)
            engine.forget(ids)
            self.slots[ids] = len(self.frames)
            self.frames.append(engine.data_to_send())
            size += len(self.frames[-1])


def _agreed(engine: EngineConnection) -> tuple[int, bool]:
    return engine.max_frame_size, FRAGMENTATION in engine.peer_capabilities


@final
class _LoadProtocol(Protocol):
    """One connection of the load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._engine = EngineConnection(load.hello)
        self._greeted: Deferred[AgentHello] = Deferred()
        self._rest = b""
        self._over = False
        self._saying_goodbye = False
        self._ended: Deferred[None] = Deferred()
        self._greeting_over = False
        self._ring: _Ring | None = None
        #: For each slot of the ring the time of its NOTIFY.
        self._sent: list[int] = []
        self._next = 0
        self._released = 0
        #: How many NOTIFYs are without their ACK.
        self.waiting = 0
        #: How many there may be.
        self.in_flight = load.plan.in_flight

    def greeted(self) -> Deferred[AgentHello]:
        """Fire with the agent's HELLO."""
        return self._greeted

    def connectionMade(self) -> None:
        """Send the HELLO."""
        assert self.transport is not None
        self._sender = Sender(self.transport)
        if ITCPTransport.providedBy(self.transport):
            # A Unix socket has no such option.
            with suppress(OSError):
                self.transport.setTcpNoDelay(True)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Take in ACKs."""
        if self._over or self._saying_goodbye:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self._greeting_over:
            self._receive(data)
        else:
            self._receive_hello(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count what was in flight as unanswered."""
        if not self._greeting_over and not self._over:
            self._greeted.errback(reason)
        elif not self._over and not self._saying_goodbye:
            self._load.errors[CONNECTION_LOST] += 1
        self._over = True
        self._load.errors[UNANSWERED] += self.waiting
        self.waiting = 0
        self._ended.callback(None)
        self._load.lost(self, self._greeting_over)

    def start(self) -> None:
        """Send as many NOTIFYs as may be in flight."""
        if not self._over:
            self._send(self.in_flight)

    def goodbye(self) -> Deferred[None]:
        """Say goodbye; fire when the connection is closed."""
        self._saying_goodbye = True
        if not self._over:
            self._engine.disconnect()
            self._flush()
        assert self.transport is not None
        self.transport.loseConnection()
        return self._ended

    def abort(self) -> None:
        """Close at once."""
        cast("ITCPTransport", self.transport).abortConnection()

    def _receive_hello(self, data: bytes) -> None:
        end = _LENGTH + int.from_bytes(data[:_LENGTH], "big")
        if len(data) < _LENGTH or len(data) < end <= _LENGTH + self._engine.max_frame_size:
            self._rest = data
            return
        self._engine.receive_data(data[:end])
        try:
            event = self._engine.next_event()
            if isinstance(event, AgentHello):
                self._begin(event)
            elif isinstance(event, Disconnect):
                raise AgentDisconnected(event.status_code, event.message)
        except Exception as error:
            # Among them a message that is too long for this agent.
            self._over = True
            self._flush()
            self.goodbye()
            self._greeted.errback(Failure(error))
            return
        if self._greeting_over:
            self._receive(data[end:])
        else:
            # A frame that SPOP does not know.
            self._receive_hello(data[end:])

    def _begin(self, hello: AgentHello) -> None:
        if PIPELINING not in hello.capabilities:
            self.in_flight = 1
        self._ring = self._load.ring(self._engine)
        self._sent = [_NEVER_SENT] * len(self._ring.frames)
        self._greeting_over = True
        self._greeted.callback(hello)

    def _receive(self, data: bytes) -> None:
        now = time.perf_counter_ns()
        assert self._ring is not None
        known, sent = self._ring.known, self._sent
        offset = answered = same = latest = 0
        while True:
            start = offset + _LENGTH
            end = start + int.from_bytes(data[offset:start], "big")
            if end > len(data):
                break
            frame = data[offset:end]
            offset = end
            slot = known.get(frame, _UNKNOWN)
            if slot == _UNKNOWN or sent[slot] <= _ANSWERED:
                slot = self._judge(frame)
                if self._over:
                    break
                if slot == _UNKNOWN:
                    continue
            # Those that left in one write have the same latency.
            if sent[slot] != latest:
                self._load.latencies.add(now - latest, same)
                latest = sent[slot]
                same = 0
            same += 1
            sent[slot] = _ANSWERED
            answered += 1
        self._load.latencies.add(now - latest, same)
        self._load.answered += answered
        self._released += answered
        if not self._over:
            self._rest = data[offset:]
            if len(self._rest) >= _LENGTH and end - start > self._engine.max_frame_size:
                self._broken(FrameTooBig(f"a frame of {end - start} bytes"))
        self._release()

    def _release(self) -> None:
        """Let new NOTIFYs take the places of those that were answered."""
        released, self._released = self._released, 0
        self.waiting -= released
        if released and not self._over:
            if self._load.sending:
                self._send(released)
            elif not self.waiting:
                self._load.drained()

    def _send(self, number: int) -> None:
        assert self._ring is not None
        frames, sent, slot = self._ring.frames, self._sent, self._next
        now = time.perf_counter_ns()
        out = []
        for _ in range(number):
            while sent[slot] > _ANSWERED:
                slot = (slot + 1) % len(frames)
            sent[slot] = now
            out.append(frames[slot])
            slot = (slot + 1) % len(frames)
        self._next = slot
        self.waiting += number
        self._sender.send(b"".join(out))

    def _judge(self, whole: bytes) -> int:
        """Take apart a frame that is not what was seen before; return its slot when it is a good ACK."""
        assert self._ring is not None
        buffer = FrameBuffer(self._engine.max_frame_size)
        buffer.feed(whole)
        try:
            frame = buffer.next_frame()
            assert frame is not None
            frame_type, flags, ids, payload = frame
            if frame_type == FrameType.ACK:
                return self._judge_ack(flags, ids, payload, whole)
            if frame_type == FrameType.AGENT_DISCONNECT:
                self._disconnected(Disconnect.decode(payload))
            elif frame_type in FrameType.__members__.values():
                raise InvalidFrame(f"a frame of type {frame_type}, where an ACK is due")
        except SPOPError as error:
            self._broken(error)
        return _UNKNOWN

    def _judge_ack(self, flags: int, ids: bytes, payload: bytes, whole: bytes) -> int:
        assert self._ring is not None
        if not flags & Flags.FIN:
            raise FragmentationNotSupported("an ACK came in fragments")
        slot = self._ring.slots.get(ids, _UNKNOWN)
        time_sent = _NEVER_SENT if slot == _UNKNOWN else self._sent[slot]
        if time_sent <= _ANSWERED:
            self._load.errors[UNKNOWN_IDS if time_sent == _NEVER_SENT else REPEATED_IDS] += 1
            return _UNKNOWN
        wrong = ABORTED if flags & Flags.ABORT else self._load.judge(payload)
        if wrong is not None:
            self._load.errors[wrong] += 1
            self._sent[slot] = _ANSWERED
            self._released += 1
            return _UNKNOWN
        if self._ring.room > 0:
            self._ring.room -= len(whole) + _ENTRY
            self._ring.known[whole] = slot
        return slot

    def _disconnected(self, goodbye: Disconnect) -> None:
        self._over = True
        self._load.errors[f"DISCONNECT {goodbye.status_code}"] += 1
        self.goodbye()

    def _broken(self, error: SPOPError) -> None:
        self._over = True
        self._load.errors[BROKEN_FRAME] += 1
        self._engine.disconnect(error.status_code, str(error))
        self._flush()
        self.goodbye()

    def _flush(self) -> None:
        data = self._engine.data_to_send()
        if data and self.transport is not None:
            self._sender.send(data)


@final
class Load:
    """Load from this process."""

    def __init__(self, reactor: Any, plan: Plan) -> None:
        self._reactor = reactor
        self.plan = plan
        self._endpoint = clientFromString(reactor, plan.endpoint)
        self._messages = decode_messages(bytes.fromhex(plan.messages))
        #: What is said to the agent.
        self.hello = DEFAULT_HELLO if plan.async_ else HAProxyHello(capabilities=frozenset({PIPELINING}))
        self._connections: set[_LoadProtocol] = set()
        self._opening = DeferredSemaphore(_OPENING)
        self._ring: _Ring | None = None
        self._first: dict[str, str] | None = None
        self._first_other: dict[str, str] | None = None
        # What was found wrong with payloads of ACKs, and how many bytes more may be remembered.
        self._verdicts: dict[bytes, str | None] = {}
        self._room = _KNOWN_BYTES
        #: Whether ACKs make room for further NOTIFYs.
        self.sending = False
        # Whether a connection that comes late is of no use.
        self._finished = False
        self._drained: Deferred[None] | None = None
        #: What the connections counted.
        self.answered = 0
        self.latencies = Latencies()
        self.errors: Counter[str] = Counter()
        self._began = self._cpu = 0
        self._waited: int | None = None
        self._outcome = Outcome()

    async def connect(self) -> Greeting:
        """Open the connections; return what the agent said on the first one."""
        opening = [self._open() for _ in range(self.plan.connections)]
        try:
            hellos = await all_of(opening)
        except BaseException:
            self._finished = True
            for connection in self._connections:
                connection.abort()
            raise
        hello = hellos[0]
        assert self._ring is not None
        return Greeting(
            hello.version,
            hello.max_frame_size,
            sorted(hello.capabilities),
            min(connection.in_flight for connection in self._connections),
            len(self._ring.frames[0]),
        )

    async def run(self, window: Window) -> Outcome:
        """Load the agent until the window ends; wait for the last ACKs, and say goodbye."""
        over: Deferred[None] = Deferred()
        window.watch(self._begin, lambda: self._end(over))
        self.sending = True
        for connection in list(self._connections):
            connection.start()
        for _ in range(self.plan.connections - len(self._connections)):
            self._reconnect()
        await over
        if any(connection.waiting for connection in self._connections):
            drained: Deferred[None] = Deferred()
            self._drained = drained
            await drained.addTimeout(self.plan.timeout, self._reactor, _whatever)
        for connection in self._connections:
            self.errors[UNANSWERED] += connection.waiting
            connection.waiting = 0
        self._finished = True
        closing = gatherResults([connection.goodbye() for connection in self._connections], consumeErrors=True)
        await closing.addTimeout(_GOODBYE, self._reactor, _whatever)
        for connection in list(self._connections):
            connection.abort()
        self._outcome.latencies = self.latencies.to_json()
        self._outcome.errors = {kind: number for kind, number in self.errors.items() if number}
        self._outcome.variables = self._first
        self._outcome.other_variables = self._first_other
        return self._outcome

    def ring(self, engine: EngineConnection) -> _Ring:
        """Return the frames for a connection whose HELLOs went."""
        if self._ring is None or self._ring.agreed != _agreed(engine):
            self._ring = _Ring(engine, self._messages, self.plan.in_flight)
        return self._ring

    def judge(self, payload: bytes) -> str | None:
        """Return what is wrong with an ACK of this payload."""
        if payload in self._verdicts:
            return self._verdicts[payload]
        verdict = self._judge(payload)
        if self._room > 0:
            self._room -= len(payload) + _ENTRY
            self._verdicts[payload] = verdict
        return verdict

    def lost(self, connection: _LoadProtocol, greeted: bool) -> None:
        """Open another connection in place of one that is gone, if it had got so far."""
        self._connections.discard(connection)
        if not self.sending:
            self.drained()
        elif greeted:
            self._reactor.callLater(_PAUSE, self._reconnect)

    def drained(self) -> None:
        """A connection has all its ACKs."""
        if self._drained is not None and not any(connection.waiting for connection in self._connections):
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _judge(self, payload: bytes) -> str | None:
        try:
            variables = canonical(decode_actions(payload))
        except SPOPError:
            return UNDECODABLE
        if self._first is None:
            self._first = variables
        expected = self._first if self.plan.expected is None else self.plan.expected
        if self.plan.varying or variables == expected:
            return None
        if self._first_other is None:
            self._first_other = variables
        return OTHER_VARIABLES

    def _open(self) -> Deferred[AgentHello]:
        return self._opening.run(lambda: Deferred.fromCoroutine(self._connect()))

    async def _connect(self) -> AgentHello:
        protocol = _LoadProtocol(self)
        await connectProtocol(self._endpoint, protocol).addTimeout(self.plan.timeout, self._reactor, _no_answer)
        self._connections.add(protocol)
        if self._finished:
            protocol.abort()
        try:
            hello = await protocol.greeted().addTimeout(self.plan.timeout, self._reactor, _no_answer)
        except BaseException:
            protocol.abort()
            raise
        if self.sending:
            protocol.start()
        return hello

    def _reconnect(self) -> None:
        if self.sending:
            self._open().addErrback(self._not_connected)

    def _not_connected(self, reason: Failure) -> None:
        if self.sending:
            self.errors[NO_CONNECTION] += 1
            self._reactor.callLater(_PAUSE, self._reconnect)

    def _begin(self) -> None:
        self._began, self._cpu, self._waited = time.perf_counter_ns(), time.process_time_ns(), waited(os.getpid())
        self.answered = 0
        self.latencies = Latencies()

    def _end(self, over: Deferred[None]) -> None:
        self._outcome.notifys = self.answered
        self._outcome.seconds = (time.perf_counter_ns() - self._began) / 1e9
        self._outcome.cpu = (time.process_time_ns() - self._cpu) / 1e9
        now_waited = waited(os.getpid())
        if now_waited is not None and self._waited is not None:
            self._outcome.waited = (now_waited - self._waited) / 1e9
        self.sending = False
        over.callback(None)


class RemoteLoad:
    """Load from a process of its own."""

    def __init__(self, reactor: Any, plan: Plan) -> None:
        self._plan = plan
        self._process = _LoadProcess()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", f"from {__name__} import main; main()"]
        reactor.spawnProcess(self._process, command[0], command, environment, childFDs={0: "w", 1: "r", 2: 2})

    async def connect(self) -> Greeting:
        """Open the connections; return what the agent said on the first one."""
        return Greeting(**await self._process.ask(asdict(self._plan)))

    async def run(self, window: Window) -> Outcome:
        """Load the agent until the window ends; wait for the last ACKs, and say goodbye."""
        window.watch(lambda: None, lambda: self._process.tell("end"))
        return Outcome(**await self._process.ask(window.seconds))

    def abort(self) -> None:
        """End the process at once."""
        self._process.abort()


class _LoadProcess(ProcessProtocol):
    """Lines of JSON to another process and from it: each question has an answer."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: Deferred[dict[str, Any]] | None = None
        self._ended: LoadFailed | None = None

    def ask(self, question: object) -> Deferred[dict[str, Any]]:
        if self._ended is not None:
            return fail(self._ended)
        self._answer = Deferred()
        self.tell(question)
        return self._answer

    def tell(self, fact: object) -> None:
        assert self.transport is not None
        if self._ended is None:
            self.transport.write(json.dumps(fact).encode() + b"\n")

    def abort(self) -> None:
        assert self.transport is not None
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def outReceived(self, data: bytes) -> None:
        self._received += data
        line, end, rest = self._received.partition(b"\n")
        if end and self._answer is not None:
            self._received = rest
            answer, self._answer = self._answer, None
            said = json.loads(line)
            if "failed" in said:
                answer.errback(LoadFailed(said["failed"]))
            else:
                answer.callback(said)

    def processEnded(self, reason: Failure) -> None:
        self._ended = LoadFailed(f"a process of the load ended: {reason.getErrorMessage()}")
        if self._answer is not None:
            answer, self._answer = self._answer, None
            answer.errback(self._ended)


class _Orders(LineOnlyReceiver):
    """What the process that measures tells this one, line by line."""

    delimiter = b"\n"
    MAX_LENGTH = _LONGEST_LINE

    def __init__(self) -> None:
        self._lines: DeferredQueue[Any] = DeferredQueue()
        self._closed: Deferred[None] = Deferred()
        #: Called when the load is to end, or there is nobody any more who could tell.
        self.end: Callable[[], object] = lambda: None

    def lineReceived(self, line: bytes) -> None:
        order = json.loads(line)
        if order == "end":
            self.end()
        else:
            self._lines.put(order)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end()
        self._lines.put(None)
        self._closed.callback(None)

    def close(self) -> Deferred[None]:
        """Fire when all answers went."""
        assert self.transport is not None
        self.transport.loseConnection()
        return self._closed

    def next(self) -> Deferred[Any]:
        return self._lines.get()

    def answer(self, fact: object) -> None:
        assert self.transport is not None
        self.transport.write(json.dumps(fact).encode() + b"\n")


def main() -> None:
    """Be one of several processes of the load."""
    react(lambda reactor: Deferred.fromCoroutine(_obey(reactor)))


async def _obey(reactor: Any) -> None:
    # Ctrl-C on a terminal is for all of its processes; the one that measures passes it on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = _Orders()
    StandardIO(orders, reactor=reactor)
    try:
        await _answer(reactor, orders)
    finally:
        await orders.close()


async def _answer(reactor: Any, orders: _Orders) -> None:
    plan = await orders.next()
    if plan is None:
        return
    load = Load(reactor, Plan(**plan))
    try:
        orders.answer(asdict(await load.connect()))
    except Exception as error:
        orders.answer({"failed": str(error) or type(error).__name__})
        return
    seconds = await orders.next()
    if seconds is None:
        return
    window = Window(reactor, *seconds)
    orders.end = window.interrupt
    orders.answer(asdict(await load.run(window)))


async def all_of(deferreds: Sequence[Deferred[ResultT]]) -> list[ResultT]:
    """Wait for all; raise what the first one that fails fails with."""
    try:
        return await gatherResults(deferreds, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()


def _no_answer(result: object, seconds: float) -> NoReturn:
    raise TimeoutError(f"no answer within {seconds:g} s")


def _whatever(result: object, seconds: float) -> None:
    """Go on without."""

"""An agent's connection on a transport and a clock in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, SPOAFactory
from spoa_twisted.agent.protocol import SPOAProtocol
from spoa_twisted.handlers.pending import PendingAnswer, answer_of
from spoa_twisted.spop.actions import decode_actions
from spoa_twisted.spop.connection import Ack, EngineConnection
from spoa_twisted.spop.frames import AgentHello, Flags, FrameBuffer, FrameType, HAProxyHello
from spoa_twisted.spop.messages import Message
from tests.frames import next_frames

#: The HAPROXY-HELLO of a HAProxy <= 3.0. The agent never holds ACKs back for it.
OLD = HAProxyHello(capabilities=frozenset({"pipelining", "async"}), engine_id="engine")


class TurnClock(Clock):
    """A clock that runs calls in turns, as a reactor does: a call that is made in a turn runs in a later turn."""

    def advance(self, amount: float) -> None:
        """Let ``amount`` seconds pass, and run one turn: the calls that are due now."""
        self.rightNow += amount
        due = [call for call in self.calls if call.getTime() <= self.rightNow]
        for call in sorted(due, key=lambda call: call.getTime()):
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class Wire(StringTransport):
    """A transport that remembers each write, and pauses its producer above a capacity in bytes."""

    # Not bool: after "assert not wire.aborted", mypy would not know that a call can change it.
    disconnecting: Any
    aborted: Any

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False
        self.capacity = 2**30
        self.buffered = 0
        self.on_write: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        super().write(data)
        self.writes.append(data)
        self.on_write()
        self.buffered += len(data)
        if self.buffered > self.capacity and self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> None:
        """Let the peer read all bytes. The transport then resumes its producer."""
        self.buffered = 0
        if self.producer is not None:
            self.producer.resumeProducing()

    def abortConnection(self) -> None:
        super().abortConnection()
        self.aborted = True


class Session:
    """HAProxy's end of a connection to an agent of ``factory``.

    :param hello: the HAPROXY-HELLO; without it, that of a HAProxy >= 3.1.
    :param greet: exchange the HELLOs at once.
    :param wire: the agent's transport.
    """

    def __init__(
        self, factory: SPOAFactory, hello: HAProxyHello | None = None, greet: bool = True, wire: Wire | None = None
    ) -> None:
        self.engine = EngineConnection(hello)
        self.wire = wire or Wire()
        protocol = factory.buildProtocol(None)
        assert isinstance(protocol, SPOAProtocol)
        self.agent = protocol
        self.agent.makeConnection(self.wire)
        if greet:
            self.send()
            (answer,) = self.events()
            assert isinstance(answer, AgentHello)

    def send(self) -> None:
        """Pass the bytes that the engine has queued to the agent, in one read."""
        self.agent.dataReceived(self.engine.data_to_send())

    def events(self) -> list[Any]:
        """Return the engine's events for the bytes that the agent wrote since the last call."""
        self.engine.receive_data(self.wire.value())
        self.wire.clear()
        return list(iter(self.engine.next_event, None))

    def acks(self) -> list[Ack]:
        """Return the ACKs that the agent wrote since the last call, also for NOTIFYs of other connections."""
        frames = FrameBuffer(2**20)
        frames.feed(self.wire.value())
        self.wire.clear()
        return [
            Ack(frame.ids, decode_actions(frame.payload), bool(frame.flags & Flags.ABORT))
            for frame in next_frames(frames)
            if frame.type == FrameType.ACK
        ]

    def notify_together(self, *names: str) -> bytes:
        """Send one NOTIFY with a message for each name. Return its ids."""
        ids = self.engine.send_notify([Message(name) for name in names])
        self.send()
        return ids

    def notify(self, *names: str) -> list[bytes]:
        """Send a NOTIFY with one message for each name, all in one read. Return the ids of the NOTIFYs."""
        ids = [self.engine.send_notify([Message(name)]) for name in names]
        self.send()
        return ids

    def break_protocol(self) -> None:
        """Send a frame that is too long for any agent."""
        self.agent.dataReceived(b"\xff\xff\xff\xff")

    def lose(self, reason: type[Exception] = ConnectionLost) -> None:
        """End the connection as the reactor does."""
        self.agent.connectionLost(Failure(reason()))


class Waiting:
    """Handlers: ``wait`` returns a Deferred that the test fires, ``now`` returns a variable at once."""

    def __init__(self) -> None:
        self.deferreds: list[Deferred[Any]] = []
        self.cancelled: list[Deferred[Any]] = []
        self.handlers = Handlers({"wait": self.wait, "now": lambda: {"sess.now": 1}})

    def wait(self) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred(self.cancelled.append)
        self.deferreds.append(deferred)
        return deferred


class Answer(PendingAnswer):
    """An answer that never comes, and knows whether it was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@implementer(IHandlers)
class OtherHandlers:
    """Another implementation of IHandlers: each method answers with ``answer``, or raises it if it is an exception."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def respond(self, messages: Any, max_size: int, reactor: Any, timeout: float, outcomes: Any) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return answer_of(self.answer) if isinstance(self.answer, Deferred) else self.answer

    def refuse(self, names: Any, max_size: int) -> Any:
        return self.respond((), max_size, None, 0, None)


def long_answers(size: int) -> Handlers:
    """Return handlers whose answer to ``long`` has about ``size`` bytes."""
    return Handlers({"long": lambda: {"sess.a": "x" * size}})

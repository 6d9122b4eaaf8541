"""Agents in this process. The test chooses the bytes of their answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.connection import AgentConnection, Notify
from spoa_twisted.spop.frames import Disconnect, Flags, FrameType, encode_frame

#: The actions of a good ACK.
GOOD = encode_actions({"sess.score": 20})


def ack(ids: bytes, actions: bytes = GOOD, flags: int = Flags.FIN) -> bytes:
    """Return the frame of an ACK."""
    return encode_frame(FrameType.ACK, Flags(flags), ids, actions)


def agent_disconnect(status_code: int, message: str) -> bytes:
    """Return the frame of an AGENT-DISCONNECT."""
    return encode_frame(FrameType.AGENT_DISCONNECT, Flags.FIN, b"\0\0", Disconnect(status_code, message).encode())


class Agent(Factory):
    """An agent whose ACKs are made by the test.

    :param answer: returns the bytes that answer a NOTIFY, or ``None`` to close the connection. It gets the ids of the
        NOTIFY, and the number of NOTIFYs so far. A subclass may replace :meth:`answer` instead.
    """

    def __init__(self, answer: Callable[[bytes, int], bytes | None] | None = None) -> None:
        self.protocol = AgentSide  # type: ignore[assignment]
        self.answer_with = answer
        self.capabilities = frozenset({"pipelining", "fragmentation"})
        #: How many NOTIFYs came, on all connections.
        self.notifys = 0
        self.connections: list[AgentSide] = []
        #: The bytes that are sent in place of an AGENT-HELLO; ``None`` for an AGENT-HELLO.
        self.hello: bytes | None = None

    def answer(self, side: AgentSide, notify: Notify) -> None:
        """Answer a NOTIFY."""
        assert self.answer_with is not None
        data = self.answer_with(notify.ids, self.notifys)
        if data is None:
            side.transport.loseConnection()
        else:
            side.transport.write(data)


class AgentSide(Protocol):
    """The agent's side of one connection."""

    factory: Agent
    transport: Any

    def connectionMade(self) -> None:
        self.connection = AgentConnection()
        self.connection._capabilities = self.factory.capabilities
        #: The ids of NOTIFYs without an ACK, where the agent keeps them.
        self.in_flight: list[bytes] = []
        self.max_in_flight = 0
        #: Fires when the connection is closed.
        self.ended: Deferred[None] = Deferred()
        #: The HAPROXY-DISCONNECT that was received.
        self.disconnect: Disconnect | None = None
        self.factory.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.connection.receive_data(data)
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, Notify):
                self.factory.notifys += 1
                self.factory.answer(self, event)
            elif isinstance(event, Disconnect):
                self.disconnect = event
                self.transport.loseConnection()
            elif self.factory.hello is not None:
                self.connection.data_to_send()
                self.transport.write(self.factory.hello)
        self.transport.write(self.connection.data_to_send())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


class LateAgent(Agent):
    """An agent that answers 2 ms later, some NOTIFYs at a time, in random order."""

    def __init__(self) -> None:
        super().__init__()
        self._source = random.Random(7)

    def answer(self, side: AgentSide, notify: Notify) -> None:
        side.in_flight.append(notify.ids)
        side.max_in_flight = max(side.max_in_flight, len(side.in_flight))
        if len(side.in_flight) == 1:
            reactor.callLater(0.002, self._answer_some, side)

    def _answer_some(self, side: AgentSide) -> None:
        self._source.shuffle(side.in_flight)
        some = self._source.randint(1, len(side.in_flight))
        out = b"".join([ack(ids) for ids in side.in_flight[:some]])
        del side.in_flight[:some]
        if side.in_flight:
            reactor.callLater(0.002, self._answer_some, side)
        side.transport.write(out)
